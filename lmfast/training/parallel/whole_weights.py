"""Fills the pieces of a rank from whole weights: drawn at random, or read from a checkpoint of any format.

In: pieces, which may be cut from fused projections (`weight/1`), and the numbers of rows of those. Neither way holds more
of a whole weight than a chunk of its rows or the piece itself. Rejects (UserError, on all ranks) files that lack a weight,
have one of another shape, or one that is not finite, naming the first.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lmfast.errors import UserError
from lmfast.model.initialisation import initialise, skip_construction
from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.pieces import Piece, fused_widths
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.tensor_files import TensorFiles

Widths = Mapping[str, Sequence[int]]
"""{weight: numbers of rows of the matrices fused in it}"""


def located(piece: Piece, widths: Widths) -> tuple[str, tuple[int, ...]]:
    """(name, offset) of a piece in its whole weight, in which the matrices of a fused projection follow each other."""
    name, slash, number = piece.name.rpartition("/")
    if not slash:
        return piece.name, piece.offset
    before = sum(widths[name][: int(number)])
    return name, (before + piece.offset[0], *piece.offset[1:])


@torch.no_grad()
def draw_weights(model: TransformerLM, pieces: Iterable[Piece]) -> None:
    """Initialises pieces with the values that a single process with the same seed would give them.

    model: the whole model, on the meta device."""
    places: dict[str, list[tuple[tuple[int, ...], Tensor]]] = defaultdict(list)
    widths = fused_widths(model)
    for piece in pieces:
        name, offset = located(piece, widths)
        places[name].append((offset, piece.tensor))

    def place(name: str, begin: int, rows: Tensor) -> None:
        for (first, *columns), own in places[name]:
            low, high = max(begin, first), min(begin + len(rows), first + len(own))
            if low < high:
                part = rows[low - begin : high - begin]
                for dim, (start, size) in enumerate(zip(columns, own.shape[1:], strict=True), 1):
                    part = part.narrow(dim, start, size)
                own[low - first : high - first] = part

    skip_construction(model)
    initialise(model, model.config, place)


@torch.no_grad()
def read_pieces(
    paths: Sequence[Path],
    pieces: Iterable[Piece],
    shapes: Mapping[str, tuple[int, ...]],
    widths: Widths,
    ranks: Ranks,
    may_grow: Callable[[str], bool] | None = None,
) -> None:
    """Copies pieces from the files of a checkpoint's weights; shapes: of all its whole tensors.

    may_grow: whether a tensor of this name may have fewer rows in the file; further rows are made as by `grown_rows`."""

    def read(files: TensorFiles) -> None:
        _check_shapes(files, shapes, may_grow)
        for piece in pieces:
            name, offset = located(piece, widths)
            part = _part(_Stored(files, name), offset, piece.tensor.shape, shapes[name])
            if not part.isfinite().all():
                raise UserError(f"{paths[0].parent}: {name} is not finite; use an older checkpoint")
            piece.tensor.copy_(part)

    read_together(paths, read, ranks)


def _check_shapes(
    files: TensorFiles, shapes: Mapping[str, tuple[int, ...]], may_grow: Callable[[str], bool] | None
) -> None:
    there = files.shapes
    for name in [*shapes, *there]:
        found, wanted = there.get(name), shapes.get(name)
        if found == wanted:
            continue
        fits = found and wanted and found[0] < wanted[0] and found[1:] == wanted[1:]
        if fits and may_grow is not None and may_grow(name):
            continue
        raise UserError(
            f"{files.paths[0].parent}: has another model shape: {name} is {found or 'absent'}, not "
            f"{wanted or 'absent'}; use the settings of its config.yaml"
        )


class _Stored:
    """A stored tensor; indexing with slices reads that part."""

    def __init__(self, files: TensorFiles, name: str):
        self.files, self.name, self.shape = files, name, files.shapes[name]

    def __getitem__(self, at: Any) -> Tensor:
        slices = at if isinstance(at, tuple) else () if at is ... else (at,)
        ranges = [s.indices(size) for s, size in zip(slices, self.shape)]
        ranges += [(0, size, 1) for size in self.shape[len(ranges) :]]
        sizes = [max(0, end - begin) for begin, end, _ in ranges]
        array = self.files.read(self.name, [begin for begin, _, _ in ranges], sizes)
        return torch.from_numpy(array if array.flags.writeable else array.copy())


def _part(stored: _Stored, offset: tuple[int, ...], size: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """The rectangle of `size` at `offset` of a stored tensor, which may have fewer rows than `shape`."""
    rectangle = tuple(slice(begin, begin + length) for begin, length in zip(offset, size, strict=True))
    rows = stored.shape[0]
    if rows == shape[0]:
        return stored[rectangle]
    begin, end = offset[0], offset[0] + size[0]
    old = stored[(slice(min(begin, rows), min(end, rows)), *rectangle[1:])]
    new = grown_rows(stored, rows, shape[0])
    return torch.cat([old, new[(slice(max(begin, rows) - rows, max(end, rows) - rows), *rectangle[1:])]])


def grown_rows(stored: _Stored, rows: int, count: int) -> Tensor:
    """Rows `rows` … `count` of a table that is extended, as lmfast/training/loading.py makes them: the mean of the old ones
    plus noise of a tenth of their standard deviation. Reads 4,096 rows at a time."""
    width = stored.shape[1]
    total, squares = torch.zeros(width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for begin in range(0, rows, 4096):
        total += stored[begin : begin + 4096].double().sum(0)
    mean = total / rows
    for begin in range(0, rows, 4096):
        squares += (stored[begin : begin + 4096].double() - mean).square().sum(0)
    std = (squares / (rows - 1)).sqrt()
    noise = torch.randn(count - rows, width, generator=torch.Generator().manual_seed(0))
    return (mean + 0.1 * std * noise).float()


def read_together(paths: Sequence[Path], read: Callable[[TensorFiles], None], ranks: Ranks) -> None:
    """Calls `read` with the open files; ends the run on all ranks if any cannot read them."""
    problem: str | None = None
    try:
        read(TensorFiles(paths))
    except UserError as error:
        problem = str(error)
    if ranks.any(problem is not None):
        found: list[str | None] = [problem] * ranks.world_size
        if ranks.world_size > 1:
            dist.all_gather_object(found, problem)
        ranks.fail(next(text for text in found if text is not None))
