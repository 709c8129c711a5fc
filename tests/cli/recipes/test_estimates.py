"""The table of the plan."""

from lmfast.units import duration


def test_placeholder():
    assert duration(5) == "5.0 s"
