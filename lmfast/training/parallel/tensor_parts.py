"""Which part of every weight a tensor rank has. A weight of several matrices (queries, keys, values) is split within each.

In: the whole model, without memory, and a tensor rank. Out: a `Part` for each matrix of each weight. Heads, hidden units and
ids are split in equal, consecutive ranges; norms and position embeddings are whole on every rank.
"""

from collections.abc import Iterable
from typing import NamedTuple

from torch import nn

from lmfast.training.parallel.pieces import Piece, fused_widths

DIMENSIONS = {
    "embedding.weight": 0,
    "head.weight": 0,
    "attention.qkv.weight": 0,
    "attention.qkv.bias": 0,
    "attention.out.weight": 1,
    "attention.value_weight": 0,
    "attention.value_embedding.weight": 1,
    "feed_forward.up.weight": 0,
    "feed_forward.down.weight": 1,
}
"""the dimension that is split, by the name of the weight, within its block if it is in one"""

SUMMED = ("attention.q_norm.weight", "attention.k_norm.weight")
"""ends of the names of replicated weights whose gradient on a rank counts its own heads only; others' is complete"""


class Part(NamedTuple):
    """A rank's part of one matrix."""

    shape: tuple[int, ...]  # of the matrix
    offset: tuple[int, ...]  # of the part in it
    size: tuple[int, ...]  # of the part


def split_dimension(name: str) -> int | None:
    """The dimension in which a weight is split over tensor ranks; None: whole on every rank."""
    return DIMENSIONS.get(name.split(".", 2)[2] if name.startswith("blocks.") else name)


def tensor_parts(model: nn.Module, rank: int, ranks: int) -> dict[str, list[Part]]:
    """{weight: the parts of its matrices on tensor rank `rank` of `ranks`} of a whole model."""
    widths = fused_widths(model)
    found: dict[str, list[Part]] = {}
    for name, weight in model.named_parameters():
        dimension = split_dimension(name)
        found[name] = []
        for width in widths.get(name, [len(weight)]):
            shape = (width, *weight.shape[1:])
            size = tuple(n // ranks if d == dimension else n for d, n in enumerate(shape))
            offset = tuple(rank * n if d == dimension else 0 for d, n in enumerate(size))
            found[name].append(Part(shape, offset, size))
    return found


def own_shape(parts: list[Part]) -> tuple[int, ...]:
    """The shape of a rank's weight: its parts of the fused matrices follow each other."""
    return (sum(part.size[0] for part in parts), *parts[0].size[1:])


def in_whole(pieces: Iterable[Piece], parts: dict[str, list[Part]]) -> list[Piece]:
    """Pieces of a rank's own weights, or of their optimizer state, as pieces of the whole ones."""
    named = {
        f"{name}/{number}" if len(each) > 1 else name: part
        for name, each in parts.items()
        for number, part in enumerate(each)
    }
    found: list[Piece] = []
    for piece in pieces:
        part = named.get(piece.name) or named.get(piece.name.rpartition(".")[0])
        if part is not None and len(piece.shape) == len(part.shape):
            piece = piece.inside(part.shape, part.offset)
        found.append(piece)
    return found
