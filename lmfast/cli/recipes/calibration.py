"""The process that measures what the stages of a recipe cost on this machine, in a few seconds.

Reads {"spawned": time, "jobs": {stage: job}} from standard input, writes {stage: measurements} to standard output, both as
JSON. A job of a tokenizer stage trains on the start of the text; a job of a data stage runs its command on two lengths of
it (samples.py). A job of a training stage takes a few real steps: its
model, its batch (or as many rows as are quick), its operators; random ids for pretraining, the rendered records for sft and
dpo. Times are in seconds, memory in bytes. A job that fails is left out: the stage itself reports why.
"""

import contextlib
import ctypes
import gc
import json
import logging
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmfast.cli.progress import PeakMemory, memory_in_use
from lmfast.cli.recipes.jobs import DataJob, Job, TokenizerJob, TrainingJob, read_jobs
from lmfast.cli.recipes.samples import measure_data
from lmfast.cli.settings_line import parse
from lmfast.data.chat import add_chat_tokens, has_chat_tokens
from lmfast.inference.decode import generate
from lmfast.model.accounting import training_flops_per_token
from lmfast.model.config import ModelConfig
from lmfast.model.device import autocast, make_deterministic, pick_device
from lmfast.model.memory import training_memory
from lmfast.model.recomputation import use_checkpointing
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, replace_flat, selected_precision, write_yaml
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.training import train_bpe
from lmfast.training.objectives import NextToken
from lmfast.training.optimizers import make_optimizer
from lmfast.training.parallel.ranks import SINGLE_PROCESS
from lmfast.training.post_training_settings import DPOSettings, SFTSettings
from lmfast.training.preference import preference_task
from lmfast.training.resolve import batch_ramp, resolve
from lmfast.training.run import make_plan
from lmfast.training.step import Stepper
from lmfast.training.supervised import supervised_task
from lmfast.training.task import Rows, Start, Task

SAMPLE_BYTES = 4_000_000
STEP_FLOPS = 2e11
"""work of a measured step on a CPU, about a second on two cores; more rows are extrapolated"""
STEP_SECONDS = 0.5
"""steps are measured for at least this long"""

Measured = dict[str, float]
logger = logging.getLogger(__name__)


def measure_all(jobs: dict[str, Job], startup: float) -> dict[str, Measured]:
    """{stage: measurements}. startup: seconds until this module was loaded."""
    base = float(memory_in_use() or 0)
    tokenizers: dict[str, Tokenizer] = {}
    found: dict[str, Measured] = {}
    for name, job in jobs.items():
        try:
            with contextlib.redirect_stdout(sys.stderr):
                if isinstance(job, TokenizerJob):
                    found[name], tokenizers[name] = measure_tokenizer(job)
                elif isinstance(job, DataJob):
                    found[name] = measure_data(job, tokenizers)
                else:
                    found[name] = measure_training(job, tokenizers) | {"startup": startup, "base": base}
        except Exception as error:  # any: the stage itself reports it
            logger.debug("%s: not measured: %r", name, error, exc_info=True)
    return found


def measure_tokenizer(job: TokenizerJob) -> tuple[Measured, Tokenizer]:
    """Trains on the start of the text, twice: the first time loads the compiled code."""
    with tempfile.TemporaryDirectory() as folder:
        sample = Path(folder) / "sample.txt"
        with open(job.text, "rb") as file:
            sample.write_bytes(file.read(SAMPLE_BYTES).rpartition(b" ")[0] or b" ")
        before, times = float(memory_in_use() or 0), []
        with PeakMemory(seconds=0.01) as memory:
            for _ in range(2):
                start = time.perf_counter()
                tokenizer = train_bpe(sample, job.vocab_size, job.special_tokens)
                times.append(time.perf_counter() - start)
        facts = tokenizer.training
        assert facts is not None
        return {
            "first": times[0],
            "counting": facts.counting_seconds / facts.total_bytes,
            "merging": facts.merging_seconds,
            "memory": (memory.peak or 0) - before,
            "bytes_per_token": _bytes_per_token(tokenizer, sample),
        }, tokenizer


def _bytes_per_token(tokenizer: Tokenizer, path: Path) -> float:
    text = path.read_bytes()[:200_000].decode("utf-8", "replace")
    return len(text.encode()) / max(1, len(tokenizer.encode(text)))


def measure_training(job: TrainingJob, tokenizers: dict[str, Tokenizer]) -> Measured:
    """Takes a few steps of a training stage."""
    device = pick_device("auto")
    settings, task = _task(job, tokenizers, device)
    device = pick_device(settings.run.device)
    make_deterministic(device)
    rows = task.rows or Rows(settings.model.context_length)
    batch = task.batches.step(0)
    passes = batch_ramp(settings.optimizer).passes_in(0)
    in_pass = len(batch) // passes
    used = _quick_rows(settings, rows, in_pass, device)
    _release_memory()
    before = float(memory_in_use() or 0)
    with PeakMemory(seconds=0.003) as memory:
        model = TransformerLM(settings.model).to(device).train()
        use_checkpointing(model, settings.run.activation_checkpointing)
        opt = settings.optimizer
        optimizer = make_optimizer(
            model, opt.optimizer, opt.learning_rate, (opt.beta1, opt.beta2), opt.weight_decay, opt.muon_momentum,
            opt.muon_lr,
        )  # fmt: skip
        one = replace_flat(settings, {"batch_size": used, "grad_accumulation": 1, "batch_ramp_iters": 0})
        plan = make_plan(one, rows, 1.0)
        stepper = Stepper(
            model, optimizer, task.objective, task.objective.loss, plan, SINGLE_PROCESS, None, 0
        )
        times = _step_times(stepper, batch[:used], device)
        rest = float(memory_in_use() or 0)
    found = {
        "first": times[0],
        "step": float(np.median(times[1:])) * len(batch) / used,
        "steps": float(opt.max_iters or 0),
        "peak": (memory.peak or 0) - before,
        "rest": rest - before,
        "items": float(task.facts.get("rows", 0)),
    }
    if used < in_pass:
        dtype = "fp8" if settings.run.fp8 else selected_precision(settings.run)
        full, part = (
            training_memory(
                settings.model,
                size,
                dtype,
                rows.length,
                device.type == "cpu",
                settings.run.activation_checkpointing,
            ).total
            for size in (in_pass, used)
        )
        found["peak"] += full - part
    return found | _evaluation(settings, task, model, batch[:used], in_pass, job.eval_tokens)


def _release_memory() -> None:
    """Returns what earlier jobs freed to the system, so that it does not hide what this one needs."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # only glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _quick_rows(settings: TrainSettings, rows: Rows, in_pass: int, device: torch.device) -> int:
    """Rows of a pass that are quick enough to measure."""
    if device.type != "cpu":
        return in_pass
    span = rows.attention_span or rows.length
    flops = training_flops_per_token(settings.model, span) * rows.length
    pair = rows.per_sequence
    return min(in_pass, max(pair, int(STEP_FLOPS / flops) // pair * pair))


def _step_times(stepper: Stepper, rows: np.ndarray, device: torch.device) -> list[float]:
    times: list[float] = []
    while len(times) < 3 or (sum(times[1:]) < STEP_SECONDS and len(times) < 30):
        start = time.perf_counter()
        stepper.take(len(times) + 1, rows, 1e-4)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def _evaluation(
    settings: TrainSettings,
    task: Task,
    model: TransformerLM,
    rows: np.ndarray,
    in_pass: int,
    eval_tokens: int,
) -> Measured:
    """Seconds of one evaluation batch, and the number of batches of an evaluation."""
    tokens = eval_tokens or task.evaluation_tokens
    if not tokens:
        return {"evaluate": 0.0, "batches": 0.0}
    device = next(model.parameters()).device
    model.eval()
    start = time.perf_counter()
    with torch.no_grad(), autocast(device, selected_precision(settings.run)):
        float(task.objective.loss(model, *task.objective.tensors(rows, device)))
    seconds = (time.perf_counter() - start) * in_pass / len(rows)
    opt, limit = settings.optimizer, settings.logging.eval_batches * settings.optimizer.grad_accumulation
    per_batch = opt.batch_size * (task.rows or Rows(settings.model.context_length)).tokens
    batches = float(max(1, -(-tokens // per_batch)))
    return {"evaluate": seconds, "batches": min(batches, float(limit)) if limit else batches}


def _task(job: TrainingJob, tokenizers: dict[str, Tokenizer], device: torch.device) -> tuple[Any, Task]:
    """(resolved settings, task): with random ids for pretraining, with the stage's records otherwise."""
    if job.stage == "train":
        return _random_task(parse(TrainSettings, job.words, "lmfast train"), job)
    tokenizer = tokenizers[job.tokenizer] if job.tokenizer in tokenizers else Tokenizer.load(job.tokenizer)
    if not has_chat_tokens(tokenizer):
        tokenizer = add_chat_tokens(tokenizer)
    base = ModelConfig(**job.model)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_yaml(folder / "config.yaml", replace(TrainSettings(), model=base))
        model = replace(base, vocab_size=None)
        changes = {"device": device.type, "out_dir": None, "init_from": None}
        if job.stage == "sft":
            sft = parse(SFTSettings, job.words, "lmfast sft", base=replace(SFTSettings(), model=model))
            return supervised_task(replace_flat(sft, changes), folder, tokenizer, generate, lambda line: None)
        dpo = parse(DPOSettings, job.words, "lmfast dpo", base=replace(DPOSettings(), model=model))
        start = Start(folder, resuming=True)
        settings, task = preference_task(
            replace_flat(dpo, changes), start, tokenizer, generate, device, SINGLE_PROCESS
        )
        pairs = getattr(task.batches, "rows")  # noqa: B009
        return settings, replace(task, facts=task.facts | {"rows": len(pairs)})


def _random_task(settings: TrainSettings, job: TrainingJob) -> tuple[TrainSettings, Task]:
    settings = resolve(settings, job.model["vocab_size"])
    opt, config = settings.optimizer, settings.model
    ids = np.random.default_rng(0)
    rows = batch_ramp(opt).passes_in(0) * opt.batch_size
    objective = NextToken(opt.z_loss)

    class Random:
        def step(self, step: int) -> np.ndarray:
            return ids.integers(0, config.vocab_size, (rows, config.context_length + 1), np.int64)

        def describe(self, step: int) -> str:
            return "random"

    return settings, Task(objective, Random(), evaluation_tokens=job.eval_tokens)


def main() -> None:
    spawned, jobs = read_jobs(sys.stdin.read())
    startup = time.time() - spawned
    torch.manual_seed(0)
    print(json.dumps(measure_all(jobs, startup)))
