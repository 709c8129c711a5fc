"""Pieces: the rectangles of weights and optimizer state that a rank owns. Checkpoints store and read pieces.

In: a model whose weights are plain tensors (whole) or DTensors (sharded by FSDP2's fully_shard). Out: at most one piece per
name, sharing memory with the weights. A fused projection is cut into its matrices, `blocks.0.attention.qkv.weight/0` for
queries, `/1` for keys and `/2` for values, so that shards of rows, of heads, or of both are rectangles. Optimizer state has
the names `weight/part.field`; scalars, such as a step count, `weight.field`. Empty shards have no piece.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from lmfast.model.layers import FusedLinear, named_modules


class Piece(NamedTuple):
    """The rectangle at `offset` of a whole tensor of `shape`."""

    name: str
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    tensor: Tensor

    def inside(self, shape: Sequence[int], offset: Sequence[int]) -> "Piece":
        """This piece of a part, where the part is the rectangle at `offset` of a whole tensor of `shape`.

        For tensor parallelism: the weight of one tensor rank, possibly sharded again by FSDP2, is a part."""
        shifted = tuple(own + begin for own, begin in zip(self.offset, offset, strict=True))
        return self._replace(shape=tuple(shape), offset=shifted)


def state_pieces(
    name: str, weight: Tensor, pieces: Sequence[Piece], state: Mapping[str, Tensor]
) -> list[Piece]:
    """The pieces of the optimizer state {field: tensor} of a weight. weight: this rank's part, a plain tensor; pieces: those
    of it, cut already.

    A tensor of the weight's local shape is divided like it; another one, such as the step count, is whole on every rank."""
    found: list[Piece] = []
    for field, value in state.items():
        if value.ndim and value.shape == weight.shape:
            found += [same_place(piece, weight, value, field) for piece in pieces]
        else:
            found.append(Piece(f"{name}.{field}", tuple(value.shape), (0,) * value.ndim, value))
    return found


def same_place(piece: Piece, weight: Tensor, state: Tensor, field: str) -> Piece:
    """The rectangle of the state tensor `state` that `piece` is of `weight`; both are contiguous."""
    at = piece.tensor.storage_offset() - weight.storage_offset()
    view = state.as_strided(piece.tensor.shape, piece.tensor.stride(), state.storage_offset() + at)
    return piece._replace(name=f"{piece.name}.{field}", tensor=view)


def tensor_piece(name: str, weight: Tensor) -> Piece:
    """This rank's part of a weight, not yet cut; may be empty. A DTensor must be sharded in one rectangle per rank."""
    if not isinstance(weight, DTensor):
        return Piece(name, tuple(weight.shape), (0,) * weight.ndim, weight.detach())
    (chunk,) = weight.__create_chunk_list__()
    return Piece(name, tuple(weight.shape), tuple(chunk.offsets), weight.to_local().detach())


def fused_widths(model: nn.Module) -> dict[str, list[int]]:
    """{weight or bias: numbers of rows of the matrices fused in it}, for projections of several matrices."""
    found: dict[str, list[int]] = {}
    for name, module in named_modules(model):
        if isinstance(module, FusedLinear) and len(module.widths) > 1:
            found[f"{name}.weight"] = module.widths
            found[f"{name}.bias"] = module.widths  # read only if there is one
    return found


def cut(piece: Piece, widths: Sequence[int]) -> list[Piece]:
    """The non-empty pieces of the matrices with these numbers of rows, whose concatenation `piece` is a piece of.

    Few or no widths: the piece itself, unless it is empty. The name of the k-th matrix is that of the weight and `/k`.
    """
    if piece.tensor.numel() == 0:
        return []
    return list(_cut_rows(piece, widths)) if len(widths) > 1 else [piece]


def _cut_rows(piece: Piece, widths: Sequence[int]) -> Iterator[Piece]:
    begin, end = piece.offset[0], piece.offset[0] + len(piece.tensor)
    start = 0  # of the matrix, in the whole weight
    for number, width in enumerate(widths):
        low, high = max(begin, start), min(end, start + width)
        if low < high:
            yield Piece(
                f"{piece.name}/{number}",
                (width, *piece.shape[1:]),
                (low - start, *piece.offset[1:]),
                piece.tensor[low - begin : high - begin],
            )
        start += width
