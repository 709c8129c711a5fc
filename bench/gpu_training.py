"""A compiled bf16 training step on a CUDA device: `python -m bench.gpu_training [--config NAME] [--only ROW …]`.

Rows, most important first, each saved as it comes: does the device compute what plain PyTorch computes in float32; the
step at the config's batch size with our attention and with PyTorch's, with MFU by the convention of
lmfast/model/accounting.py against the vendor's dense bf16 rate, peak memory beside the estimate of
lmfast/model/memory.py, graphs, recompiles, host syncs; LlamaForCausalLM compiled,
with the same weights and batches, in turns, and its peak memory; then options and other implementations, one change
each. Steps are those of bench/training_step.py, batches made ahead and pinned as a run does it. Times are the host's
clock between two waits for the device, several steps each, after warming up. A row is saved as soon as its time is known,
without a target, and again with the rest: the first loss and gradient norm of every timed step are compared with those of
the uncompiled one, beyond the tolerance the row is marked WRONG and keeps its time. `--profile` lists the kernels.

`--warm ROW …` takes the first step of these rows and measures nothing: it leaves compiled code in the caches of Inductor
and Triton. In: a file of configs/; no data: ids are random, with the frequencies of text. Without a CUDA device the same
rows come out in float32, which is how tests run it.
"""

import argparse
import contextlib
import functools
import gc
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch

from bench import machine
from bench.ceilings import synchronizer
from bench.target_table import Row, add_options, failed, measure
from bench.timing import in_turns, per_second, ratio, seconds
from bench.training_step import OurSteps, TheirSteps, their_loss, zipf_ids
from lmfast.data.batches import Batches
from lmfast.model.accounting import device_peak, training_flops_per_token
from lmfast.model.config import ModelConfig
from lmfast.model.device import make_deterministic, pick_device
from lmfast.model.memory import training_memory
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, find_config, read_yaml, replace_flat
from lmfast.training.objectives import NextToken
from lmfast.training.prefetch import Prefetched
from lmfast_kernels import backend

CONFIG = "owt_124m"
IDS = 4_000_000
ROWS_AT_ONCE = 8  # of the uncompiled step that others are compared with
CLOSE, CLOSE_GRADIENT = 1e-3, 5e-2  # relative differences; bf16 at 124M on a CPU: 2e-5 and up to 1.6e-2
CLOSE_FP8, CLOSE_FP8_GRADIENT = 2e-2, 0.3  # an e4m3 value has 3 bits of mantissa
TINY = {
    "d_model": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "d_ff": 48, "vocab_size": 128,
    "context_length": 64,
}  # fmt: skip
KERNELS, GAPS = 30, 10  # how many are listed, those that take the most time


@dataclass(frozen=True)
class Variant:
    """One change to the step: implementations (backend.CHOICES, in compiled code), the shape, the batch, FP8."""

    what: str
    choices: Mapping[str, str] = field(default_factory=dict)
    shape: Mapping[str, object] = field(default_factory=dict)
    batch: float = 1.0
    options: Mapping[str, object] = field(default_factory=dict)  # of OurSteps
    must: float | None = None
    aim: float | None = None
    predicted: str = ""


# On an H100; the predictions are those made before the first run on one.
FASTER = {"attention": "cudnn"}
VARIANTS: dict[str, Variant] = {
    "ours": Variant("our attention", {"attention": "triton"}, predicted="38-43 %"),
    "faster": Variant("cuDNN attention", FASTER, must=0.45, aim=0.50, predicted="42-48 %"),
    "sdpa": Variant("PyTorch's attention", {"attention": "torch"}),
    "fp8": Variant(
        "cuDNN attention, FP8", FASTER, options={"fp8": True}, aim=0.55, predicted="46-55 % of the bf16 peak"
    ),
    "window": Variant("windows of 256 in three of four layers", FASTER, shape={"sliding_window": 256}),
    "double": Variant("cuDNN attention, twice the batch", FASTER, batch=2.0),
    "loss-torch": Variant("chunked loss through Inductor", FASTER | {"linear_cross_entropy": "torch"}),
    "norm-torch": Variant("RMSNorm by Inductor", FASTER | {"rms_norm": "torch"}),
    "rope-triton": Variant("our RoPE", FASTER | {"rope": "triton"}),
    "swiglu-triton": Variant("our SwiGLU", FASTER | {"swiglu": "triton"}),
}


@dataclass(frozen=True)
class Job:
    """What is measured, where, and for how long."""

    name: str
    shape: ModelConfig
    batch_size: int
    device: torch.device
    compiled: bool = True
    steps: int = 20  # per time; each begins with an idle device and ends with the host waiting for it
    rounds: int = 3
    profiled: bool = False

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.shape.context_length

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    @functools.cached_property
    def batches(self) -> Batches:
        return Batches(
            _ids(self.shape.vocab_size, max(IDS, 4 * self.tokens)),
            self.batch_size,
            self.shape.context_length,
            seed=0,
        )

    def make_model(self) -> TransformerLM:
        torch.manual_seed(0)
        return TransformerLM(self.shape).to(self.device)

    def changed_by(self, variant: Variant) -> "Job":
        shape = replace(self.shape, **variant.shape).resolved()
        return replace(self, shape=shape, batch_size=max(1, int(self.batch_size * variant.batch)))


_ids = functools.cache(zipf_ids)  # a second at 4M ids; every row has the same


class Watched:
    """Batches during whose steps CUDA warns whenever the host waits for the device, except the first and the last,
    where the loop may read results."""

    def __init__(self, batches, first: int, last: int):
        self.batches, self.first, self.last = batches, first, last

    def step(self, i: int) -> np.ndarray:
        torch.cuda.set_sync_debug_mode("warn" if self.first < i < self.last else "default")
        return self.batches.step(i)


def read_config(name: str) -> TrainSettings:
    """The settings of a file of configs/."""
    return replace_flat(TrainSettings(), read_yaml(find_config(name), TrainSettings))


@contextlib.contextmanager
def choosing(choices: Mapping[str, str]) -> Iterator[None]:
    """Within, these operators have these implementations, eagerly and in compiled code."""
    with contextlib.ExitStack() as stack:
        for operator, what in choices.items():
            stack.enter_context(backend.use_choice(operator, what))
        yield


def loss_and_gradients(
    model, rows: np.ndarray, device: torch.device, bf16: bool
) -> tuple[float, list[torch.Tensor]]:
    """(mean loss, its gradient of each parameter) of rows of ids, uncompiled, a few rows at a time."""
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


def beyond(differences: dict[str, float], fp8: bool = False) -> str:
    """Which relative differences are too large, as text; empty where none is."""
    close, close_gradient = (CLOSE_FP8, CLOSE_FP8_GRADIENT) if fp8 else (CLOSE, CLOSE_GRADIENT)
    return ", ".join(
        f"{what} differs by {error:.2g}"
        for what, error in differences.items()
        if not error <= (close_gradient if "gradient" in what else close)
    )


def agreement(job: Job) -> Row:
    """Ours in the dtype that will be timed against plain PyTorch in float32, and that against LlamaForCausalLM."""
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
    shown = ", ".join(f"{name} {error:.1e}" for name, error in found.items())
    name = f"{job.name}: relative differences from plain PyTorch in float32"
    return Row(name, None, None, max(found.values()), shown, data=found, wrong=beyond(found))


def speed(job: Job, variant: Variant) -> Iterator[Row]:
    """The step as `variant` has it: MFU as soon as it is timed, then the same row with everything about it."""
    job, name = job.changed_by(variant), f"{job.name}, {variant.what}"
    with choosing(variant.choices):
        cuda, wait = job.device.type == "cuda", synchronizer(job.device)
        with Prefetched(job.batches, job.device) as batches:
            take = our_steps(job.make_model(), batches, job, variant)
            first = seconds(lambda: take(1), wait)
            seen = {name: take.last.get(name, float("nan")) for name in ("train_loss", "grad_norm")}
            take(min(3, job.steps))
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            times = in_turns({"ours": lambda: take(job.steps)}, job.rounds, wait)["ours"]
            kind = "bf16" if job.bf16 else "fp32"
            memory = {"estimated": training_memory(job.shape, job.batch_size, kind).total}
            if cuda:
                memory["allocated"] = torch.cuda.max_memory_allocated()
                memory["reserved"] = torch.cuda.max_memory_reserved()
            rate = job.steps * job.tokens / statistics.median(times)
            peak, source = device_peak(job.device, job.bf16)
            mfu = rate * training_flops_per_token(job.shape, job.shape.context_length) / peak
            graphs = getattr(take.loss_fn, "graphs", 0)
            data = {
                "batch_size": job.batch_size, "choices": dict(variant.choices), "times": times, "steps": job.steps,
                "tokens_per_step": job.tokens, "tokens_per_second": rate, "mfu": mfu, "peak": peak,
                "peak_source": source, "memory": memory, "graphs": graphs, "recompiles": max(0, graphs - 1),
                "first_step_seconds": first,
            }  # fmt: skip
            shown = (
                f"{mfu:.1%} of {peak / 1e12:.4g} TFLOP/s ({source}), {per_second(times, job.steps * job.tokens)}, "
                f"{1e3 * job.tokens / rate:.1f} ms per step; {graphs} graph(s), first step {first:.0f} s; memory "
                + ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in memory.items())
            )
            timed = Row(f"{name}, batch {job.batch_size}: MFU", None, None, mfu, shown, data=data)
            yield replace(timed, shown=f"{shown}; not compared yet")
            syncs = host_syncs(take, job) if cuda else None
            found = profile(lambda: take(3), job.device, 3) if job.profiled else None
            take = None  # and with it go the weights and the optimizer's state
        differences = first_step_differences(job, seen)
    data = data | {
        "host_syncs": syncs, "differences": differences, "profile": None if found is None else found._asdict()
    }  # fmt: skip
    shown += f"; {len(syncs or [])} host syncs" + "".join(f", {place}" for place in sorted(set(syncs or [])))
    if found is not None:
        shown += f"; {1e3 * found.busy:.1f} ms per step in kernels, {1e3 * found.idle:.1f} between them"
    judged = on_h100() and job.name == CONFIG
    must, aim, predicted = (variant.must, variant.aim, variant.predicted) if judged else (None, None, "")
    wrong = beyond(differences, bool(variant.options.get("fp8")))
    yield replace(timed, must=must, aim=aim, shown=shown, data=data, predicted=predicted, wrong=wrong)


def first_step_differences(job: Job, seen: Mapping[str, float]) -> dict[str, float]:
    """How far a first step's loss and gradient norm are from those of the uncompiled one, of the same weights and batch."""
    loss, gradients = loss_and_gradients(job.make_model(), job.batches.step(0), job.device, job.bf16)
    norm = float(torch.nn.utils.get_total_norm(gradients))
    return {  # the loop leaves out what is not finite
        "compiled and uncompiled loss": abs(seen["train_loss"] - loss) / loss,
        "compiled and uncompiled gradient's norm": abs(seen["grad_norm"] - norm) / norm,
    }


def on_h100() -> bool:
    """Whether targets and predictions, which are an H100's, apply here."""
    return "H100" in (machine.gpu_name() or "")


def our_steps(model: TransformerLM, batches, job: Job, variant: Variant) -> OurSteps:
    return OurSteps(model, batches, job.device, job.batch_size, job.compiled, **variant.options)


def host_syncs(take: OurSteps, job: Job) -> list[str]:
    """Where CUDA warned of a wait in steps that log nothing: "file:line" for each warning."""
    begin, batches = take.progress.step, take.batches
    take.batches = Watched(batches, begin, begin + job.steps - 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            take(job.steps)
    finally:
        take.batches = batches
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]


class Profile(NamedTuple):
    """Of one step: the kernels that take most of it, the seconds of all of them, those in which the device had nothing to
    do between the first and the last, and the longest of these stretches."""

    kernels: list[dict]
    busy: float
    idle: float
    gaps: list[dict]


def profile(call: Callable[[], object], device: torch.device, steps: int) -> Profile:
    """The profile of a call that takes `steps` steps.

    Off CUDA the host's operators take the kernels' place."""
    from torch.profiler import ProfilerActivity, profile

    activity, name = (
        (ProfilerActivity.CUDA, "self_device_time_total")
        if device.type == "cuda"
        else (ProfilerActivity.CPU, "self_cpu_time_total")
    )
    with profile(activities=[activity]) as found:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    totals = [(getattr(event, name) / 1e6 / steps, event) for event in found.key_averages()]
    totals.sort(key=lambda pair: -pair[0])
    kept = [
        {"kernel": event.key[:200], "ms": 1e3 * taken, "calls": event.count / steps}
        for taken, event in totals[:KERNELS]
    ]
    ranges = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    idle, gaps = idle_time(ranges)
    return Profile(kept, sum(taken for taken, _ in totals), idle / 1e6 / steps, gaps)


def idle_time(ranges: Sequence[tuple[float, float, str]]) -> tuple[float, list[dict]]:
    """(time between the first start and the last end in which nothing ran, the GAPS longest such stretches), of (start,
    end, name) in order of their starts, in microseconds."""
    gaps, (end, last) = [], ranges[0][1:] if ranges else (0.0, "")
    for start, stop, name in ranges:
        if start > end:
            gaps.append({"ms": (start - end) / 1e3, "after": last[:80], "before": name[:80]})
        if stop > end:
            end, last = stop, name
    longest = sorted(gaps, key=lambda gap: -gap["ms"])[:GAPS]
    return 1e3 * sum(gap["ms"] for gap in gaps), longest


def beside_llama(job: Job) -> Iterator[Row]:
    """Against LlamaForCausalLM, both compiled: how many times as fast, and what share of its peak memory."""
    from bench.huggingface import llama

    model, wait, steps = job.make_model(), synchronizer(job.device), job.steps
    theirs = llama(model).train()
    with (
        choosing(FASTER),
        Prefetched(job.batches, job.device) as ours_get,
        Prefetched(job.batches, job.device) as they_get,
    ):
        functions = {
            "peer": TheirSteps(theirs, they_get, job.device, job.compiled),
            "ours": our_steps(model, ours_get, job, VARIANTS["faster"]),
        }
        functions = {name: functools.partial(take, steps) for name, take in functions.items()}
        memory = {
            name: peak_memory(functions[name], module, job.device)
            for name, module in (("peer", theirs), ("ours", model))
        }
        times = in_turns(functions, job.rounds, wait)
    found, tokens = ratio(times["peer"], times["ours"]), steps * job.tokens
    shown = f"{found} x, {per_second(times['ours'], tokens)} against {per_second(times['peer'], tokens)}"
    name = f"{job.name}, batch {job.batch_size}"
    data = {"times": times, "tokens": tokens, "ratio": found.as_dict()}
    yield Row(f"{name}: against LlamaForCausalLM, both compiled", None, None, found.median, shown, data=data)
    if memory["peer"]:
        share = memory["ours"] / memory["peer"]
        shown = f"{memory['ours'] / 2**30:.1f} against {memory['peer'] / 2**30:.1f} GiB, {share:.2f} x"
        yield Row(
            f"{name}: peak memory against LlamaForCausalLM's",
            1.0,
            0.5,
            share,
            shown,
            at_most=True,
            data=memory,
        )


def peak_memory(take, module: torch.nn.Module, device: torch.device) -> int | None:
    """Peak bytes of a second call of `take`, which trains `module`, without what other models hold; None off CUDA.

    The first call compiles, and allocates the optimizer's state, which counts."""
    if device.type != "cuda":
        take()
        return None
    others = torch.cuda.memory_allocated() - sum(p.nbytes for p in module.parameters())
    take()
    torch.cuda.reset_peak_memory_stats()
    take()
    return torch.cuda.max_memory_allocated() - others


def clean() -> None:
    """Frees what the last row compiled and held."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def row_makers(job: Job) -> dict[str, tuple]:
    """{name: (full name, function that makes the row)}, most important first."""
    makers = {"agreement": (f"{job.name}: agreement", lambda: agreement(job))}
    peer = {"peer": (f"{job.name}: against LlamaForCausalLM", lambda: beside_llama(job))}
    for name, variant in VARIANTS.items():
        makers[name] = (f"{job.name}, {variant.what}: MFU", functools.partial(speed, job, variant))
        if name == "faster" and find_spec("transformers"):
            makers |= peer
    return makers


def rows(job: Job, only: list[str] | None = None) -> Iterator[Row]:
    """In the order of `only`. A row may come twice: first with its time alone."""
    makers = row_makers(job)
    for name in makers if only is None else only:
        if name in makers:
            clean()
            yield from stages(*makers[name])


def stages(name: str, make: Callable[[], Row | Iterator[Row]]) -> Iterator[Row]:
    """make's row, or its stages. An error after the first of them is reported in a row that keeps the time."""
    last = None
    try:
        made = make()
        for last in [made] if isinstance(made, Row) else made:
            yield last
    except Exception as error:
        row = failed(name, error)
        yield row if last is None else replace(last, wrong=row.wrong)


def warm(job: Job, name: str) -> None:
    """Takes the first step of a row, whose compiled code stays in the caches."""
    if name == "peer":
        from bench.huggingface import llama

        take = TheirSteps(llama(job.make_model()).train(), job.batches, job.device, job.compiled)
        take(1)
    elif name in VARIANTS:
        changed = job.changed_by(VARIANTS[name])
        with choosing(VARIANTS[name].choices), Prefetched(changed.batches, job.device) as batches:
            our_steps(changed.make_model(), batches, changed, VARIANTS[name])(1)
    if job.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_training", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument("--layers", type=int, help="instead of the config's")
    parser.add_argument(
        "--warm", nargs="+", choices=["peer", *VARIANTS], metavar="ROW", help="only compile these rows' steps"
    )
    parser.add_argument(
        "--profile", action="store_true", help=f"list the {KERNELS} kernels that take most time"
    )
    parser.add_argument("--rehearse", action="store_true", help="one tiny layer, uncompiled, on any machine")
    add_options(parser, ["agreement", "peer", *VARIANTS])
    arguments = parser.parse_args()
    settings, device = read_config(arguments.config), pick_device("auto")
    make_deterministic(device)
    gpu, shape = machine.gpu_name(), settings.model
    name = arguments.config
    if arguments.layers is not None:
        shape, name = replace(shape, num_layers=arguments.layers), f"{name} with {arguments.layers} layers"
    job = Job(name, shape.resolved(), settings.optimizer.batch_size, device, profiled=arguments.profile)
    if arguments.rehearse:
        job = replace(
            job, shape=replace(shape, **TINY).resolved(), batch_size=4, compiled=False, steps=2, rounds=2
        )
    if arguments.warm:
        for name in arguments.warm:
            warm(job, name)
            clean()
        return 0
    described = machine.describe(gpu)
    name = f"gpu_training_{machine.slug(gpu or described['cpu'])}.json"
    found = rows(job, arguments.only)
    return measure(gpu or described["cpu"], described, found, arguments.output or name)


if __name__ == "__main__":
    raise SystemExit(main())
