"""Tensors are read whole or as rectangles, from files of whole tensors or of pieces."""

import numpy as np
import pytest
import torch

from lmfast.errors import UserError
from lmfast.training.checkpoint import save_tensors
from lmfast.training.parallel.pieces import Piece, cut
from lmfast.training.tensor_files import TensorFiles, part_of
from tests.training.shard_files import write_shards

W = torch.arange(9.0 * 4).view(9, 4)
WIDTHS = [4, 3, 2]


def rows(name, whole, count):
    """The pieces of each of `count` ranks that split the rows of `whole`, a fused projection."""
    pieces, begin = [], 0
    for part in whole.chunk(count):
        pieces.append(cut(Piece(name, tuple(whole.shape), (begin, 0), part), WIDTHS))
        begin += len(part)
    return pieces


@pytest.fixture(params=["whole", "rows", "rectangles"])
def files(request, tmp_path):
    if request.param == "whole":
        save_tensors({"w": W, "step": torch.tensor(3.0)}, tmp_path / "model.safetensors")
        return TensorFiles([tmp_path / "model.safetensors"])
    if request.param == "rows":
        ranks = rows("w", W, 4)
    else:  # heads of each matrix, then columns
        ranks = [[], [], [], []]
        for number, (low, high) in enumerate([(0, 4), (4, 7), (7, 9)]):
            for r, (part, begin) in enumerate(zip(W[low:high].split([1, high - low - 1]), (0, 1))):
                for c in range(2):
                    piece = part[:, 2 * c : 2 * c + 2]
                    ranks[2 * r + c].append(Piece(f"w/{number}", (high - low, 4), (begin, 2 * c), piece))
    ranks[1].append(Piece("step", (), (), torch.tensor(3.0)))
    return TensorFiles(write_shards(tmp_path, ranks))


def test_whole_tensors_are_joined(files):
    assert files.shapes == {"w": (9, 4), "step": ()}
    assert np.array_equal(files.read("w"), W.numpy()) and files.read("step") == 3.0
    assert files.dtype("w") == "F32"


def test_any_rectangle_can_be_read(files):
    for r0 in range(9):
        for r1 in range(r0 + 1, 10):
            for c0, c1 in [(0, 4), (1, 3), (3, 4)]:
                found = files.read("w", (r0, c0), (r1 - r0, c1 - c0))
                assert np.array_equal(found, W[r0:r1, c0:c1].numpy())


def test_what_one_file_contains_is_mapped(tmp_path):
    save_tensors({"w": W}, tmp_path / "model.safetensors")
    found = TensorFiles([tmp_path / "model.safetensors"]).read("w", (2, 0), (3, 4))
    assert not found.flags.owndata and not found.flags.writeable


def test_missing_shards_are_rejected(tmp_path):
    paths = write_shards(tmp_path, rows("w", W, 4))
    lost = TensorFiles(paths[:1] + paths[2:])
    with pytest.raises(UserError, match="parts of w are missing"):
        lost.read("w")
    assert np.array_equal(lost.read("w", (0, 0), (2, 4)), W[:2].numpy())
    # Without the first matrix, where the others begin is unknown.
    with pytest.raises(UserError, match="w/0 is missing"):
        TensorFiles(paths[2:])


def test_damaged_files_and_other_types_are_rejected(tmp_path):
    (path,) = write_shards(tmp_path, [[Piece("w", (2,), (0,), torch.zeros(2, dtype=torch.bfloat16))]])
    with pytest.raises(UserError, match="w is stored as BF16"):
        TensorFiles([path]).read("w")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"cannot be read \(.*\); give another checkpoint"):
        TensorFiles([path])
    with pytest.raises(UserError, match=r"none\.safetensors: cannot be read"):
        TensorFiles([tmp_path / "none.safetensors"])


def test_names_of_parts():
    assert part_of("blocks.0.attention.qkv.weight/2") == ("blocks.0.attention.qkv.weight", 2)
    assert part_of("up.weight/1.exp_avg") == ("up.weight.exp_avg", 1)
    assert part_of("head.weight.step") == ("head.weight.step", None)
