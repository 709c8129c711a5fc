"""Every GPU path once, at small sizes, with nothing timed: `python -m bench.gpu_smoke CHECK [--rehearse]`.

Code that has never run on a device breaks there first, and a device is paid by the minute: bench/gpu.sh --smoke runs all
CHECKS at the same time, each in a separate process, so that one call shows everything that is broken, with
tracebacks. Most checks are the measuring programs themselves on two layers, so that these do not break later either.
Exit code 0 when the check passed. `--rehearse` runs the same code without a device.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "2")  # many of these processes run at once


from bench import gpu_decoding, gpu_run, gpu_smoke_decoding, gpu_smoke_fp8, gpu_training, gpu_training_job
from bench.results import Row
from lmfast.model.device import make_deterministic, pick_device
from lmfast.settings import replace_flat
from lmfast_kernels import check
from lmfast_kernels.check_correct import CHECKS as OPERATORS
from lmfast_kernels.check_speed import Sizes as SpeedSizes

SMALL_SPEED = SpeedSizes(
    rows=256, width=512, d_ff=256, tokens=512, attention_seqs=(256,), attention_width=256, d_model=256, vocab=1000,
    context=256, decode_batches=(1,), linear=((256, 512),), linear_rows=(1, 4), cache_bytes=1,
)  # fmt: skip
SMALL_RUN = {
    "num_layers": 2, "batch_size": 8, "total_tokens": None, "max_iters": 24, "log_interval": 4, "eval_interval": 12,
    "eval_batches": 2, "warmup_iters": 4, "sample_interval": 0, "checkpoint_interval": 12,
}  # fmt: skip

RECIPE = {  # what configs/speedrun_124m and owt_124m_leaderboard turn on
    "optimizer": "muon", "qk_norm": True, "value_embeddings": True, "zero_init": True, "logit_softcap": 15.0,
    "z_loss": 1e-4, "grad_accumulation": 4, "batch_ramp_start": 2, "batch_ramp_iters": 8,
}  # fmt: skip
TRAINING_OPTIONS: dict[str, dict] = {
    "fp16": {"bf16": False, "fp16": True},
    "fp8": {"fp8": True},
    "document-mask": {"document_mask": True},
    "window": {"sliding_window": 100, "sample_interval": 12},
    "recipe": RECIPE,
    "recompute-block": {"activation_checkpointing": "block", "num_layers": 4},
    "recompute-selective": {"activation_checkpointing": "selective", "num_layers": 4},
    "experts": {"num_experts": 4, "experts_per_token": 2, "d_ff": 256, "sample_interval": 12},
    "imported": {  # what models of Hugging Face's families turn on
        "qkv_bias": True, "head_dim": 64, "num_kv_heads": 2, "norm_eps": 1e-6, "sample_interval": 12,
        "rope_factor": 8.0, "rope_low_freq_factor": 1.0, "rope_high_freq_factor": 4.0, "rope_original_context": 64,
    },
}  # fmt: skip


class Machine:
    """What the checks run on: the device, or the CPU at tiny sizes."""

    def __init__(self, rehearse: bool):
        self.rehearse = rehearse
        self.device = pick_device("auto")
        if self.device.type != "cuda" and not rehearse:
            raise SystemExit("gpu_smoke: needs a CUDA device, or --rehearse")
        make_deterministic(self.device)

    def job(self, **shape) -> gpu_training_job.Job:
        settings = gpu_training_job.read_config(gpu_training_job.CONFIG)
        sizes = gpu_training_job.TINY if self.rehearse else {"num_layers": 2}
        model = replace(settings.model, **(sizes | shape)).resolved()
        return gpu_training_job.Job("smoke", model, 4, self.device, not self.rehearse, steps=4, rounds=2)

    def must_be_right(self, *rows: Row) -> None:
        for row in rows:
            print(row.line, flush=True)
        if any(row.wrong for row in rows):
            raise SystemExit(1)


def operator(name: str, machine: Machine) -> None:
    """An operator forward and backward at small shapes against float32."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--what", "correct", "--small", "--only", name, "--json", f"{folder}/check.json"]
        if check.main(words + (["--rehearse"] if machine.rehearse else [])):
            raise SystemExit(1)


def operator_speed(machine: Machine) -> None:
    """The timing program of every operator, at small sizes."""
    report = check.Report(machine.device, None, check.machine(machine.device))
    sizes = check.TINY_SPEED if machine.rehearse else SMALL_SPEED
    check.run(report, list(OPERATORS), "speed", check.TINY_CHECK, sizes)
    if report.wrong():
        raise SystemExit(1)


def step(variant: str, machine: Machine) -> None:
    """Some compiled steps of two layers, whose loss and gradients must be those of the uncompiled step."""
    *_, row = gpu_training.speed(machine.job(), gpu_training_job.VARIANTS[variant])
    machine.must_be_right(row)


def decoding(names: list[str], machine: Machine) -> None:
    """The decoding rows on two layers."""
    shape = machine.job().shape
    subject = gpu_decoding.Subject(shape, machine.device, new=20, rounds=2, reading=1e12)
    machine.must_be_right(*gpu_decoding.rows(subject, names))


def train(changes: dict, machine: Machine) -> None:
    """A short run with evaluation and checkpoints, stopped half-way and resumed; samples where `changes` ask for them."""
    settings = replace_flat(gpu_training_job.read_config(gpu_run.CONFIG), SMALL_RUN)
    data, text_bytes = gpu_run.DATA, gpu_run.TEXT_BYTES
    with tempfile.TemporaryDirectory() as folder:
        if machine.rehearse:
            settings = replace_flat(settings, gpu_run.TINY | SMALL_RUN | {"vocab_size": 300, "num_layers": 1})
            data, text_bytes = Path(folder), 200_000
        settings, corpus = gpu_run.make_data(settings, data, text_bytes)
        settings, run = replace_flat(settings, changes | {"lr_decay_iters": 24}), Path(folder) / "run"
        gpu_run.run(replace_flat(settings, {"max_iters": 12}), gpu_run.Start(run), corpus)
        gpu_run.run(settings, gpu_run.Start(run, resuming=True), corpus)


def in_pieces(module: ModuleType, machine: Machine) -> None:
    """Each part by itself."""
    if module.main(["--rehearse"] if machine.rehearse else []):
        raise SystemExit(1)


CHECKS: dict[str, Callable[[Machine], None]] = {
    **{f"operator-{name}": partial(operator, name) for name in OPERATORS},
    "agreement": lambda machine: machine.must_be_right(gpu_training.agreement(machine.job())),
    **{f"step-{name}": partial(step, name) for name in gpu_training_job.VARIANTS if name != "double"},
    "peer": lambda machine: machine.must_be_right(*gpu_training.against_llama(machine.job())),
    "decoding-graph": partial(decoding, ["one", "second-call", "sixteen"]),
    "decoding-compiled": partial(decoding, ["one-compiled", "sixteen-compiled"]),
    "decoding-peer": partial(decoding, ["one-peer"]),
    "decoding-pieces": partial(in_pieces, gpu_smoke_decoding),
    "fp8-pieces": partial(in_pieces, gpu_smoke_fp8),
    "train": partial(train, {"sample_interval": 12}),
    **{f"train-{name}": partial(train, changes) for name, changes in TRAINING_OPTIONS.items()},
    "operator-speed": operator_speed,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_smoke", description=__doc__.split("\n")[0])
    parser.add_argument("check", choices=CHECKS, metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--rehearse", action="store_true", help="without a device, at tiny sizes")
    arguments = parser.parse_args()
    with contextlib.suppress(BrokenPipeError):
        CHECKS[arguments.check](Machine(arguments.rehearse))
        print(f"{arguments.check}: passed")


if __name__ == "__main__":
    main()
