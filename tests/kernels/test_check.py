"""check.py and its report: immediate JSON, resuming, targets, and no number that was not measured."""

import json

import pytest
import torch

from lmfast_kernels import check
from lmfast_kernels.check_report import Report, difference, row, target_table, targets, time_ms

MACHINE = {"device": "a card", "torch": "2", "triton": "3", "commit": "abc"}


@pytest.fixture
def report(tmp_path):
    report = Report(
        torch.device("cpu"), tmp_path / "deep" / "check.json", dict(MACHINE), echo=lambda line: None
    )
    report.ceilings = {"bytes": 3e12, "flops": 8e14}
    return report


def test_rejects_a_machine_without_cuda(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert check.main([]) == 2
    assert capsys.readouterr().err.startswith("lmfast_kernels.check: needs a CUDA device")


def test_every_entry_is_saved_immediately(report):
    report.begin("swiglu")
    report.check("swiglu", "values", 0.1, 0.2)
    assert json.loads(report.path.read_text())["operators"]["swiglu"]["checks"][0]["passed"] is True
    report.timed("swiglu", "forward", "ours", 2.0, 3e9, "bytes", "graph")
    stored = json.loads(report.path.read_text())["operators"]["swiglu"]
    assert stored["timings"][0]["rate"] == 1.5e12 and stored["timings"][0]["fraction"] == 0.5
    assert not stored["done"]
    report.finish("swiglu")
    assert not list(report.path.parent.glob("*.tmp"))


def test_nan_never_passes(report):
    report.begin("rope")
    report.check("rope", "values", float("nan"), 1.0)
    report.check("rope", "values", 0.1, float("nan"))
    assert len(report.wrong()) == 2
    assert difference(torch.tensor([float("nan")]), torch.zeros(1)) != 0


def test_earlier_results_are_used_only_for_the_same_machine_and_commit(report):
    report.begin("rope")
    report.finish("rope")
    again = Report(report.device, report.path, dict(MACHINE))
    again.load()
    assert again.operators["rope"]["done"]
    other = Report(report.device, report.path, MACHINE | {"commit": "def"})
    other.load()
    assert not other.operators
    report.path.write_text("{")
    with pytest.raises(ValueError, match="is not the JSON file of an earlier check"):
        again.load()


def test_targets_mark_what_was_not_measured(report):
    lines = target_table(report)
    assert len(lines) >= 12 and all("not measured" in line for line in lines)
    report.begin("rms_norm")
    report.timed("rms_norm", "forward", "ours", 1.0, 0.9 * 3e9, "bytes", "graph")
    report.timed("rms_norm", "backward", "ours", 1.0, 0.5 * 3e9, "bytes", "graph")
    report.begin("attention")
    report.timed("attention", "forward d64 S4096", "ours", 1.0, 4e11, "flops", "graph")
    report.timed("attention", "forward d64 S4096", "SDPA flash", 2.0, 4e11, "flops", "graph")
    report.timed("attention", "forward d64 S4096", "SDPA cuDNN", 0.5, 4e11, "flops", "graph")
    table = {line[:58].strip(): line for line in target_table(report)}
    assert table["RMSNorm forward, of the memory's rate"].endswith(" reached")
    assert table["RMSNorm backward"].endswith("MISSED")
    assert "aim 680" in table["attention forward d64, TFLOP/s (aim: 85 % of cuDNN's)"]
    assert table["attention forward d64, × SDPA flash"].endswith("aim reached")
    assert "not measured" in table["SwiGLU forward"]


def test_no_rate_exceeds_the_ceiling(report):
    report.begin("rms_norm")
    for what, rate in (("forward", 2.7e9), ("backward", 6e9)):  # the ceiling was measured as 3e12 per second
        report.timed("rms_norm", what, "ours", 1.0, rate, "bytes", "graph")
    timings = report.operators["rms_norm"]["timings"]
    assert [entry["fraction"] for entry in timings] == [0.9, 1.0] and report.ceilings["bytes"] == 6e12
    table = {name: measured for name, measured, *_ in targets(report)}
    assert table["RMSNorm forward, of the memory's rate"] == 0.45 and table["RMSNorm backward"] == 1.0


def test_memory_target(report):
    report.begin("linear_cross_entropy")
    for who, ms, peak in (("ours", 5.0, 1), ("naive", 9.0, 10), ("bare products", 4.0, 3)):
        report.timed(
            "linear_cross_entropy", "forward + backward", who, ms, 1e12, "flops", "graph", peak_bytes=peak
        )
    table = {line[:58].strip(): line for line in target_table(report)}
    assert table["linear + cross-entropy, naive memory over ours"].endswith("aim reached")
    assert table["linear + cross-entropy, bare products' time over ours"].endswith(" reached")


def test_rows_and_absent_peers(report):
    report.begin("rope")
    report.absent("rope", "forward", "Liger", "not installed")
    entry = {"what": "forward", "who": "ours", "ms": 0.5, "rate": 2e12, "unit": "bytes", "fraction": 0.7}
    assert "2000.0 GB/s" in row("rope", entry) and "70.0 %" in row("rope", entry)
    assert report.find("rope", "forward", "Liger") is None
    report.skip("rope", "large", "needs 40 GiB")
    assert not report.wrong() and "all comparisons passed" in check.summary(report)[-1]


def test_host_clock_without_cuda():
    calls = []
    ms, how = time_ms(lambda: calls.append(1), torch.device("cpu"))
    assert ms >= 0 and how == "host clock" and len(calls) == 4


def test_resume_skips_completed_operators(tmp_path, monkeypatch, capsys):
    path = tmp_path / "check.json"
    done = Report(torch.device("cpu"), path, dict(MACHINE), echo=lambda line: None)
    done.begin("rope")
    done.finish("rope")
    ran = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(check.backend, "triton", object())
    monkeypatch.setattr(check, "machine", lambda device: dict(MACHINE))
    monkeypatch.setattr(Report, "measure_ceilings", lambda self, *sizes: None)
    monkeypatch.setattr(check, "run", lambda report, operators, *rest: ran.extend(operators))
    assert check.main(["--json", str(path), "--resume", "--only", "rope", "--only", "swiglu"]) == 0
    assert ran == ["swiglu"]
    assert "device a card" in capsys.readouterr().out
