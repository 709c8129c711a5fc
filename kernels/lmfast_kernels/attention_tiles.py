"""Tile sizes, warps and pipeline stages of the attention kernels, and the tiles worth timing on Hopper.

A tile is (BLOCK_M queries, BLOCK_N keys, warps, stages). The forward and dq kernels own BLOCK_M queries and iterate over
keys, the dk, dv kernel owns BLOCK_N keys and iterates over queries. `CANDIDATES` has, for head_dim 64 and 128 in half
precision on sm_90, the default first and then alternatives that do not spill more than aot's limit. `use_tiles` selects one
for eager calls; compiled functions, and torch.compile's caches on disk, keep the tiles with which they were traced:

    for tile in CANDIDATES[64]["forward"]:
        with use_tiles(forward=tile):
            lmfast_kernels.attention(q, k, v)

How the tiles were chosen: docs/kernels.md.
"""

import contextlib
from collections.abc import Generator
from typing import NamedTuple

import torch

from lmfast_kernels.backend import capability, dot_precision, power_of_two, triton
from lmfast_kernels.tuning import tuned, use_config


class Tile(NamedTuple):
    """Queries and keys per block, warps per program, pipeline stages."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


# Triton 3.9 spills 168 bytes with the fastest tile of dk, dv at head_dim 64 on sm_90; 3.6 and 3.7 spill none.
_SPILLS_128_X_128 = triton is not None and tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)

CANDIDATES: dict[int, dict[str, tuple[Tile, ...]]] = {
    64: {
        "forward": (
            Tile(128, 64, 4, 3),
            Tile(128, 64, 4, 4),
            Tile(128, 128, 8, 2),
            Tile(128, 128, 8, 3),
            Tile(64, 64, 4, 3),
            Tile(128, 64, 8, 3),
        ),
        "dq": (
            Tile(128, 64, 8, 3),
            Tile(64, 64, 4, 3),
            Tile(64, 64, 4, 2),
            Tile(128, 64, 8, 2),
            Tile(128, 128, 8, 2),
            Tile(64, 128, 4, 2),
        ),
        "dkdv": (
            *(() if _SPILLS_128_X_128 else (Tile(128, 128, 8, 2),)),
            Tile(64, 128, 8, 3),
            Tile(64, 128, 8, 2),
            Tile(64, 64, 4, 3),
            Tile(64, 64, 4, 2),
            Tile(128, 64, 8, 2),
        ),
    },
    128: {
        "forward": (
            Tile(128, 128, 8, 3),
            Tile(128, 64, 8, 3),
            Tile(128, 128, 8, 2),
            Tile(64, 64, 4, 3),
            Tile(128, 64, 8, 2),
        ),
        "dq": (
            Tile(128, 64, 8, 3),
            Tile(128, 64, 8, 2),
            Tile(64, 64, 4, 3),
            Tile(64, 64, 4, 2),
        ),
        "dkdv": (
            Tile(64, 128, 8, 3),
            Tile(64, 128, 8, 2),
            Tile(64, 64, 8, 2),
            Tile(32, 128, 8, 3),
        ),
    },
}  # fmt: skip


@contextlib.contextmanager
def use_tiles(
    forward: Tile | None = None, dq: Tile | None = None, dkdv: Tile | None = None
) -> Generator[None, None, None]:
    """In this context, eager calls of the named kernels use these tiles for any head_dim, dtype and device."""
    with contextlib.ExitStack() as stack:
        for name, tile in (("forward", forward), ("dq", dq), ("dkdv", dkdv)):
            if tile is not None:
                stack.enter_context(use_config(f"attention_{name}", **_parameters(tile)))
        yield


def _parameters(tile: tuple[int, int, int, int]) -> dict[str, int]:
    return dict(zip(("BLOCK_M", "BLOCK_N", "num_warps", "num_stages"), tile))


def _config(kernel: str, tile: tuple[int, int, int, int], block_d: int) -> dict[str, int]:
    return tuned(f"attention_{kernel}", {"BLOCK_D": block_d, **_parameters(tile)})


def forward_config(q: torch.Tensor, lean: bool) -> dict[str, int]:
    """Tile, warps and stages for a head_dim, dtype and architecture; chosen with `python -m lmfast_kernels.aot` and, on
    sm_90, by time: head_dim 128 takes 0.635 ms with 128 × 128 and 0.669 ms with 128 × 64 (16,384 tokens of 2,048 values,
    H100).

    head_dim 64 on sm_90: 128 × 128 with 4 warps spilled 112 bytes; 128 × 64 needs 238 registers, which allows
    two blocks per multiprocessor, so that the softmax of one overlaps the products of the other. `lean`: document
    ids or a window's bounds take registers too; on sm_80 128 × 64 then spilled 152 bytes at head_dim 128.
    """
    block_d = max(16, power_of_two(q.shape[-1]))
    architecture = capability(q.device)[0]
    if q.element_size() > 2:
        if dot_precision() == "tf32x3":
            tile = (64, 32, 4, 2) if architecture == 9 else (32, 32, 4, 2)
        else:
            tile = (64, 32, 4, 2) if block_d <= 128 else (32, 16, 4, 1)
    elif block_d <= 64:
        tile = (128, 64, 8 if lean and architecture >= 10 else 4, 3)
    elif block_d == 128:
        block_n = 128 if architecture == 9 and not lean else 32 if architecture < 9 and lean else 64
        tile = (128, block_n, 8, 3)
    else:
        block_n = 32 if lean and architecture >= 10 else 64  # triton 3.6 spilled 224 bytes with 64
        tile = (128, block_n, 8, 2) if architecture >= 9 else (64, 32, 8, 2)
    return _config("forward", tile, block_d)


def backward_config(q: torch.Tensor, grouped: bool, ids: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Tiles, warps and stages of the dq and the dk, dv kernels; chosen with `python -m lmfast_kernels.aot` and, on sm_90,
    by time: head_dim 64, forward and backward, takes 3.10 ms with 128 × 128 for dk, dv and 3.21 ms with 64 × 128 (H100,
    Triton 3.6).

    The loop over a group's heads and the mask of document ids take registers of the dk, dv kernel that the
    larger tile does not leave: head_dim 128 on sm_90 spills 152 bytes with 64 queries per step, none with 32. Grouped
    float32 heads of 64 spilled 72 bytes (tf32x3) and 40 (tf32) on sm_80 with the tiles of sm_90.
    """
    block_d = max(16, power_of_two(q.shape[-1]))
    architecture = capability(q.device)[0]
    lean = grouped or ids
    if q.element_size() > 2:
        small = architecture < 9 and block_d == 64
        if dot_precision() == "tf32x3":
            dq = (64, 32, 4, 2) if architecture == 9 else (32, 16, 4, 2)
            tiles = dq, (32, 16, 4, 1 if small else 2)
        elif block_d <= 64 and not small:
            tiles = (32, 32, 4, 1), (32, 64, 8, 2)
        elif block_d <= 128:
            tiles = (32, 32, 4, 1), (32, 32, 4, 2 if small else 1)
        else:
            tiles = (16, 16, 4, 1), (16, 16, 4, 1)
    elif block_d <= 64 and architecture == 9 and not lean:
        tiles = (128, 64, 8, 3), CANDIDATES[64]["dkdv"][0]
    elif block_d <= 64:
        stages = 2 if lean and architecture >= 10 else 3  # grouped heads spilled 64 bytes with 3 (triton 3.6)
        tiles = (128, 64, 8, 3), (32 if lean and architecture != 9 else 64, 128, 8, stages)
    elif block_d == 128 and architecture < 9:
        tiles = (64, 64, 4, 2), (32 if lean else 64, 64, 8, 2)
    elif block_d == 128 and architecture == 9:
        tiles = (128, 64, 8, 3), (32 if lean else 64, 128, 8, 3)
    elif block_d == 128:
        tiles = (128, 64, 8, 3), (16, 64, 8, 2) if ids else (32, 64, 8, 1) if grouped else (64, 128, 8, 3)
    else:
        stages = 2 if architecture >= 9 else 1
        tiles = (64, 32, 8, stages), (32, 32, 8, stages)
    return _config("dq", tiles[0], block_d), _config("dkdv", tiles[1], block_d)
