import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.training.reference import load_reference, save_reference

KEY = {"model": "a" * 64, "data": {"train": "b"}, "settings": {"bf16": False}}


def test_what_was_saved_is_read_for_the_same_key(tmp_path):
    path = tmp_path / "reference.npz"
    assert load_reference(path, KEY) is None
    log_probs = np.array([[-1.5, -2.5]], np.float32)
    save_reference(path, KEY, log_probs)
    np.testing.assert_array_equal(load_reference(path, KEY), log_probs)
    assert [p.name for p in tmp_path.iterdir()] == ["reference.npz"]


@pytest.mark.parametrize("part", ["model", "data", "settings"])
def test_another_key_is_refused_with_the_part_that_differs(tmp_path, part):
    path = tmp_path / "reference.npz"
    save_reference(path, KEY, np.zeros((1, 2), np.float32))
    with pytest.raises(UserError, match=f"log-probabilities of another {part} "):
        load_reference(path, KEY | {part: "other"})


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "reference.npz"
    path.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(UserError, match="cannot be read"):
        load_reference(path, KEY)
