"""Cells that people read."""

import pytest

from bench import table
from tests.bench.results import result


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (999, "999"), (1234, "1.23 k"), (2.5e9, "2.5 G"), (3.1e13, "31 T")]
)
def test_amounts(value, shown):
    assert table.amount(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.2 µs"), (5e-9, "5 ns")]
)
def test_durations(value, shown):
    assert table.duration(value) == shown


def test_a_line_has_rates_and_peers():
    cells = dict(zip(table.HEAD, table.line(result("encode[A]", 0.001, {"tiktoken": 2.5}))))
    assert cells["benchmark"] == "tokenizer encode[A]"
    assert cells["tokens/s"] == "250 k" and cells["bytes/s"] == "1 MB"
    assert cells["against peers"] == "2.50x tiktoken (2.40-2.60)"
    assert cells["change"] == "" and cells["of ceiling"] == ""


def test_a_change_is_told_from_noise():
    now = result("encode[A]", 1.0)
    assert table.change(now, result("encode[A]", 2.0)) == "2.00x"
    assert table.change(now, result("encode[A]", 1.01)) == "1.01x (noise)"
    assert table.change(now, result("encode[A]", 2.0, work={"bytes": 5})) == "other work"
    assert table.change(now, None) == ""


def test_empty_columns_are_left_out():
    assert table.aligned(("a", "b", "c"), [("1", "", "333"), ("22", "", "")]) == [
        "a   c",
        "-------",
        "1   333",
        "22",
    ]
