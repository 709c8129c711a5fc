import pytest

from lmfast.model.bisection import largest_satisfying


@pytest.mark.parametrize("last", [*range(70), 10**18])
def test_the_last_number_that_holds(last):
    asked = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number <= last

    assert largest_satisfying(holds) == last
    assert len(asked) <= 2 * last.bit_length() + 2
    assert min(asked) == 1
