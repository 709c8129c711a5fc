"""attention_tiles.py: a context that selects tiles, and distinct candidates."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed on this platform")

from lmfast_kernels import backend
from lmfast_kernels.attention_tiles import CANDIDATES, Tile, backward_config, forward_config, use_tiles


def configs(head_dim):
    q = torch.empty(1, 1, 1, head_dim, dtype=torch.bfloat16, device="meta")
    with backend.record((9, 0)):
        return {"forward": forward_config(q, False)} | dict(
            zip(("dq", "dkdv"), backward_config(q, False, False))
        )


def as_tile(config):
    return Tile(config["BLOCK_M"], config["BLOCK_N"], config["num_warps"], config["num_stages"])


@pytest.mark.parametrize("head_dim", CANDIDATES)
def test_the_first_candidate_is_the_default(head_dim):
    for kernel, config in configs(head_dim).items():
        tiles = CANDIDATES[head_dim][kernel]
        assert tiles[0] == as_tile(config) and len(set(tiles)) == len(tiles) > 1


def test_use_tiles_affects_one_kernel_and_is_restored():
    before, tile = configs(64), Tile(32, 16, 2, 1)
    with use_tiles(dq=tile):
        with use_tiles(forward=(16, 32, 1, 2)):
            inner = configs(64)
        outer = configs(64)
    assert as_tile(inner["forward"]) == (16, 32, 1, 2) and as_tile(inner["dq"]) == tile
    assert outer == before | {"dq": inner["dq"]} and configs(64) == before
    with pytest.raises(RuntimeError, match="stop"), use_tiles(dkdv=tile):
        raise RuntimeError("stop")
    assert configs(64) == before
