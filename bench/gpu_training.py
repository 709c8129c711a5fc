"""A compiled bf16 training step on a CUDA device: `python -m bench.gpu_training [--config NAME] [--only ROW …]`.

Rows, most important first, each saved as it comes: whether the device computes what plain PyTorch computes in float32;
the step at the config's batch size with our attention and with PyTorch's, with MFU by the convention of
lmfast/model/accounting.py against the vendor's dense bf16 rate, peak memory and its estimate by lmfast/model/memory.py,
graphs, recompiles, host syncs; LlamaForCausalLM compiled, with the same weights and batches, in turns, and its peak
memory; then options and other implementations, one change each (bench/gpu_training_job.py). Steps are those of
bench/training_step.py, batches prepared ahead and pinned as in a run. Times are the host's clock between two waits for
the device, several steps each, after warming up. A row is saved as soon as its time is known, without a target, and again
with the rest: the first loss and gradient norm of every timed step are compared with those of the uncompiled one; beyond
the tolerance the row is marked WRONG and keeps its time. `--profile` lists the kernels.

`--warm ROW …` takes the first step of these rows and measures nothing: it leaves compiled code in the caches of Inductor
and Triton. In: a file of configs/; no data: ids are random, with the frequencies of text. Without a CUDA device the same
rows come out in float32, which is how tests run it.
"""

import functools
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec

import torch

from bench import machine
from bench.ceilings import synchronizer
from bench.gpu_profile import KERNELS, host_syncs, peak_memory, profile
from bench.gpu_training_job import (
    CONFIG,
    FASTER,
    TINY,
    VARIANTS,
    Job,
    Variant,
    choosing,
    clean,
    loss_and_gradients,
    on_h100,
    read_config,
)
from bench.huggingface import llama
from bench.results import Row
from bench.target_table import compared, failed, measure, parser_of
from bench.timing import in_turns, per_second, seconds
from bench.training_step import TheirSteps, their_loss
from lmfast.model.accounting import device_peak, training_flops_per_token
from lmfast.model.device import make_deterministic, pick_device
from lmfast.model.memory import training_memory
from lmfast.training.objectives import NextToken
from lmfast.training.prefetch import Prefetched
from lmfast_kernels import backend

CLOSE, CLOSE_GRADIENT = 1e-3, 5e-2  # relative differences; bf16 at 124M on a CPU: 2e-5 and up to 1.6e-2
CLOSE_FP8, CLOSE_FP8_GRADIENT = 2e-2, 0.3  # an e4m3 value has 3 bits of mantissa
PEER = "LlamaForCausalLM"


def beyond(differences: dict[str, float], fp8: bool = False) -> str:
    """Which relative differences are too large, as text; empty where none is."""
    close, close_gradient = (CLOSE_FP8, CLOSE_FP8_GRADIENT) if fp8 else (CLOSE, CLOSE_GRADIENT)
    return ", ".join(
        f"{what} differs by {error:.2g}"
        for what, error in differences.items()
        if not error <= (close_gradient if "gradient" in what else close)
    )


def agreement(job: Job) -> Row:
    """Compares ours, in the dtype to be timed, with plain PyTorch in float32, and that with LlamaForCausalLM."""
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
            with torch.no_grad():
                peer = float(their_loss(llama(model).eval(), *NextToken().tensors(few, job.device)))
            found["LlamaForCausalLM's loss"] = abs(peer - exact) / exact
    finally:
        backend.MODE = mode
        torch.set_float32_matmul_precision(precision)
    shown = ", ".join(f"{name} {error:.1e}" for name, error in found.items())
    name = f"{job.name}: relative differences from plain PyTorch in float32"
    return Row(name, max(found.values()), shown, data=found, wrong=beyond(found))


def speed(job: Job, variant: Variant) -> Iterator[Row]:
    """The step of `variant`: MFU as soon as it is timed, then the complete row."""
    job, name = job.changed_by(variant), f"{job.name}, {variant.what}"
    with choosing(variant.choices):
        cuda, wait = job.device.type == "cuda", synchronizer(job.device)
        with Prefetched(job.batches, job.device) as batches:
            take = job.our_steps(job.make_model(), batches, variant)
            first = seconds(lambda: take(1), wait)
            seen = {name: take.last.get(name, float("nan")) for name in ("train_loss", "grad_norm")}
            take(min(3, job.steps))
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            times = in_turns({"ours": lambda: take(job.steps)}, job.rounds, wait)["ours"]
            memory = {
                "estimated": training_memory(job.shape, job.batch_size, "bf16" if job.bf16 else "fp32").total
            }
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
            timed = Row(f"{name}, batch {job.batch_size}: MFU", mfu, shown, data=data)
            yield replace(timed, shown=f"{shown}; not compared yet")
            syncs = host_syncs(take, job.steps) if cuda else None
            found = profile(lambda: take(3), job.device, 3) if job.profiled else None
            take = None  # and with it the weights and the optimizer's state
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
    return {  # the loop omits non-finite values
        "compiled and uncompiled loss": abs(seen["train_loss"] - loss) / loss,
        "compiled and uncompiled gradient's norm": abs(seen["grad_norm"] - norm) / norm,
    }


def against_llama(job: Job) -> Iterator[Row]:
    """Against LlamaForCausalLM, both compiled: how many times as fast, and what share of its peak memory."""
    model = job.make_model()
    theirs = llama(model).train()
    with (
        choosing(FASTER),
        Prefetched(job.batches, job.device) as ours_get,
        Prefetched(job.batches, job.device) as they_get,
    ):
        steps = {
            PEER: (TheirSteps(theirs, they_get, job.device, job.compiled), theirs),
            "ours": (job.our_steps(model, ours_get, VARIANTS["faster"]), model),
        }
        functions = {name: functools.partial(take, job.steps) for name, (take, _) in steps.items()}
        memory = {name: peak_memory(functions[name], steps[name][1], job.device) for name in steps}
        times = in_turns(functions, job.rounds, synchronizer(job.device))
    tokens, name = job.steps * job.tokens, f"{job.name}, batch {job.batch_size}"
    shown = f"{PEER}, {per_second(times['ours'], tokens)} against {per_second(times[PEER], tokens)}"
    yield compared(f"{name}: against LlamaForCausalLM, both compiled", times, shown, tokens=tokens)
    if memory[PEER]:
        share = memory["ours"] / memory[PEER]
        shown = f"{memory['ours'] / 2**30:.1f} against {memory[PEER] / 2**30:.1f} GiB, {share:.2f} x"
        title = f"{name}: peak memory against LlamaForCausalLM's"
        yield Row(title, share, shown, 1.0, 0.5, at_most=True, data=memory)


def row_makers(job: Job) -> dict[str, tuple]:
    """{name: (full name, function that makes the row)}, most important first."""
    makers = {"agreement": (f"{job.name}: agreement", lambda: agreement(job))}
    for name, variant in VARIANTS.items():
        makers[name] = (f"{job.name}, {variant.what}: MFU", functools.partial(speed, job, variant))
        if name == "faster" and find_spec("transformers"):
            makers["peer"] = (f"{job.name}: against LlamaForCausalLM", lambda: against_llama(job))
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
        TheirSteps(llama(job.make_model()).train(), job.batches, job.device, job.compiled)(1)
    else:
        changed = job.changed_by(VARIANTS[name])
        with choosing(VARIANTS[name].choices), Prefetched(changed.batches, job.device) as batches:
            changed.our_steps(changed.make_model(), batches, VARIANTS[name])(1)
    if job.device.type == "cuda":
        torch.cuda.synchronize()


def main() -> int:
    parser = parser_of("gpu_training", __doc__, ["agreement", "peer", *VARIANTS])
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument("--layers", type=int, help="instead of the config's")
    parser.add_argument(
        "--warm", nargs="+", choices=["peer", *VARIANTS], metavar="ROW", help="only compile these rows' steps"
    )
    parser.add_argument(
        "--profile", action="store_true", help=f"list the {KERNELS} kernels that take most time"
    )
    parser.add_argument("--rehearse", action="store_true", help="one tiny layer, uncompiled, on any machine")
    arguments = parser.parse_args()
    settings, device = read_config(arguments.config), pick_device("auto")
    make_deterministic(device)
    shape, name = settings.model, arguments.config
    if arguments.layers is not None:
        shape, name = replace(shape, num_layers=arguments.layers), f"{name} with {arguments.layers} layers"
    job = Job(name, shape.resolved(), settings.optimizer.batch_size, device, profiled=arguments.profile)
    if arguments.rehearse:
        tiny = replace(shape, **TINY).resolved()
        job = replace(job, shape=tiny, batch_size=4, compiled=False, steps=2, rounds=2)
    if arguments.warm:
        for name in arguments.warm:
            warm(job, name)
            clean()
        return 0
    return measure("gpu_training", rows(job, arguments.only), arguments.output, gpu=machine.gpu_name())


if __name__ == "__main__":
    raise SystemExit(main())
