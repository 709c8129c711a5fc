"""Time and memory of the stages of a recipe, before the first one starts.

From measurements of this machine (measurements.py) and the sizes of the inputs. Where something is unknown, such as the rate
of a download, there is no estimate. The constants were measured on two cores; docs/guides/recipe.md explains what they
stand for.
"""

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmfast.cli.recipes.graph import Step
from lmfast.cli.recipes.jobs import Known
from lmfast.cli.recipes.measurements import Measured, measurements
from lmfast.cli.recipes.records import Decision
from lmfast.data.sources import SHARD_BYTES
from lmfast.errors import UserError
from lmfast.files import private_cache
from lmfast.model.accounting import num_parameters
from lmfast.model.compile_cache import FIRST_STEPS, VARIABLE
from lmfast.model.config import ModelConfig
from lmfast.settings import to_flat
from lmfast.sharding.workers import default_workers
from lmfast.training.run_folder import newest_step
from lmfast.units import about, data_size, duration

START_SECONDS, NUMBA_SECONDS, GENERATE_SECONDS = 0.4, 0.7, 0.2
"""until a command that does not use torch reads its input; until compiled tokenizer code is loaded; until a model has read
its prompt"""
TORCH_SECONDS, TORCH_BYTES = 2.0, 238e6
"""of a command that loads a model, if no training was measured"""
REPORT_SECONDS, REPORT_BYTES = 2.0, 25e6
COMPILED = 0.92
"""time of a compiled step on a CPU, of that of the same step without compilation"""
LOAD_COMPILED_SECONDS, LOAD_COMPILED_BYTES = 3.4, 30e6
COMPILE_SECONDS = 60.0
WORDS_SECONDS, WORDS_BYTES = 0.2e-6, 65e6
"""for the words of the training text that a sample is compared with, per token; memory with compiled tokenizer code"""
SAMPLE_SECONDS = 0.35
FORWARD_SHARE, KEPT_SHARE = 0.22, 0.75
"""memory of an evaluated row, of that which training needs for its activations; of it, what the process keeps"""
CHECKPOINT_BYTES_PER_SECOND = 250e6
STORIES_BYTES_PER_SECOND, PREPARE_BYTES_PER_SECOND, COUNT_BYTES_PER_SECOND = 8.5e6, 45e6, 150e6
POOL_SECONDS = 1.0
"""until several workers have started"""
EXPORT_SHARE = 0.8
"""of the time and memory that a command that trains needs until it does"""


@dataclass(frozen=True)
class Estimate:
    """seconds, memory in bytes: None if unknown. note: what is missing, or assumed."""

    seconds: float | None = None
    memory: float | None = None
    note: str = ""


def estimate_steps(
    folder: Path, steps: list[Step], decisions: Mapping[str, Decision], keep: bool = True
) -> dict[str, Estimate]:
    """{stage: estimate} of the stages that will run. keep: save the measurements."""
    resumed = [step for step in steps if step.command.trains and not decisions[step.name].clear]
    known = Known(steps, {step.name: newest_step(step.output) or 0 for step in resumed})
    wanted = [step for step in steps if decisions[step.name].action != "skip"]
    jobs = {step.name: job for step in wanted if (job := known.job(step)) is not None}
    measured = measurements(folder, jobs, keep)
    found: dict[str, Estimate] = {}
    for step in wanted:
        found[step.name] = Estimate(note="not estimated")
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            found[step.name] = _ESTIMATES[step.command.name](step, known, measured)
    return found


def has_compiled() -> bool:
    """Whether any training was compiled on this machine; which one is known only once it is traced."""
    with contextlib.suppress(UserError):
        folder = os.environ.get(VARIABLE) or private_cache("torchinductor")
        return any((Path(folder) / FIRST_STEPS).glob("*.json"))
    return False


def _torch(measured: Measured) -> tuple[float, float]:
    """(seconds until a command has loaded torch, its memory by then)."""
    for found in measured.values():
        if "startup" in found:
            return found["startup"], found["base"]
    return TORCH_SECONDS, TORCH_BYTES


def _data(
    found: dict[str, float] | None,
    size: float,
    workers: int,
    rate: float,
    memory: Callable[[float, int], float],
) -> Estimate:
    """Of a stage that reads or writes `size` bytes of text, from runs on two pieces of it (samples.py).

    rate: bytes per second and worker, where nothing was measured. memory: (bytes, workers) → bytes; only its growth with
    the text is used if there are measurements."""
    pool = POOL_SECONDS if workers > 1 else 0.0
    if not found:
        seconds = START_SECONDS + NUMBA_SECONDS + pool + size / (rate * workers)
        return Estimate(seconds, memory(size, workers), "without a measurement")
    small, large = found["small_bytes"], found["large_bytes"]
    seconds, peak = found["large_seconds"], found["large_memory"]
    if small < large < size:
        each = max(0.0, seconds - found["small_seconds"]) / (large - small)
        seconds += each * (size - large) / workers + pool
        peak += memory(size, workers) - memory(large, 1)
    return Estimate(seconds, peak)


def _stories(step: Step, known: Known, measured: Measured) -> Estimate:
    size = step.settings["train_bytes"] + step.settings["valid_bytes"]

    def memory(size: float, workers: int) -> float:
        return 95e6 + 1.15 * min(size, 20e6)

    return _data(measured.get(step.name), size, 1, STORIES_BYTES_PER_SECOND, memory)


def _download(step: Step, known: Known, measured: Measured) -> Estimate:
    return Estimate(note="depends on the network")


def _tokenizer(step: Step, known: Known, measured: Measured) -> Estimate:
    size = known.bytes_of(step.sources["input"])
    if size is None:
        return Estimate(note="depends on text that is not there yet")
    found = measured.get(step.name)
    if found is None:
        seconds = START_SECONDS + NUMBA_SECONDS + size / COUNT_BYTES_PER_SECOND
        return Estimate(seconds, None, "without a measurement")
    beyond = max(0, size - 4_000_000)
    return Estimate(
        START_SECONDS + found["first"] + beyond * found["counting"],
        27e6 + found["memory"] + 2 * min(beyond, 10e6),
    )


def _encode(step: Step, known: Known, measured: Measured) -> Estimate:
    size = known.bytes_of(step.sources["input"])
    if size is None:
        return Estimate(note="depends on text that is not there yet")

    def memory(size: float, workers: int) -> float:
        return 88e6 + 2.2 * min(size, 10e6) + 0.35 * min(size, 64e6)

    return _data(measured.get(step.name), size, default_workers(), PREPARE_BYTES_PER_SECOND, memory)


def _prepare(step: Step, known: Known, measured: Measured) -> Estimate:
    parts = [known.bytes_of(step.sources[name]) for name in ("input", "val_input") if name in step.sources]
    sizes = [size for size in parts if size is not None]
    if len(sizes) < len(parts):
        return Estimate(note="depends on text that is not there yet")
    jobs = sum(math.ceil(size / SHARD_BYTES) for size in sizes)
    workers = min(jobs, step.settings["num_workers"] or default_workers())

    def memory(size: float, workers: int) -> float:
        shard = min(size, max(sizes), SHARD_BYTES)
        one = 5.4 * min(shard, 10e6) + 1.3 * max(0, shard - 10e6)
        return 90e6 + one if workers == 1 else 60e6 + workers * (88e6 + one)

    return _data(measured.get(step.name), sum(sizes), workers, PREPARE_BYTES_PER_SECOND, memory)


def _training(step: Step, known: Known, measured: Measured) -> Estimate:
    settings = to_flat(step.values)
    found = measured.get(step.name)
    limit = math.inf
    if settings["max_minutes"] is not None:
        limit = _torch(measured)[0] + 60 * settings["max_minutes"] + REPORT_SECONDS
    if found is None:
        return Estimate(None if limit == math.inf else limit, note="depends on a stage before it")
    model = known.model(step)
    assert model is not None
    step_seconds, first, note = found["step"], found["first"], ""
    steps = found["steps"] or math.inf  # 0: only the clock ends the run
    steps = max(0, steps - known.done.get(step.name, 0))
    if steps == math.inf:
        return Estimate(limit, found["base"] + max(found["peak"], found["rest"] + REPORT_BYTES))
    if settings["compile"]:
        step_seconds, first = COMPILED * step_seconds, LOAD_COMPILED_SECONDS
        note = "plus a minute or more if this model was never compiled here"
        if not has_compiled():
            first, note = COMPILE_SECONDS, "assuming a minute to compile"
    intervals = lambda name: math.ceil(steps / settings[name]) if settings[name] else 0  # noqa: E731
    evaluations = max(1, intervals("eval_interval")) * found["batches"] * found["evaluate"]
    saved = 12 * num_parameters(model) / CHECKPOINT_BYTES_PER_SECOND + 0.05
    seconds = found["startup"] + first + steps * step_seconds + evaluations + REPORT_SECONDS
    seconds += max(1, intervals("checkpoint_interval"), intervals("eval_interval")) * saved
    rest, peak = found["rest"], found["peak"]
    words = 0.0
    if settings["sample_interval"]:
        seconds += intervals("sample_interval") * SAMPLE_SECONDS
        words = _compared_tokens(step, known)
        seconds += WORDS_SECONDS * min(words, 50e6)
    if step.command.name == "dpo":  # the reference reads every pair once
        seconds += found["items"] / settings["batch_size"] * found["evaluate"]
    memory = found["base"] + max(peak, rest + REPORT_BYTES) + (WORDS_BYTES if words else 0)
    memory += LOAD_COMPILED_BYTES if settings["compile"] else 0
    return Estimate(min(seconds, limit), memory, note)


def _compared_tokens(step: Step, known: Known) -> float:
    """Tokens of the training text whose words a sample of the run is compared with; only after `train`."""
    if step.command.name != "train":
        return 0.0
    return float(known.tokens_of(step.sources["train_data_path"][0]) or 0)


def _import(step: Step, known: Known, measured: Measured) -> Estimate:
    startup, base = _torch(measured)
    size = _weights(known.model(step))
    seconds = EXPORT_SHARE * startup + size / CHECKPOINT_BYTES_PER_SECOND
    return Estimate(seconds, EXPORT_SHARE * base + size)


def _export(step: Step, known: Known, measured: Measured) -> Estimate:
    startup, base = _torch(measured)
    size = _weights(_model_read(step, known, "run"))
    return Estimate(EXPORT_SHARE * startup + size / CHECKPOINT_BYTES_PER_SECOND, EXPORT_SHARE * base)


def _evaluate(step: Step, known: Known, measured: Measured) -> Estimate:
    startup, base = _torch(measured)
    run = step.sources["run"][0].stage
    found = measured.get(run or "", {})
    if step.settings["tasks"] is not None or not found:
        return Estimate(note="not estimated")
    seconds = startup + found["batches"] * found["evaluate"]
    words = 0.0
    other = known.steps[run or ""]
    if step.settings["samples"]:
        seconds += SAMPLE_SECONDS * math.ceil(step.settings["samples"] / 2)
        words = _compared_tokens(other, known)
        seconds += WORDS_SECONDS * words
    weights = _weights(known.model(other))
    rows = step.settings["batch_size"] / other.settings["batch_size"]
    forward = weights + FORWARD_SHARE * rows * max(0.0, found["peak"] - 4 * weights)
    if other.command.name != "train":  # reads its records first
        return Estimate(seconds + NUMBA_SECONDS, base + WORDS_BYTES + forward)
    return Estimate(seconds, base + max(forward, KEPT_SHARE * forward + (WORDS_BYTES if words else 0)))


def _generate(step: Step, known: Known, measured: Measured) -> Estimate:
    size = _weights(_model_read(step, known, "checkpoint"))
    seconds = GENERATE_SECONDS + step.settings["max_tokens"] * (size / 20e9 + 5e-5)
    return Estimate(seconds, 22e6 + 1.2 * size)


def _model_read(step: Step, known: Known, option: str) -> ModelConfig | None:
    (source,) = step.sources[option]
    return None if source.stage is None else known.model(known.steps[source.stage])


def _weights(model: ModelConfig | None) -> float:
    if model is None:
        raise ValueError("the model is not known")
    return 4.0 * num_parameters(model)


_ESTIMATES: dict[str, Callable[[Step, Known, Measured], Estimate]] = {
    "data stories": _stories,
    "data download": _download,
    "data prepare": _prepare,
    "tokenizer train": _tokenizer,
    "tokenizer encode": _encode,
    "train": _training,
    "sft": _training,
    "dpo": _training,
    "import": _import,
    "evaluate": _evaluate,
    "export": _export,
    "generate": _generate,
}


def estimate_table(
    steps: list[Step], decisions: Mapping[str, Decision], estimates: Mapping[str, Estimate]
) -> list[str]:
    """The plan as aligned lines, with the sum of the times that are known."""
    rows: list[tuple[Any, ...]] = [("stage", "command", "", "time", "memory", "")]
    for step in steps:
        decision, estimate = decisions[step.name], estimates.get(step.name, Estimate())
        known = decision.action != "skip"
        rows.append(
            (
                step.name,
                step.command.name,
                decision.action,
                duration(estimate.seconds) if known and estimate.seconds is not None else "",
                data_size(estimate.memory) if known and estimate.memory is not None else "",
                "; ".join(filter(None, [decision.why, estimate.note if known else ""])),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    times = [estimate.seconds for estimate in estimates.values() if estimate.seconds is not None]
    if len(times) > 1:
        unknown = [name for name, estimate in estimates.items() if estimate.seconds is None]
        rest = f", without {', '.join(unknown)}" if unknown else " in all"
        lines.append(f"{about(sum(times))}{rest}")
    return [line.rstrip() for line in lines]
