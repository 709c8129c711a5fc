"""`python -m lmfast_kernels.check` end to end on small problems: all comparisons and timings that it makes on a GPU.

The kernels run in the interpreter, in float16 (bf16 products are wrong there). Times are the interpreter's and mean
nothing; tested is that every entry exists, has a verdict and is found by the table of targets.
"""

import json

import pytest
import torch

from lmfast_kernels import check, check_correct, check_report, check_speed

CHECK = check_correct.Sizes(
    rows=24,
    width=64,
    seq=40,
    head_dims=(20,),
    linear=((24, 10),),
    lengths=((1, 1), (5, 9)),
    decode=((1, 4, 4), (3, 6, 2)),
    vocab=60,
    huge=4096 * 9,
)
SPEED = check_speed.Sizes(
    rows=16, width=32, d_ff=24, tokens=32, attention_seqs=(16,), attention_width=128, d_model=64, vocab=50,
    context=24, decode_batches=(1,), linear=((24, 10),), linear_rows=(1,), cache_bytes=1000,
)  # fmt: skip


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setattr(
        check_speed, "_inductor", lambda function, sizes: function
    )  # no compiler in this test
    monkeypatch.setattr(
        check_report, "time_ms", lambda function, device: (float(function() is not None), "called")
    )
    monkeypatch.setattr(check_speed, "time_ms", check_report.time_ms)
    device = torch.device("cpu")
    report = check_report.Report(
        device, tmp_path / "check.json", {"device": "interpreter"}, echo=lambda line: None
    )
    report.dtype = torch.float16
    report.measure_ceilings(1000, 8)
    return report


@pytest.mark.parametrize("operator", list(check_correct.CHECKS))
def test_every_comparison_passes(operator, report):
    check.run(report, [operator], "correct", CHECK, SPEED)
    checks = report.operators[operator]["checks"]
    assert len(checks) >= 5 and all(entry["passed"] for entry in checks), report.wrong()
    assert any("elements" in entry["what"] for entry in checks)
    assert json.loads(report.path.read_text())["operators"][operator]["done"]


@pytest.mark.parametrize("operator", list(check_speed.SPEEDS))
def test_every_timing_runs(operator, report, monkeypatch):
    ticks = iter(range(1, 10**6))  # each timing is longer than the previous one, so differences are positive
    monkeypatch.setattr(check_speed, "time_ms", lambda f, d: (float(f() is not None) * next(ticks), "called"))
    check.run(report, [operator], "speed", CHECK, SPEED)
    timings = report.operators[operator]["timings"]
    ours = [entry for entry in timings if entry["who"] == "ours"]
    assert ours and all(entry["ms"] > 0 for entry in ours), timings
    for entry in timings:
        assert ("ms" in entry) != ("absent" in entry)
        if "absent" in entry:  # peers that need a GPU; everything else must have run
            assert entry["who"] in ("SDPA cuDNN", "SDPA flash", "Liger", "F.linear_c_e"), entry
    if operator in check.IN_A_COMPILED_STEP:
        assert {e["who"] for e in timings if e["what"].startswith("compiled block")} == {"triton", "torch"}


def test_a_wrong_kernel_is_reported(report, mutate):
    from importlib import import_module

    mutate(import_module("lmfast_kernels.swiglu"), "_swiglu_backward_kernel", "(1.0 - sigmoid)", "sigmoid")
    check.run(report, ["swiglu"], "correct", CHECK, SPEED)
    assert report.wrong() and "comparisons failed" in "\n".join(check.summary(report))
