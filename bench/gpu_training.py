"""A compiled bf16 training step on a CUDA device: `python -m bench.gpu_training [--config NAME] [--batch-sizes N …]`.

Rows, most important first, each saved as it comes: does the device compute what plain PyTorch computes in float32 (where
it does not, nothing is timed); the step at the config's batch size, with MFU by the convention of
lmfast/model/accounting.py against the vendor's dense bf16 rate, peak memory beside what lmfast/model/memory.py foretells,
graphs, recompiles, host syncs, and the kernels that its time goes to; LlamaForCausalLM compiled, with the same weights
and batches, in turns, at half the batch; other batch sizes. Steps are those of bench/training_step.py, batches made ahead
and pinned as a run does it. Times are the host's clock between two waits for the device, several steps a time, after
warming up. Before a step is timed, its first loss and gradient norm must be those of the uncompiled one.

In: a file of configs/; no data: ids are random and as unevenly frequent as a text's. Without a CUDA device the same rows
come out in float32, which is how tests run it.
"""

import argparse
import functools
import gc
import statistics
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
import torch

from bench import machine
from bench.ceilings import synchronizer
from bench.target_table import Row, add_output, measure
from bench.timing import in_turns, per_second, ratio, seconds
from bench.training_step import OurSteps, TheirSteps, their_loss, zipf_ids
from kernels import backend
from lmfast.data.batches import Batches
from lmfast.model.accounting import device_peak, training_flops_per_token
from lmfast.model.config import ModelConfig
from lmfast.model.device import make_deterministic, pick_device
from lmfast.model.memory import training_memory
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, find_config, read_yaml, replace_flat
from lmfast.training.objectives import NextToken
from lmfast.training.prefetch import Prefetched

CONFIG = "owt_124m"
MFU = 0.45, 0.55  # must, aim: of CONFIG on an H100
IDS = 4_000_000
ROWS_AT_ONCE = 8  # of the uncompiled step that others are compared with
CLOSE, CLOSE_GRADIENT = 1e-3, 5e-2  # relative differences; bf16 at 124M on a CPU: 2e-5 and up to 1.6e-2
KERNELS = 30  # so many are listed, of those that take most time


@dataclass(frozen=True)
class Job:
    """What is measured, where, and for how long."""

    name: str
    shape: ModelConfig
    batch_size: int
    device: torch.device
    compiled: bool = True
    steps: int = 10  # a time
    rounds: int = 7

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.batch_size * self.shape.context_length

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    @functools.cached_property
    def batches(self) -> Batches:
        return Batches(
            zipf_ids(self.shape.vocab_size, max(IDS, 4 * self.tokens)),
            self.batch_size,
            self.shape.context_length,
            seed=0,
        )

    def make_model(self) -> TransformerLM:
        torch.manual_seed(0)
        return TransformerLM(self.shape).to(self.device)


class Watched:
    """Batches during whose steps CUDA warns whenever the host waits for the device, the first and the last left out:
    the loop may look there."""

    def __init__(self, batches, first: int, last: int):
        self.batches, self.first, self.last = batches, first, last

    def step(self, i: int) -> np.ndarray:
        torch.cuda.set_sync_debug_mode("warn" if self.first < i < self.last else "default")
        return self.batches.step(i)


def read_config(name: str) -> TrainSettings:
    """The settings of a file of configs/."""
    return replace_flat(TrainSettings(), read_yaml(find_config(name), TrainSettings))


def loss_and_gradients(
    model, rows: np.ndarray, device: torch.device, bf16: bool
) -> tuple[float, list[torch.Tensor]]:
    """(mean loss, its gradient of each parameter) of rows of ids, uncompiled, a few rows at once."""
    objective, total = NextToken(), 0.0
    for few in np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss_sum = objective.loss(model.train(), *objective.tensors(few, device))
        loss = loss_sum / objective.valid_tokens(rows)
        loss.backward()
        total += loss.item()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return total, gradients


def refuse(job: Job, differences: dict[str, float]) -> None:
    """Raises SystemExit where a relative difference is too large."""
    wrong = [
        f"{what} by {error:.2g}"
        for what, error in differences.items()
        if not error <= (CLOSE_GRADIENT if "gradient" in what else CLOSE)
    ]
    if wrong:
        raise SystemExit(f"{job.name}, batch {job.batch_size}: {', '.join(wrong)} apart; it was not timed")


def agreement(job: Job) -> Row:
    """Ours in the dtype that will be timed, beside plain PyTorch in float32, and that beside LlamaForCausalLM."""
    model, few = job.make_model(), job.batches.step(0)[:2]
    ours, our_gradients = loss_and_gradients(model, few, job.device, job.bf16)
    mode, precision = backend.MODE, torch.get_float32_matmul_precision()
    backend.MODE = "torch"
    torch.set_float32_matmul_precision("highest")
    try:
        exact, exact_gradients = loss_and_gradients(model, few, job.device, False)
        found = {
            "loss": abs(ours - exact) / exact,
            "gradient of the worst parameter": max(
                float((a - b).norm() / b.norm()) for a, b in zip(our_gradients, exact_gradients, strict=True)
            ),
        }
        if find_spec("transformers"):
            from bench.huggingface import llama

            with torch.no_grad():
                peer = float(their_loss(llama(model).eval(), *NextToken().tensors(few, job.device)))
            found["LlamaForCausalLM's loss"] = abs(peer - exact) / exact
    finally:
        backend.MODE = mode
        torch.set_float32_matmul_precision(precision)
    refuse(job, found)
    shown = ", ".join(f"{name} {error:.1e}" for name, error in found.items())
    name = f"{job.name}: relative differences from plain PyTorch in float32"
    return Row(name, None, None, max(found.values()), shown, data=found)


def speed(job: Job, must: float | None = None, aim: float | None = None) -> Row:
    """The step at one batch size: MFU, and everything about it."""
    model, cuda, wait = job.make_model(), job.device.type == "cuda", synchronizer(job.device)
    eager, gradients = loss_and_gradients(model, job.batches.step(0), job.device, job.bf16)
    norm = float(torch.nn.utils.get_total_norm(gradients))
    del gradients
    with Prefetched(job.batches, job.device) as batches:
        take = OurSteps(model, batches, job.device, job.batch_size, job.compiled)
        first = seconds(lambda: take(1), wait)
        differences = {
            "compiled and uncompiled loss": abs(take.last["train_loss"] - eager) / eager,
            "compiled and uncompiled gradient's norm": abs(take.last["grad_norm"] - norm) / norm,
        }
        refuse(job, differences)
        take(min(3, job.steps))
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        times = in_turns({"ours": lambda: take(job.steps)}, job.rounds, wait)["ours"]
        kind = "bf16" if job.bf16 else "fp32"
        memory = {"foretold": training_memory(job.shape, job.batch_size, kind).total}
        if cuda:
            memory["allocated"] = torch.cuda.max_memory_allocated()
            memory["reserved"] = torch.cuda.max_memory_reserved()
        syncs = host_syncs(take, job) if cuda else None
        kernels, busy = profile(take, job)
    rate = job.steps * job.tokens / statistics.median(times)
    peak, source = device_peak(job.device, job.bf16)
    mfu = rate * training_flops_per_token(job.shape, job.shape.context_length) / peak
    graphs = getattr(take.loss_fn, "graphs", 0)
    data = {
        "times": times, "steps": job.steps, "tokens_a_step": job.tokens, "tokens_per_second": rate, "mfu": mfu,
        "peak": peak, "peak_source": source, "memory": memory, "graphs": graphs, "recompiles": max(0, graphs - 1),
        "host_syncs": syncs, "first_step_seconds": first, "differences": differences, "kernels": kernels,
        "device_seconds_a_step": busy,
    }  # fmt: skip
    shown = (
        f"{mfu:.1%} of {peak / 1e12:.4g} TFLOP/s ({source}), {per_second(times, job.steps * job.tokens)}, "
        f"{1e3 * job.tokens / rate:.1f} ms a step, of them {1e3 * busy:.1f} in kernels; {graphs} graph(s), "
        f"{syncs} host syncs, first step {first:.0f} s; memory "
        + ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in memory.items())
    )
    return Row(f"{job.name}, batch {job.batch_size}: MFU", must, aim, mfu, shown, data=data)


def host_syncs(take: OurSteps, job: Job) -> int:
    """How often CUDA warns of a wait in steps that log nothing."""
    begin, batches = take.progress.step, take.batches
    take.batches = Watched(batches, begin, begin + job.steps - 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            take(job.steps)
    finally:
        take.batches = batches
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def profile(take: OurSteps, job: Job, steps: int = 3) -> tuple[list[dict], float]:
    """(the kernels that take most of a step, the seconds of all of them); off CUDA the host's operators."""
    from torch.profiler import ProfilerActivity, profile

    activity, name = (
        (ProfilerActivity.CUDA, "self_device_time_total")
        if job.device.type == "cuda"
        else (ProfilerActivity.CPU, "self_cpu_time_total")
    )
    with profile(activities=[activity]) as found:
        take(steps)
    events = [(getattr(event, name) / 1e6 / steps, event) for event in found.key_averages()]
    events.sort(key=lambda pair: -pair[0])
    kept = [
        {"kernel": event.key[:200], "ms": 1e3 * taken, "calls": event.count / steps}
        for taken, event in events[:KERNELS]
    ]
    return kept, sum(taken for taken, _ in events)


def beside_llama(job: Job) -> Row:
    """How many times as fast as LlamaForCausalLM, both compiled."""
    from bench.huggingface import llama

    model, wait, steps = job.make_model(), synchronizer(job.device), max(1, job.steps // 2)
    with Prefetched(job.batches, job.device) as ours_get, Prefetched(job.batches, job.device) as they_get:
        theirs = TheirSteps(llama(model).train(), they_get, job.device, job.compiled)
        ours = OurSteps(model, ours_get, job.device, job.batch_size, job.compiled)
        functions = {"ours": lambda: ours(steps), "peer": lambda: theirs(steps)}
        in_turns(functions, 2, wait)
        times = in_turns(functions, job.rounds, wait)
    found, tokens = ratio(times["peer"], times["ours"]), steps * job.tokens
    shown = f"{found} x, {per_second(times['ours'], tokens)} against {per_second(times['peer'], tokens)}"
    return Row(
        f"{job.name}, batch {job.batch_size}: beside LlamaForCausalLM, both compiled", None, None, found.median, shown,
        data={"times": times, "tokens": tokens, "ratio": found.as_dict()},
    )  # fmt: skip


def clean() -> None:
    """Gives back what the last row compiled and held."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def attempt(function, job: Job, *targets: float | None) -> Row:
    """function's row, or one that says that memory does not suffice for it."""
    clean()
    try:
        return function(job, *targets)
    except torch.cuda.OutOfMemoryError as problem:
        reason = f"out of memory: {str(problem).splitlines()[0][:160]}"
    name = f"{job.name}, batch {job.batch_size}: {function.__name__}"
    return Row(name, None, None, 0.0, reason, data={"out_of_memory": reason})


def rows(job: Job, sizes: list[int], targets: tuple[float, float] | None) -> Iterator[Row]:
    """All of them; targets: MFU that the first batch size must reach and aims at, where somebody set any."""
    yield attempt(agreement, job)
    yield attempt(speed, job, *(targets or ()))
    if find_spec("transformers"):
        yield attempt(beside_llama, replace(job, batch_size=max(1, job.batch_size // 2)))
    for size in sizes:
        yield attempt(speed, replace(job, batch_size=size))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_training", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument(
        "--batch-sizes", type=int, nargs="*", help="besides the config's; double and half by default"
    )
    add_output(parser)
    arguments = parser.parse_args()
    settings, device = read_config(arguments.config), pick_device("auto")
    make_deterministic(device)
    size, gpu = settings.optimizer.batch_size, machine.gpu_name()
    job = Job(arguments.config, settings.model.resolved(), size, device)
    sizes = arguments.batch_sizes if arguments.batch_sizes is not None else [2 * size, size // 2]
    targets = MFU if arguments.config == CONFIG and gpu is not None and "H100" in gpu else None
    described = machine.describe(gpu)
    name = f"gpu_training_{machine.slug(gpu or described['cpu'])}.json"
    measure(gpu or described["cpu"], described, rows(job, sizes, targets), arguments.output or name)


if __name__ == "__main__":
    main()
