import json

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.training.reference import load_reference, save_reference

KEY = {"model": "a" * 64, "data": {"train": "b"}, "settings": {"bf16": False}}


def test_what_was_saved_is_read_for_the_same_key(tmp_path):
    path = tmp_path / "reference.npz"
    assert load_reference(path, KEY, 1) is None
    log_probs = np.array([[-1.5, -2.5]], np.float32)
    save_reference(path, KEY, log_probs)
    np.testing.assert_array_equal(load_reference(path, KEY, 1), log_probs)
    assert [p.name for p in tmp_path.iterdir()] == ["reference.npz"]


@pytest.mark.parametrize("part", ["model", "data", "settings"])
def test_another_key_is_rejected_with_the_part_that_differs(tmp_path, part):
    path = tmp_path / "reference.npz"
    save_reference(path, KEY, np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match=f"does not match this run: its {part} is "):
        load_reference(path, KEY | {part: "other"}, 1)


@pytest.mark.parametrize("key", [json.dumps(KEY), "[1]", "7", "x", None])
def test_a_damaged_file_is_one_line(tmp_path, key):
    path = tmp_path / "reference.npz"
    if key is None:
        path.write_bytes(b"PK\x03\x04 no archive")
    else:
        np.savez(path, key=key, log_probs=np.zeros((2, 2), np.float32))  # of two pairs
    with pytest.raises(UserError, match="contains no reference log-probabilities, or is damaged; delete it"):
        load_reference(path, KEY, 1)


@pytest.mark.parametrize("content", [b"x", b"\x80\x04.", b"\x93NUMPY", b""])
def test_a_file_that_is_not_an_archive_is_one_line(tmp_path, content):
    path = tmp_path / "reference.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="contains no reference"):
        load_reference(path, KEY, 1)
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match="contains no reference"):
        load_reference(tmp_path / "a.npy", KEY, 1)
    save_reference(path, KEY, np.array([[np.nan, 0]], np.float32))
    with pytest.raises(UserError, match="contains no reference"):
        load_reference(path, KEY, 1)
