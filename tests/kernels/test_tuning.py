"""Launch parameters replaced within a block: what applies, what is restored, and a name that does not exist."""

import pytest

from lmfast_kernels.tuning import tuned, use_config

CONFIG = {"ROWS": 2, "num_warps": 4}


def test_applies_within_the_block_only():
    with use_config("a", ROWS=8):
        with use_config("a", num_warps=1):
            assert tuned("a", CONFIG) == {"ROWS": 8, "num_warps": 1}
        assert tuned("a", CONFIG) == {"ROWS": 8, "num_warps": 4}
        assert tuned("b", CONFIG) == CONFIG
    assert tuned("a", CONFIG) == CONFIG == {"ROWS": 2, "num_warps": 4}


def test_is_restored_after_an_error():
    with pytest.raises(RuntimeError), use_config("a", ROWS=8):
        raise RuntimeError
    assert tuned("a", CONFIG) == CONFIG


def test_an_unknown_parameter_is_an_error():
    with (
        use_config("a", warps=8),
        pytest.raises(ValueError, match="a has no parameter warps; it has ROWS, num_warps"),
    ):
        tuned("a", CONFIG)
