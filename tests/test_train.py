"""The command, and that every setting has an effect."""

import json
import re
import shutil

import pytest
import torch

from lmfast.errors import UserError
from lmfast.model.device import compile_blocker
from lmfast.settings import TrainSettings, flat_types
from lmfast.train import train
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import differ, run, weights


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    return run(corpus, tmp_path_factory.mktemp("base") / "run")


# Settings that change the trained weights.
CHANGES_WEIGHTS = {
    "vocab_size": 320, "context_length": 8, "d_model": 8, "num_layers": 1, "num_heads": 4, "num_kv_heads": 1,
    "d_ff": 16, "rope_theta": 10.0, "norm": "post", "position": "none", "ffn": "relu2", "qk_norm": None,
    "head_dim": 4, "norm_eps": 0.1, "qkv_bias": None, "value_embeddings": None, "zero_init": None,
    "logit_softcap": 3.0, "z_loss": 0.1, "tie_embeddings": None, "parallel_block": None, "dropout": 0.5, "batch_size": 5,
    "grad_accumulation": 3,
    "learning_rate": 1e-3, "min_lr": 9e-3, "warmup_iters": 1, "lr_decay_iters": 4, "weight_decay": 0.9, "beta1": 0.5,
    "document_mask": None, "beta2": 0.5, "grad_clip": 0.01, "bf16": None, "fp16": None, "sliding_window": 4,
    "seed": 1, "max_iters": 5, "num_experts": 4, "optimizer": "muon", "schedule": "linear",
}  # fmt: skip
# Settings with a test of their own below, in tests/cli/test_training_tasks.py or in tests/training/parallel.
TESTED_BELOW = {
    "total_tokens", "config", "train_data_path", "val_data_path", "tokenizer", "out_dir", "resume", "init_from", "device",
    "compile", "eval_interval", "eval_batches", "log_interval", "checkpoint_interval", "keep_checkpoints", "sample_interval",
    "tensorboard", "wandb", "wandb_project", "wandb_name", "wandb_entity", "max_minutes", "fp8",
    "activation_checkpointing", "parallel", "tensor_parallel",
    "eval_tasks", "eval_tasks_interval", "eval_tasks_limit", "eval_tasks_include_path",
}  # fmt: skip
# Settings that change something only beside another one.
ALONGSIDE = {
    "decay_fraction": (0.9, ["--schedule", "wsd"]), "muon_lr": (1e-3, ["--optimizer", "muon"]),
    "muon_momentum": (0.5, ["--optimizer", "muon"]), "batch_ramp_iters": (4, ["--grad-accumulation", "3"]),
    "rope_factor": (8.0, ["--rope-original-context", "32"]),
    "rope_original_context": (32, ["--rope-factor", "8"]),
    "rope_low_freq_factor": (0.2, ["--rope-factor", "8", "--rope-original-context", "32"]),
    "rope_high_freq_factor": (6.0, ["--rope-factor", "8", "--rope-original-context", "32"]),
    "window_pattern": ("L", ["--sliding-window", "4"]),
    "experts_per_token": (1, ["--num-experts", "4"]), "load_balance": (1.0, ["--num-experts", "4"]),
    "batch_ramp_start": (2, ["--grad-accumulation", "3", "--batch-ramp-iters", "4"]),
}  # fmt: skip


def test_no_setting_is_without_a_test():
    groups = [CHANGES_WEIGHTS.keys(), TESTED_BELOW, ALONGSIDE.keys()]
    assert set().union(*groups) == flat_types(TrainSettings).keys()
    assert sum(map(len, groups)) == len(flat_types(TrainSettings))


@pytest.mark.parametrize("name", CHANGES_WEIGHTS)
def test_a_setting_changes_the_weights(corpus, base, tmp_path, name):
    value = CHANGES_WEIGHTS[name]
    flag = f"--{name.replace('_', '-')}"
    _, changed = run(corpus, tmp_path / "run", flag, *([] if value is None else [value]))
    assert differ(changed, base[1])


@pytest.mark.parametrize("name", ALONGSIDE)
def test_a_setting_together_with_another_changes_the_weights(corpus, tmp_path, name):
    value, others = ALONGSIDE[name]
    _, without = run(corpus, tmp_path / "without", *others)
    _, changed = run(corpus, tmp_path / "run", *others, f"--{name.replace('_', '-')}", value)
    assert differ(changed, without)


def test_activation_checkpointing_changes_memory_but_no_weight_and_may_change_on_resume(
    corpus, tmp_path, capsys
):
    found, estimates = {}, {}
    for kind in ("none", "block", "selective"):
        _, found[kind] = run(corpus, tmp_path / kind, "--activation-checkpointing", kind, "--dropout", 0.1)
        estimates[kind] = capsys.readouterr().out.partition("estimate: ")[2].split()[0]
    assert float(estimates["block"]) < float(estimates["none"])
    assert not differ(found["none"], found["block"]) and not differ(found["none"], found["selective"])
    run(corpus, tmp_path / "block", "--activation-checkpointing", "none", "--dropout", 0.1, "--max-iters", 9)
    assert "resuming after step" in capsys.readouterr().out
    with pytest.raises(UserError, match="expected one of none, block, selective"):
        run(corpus, tmp_path / "new", "--activation-checkpointing", "all")


def test_fp8_changes_the_weights_and_reports_what_stays_in_bf16(corpus, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        "lmfast.training.run.device_peak", lambda *_: (1e12, "not measured: bf16 is slow here")
    )
    shape = ["--d-ff", 32, "--bf16"]
    _, without = run(corpus, tmp_path / "without", *shape)
    with pytest.raises(UserError, match=r"compute capability 8\.9 or higher, not cpu"):
        run(corpus, tmp_path / "refused", *shape, "--fp8")
    assert not (tmp_path / "refused").exists()
    monkeypatch.setenv("LMFAST_FP8_EMULATE", "1")
    capsys.readouterr()
    metrics, changed = run(corpus, tmp_path / "run", *shape, "--fp8")
    said = capsys.readouterr().out
    assert "MFU stays a share of the bf16 peak" in said
    assert said.count("the head stays in bf16, because 16 × 300 are not multiples of 16") == 1
    assert differ(changed, without) and all(weight.dtype == torch.float32 for weight in changed.values())
    assert metrics[-1]["val_loss"] < 6


def test_max_minutes_ends_a_run_with_its_schedule_finished(corpus, tmp_path, capsys, ticking_clock):
    """Within the time, at the floor of the schedule, nothing left to resume; steps may end it first."""
    flags = [*corpus.flags(), "--schedule", "linear", "--eval-interval", "20", "--checkpoint-interval", "20"]
    at = flags.index("--max-iters")
    del flags[at : at + 2]
    folder = tmp_path / "run"
    assert train([*flags, "--max-minutes", "0.05", "--out-dir", str(folder)])
    metrics = read_metrics(folder)
    assert (
        2.5 < metrics[-1]["seconds"] < 3.2 and metrics[-1]["learning_rate"] == 0.0
    )  # its evaluation is a guess
    assert "val_loss" in metrics[-1] and metrics[-2]["learning_rate"] > 0
    assert "cannot be repeated to the bit" in capsys.readouterr().out
    assert train(["--resume", "--out-dir", str(folder)])
    assert "already finished at step" in capsys.readouterr().out
    assert train([*corpus.flags(), "--max-minutes", "10", "--out-dir", str(tmp_path / "steps")])
    assert read_metrics(tmp_path / "steps")[-1]["step"] == 6


def test_the_same_settings_give_the_same_weights_and_metrics(corpus, base, tmp_path):
    metrics, again = run(corpus, tmp_path / "run")
    assert not differ(again, base[1])

    def exact(lines):
        timed = ("seconds", "tokens_per_second", "mfu")
        return [{k: v for k, v in line.items() if k not in timed} for line in lines]

    assert exact(metrics) == exact(base[0])


def test_accumulation_splits_a_step_without_changing_it(corpus, base, tmp_path):
    _, split = run(corpus, tmp_path / "run", "--batch-size", 2, "--grad-accumulation", 2)
    for name, value in base[1].items():
        torch.testing.assert_close(split[name], value, atol=2e-4, rtol=1e-3)


def test_metrics_lines(base):
    metrics, _ = base
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert [line["tokens"] for line in metrics] == [64 * s for s in range(1, 7)]
    assert metrics[5]["val_loss"] < metrics[2]["val_loss"]
    always = {"step", "tokens", "seconds", "train_loss", "learning_rate", "grad_norm"}
    for line in metrics:
        assert always <= line.keys() <= always | {"tokens_per_second", "mfu", "val_loss", "bits_per_byte"}
        assert ("val_loss" in line) == (line["step"] % 3 == 0)
    assert metrics[-1]["learning_rate"] == pytest.approx(1e-3)
    assert 0 < metrics[-1]["mfu"] < 1


def test_bits_per_byte_is_the_loss_over_the_bytes(corpus, base):
    import math

    from lmfast.data.token_file import open_tokens
    from lmfast.tokenizer.bpe import Tokenizer

    tokens = open_tokens(corpus.valid).tokens[1:]
    text = Tokenizer.load(corpus.tokenizer).decode_bytes(tokens).replace(b"<|endoftext|>", b"")
    last = base[0][-1]
    assert last["bits_per_byte"] == pytest.approx(
        last["val_loss"] * len(tokens) / math.log(2) / len(text), rel=1e-6
    )


def test_intervals(corpus, tmp_path):
    metrics, _ = run(
        corpus, tmp_path / "run", "--log-interval", 4, "--eval-interval", 5, "--checkpoint-interval", 2,
        "--keep-checkpoints", 1, "--sample-interval", 4,
    )  # fmt: skip
    assert [line["step"] for line in metrics if "train_loss" in line] == [4, 6]
    assert [line["step"] for line in metrics if "val_loss" in line] == [5, 6]
    kept = {p.name for p in (tmp_path / "run/checkpoints").glob("step_*")}
    assert kept == {"step_00000006"}
    samples = sorted(p.name for p in (tmp_path / "run/samples").iterdir())
    assert samples == ["step_00000004.txt", "step_00000006.txt"]
    assert (tmp_path / "run/samples/step_00000006.txt").read_text().startswith("Once upon a time")


def test_total_tokens_are_rounded_up_to_whole_steps(corpus, tmp_path):
    flags = corpus.flags()
    del flags[flags.index("--max-iters") : flags.index("--max-iters") + 2]
    assert train([*flags, "--total-tokens", "130", "--out-dir", str(tmp_path / "run")])
    assert read_metrics(tmp_path / "run")[-1]["tokens"] == 192


def test_eval_batches_limits_the_evaluation(corpus, base, tmp_path):
    metrics, _ = run(corpus, tmp_path / "run", "--eval-batches", 1)
    assert metrics[-1]["val_loss"] != base[0][-1]["val_loss"]


def test_run_folder_is_complete(trained_run):
    there = {p.name for p in trained_run.iterdir() if not p.name.startswith(".")}
    assert there == {
        "config.yaml",
        "run.json",
        "metrics.jsonl",
        "samples",
        "report.html",
        "tokenizer",
        "checkpoints",
    }
    facts = json.loads((trained_run / "run.json").read_text())
    assert facts["parameters"] == sum(t.numel() for t in weights(trained_run).values())


def test_config_file_and_its_reproduction(corpus, base, tmp_path, trained_run):
    """A run's own config.yaml is a complete description of it."""
    assert train(["--config", str(trained_run / "config.yaml"), "--out-dir", str(tmp_path / "again")])
    assert not differ(weights(tmp_path / "again"), base[1])


def test_init_from_starts_from_those_weights(corpus, base, tmp_path, trained_run):
    metrics, _ = run(corpus, tmp_path / "run", "--init-from", trained_run, "--max-iters", 2)
    assert metrics[0]["train_loss"] < base[0][0]["train_loss"]


def test_without_a_tokenizer_there_are_no_bits_per_byte(corpus, tmp_path, capsys):

    for name in ("train", "valid"):
        shutil.copy(corpus.folder / f"{name}.npy", tmp_path)
    flags = [f.replace(str(corpus.folder), str(tmp_path)) for f in corpus.flags()]
    assert train([*flags, "--vocab-size", "300", "--out-dir", str(tmp_path / "run")])
    assert "its tokenizer is unknown (no train.npy.json)" in capsys.readouterr().out
    assert "bits_per_byte" not in read_metrics(tmp_path / "run")[-1]
    assert "val_loss" in read_metrics(tmp_path / "run")[-1]


def test_tensorboard_writes_events(corpus, tmp_path):
    pytest.importorskip("tensorboard")
    run(corpus, tmp_path / "run", "--tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run/tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("val_loss")] == [3, 6]


def test_wandb_gets_the_settings(corpus, tmp_path, monkeypatch):
    """What is asked of wandb; that it works offline for real is test_wandb_offline."""
    import wandb

    calls, lines = [], []

    class Run:
        id = "abc"

        def log(self, metrics, step):
            lines.append((step, metrics))

        def finish(self):
            lines.append("finished")

    monkeypatch.setattr(wandb, "init", lambda **options: calls.append(options) or Run())
    run(
        corpus,
        tmp_path / "run",
        "--wandb",
        "--wandb-project",
        "p",
        "--wandb-name",
        "n",
        "--wandb-entity",
        "e",
    )
    asked = calls[0]
    assert (asked["project"], asked["name"], asked["entity"], asked["mode"]) == ("p", "n", "e", "online")
    assert asked["config"]["d_model"] == 16 and asked["id"] is None
    assert lines[-1] == "finished" and {"train_loss", "val_loss"} <= lines[-2][1].keys()
    assert (tmp_path / "run/wandb_id").read_text() == "abc"


def test_wandb_offline(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    run(corpus, tmp_path / "run", "--wandb", "offline", "--max-iters", 2)
    assert list((tmp_path / "run/wandb").glob("offline-run-*/*.wandb"))


def test_compile_is_one_full_graph_and_a_missing_compiler_is_one_line(corpus, tmp_path, monkeypatch, capsys):
    calls = []

    def compile(function, backend, **options):
        calls.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    from lmfast.training import run as run_module

    monkeypatch.setattr(run_module, "compile_blocker", lambda device: None)
    metrics, _ = run(corpus, tmp_path / "a", "--compile", "--max-iters", 2)
    assert metrics[-1]["recompiles"] == 0
    assert calls == [{"fullgraph": True, "dynamic": False}]
    monkeypatch.setattr(run_module, "compile_blocker", lambda device: "no C++ compiler was found")
    run(corpus, tmp_path / "b", "--compile", "--max-iters", 2)
    assert len(calls) == 1
    assert "training without torch.compile: no C++ compiler was found\n" in capsys.readouterr().out


def test_out_dir_defaults_to_the_next_train_folder(corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/train-3").mkdir(parents=True)
    assert train([*corpus.flags(), "--max-iters", "1"])
    assert (tmp_path / "runs/train-4/checkpoints/step_00000001/COMPLETE").exists()


def test_a_compiled_run_reports_the_cost_of_its_first_step(corpus, tmp_path, capsys, monkeypatch):
    if reason := compile_blocker(torch.device("cpu")):
        pytest.skip(reason)
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda graph, inputs: graph)
    run(corpus, tmp_path / "run", "--compile", "--max-iters", "2", "--eval-interval", "0")
    assert len(re.findall(r"first step \d+\.\d s, including ", capsys.readouterr().out)) == 1
