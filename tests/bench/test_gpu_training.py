"""The rows of the training bench, with a tiny uncompiled model on the CPU."""

import sys
from dataclasses import replace

import pytest
import torch

from bench import gpu_training, gpu_training_job, results
from bench.gpu_training import agreement, main, rows, speed, warm
from bench.gpu_training_job import VARIANTS, Variant, choosing, read_config
from bench.target_table import measure
from lmfast.model.accounting import training_flops_per_token
from lmfast_kernels import backend

pytest.importorskip("transformers")
PLAIN = Variant("unchanged")


def whole(job, variant):
    """The complete row."""
    *_, row = speed(job, variant)
    return row


def test_the_time_is_saved_first_and_kept_if_the_rest_fails(job, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu_training.machine, "gpu_name", lambda: "NVIDIA H100 80GB HBM3")
    output, seen = tmp_path / "t.json", []

    def fails(*arguments):
        seen.extend(results.read(output).rows)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(gpu_training, "loss_and_gradients", fails)
    assert measure("x", rows(job, ["faster"]), output) == 1
    (early,), (row,) = seen, results.read(output).rows
    assert early.verdict == "-" and early.must is None and "not compared yet" in early.shown
    assert early.value == row.value > 0 and len(early.data["times"]) == 3
    assert row.verdict == "FAILED" and row.wrong == "FAILED: RuntimeError: out of memory"
    assert "Traceback" in capsys.readouterr().err


def test_kernels_are_listed_on_request(job):
    assert whole(job, PLAIN).data["profile"] is None
    found = whole(replace(job, profiled=True), PLAIN).data["profile"]
    assert found["kernels"][0]["ms"] >= found["kernels"][-1]["ms"] and found["busy"] > 0


def test_order_of_rows(job):
    found = list({row.name: row for row in rows(job, ["agreement", "ours", "peer", "double"])}.values())
    assert [row.name for row in found] == [
        "tiny: relative differences from plain PyTorch in float32",
        "tiny, our attention, batch 4: MFU",
        "tiny, batch 4: against LlamaForCausalLM, both compiled",
        "tiny, cuDNN attention, twice the batch, batch 8: MFU",
    ]
    assert (
        set(found[0].data) == {"loss", "gradient of the worst parameter", "LlamaForCausalLM's loss"}
        and found[0].value < 1e-4
    )
    assert found[2].peers[0].ratio.rounds == 3 and found[2].data["tokens"] == 64
    assert not any(row.wrong for row in found)


def test_targets_and_predictions_are_for_an_h100(job, monkeypatch):
    assert whole(job, VARIANTS["faster"]).must is None
    monkeypatch.setattr(gpu_training.machine, "gpu_name", lambda: "NVIDIA H100 80GB HBM3")
    assert whole(job, VARIANTS["faster"]).must is None  # and not those of a smaller model
    row = whole(replace(job, name=gpu_training_job.CONFIG), VARIANTS["faster"])
    assert (row.must, row.aim, row.predicted) == (0.45, 0.50, "42-48 %")


def test_mfu_follows_from_what_was_timed(job):
    data = whole(job, PLAIN).data
    middle = sorted(data["times"])[1]
    assert data["tokens_per_second"] == pytest.approx(2 * 4 * 8 / middle)
    assert data["mfu"] == pytest.approx(
        data["tokens_per_second"] * training_flops_per_token(job.shape, 8) / 1e9
    )
    assert data["graphs"] == data["recompiles"] == 0 and data["host_syncs"] is None
    assert data["memory"]["estimated"] > 4 * 4 * sum(p.numel() for p in job.make_model().parameters())
    assert max(data["differences"].values()) < 1e-4


def test_the_compiled_step_is_one_graph(job, monkeypatch):
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda graph, inputs: graph.forward)
    torch._dynamo.reset()
    data = whole(replace(job, compiled=True), PLAIN).data
    assert (data["graphs"], data["recompiles"]) == (1, 0)


def test_the_variant_is_what_is_timed(job, monkeypatch):
    seen = []
    monkeypatch.setattr(
        gpu_training_job.Job, "our_steps", lambda *arguments: seen.append(dict(backend.CHOICES)) or 1 / 0
    )
    before = dict(backend.CHOICES)
    for variant in VARIANTS.values():
        with pytest.raises(ZeroDivisionError):
            whole(job, variant)
    expected = [
        before | {operator: (what, what) for operator, what in variant.choices.items()}
        for variant in VARIANTS.values()
    ]
    assert seen == expected and before == backend.CHOICES


def test_a_variant_may_change_shape_and_batch(job):
    changed = job.changed_by(Variant("x", shape={"qk_norm": True}, batch=2.0))
    assert changed.shape.qk_norm and changed.batch_size == 8 and not job.shape.qk_norm


def test_wrong_results_are_marked_but_still_timed(job, monkeypatch):
    real = gpu_training.loss_and_gradients

    def wrong(model, ids, device, bf16):
        loss, gradients = real(model, ids, device, bf16)
        return loss * (1.1 if gpu_training.backend.MODE == "torch" else 1.0), gradients

    monkeypatch.setattr(gpu_training, "loss_and_gradients", wrong)
    row = agreement(job)
    assert row.verdict == "WRONG" and row.wrong.startswith("loss differs by 0.09")

    def doubled(*arguments):
        loss, gradients = real(*arguments)
        return loss, [2 * gradient for gradient in gradients]

    monkeypatch.setattr(gpu_training, "loss_and_gradients", doubled)
    row = whole(job, PLAIN)
    assert row.wrong == "compiled and uncompiled gradient's norm differs by 0.5"
    assert row.value > 0 and len(row.data["times"]) == 3


def test_the_kernels_mode_is_restored(job):
    before = gpu_training.backend.MODE
    agreement(job)
    assert before == gpu_training.backend.MODE
    with pytest.raises(RuntimeError), choosing({"rope": "triton"}):
        raise RuntimeError
    assert backend.CHOICES["rope"] == ("triton", "torch")


def test_a_row_that_raises_does_not_stop_the_next(job, monkeypatch, capsys):
    def fails(job, variant):
        if variant is VARIANTS["ours"]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")
        return real(job, variant)

    real = gpu_training.speed
    monkeypatch.setattr(gpu_training, "speed", fails)
    first, _, second = rows(job, ["ours", "sdpa"])
    assert first.verdict == "FAILED" and "Tried to allocate" in first.wrong and not second.wrong
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ours", "peer"])
def test_warming_takes_one_step(job, name, monkeypatch):
    steps = []
    for kind in (gpu_training_job.OurSteps, gpu_training.TheirSteps):
        real = kind.__call__
        monkeypatch.setattr(kind, "__call__", lambda self, n, real=real: (steps.append(n), real(self, n)))
    warm(job, name)
    assert steps == [1]


def test_the_config_is_124m():
    shape = read_config(gpu_training_job.CONFIG).model
    assert (shape.d_model, shape.num_layers, shape.context_length) == (768, 12, 1024)


def test_command_line(monkeypatch, tmp_path, capsys):
    output = tmp_path / "t.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu_training_job, "IDS", 1000)
    monkeypatch.setattr(gpu_training, "device_peak", lambda device, bf16: (1e9, "a guess"))
    monkeypatch.setattr(
        sys, "argv", ["x", "--rehearse", "--profile", "--only", "ours", "--output", str(output)]
    )
    assert main() == 0
    (row,) = results.read(output).rows
    assert row.name == "owt_124m, our attention, batch 4: MFU" and row.value > 0
    assert "tok/s" in capsys.readouterr().out
