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
