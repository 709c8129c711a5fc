"""One change at a time, put back afterwards, and named as it is."""

import contextlib

import pytest
import torch

from bench import gpu_alternatives
from bench.gpu_alternatives import ALTERNATIVES, UNCHANGED, rows
from bench.target_table import Row
from kernels import backend


def test_rows_are_compared_with_the_first(job):
    found = list(rows(job, ["rope-triton"]))
    assert [row.name for row in found] == ["tiny, unchanged", "tiny, rope-triton", "tiny, unchanged"]
    middles = [sorted(row.data["times"])[1] for row in found]
    assert [row.value for row in found] == pytest.approx([middles[0] / middle for middle in middles])


def test_what_is_timed_is_the_alternative(job, monkeypatch):
    before, seen = dict(backend.CHOICES), []

    def note(job):
        seen.append({name: choice for name, choice in backend.CHOICES.items() if choice != before[name]})
        seen[-1]["search"] = torch._inductor.config.max_autotune
        return Row("x", None, None, 0.0, "", data={"times": [1.0]})

    monkeypatch.setattr(gpu_alternatives, "speed", note)
    assert len(list(rows(job))) == len(ALTERNATIVES) + 2
    plain = {"search": False}
    assert dict(zip([UNCHANGED, *ALTERNATIVES], seen)) == {
        UNCHANGED: plain,
        "attention-triton": plain | {"attention": ("auto", "triton")},
        "attention-torch": plain | {"attention": ("auto", "torch")},
        "attention-cudnn": plain | {"attention": ("auto", "cudnn")},
        "rms_norm-torch": plain | {"rms_norm": ("triton", "torch")},
        "linear_cross_entropy-torch": plain | {"linear_cross_entropy": ("triton", "torch")},
        "rope-triton": plain | {"rope": ("triton", "triton")},
        "swiglu-triton": plain | {"swiglu": ("triton", "triton")},
        "max-autotune": {"search": True},
    }
    assert before == backend.CHOICES and seen[-1] == plain


def test_an_alternative_that_fails_is_a_row_without_a_figure(job, monkeypatch):
    @contextlib.contextmanager
    def refuses():
        raise RuntimeError("no such kernel\nmore")
        yield

    monkeypatch.setitem(ALTERNATIVES, "attention-cudnn", refuses)
    found = list(rows(job, ["attention-cudnn"]))
    assert found[1].shown == "absent: no such kernel" and found[2].value > 0
