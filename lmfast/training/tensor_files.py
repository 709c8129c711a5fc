"""Tensors in safetensors files, whole or in pieces. Does not import torch.

In: the files of a checkpoint, either one with whole tensors, or one of each rank with pieces (training/parallel/pieces.py),
whose offsets are in the header, as torch.distributed.checkpoint writes them. The matrices of a fused projection, `NAME/0`,
`NAME/1`, …, are joined again. Out: numpy arrays of whole tensors or of rectangles. Files are mapped, so only what is read
is loaded. Rejects (UserError) damaged files and tensors with missing pieces.
"""

import json
import math
import mmap
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from lmfast.errors import UserError

_TYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "BOOL": "?",
}
_PART = re.compile(r"/(\d+)(?=\.|$)")


class _Stored(NamedTuple):
    """A piece in a file, at `offset` of its tensor."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: str
    data: mmap.mmap
    begin: int
    path: Path

    @property
    def end(self) -> tuple[int, ...]:
        return tuple(o + n for o, n in zip(self.offset, self.shape))

    def array(self) -> np.ndarray:
        flat = np.frombuffer(self.data, _TYPES[self.dtype], math.prod(self.shape), self.begin)
        return flat.reshape(self.shape)


class TensorFiles:
    """The tensors in some safetensors files by name, in the order of the first file."""

    def __init__(self, paths: Iterable[Path]):
        self.paths = list(paths)
        pieces: dict[str, list[_Stored]] = defaultdict(list)
        for path in self.paths:
            for name, piece in _read_header(path):
                pieces[name].append(piece)
        self._pieces = _joined(pieces)
        self.shapes = {
            name: tuple(map(max, zip(*(piece.end for piece in found))))
            for name, found in self._pieces.items()
        }

    def dtype(self, name: str) -> str:
        """The type of a tensor as safetensors names it, such as F32."""
        return self._pieces[name][0].dtype

    def location(self, name: str) -> Path:
        """The file that contains the tensor, or its first piece."""
        return self._pieces[name][0].path

    def read(
        self, name: str, offset: Sequence[int] | None = None, shape: Sequence[int] | None = None
    ) -> np.ndarray:
        """The tensor, or its rectangle of `shape` at `offset`. A view of the mapped file if one piece contains it.

        Raises UserError if a part of it is missing or its type is not supported (BF16)."""
        found = self._pieces[name]
        if self.dtype(name) not in _TYPES:
            raise UserError(
                f"{self.location(name)}: {name} is stored as {self.dtype(name)}, which is not supported; give another "
                "checkpoint"
            )
        begin = tuple(offset) if offset is not None else (0,) * len(self.shapes[name])
        end = tuple(b + n for b, n in zip(begin, self.shapes[name] if shape is None else shape))
        overlaps: list[tuple[_Stored, tuple[int, ...], tuple[int, ...]]] = []
        for piece in found:
            low, high = tuple(map(max, begin, piece.offset)), tuple(map(min, end, piece.end))
            if all(a < b for a, b in zip(low, high)):
                overlaps.append((piece, low, high))
        overlaps = list({(low, high): (piece, low, high) for piece, low, high in overlaps}.values())
        covered = sum(math.prod(b - a for a, b in zip(low, high)) for _, low, high in overlaps)
        if covered != math.prod(b - a for a, b in zip(begin, end)):
            raise UserError(
                f"{self.location(name).parent}: parts of {name} are missing; use an older checkpoint"
            )
        if len(overlaps) == 1:
            piece, low, high = overlaps[0]
            return piece.array()[_slices(low, high, piece.offset)]
        whole = np.empty([b - a for a, b in zip(begin, end)], _TYPES[self.dtype(name)])
        for piece, low, high in overlaps:
            whole[_slices(low, high, begin)] = piece.array()[_slices(low, high, piece.offset)]
        return whole


def part_of(name: str) -> tuple[str, int | None]:
    """("w.exp_avg", 1) for "w/1.exp_avg", the state of the second matrix fused in w; (name, None) without a part."""
    match = _PART.search(name)
    return (name, None) if match is None else (name[: match.start()] + name[match.end() :], int(match[1]))


def _slices(low: tuple[int, ...], high: tuple[int, ...], origin: tuple[int, ...]) -> tuple[Any, ...]:
    between = (slice(a - o, b - o) for a, b, o in zip(low, high, origin))
    return (*between, ...)  # with the ellipsis, a scalar stays an array


def _read_header(path: Path) -> list[tuple[str, _Stored]]:
    """(name, piece) of a file: the length of the header (8 bytes), the header in JSON, the data."""
    try:
        with safe_open(path, "np"):  # rejects a damaged header, or one that does not fit the file
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        placed = json.loads(header.pop("__metadata__", {}).get("DCP_SHARDING_INFO", "{}"))
        return [
            (
                name,
                _Stored(
                    tuple(placed[name]["saved_offsets"]) if placed else (0,) * len(tensor["shape"]),
                    tuple(tensor["shape"]),
                    tensor["dtype"],
                    data,
                    8 + length + tensor["data_offsets"][0],
                    path,
                ),
            )
            for name, tensor in header.items()
        ]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); give another checkpoint") from None


def _joined(pieces: dict[str, list[_Stored]]) -> dict[str, list[_Stored]]:
    """The pieces of the matrices of each fused projection as pieces of the projection, whose rows they share."""
    joined: dict[str, list[_Stored]] = {}
    parts: dict[str, dict[int, list[_Stored]]] = defaultdict(dict)
    for name, found in pieces.items():
        whole, number = part_of(name)
        if number is None:
            joined[name] = found
        else:
            joined[whole] = []  # keeps the order
            parts[whole][number] = found
    for whole, numbered in parts.items():
        start = 0
        for number in range(max(numbered) + 1):
            if number not in numbered:
                path = next(iter(numbered.values()))[0].path
                raise UserError(f"{path.parent}: {whole}/{number} is missing; use an older checkpoint")
            for piece in numbered[number]:
                joined[whole].append(piece._replace(offset=(start + piece.offset[0], *piece.offset[1:])))
            start += max(piece.end[0] for piece in numbered[number])
    return joined
