"""Formatting of seconds and bytes."""

import pytest

from lmfast.units import about, data_size, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "less than 1 s"),  # not 0.0 seconds
        (1, "1.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599.6, "1 h 0 min"),
        (8280, "2 h 18 min"),
        (2e6, "23.1 days"),
        (1e9, "32 years"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_estimated_durations():
    assert (about(0.2), about(303)) == ("less than 1 s", "about 5 min 3 s")


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (1, "1 byte"),
        (999, "999 bytes"),
        (40_000, "40.0 kB"),
        (1e5, "0.1 MB"),
        (3e9, "3,000.0 MB"),
        (3e10, "30.0 GB"),
    ],
)
def test_no_text_has_zero_megabytes(num_bytes, text):
    assert data_size(num_bytes) == text
