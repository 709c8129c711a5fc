import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.inference.sampling import Sampling


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((-0.1, None, None), "temperature"),
        ((1, 0, None), "top_k"),
        ((1, None, 0.0), "top_p"),
        ((1, None, 1.5), "top_p"),
    ],
)
def test_values_out_of_range_are_rejected(options, name):
    with pytest.raises(UserError, match=name):
        Sampling(*options)


def test_numbers_below_float32_are_replaced():
    assert Sampling(1e-40).temperature == 0
    top_p = Sampling(1.0, top_p=5e-324).top_p
    assert top_p is not None and np.float32(top_p) > 0
