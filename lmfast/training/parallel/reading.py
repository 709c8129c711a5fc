"""Reads the pieces of a rank from a checkpoint of any format, written by any number of ranks in any parallel setting.

In: the open files of a checkpoint and pieces (pieces.py), whose tensors are filled. Only the rectangles of these pieces are
read. Rejects (UserError) tensors that are absent, have another shape or are not finite. Nothing here communicates; a rank
may be the only one that fails, so run it with `agreement.on_every_rank`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from lmfast.errors import UserError
from lmfast.training.parallel.pieces import Piece, same_place
from lmfast.training.tensor_files import TensorFiles, part_of

Widths = Mapping[str, Sequence[int]]
"""{weight: numbers of rows of the matrices fused in it}, of whole weights: model.weight_shapes.fused_widths(config)"""


@torch.no_grad()
def read_pieces(files: TensorFiles, pieces: Iterable[Piece], widths: Widths) -> None:
    """Copies the stored values of `pieces` into their tensors."""
    for piece in pieces:
        name, shape, offset = _in_whole(piece, widths)
        stored = files.shapes.get(name)
        if stored != shape:
            place = files.paths[0].parent
            raise UserError(
                f"{place}: has another model shape: {name} is {stored or 'absent'}, not {shape}; use the settings of its "
                "config.yaml"
            )
        array = files.read(name, offset, piece.tensor.shape)
        if array.size and not all(math.isfinite(end) for end in (array.min(), array.max())):
            raise UserError(f"{files.location(name)}: {name} is not finite; use an older checkpoint")
        values = torch.from_numpy(array if array.flags.writeable else array.copy())
        piece.tensor.copy_(values)


def read_state(
    files: TensorFiles, weight: Tensor, name: str, pieces: Sequence[Piece], widths: Widths
) -> dict[str, Tensor]:
    """{field: tensor} of the optimizer state of a weight, on its device; empty if the checkpoint has no state at all.

    weight: this rank's part, a contiguous plain tensor, of which `pieces` are the rectangles, as `weight_pieces` gives
    them. Fields of the whole weight's shape have the shape of `weight`; others are whole."""
    state: dict[str, Tensor] = {}
    for stored in files.shapes:
        if not stored.startswith(f"{name}.") or "." in (field := stored.removeprefix(f"{name}.")):
            continue
        if files.shapes[stored]:
            state[field] = torch.zeros_like(weight, requires_grad=False)
            read_pieces(files, [same_place(p, weight, state[field], field) for p in pieces], widths)
        else:
            state[field] = torch.zeros((), dtype=torch.float32, device=weight.device)
            read_pieces(files, [Piece(stored, (), (), state[field])], widths)
    if files.shapes and not state:
        raise UserError(
            f"{files.paths[0].parent}: contains no optimizer state for {name}; was the model changed?"
        )
    return state


def _in_whole(piece: Piece, widths: Widths) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """(name, shape, offset of the piece) of the whole weight or state tensor that the piece belongs to."""
    name, part = part_of(piece.name)
    if part is None:
        return name, piece.shape, piece.offset
    weight = name if name in widths else name.rpartition(".")[0]
    rows = list(widths[weight])
    return name, (sum(rows), *piece.shape[1:]), (sum(rows[:part]) + piece.offset[0], *piece.offset[1:])
