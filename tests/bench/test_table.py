"""Formatting of cells."""

import pytest

from bench import table
from tests.bench.results import result, run, target_table


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
    assert cells["benchmark"] == "encode[A]" and cells["median"] == "1 ms" and cells["±"] == "1 %"
    assert cells["tokens/s"] == "250 k" and cells["bytes/s"] == "1 MB"
    assert cells["of ceiling"] == ""
    assert table.against_peers(one) == "2.50x (2.50-2.50) tiktoken"


def before(*rows):
    return {row.key: row for row in rows}


def test_a_change_is_distinguished_from_noise():
    now = result("encode[A]", 1.0)
    assert table.change(now, before(result("encode[A]", 2.0))) == "2.00x"
    assert table.change(now, before(result("encode[A]", 1.005))) == "1.00x noise"
    assert table.change(now, before(result("encode[A]", 2.0, work={"bytes": 5}))) == "other work"
    assert table.change(now, {}) == "new"


def test_work_is_compared_in_the_figures_that_both_suites_state():
    """An older suite stated less, or counted bytes differently."""
    now = result("encode[A]", 1.0, work={"tokens": 5, "bytes": 7})
    for work, same in (
        ({"tokens": 5}, True),
        ({"tokens": 5, "moved": 9}, True),
        ({"tokens": 6, "bytes": 7}, False),
    ):
        assert table.same_work(now, result("encode[A]", 1.0, work=work)) is same
    assert not table.same_work(now, result("encode[A]", 1.0, work={"moved": 9}))


def two_runs(machine: float, ours: float = 1.0) -> tuple[list, dict]:
    """(rows, before): the machine, peers and all, is `machine` times as fast as before, encode `ours` times."""
    now, then = [], []
    for name in [f"{kind}[{i}]" for kind in ("encode", "decode") for i in range(3)]:
        changed = ours if name.startswith("encode") else machine
        now.append(result(name, 1.0 / changed, {"peer": 2.0 * changed / machine}))
        then.append(result(name, 1.0, {"peer": 2.0}))
    return now, before(*then)


def test_a_slower_machine_is_not_mistaken_for_a_slower_commit():
    """Peers' code is the same in both runs: their change is due to the machine, and a change of ours within it is noise."""
    rows, then = two_runs(machine=0.5, ours=0.6)
    assert table.drift(rows, then) == (0.5, 1.0) and "0.50 to 1.00 times" in table.drift_line(rows, then)
    assert sum("noise" in text for text in table.table(rows, then)) == 6
    lines = table.table(*two_runs(machine=1.0, ours=0.6))
    assert [text.rpartition("  ")[2] for text in lines if text.startswith("encode")] == ["0.60x"] * 3
    assert "No peer was timed" in table.drift_line([result("encode[A]", 1.0)], then)


def test_extreme_peers_count_only_in_their_own_row():
    quiet = [result(f"encode[{i}]", 1.0, {"peer": 2.0}) for i in range(20)]
    now, then = result("step", 2.0, {"peer": 2.0}), result("step", 1.0, {"peer": 2.0})
    earlier = before(*quiet, then)
    assert table.drift([*quiet, now], earlier) == (1.0, 1.0)
    assert table.drift([*quiet[:3], now], earlier) == (0.5, 1.0)
    (line,) = (text for text in table.table([*quiet, now], earlier) if text.startswith("step"))
    assert line.endswith("0.50x noise")


def test_a_peer_is_as_uncertain_as_its_pairs():
    """Ours is 0.33 times as fast as then and gigatoken, timed in turns with it, 0.35: the machine varied."""
    for spread, ending in ((0.1, "0.33x noise"), (0.001, "0.33x")):
        then, now = result("encode[B]", 1.0), result("encode[B]", 1 / 0.33)
        for one, factor in ((then, 0.85), (now, 0.85 * 0.33 / 0.35)):
            one.times["gigatoken"] = [t * factor * (1 + spread * i) for i, t in zip((-1, 0, 1), one.ours)]
        assert any(text.endswith(ending) for text in table.table([now], before(then)))


def test_the_widest_table_fits_a_terminal_of_100_columns():
    """The longest names, rates, ceilings and verdicts that the suite has; peers in separate lines."""
    one = result("linear_cross_entropy[backward]", 0.0555, {"matmul + F.cross_entropy": 110.5, "tokenizers": 119.87,
                                                            "gigatoken": 222.25})  # fmt: skip
    one.group, one.work = "kernels", {"tokens": 2.46e7, "bytes": 5.11e10, "flops": 6.8e12}
    one.data["fraction"] = {"of": "matmul bfloat16", "value": 1.13}
    lines = table.table([one], before(one))
    assert max(map(len, lines)) <= table.WIDTH == 100
    assert lines[2] == "kernels" and lines[3].endswith("113 % matmul  1.00x noise")
    assert "against peers: 110.50x (110.50-110.50) matmul + F.cross_entropy" in lines[4] and len(lines) > 5
    ceilings = table.ceiling_line({f"matmul {i}": 1.5e14 for i in range(9)})
    assert all(len(text) <= 100 for text in table.wrapped(ceilings))


def test_loading_is_compared_with_a_step():
    one = result("batches", 1.0)
    one.data["times_a_step"] = 5658.4
    assert "5,658x the tokens/s of a training step" in "\n".join(table.table([one]))


def test_empty_columns_are_left_out():
    assert table.aligned(("a", "b", "c"), [("1", "", "333"), ("22", "", "")]) == [
        "a   c",
        "-------",
        "1   333",
        "22",
    ]


def test_the_facts_of_a_run():
    one = run(result("encode[A]", 0.001), selection="-k encode")
    assert table.facts(one) == [
        "Suite, quick sizes, a selection (-k encode): A <CPU>, 2 cores",
        "2026-11-23 08:00 UTC, commit abc with uncommitted changes, Linux x86_64, host here",
        "from 0001_abc.json",
        "python 3.11",
        "measured ceilings: read 20 GB/s",
    ]
    assert table.facts(target_table())[0] == "Targets of the tokenizer table: A <CPU>, 2 cores"
