"""Rows compute their verdicts; result files are read back as written, and others are rejected."""

import json

import pytest

from bench import results
from bench.results import Row, Run
from lmfast.errors import UserError
from tests.bench.results import MACHINE, result, row, run, target_table


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [(3.0, False, "aim"), (2.5, False, "must"), (1.9, False, "missed"), (1.0, True, "must"), (9.0, True, "missed")],
)  # fmt: skip
def test_verdicts(value, at_most, verdict):
    aim = 0.5 if at_most else 3
    assert Row("x", value, "", 2, aim, at_most).verdict == verdict


def test_a_row_without_a_target_has_no_verdict_and_a_wrong_one_meets_none():
    assert Row("x", 1.0).verdict == "-" and Row("x", 1.0, aim=0.5).verdict == "aim"
    wrong = Row("x", 5.0, "5 x", 2, 3, wrong="loss differs by 0.1", predicted="4-6")
    assert wrong.line == " WRONG  x (at least 2, aim 3): loss differs by 0.1; 5 x [predicted 4-6]"
    assert Row("x", 0.0, wrong="FAILED: RuntimeError: no").verdict == "FAILED"


def test_peers_are_compared_pair_by_pair_the_fastest_first():
    one = Row("x", 1.0, times={"ours": [1.0, 2.0], "slow": [10.0], "peer": [3.0, 6.0]}, work={"tokens": 3})
    peer, slow = one.peers
    assert (peer.name, peer.seconds, peer.ratio.median, peer.ratio.rounds) == ("peer", 4.5, 3.0, 2)
    assert (slow.name, slow.ratio.median, slow.ratio.rounds) == ("slow", 10.0, 1)
    assert one.per_second("tokens") == 2.0 and one.per_second("flops") is None


def test_a_peer_timed_on_a_part_is_compared_with_our_time_for_that_part():
    one = row("x", 0.3, "tiktoken", share=0.1)
    assert one.median == pytest.approx(0.03) and one.peers[0].ratio.median == pytest.approx(20.0)


def test_written_results_are_read_back(tmp_path):
    one = run(result("encode[A]", 0.001, {"tiktoken": 2.0}), Row("y", 2.0, "shown", 1, None, True, "3", "no"))
    results.write(tmp_path / "0001_abc.json", one)
    assert results.read(tmp_path / "0001_abc.json") == one and one.device == "A <CPU>, 2 cores"
    assert [path.name for path in tmp_path.iterdir()] == ["0001_abc.json"]
    assert "predicted" not in json.loads((tmp_path / "0001_abc.json").read_text())["rows"][0]


def test_every_saved_result_can_be_read():
    files = sorted(results.RESULTS.glob("*.json"))
    assert files and all(results.read(path).rows for path in files)


def without(name: str) -> str:
    return json.dumps(Run("x", {k: v for k, v in MACHINE.items() if k != name}, []).as_dict())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a file of results"),
        ("{}", "not a file of results"),
        ("[1]", "not a file of results"),
        ('{"benchmarks": [], "machine_info": {}}', "not a file of results"),
        (json.dumps(run().as_dict() | {"rows": [1]}), "not a file of results"),
        (json.dumps(run().as_dict() | {"rows": [{"name": "x"}]}), "not a file of results"),
        (json.dumps(run(Row("x", 1.0, times={"peer": [1.0]})).as_dict()), "not a file of results"),
        (without("gpu"), "does not say gpu"),
    ],
)
def test_other_files_are_rejected(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        results.read(path)
    results.write(tmp_path / "y.json", target_table())
    assert [one.source for one in results.readable([path, tmp_path / "none.json", tmp_path / "y.json"])] == [
        "y"
    ]
