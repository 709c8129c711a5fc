"""tuning.py: launch parameters replaced within a context, restored afterwards; unknown names."""

import pytest

from lmfast_kernels.tuning import tuned, use_config

CONFIG = {"ROWS": 2, "num_warps": 4}


def test_applies_only_within_the_context():
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
        pytest.raises(ValueError, match="a has no parameter warps; use one of ROWS, num_warps"),
    ):
        tuned("a", CONFIG)
