"""Results of lmfast_kernels.check become rows: comparisons, targets, timings; two devices are not mixed."""

import json
import sys

import pytest

from bench import results
from bench.gpu_kernels import main, read, rows_of
from bench.results import Row
from tests.bench.results import target_table

MACHINE = {"device": "a card", "torch": "2", "triton": "3", "commit": "abc"}
CHECKS = [
    {"what": "values", "error": 0.1, "allowed": 1.0, "passed": True},
    {"what": "huge", "skipped": "memory"},
]


def timing(what: str, who: str, ms: float, **extra) -> dict:
    return {"what": what, "who": who, "ms": ms, "rate": 4e12 / ms, "unit": "flops", "timer": "graph"} | extra


@pytest.fixture
def files(tmp_path):
    one = {
        "gpu": "a card",
        "commit": "abc",
        "operators": {"rope": {"checks": CHECKS, "timings": [], "done": True}},
    }
    what = "forward + backward"
    timings = [
        timing(what, "bare products", 2.0),
        timing(what, "ours", 2.5, fraction=0.5),
        {"what": what, "who": "x", "absent": "no"},
    ]
    other = {
        "machine": MACHINE,
        "ceilings": {"flops": 1e15},
        "operators": {"linear_cross_entropy": {"checks": [], "timings": timings, "done": False}},
    }
    paths = [tmp_path / "correct.json", tmp_path / "speed.json"]
    for path, found in zip(paths, (one, other), strict=True):
        path.write_text(json.dumps(found))
    return paths


def test_rows_of_both_files(files):
    found = {row.name: row for row in rows_of(files)}
    assert found["rope: right at real sizes"].shown == "1 of 1 comparisons"
    products = found["linear + cross-entropy, bare products' time over ours"]
    assert products.value == pytest.approx(0.8) and products.verdict == "must"
    ours = found["linear_cross_entropy forward + backward: ours"]
    assert ours.shown == "2.5000 ms, 1.6 TFLOP/s, 50.0% of the measured ceiling"
    assert len(found) == 4  # no row for absent results or for a target without a measurement


def test_a_failed_comparison_is_wrong(files):
    found = json.loads(files[0].read_text())
    found["operators"]["rope"]["checks"].append(
        {"what": "gradient", "error": 2.0, "allowed": 1.0, "passed": False}
    )
    files[0].write_text(json.dumps(found))
    row = rows_of(files)[0]
    assert row.verdict == "WRONG" and row.wrong == "gradient" and row.shown == "1 of 2 comparisons"


def test_rows_of_result_files_are_saved(files, tmp_path):
    row = Row("swiglu: right at real sizes", 1.0, "9 of 9 comparisons")
    results.write(tmp_path / "correctness.json", target_table(row, gpu="a card"))
    assert rows_of([*files, tmp_path / "correctness.json"])[0] == row


def test_files_of_two_devices_are_rejected(files):
    files[1].write_text(files[1].read_text().replace("a card", "another card"))
    with pytest.raises(SystemExit, match="measured on another card, other files on a card"):
        read(files)


def test_command_line(files, tmp_path, monkeypatch, capsys):
    output = tmp_path / "t.json"
    monkeypatch.setattr(sys, "argv", ["x", *map(str, files), "--output", str(output)])
    assert main() == 0
    run = results.read(output)
    assert len(run.rows) == 4 and run.machine["commit"] == "abc" and run.ceilings == {"matmul bfloat16": 1e15}
    assert "rope: right at real sizes" in capsys.readouterr().out
