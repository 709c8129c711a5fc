"""The rows of the training bench on a model of nothing, uncompiled, on the CPU."""

import json
import sys

import pytest
import torch

from bench import gpu_training
from bench.gpu_training import Watched, agreement, attempt, main, read_config, rows, speed
from lmfast.model.accounting import training_flops_per_token

pytest.importorskip("transformers")


def test_rows_in_their_order(job):
    found = list(rows(job, [8], (0.45, 0.55)))
    assert [row.name for row in found] == [
        "tiny: relative differences from plain PyTorch in float32",
        "tiny, batch 4: MFU",
        "tiny, batch 2: beside LlamaForCausalLM, both compiled",
        "tiny, batch 8: MFU",
    ]
    assert (
        set(found[0].data) == {"loss", "gradient of the worst parameter", "LlamaForCausalLM's loss"}
        and found[0].value < 1e-4
    )
    assert (found[1].must, found[1].aim, found[3].must) == (0.45, 0.55, None)
    assert found[2].data["ratio"]["rounds"] == 3 and found[2].data["tokens"] == 16


def test_mfu_follows_from_what_was_timed(job):
    data = speed(job).data
    middle = sorted(data["times"])[1]
    assert data["tokens_per_second"] == pytest.approx(2 * 4 * 8 / middle)
    assert data["mfu"] == pytest.approx(
        data["tokens_per_second"] * training_flops_per_token(job.shape, 8) / 1e9
    )
    assert data["graphs"] == data["recompiles"] == 0 and data["host_syncs"] is None
    assert data["memory"]["foretold"] > 4 * 4 * sum(p.numel() for p in job.make_model().parameters())
    assert data["kernels"][0]["ms"] >= data["kernels"][-1]["ms"] and data["device_seconds_a_step"] > 0
    assert max(data["differences"].values()) < 1e-4


def test_the_compiled_step_is_one_graph(job, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda graph, inputs: graph.forward)
    torch._dynamo.reset()
    data = speed(replace(job, compiled=True)).data
    assert (data["graphs"], data["recompiles"]) == (1, 0)


def test_wrong_results_are_not_timed(job, monkeypatch):
    real = gpu_training.loss_and_gradients

    def wrong(model, ids, device, bf16):
        loss, gradients = real(model, ids, device, bf16)
        return loss * (1.1 if gpu_training.backend.MODE == "torch" else 1.0), gradients

    monkeypatch.setattr(gpu_training, "loss_and_gradients", wrong)
    with pytest.raises(SystemExit, match=r"tiny, batch 4: loss by 0\.09"):
        agreement(job)

    def doubled(*arguments):
        loss, gradients = real(*arguments)
        return loss, [2 * gradient for gradient in gradients]

    monkeypatch.setattr(gpu_training, "loss_and_gradients", doubled)
    with pytest.raises(SystemExit, match=r"gradient's norm by 0\.5 apart"):
        speed(job)


def test_the_mode_of_the_kernels_is_put_back(job):
    before = gpu_training.backend.MODE
    agreement(job)
    assert before == gpu_training.backend.MODE


def test_too_little_memory_is_a_row(job):
    def speed(job):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate\nmore")

    row = attempt(speed, job)
    assert row.name == "tiny, batch 4: speed" and "Tried to allocate" in row.shown and row.verdict == "-"


def test_syncs_are_watched_between_the_first_step_and_the_last(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    class Batches:
        def step(self, i):
            return i

    watched = Watched(Batches(), 10, 13)
    assert [watched.step(i) for i in range(10, 14)] == [10, 11, 12, 13]
    assert modes == ["default", "warn", "warn", "default"]


def test_the_config_is_the_issues():
    shape = read_config(gpu_training.CONFIG).model
    assert (shape.d_model, shape.num_layers, shape.context_length) == (768, 12, 1024)


def test_command_line(job, monkeypatch, tmp_path, capsys):
    output = tmp_path / "t.json"
    monkeypatch.setattr(gpu_training, "rows", lambda job, sizes, targets: iter([speed(job_of(job, sizes))]))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def job_of(asked, sizes):
        assert asked.batch_size == 64 and sizes == [16] and asked.shape.vocab_size == 32000
        return job

    monkeypatch.setattr(sys, "argv", ["x", "--batch-sizes", "16", "--output", str(output)])
    main()
    saved = json.loads(output.read_text())
    assert (
        saved["rows"][0]["name"] == "tiny, batch 4: MFU"
        and "commit" in saved
        and "torch" in saved["versions"]
    )
    assert "tok/s" in capsys.readouterr().out
