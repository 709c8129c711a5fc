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
    one = result("encode[A]", 0.001, {"tiktoken": 2.5})
    cells = dict(zip(table.CELLS, table.cells(one), strict=True))
    assert cells["benchmark"] == "encode[A]" and table.name_of(one) == "tokenizer encode[A]"
    assert cells["tokens/s"] == "250 k" and cells["bytes/s"] == "1 MB"
    assert cells["of ceiling"] == ""
    assert table.against(one) == "2.50x (2.40-2.60) tiktoken"


def test_a_change_is_told_from_noise():
    now = result("encode[A]", 1.0)
    assert table.change(now, result("encode[A]", 2.0)) == "2.00x"
    assert table.change(now, result("encode[A]", 1.01)) == "1.01x noise"
    assert table.change(now, result("encode[A]", 2.0, work={"bytes": 5})) == "other work"
    assert table.change(now, None) == "new"


def test_work_is_the_same_as_far_as_both_suites_say():
    """An older suite said less, or called bytes something else: what both say decides."""
    now = result("encode[A]", 1.0, work={"tokens": 5, "bytes": 7})
    for work, same in (
        ({"tokens": 5}, True),
        ({"tokens": 5, "moved": 9}, True),
        ({"tokens": 6, "bytes": 7}, False),
    ):
        assert table.same_work(now, result("encode[A]", 1.0, work=work)) is same
    assert not table.same_work(now, result("encode[A]", 1.0, work={"moved": 9}))


def moods(factor: float, ours: float = 1.0) -> tuple[list, dict]:
    """(results, before): every peer is `factor` times as fast as before, encode `ours` times."""
    names = [f"{kind}[{i}]" for kind in ("encode", "decode") for i in range(3)]
    now, then = [], {}
    for name in names:
        changed = ours if name.startswith("encode") else factor
        before, after = (result(name, seconds, {"peer": 2.0}) for seconds in (1.0, 1.0 / changed))
        after["extra_info"]["peers"]["peer"]["median"] = 2.0 / factor
        before["extra_info"]["peers"]["peer"]["median"] = 2.0
        now.append(after)
        then[after["fullname"]] = before
    return now, then


def test_a_slower_machine_is_not_taken_for_a_slower_commit():
    """Peers' code is the same in both runs: what they changed by is the machine, and ours within that is noise."""
    results, before = moods(factor=0.5, ours=0.6)
    assert table.drift(table.peer_changes(results, before)) == (0.5, 1.0)
    told = table.table(results, before)
    assert sum("noise" in text for text in told) == 6 and "0.50 to 1.00 times" in table.drift_line(
        results, before
    )
    told = table.table(*moods(factor=1.0, ours=0.6))
    assert [text.rpartition("  ")[2] for text in told if text.startswith("encode")] == ["0.60x"] * 3
    assert "No peer was timed" in table.drift_line([result("encode[A]", 1.0)], before)


def test_a_benchmarks_own_peers_tell_its_moods_even_where_they_are_outermost():
    quiet = [result(f"encode[{i}]", 1.0, {"peer": 2.0}) for i in range(20)]
    now, then = (result("step", seconds, {"peer": 2.0}) for seconds in (2.0, 1.0))  # and so did its peer
    before = {one["fullname"]: one for one in (*quiet, then)}
    assert table.drift(table.peer_changes([*quiet, now], before)) == (1.0, 1.0)
    (line,) = (text for text in table.table([*quiet, now], before) if text.startswith("step"))
    assert line.endswith("0.50x noise")


def test_of_many_peers_the_outermost_do_not_count():
    assert table.drift([1.0] * 19 + [9.0]) == (1.0, 1.0)
    assert table.drift([0.9, 1.3]) == (0.9, 1.3) and table.drift([]) == (1.0, 1.0)


def test_the_widest_table_fits_a_terminal_of_100_columns():
    """The longest names, rates, ceilings and verdicts that the suite has; peers in lines of their own beneath."""
    one = result("linear_cross_entropy[forward]", 0.0555, {"matmul + F.cross_entropy": 110.5, "tokenizers": 119.87,
                                                           "gigatoken": 222.25})  # fmt: skip
    one["fullname"] = "bench/test_kernels.py::test_linear_cross_entropy[backward]"
    one["extra_info"]["rates"] = {
        "tokens_per_second": 4.44e8,
        "bytes_per_second": 9.21e11,
        "flops_per_second": 1.23e14,
    }
    one["extra_info"]["fraction"] = {"of": "matmul bfloat16", "value": 1.13}
    before = {one["fullname"]: one}
    told = table.table([one], before)
    assert max(map(len, told)) <= table.WIDTH == 100
    assert told[2] == "kernels" and told[3].endswith("113 % matmul  1.00x noise")
    assert "against peers: 110.50x (110.40-110.60) matmul + F.cross_entropy" in told[4] and len(told) > 5
    assert all(
        len(text) <= 100
        for text in table.wrapped(table.ceiling_line({f"matmul {i}": 1.5e14 for i in range(9)}))
    )


def test_loading_says_what_it_is_beside_a_step():
    one = result("batches", 1.0)
    one["extra_info"]["times_a_step"] = 5658.4
    assert "5,658x the tokens/s of a training step" in "\n".join(table.table([one]))


def test_empty_columns_are_left_out():
    assert table.aligned(("a", "b", "c"), [("1", "", "333"), ("22", "", "")]) == [
        "a   c",
        "-------",
        "1   333",
        "22",
    ]


def test_a_peer_is_as_uncertain_as_its_pairs():
    """Ours 0.33 times as fast as then, and gigatoken in turns with it 0.35: that is one mood of the machine."""
    then, now = (
        result("encode[B]", 1.0, {"gigatoken": 0.85}),
        result("encode[B]", 1 / 0.33, {"gigatoken": 0.85}),
    )
    for run, seconds in ((then, 0.85), (now, 0.85 / 0.35)):
        peer = run["extra_info"]["peers"]["gigatoken"]
        peer["median"], peer["ratio"] = seconds, {"median": 0.85, "low": 0.7, "high": 0.94, "rounds": 9}
    before = {then["fullname"]: then}
    assert any("0.33x noise" in text for text in table.table([now], before))
    for run in (then, now):  # pairs that agree: then so little is told apart
        run["extra_info"]["peers"]["gigatoken"]["ratio"] |= {"low": 0.849, "high": 0.851}
    assert any(text.endswith("0.33x") for text in table.table([now], before))
