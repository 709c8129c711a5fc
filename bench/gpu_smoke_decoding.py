"""Decoding on a CUDA device, checked in pieces: `python -m bench.gpu_smoke_decoding [--rehearse] [--only CHECK …]`.

Runs each check below (gpu_checks.py), then prints what a second call on a warm model costs until its first id, and the
kernels of one replayed step with their times. Small shapes, so a minute is enough, most of it compiling. `--rehearse` runs
the same path on a CPU, without graphs.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch

from bench import gpu_checks
from lmfast.inference.decode import generate, stream
from lmfast.inference.decoder_cache import borrow, decoder_cache_for
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from lmfast.inference.torch_slots import TorchSlots
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast_kernels import rope_append
from lmfast_kernels.rope_append import rope_append_reference

GREEDY = {"temperature": 0.0}
SAMPLED = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 2}
PROMPTS = [[1], [5, 9, 2, 7], [3] * 30]


def make_model(device: torch.device, **changes) -> TransformerLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 200, "context_length": 48, "d_model": 128, "num_layers": 2, "num_heads": 2}
    model = TransformerLM(ModelConfig(**(shape | changes))).to(device).eval()
    with torch.no_grad():
        model.head.weight.mul_(20)  # so that rounding does not decide between the largest logits
        for block in model.blocks:
            if block.attention.qkv.bias is not None:
                block.attention.qkv.bias.normal_()
    return model


def must_equal(got, want, what: str) -> None:
    if got != want:
        raise AssertionError(f"{what}: {got} must be {want}")


@torch.inference_mode()
def append(device: torch.device) -> str:
    """rope_append against its reference in float64, and no other row of the caches touched."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for batch, heads, kv_heads, head_dim in ((1, 12, 12, 64), (16, 12, 4, 128), (3, 5, 1, 80)):
        for rotate in (True, False):
            projected = torch.randn(batch, heads + 2 * kv_heads, head_dim, device=device).to(dtype)
            parts = projected.split([heads, kv_heads, kv_heads], 1)
            angles = torch.arange(100, device=device)[:, None] * torch.rand(head_dim // 2, device=device)
            tables = (angles.cos(), angles.sin()) if rotate else (None, None)
            lengths = torch.randint(1, 101, (batch,), device=device, dtype=torch.int32)
            caches = [torch.randn(batch, kv_heads, 100, head_dim, device=device).to(dtype) for _ in range(2)]
            exact = [cache.double() for cache in caches]
            wide = [None if t is None else t.double() for t in tables]
            want = rope_append_reference(*(x.double() for x in parts), *wide, lengths, *exact)
            got = rope_append(*parts, *tables, lengths, *caches)
            for a, b in zip((got, *caches), (want, *exact), strict=True):
                error = ((a - b).abs() / b.abs().clamp(min=1)).max().item()
                if not error <= 2 * torch.finfo(dtype).eps:
                    raise AssertionError(f"off by {error:.2g}: {batch=} {heads=} {head_dim=} {rotate=}")
    return "values and the rest of the caches"


@torch.inference_mode()
def by_operators(model, new: int, options: dict) -> list[list[int]]:
    """`new` ids of PROMPTS by the cached step without a graph, while nothing is full."""
    decoder = TorchDecoder(model, len(PROMPTS), Sampling(**options))
    decoder.by_graph, rows = False, list(range(len(PROMPTS)))
    decoder.read(dict(enumerate(PROMPTS)))
    steps = [decoder.step(rows, number)() for number in range(new)]
    decoder.close()
    return [list(row) for row in zip(*steps, strict=True)]


def eager(device: torch.device) -> str:
    """The step operator by operator, against whole windows without a cache."""
    imported = {"qkv_bias": True, "head_dim": 32, "rope_factor": 8.0, "rope_original_context": 16}
    absolute = ({"position": "learned"}, {"position": "sinusoidal"})
    for changes in ({}, {"position": "none"}, *absolute, {"qk_norm": True, "num_kv_heads": 1}, imported):
        model = make_model(device, **changes)
        for options in (GREEDY, SAMPLED):
            plain = generate(model, PROMPTS, 15, kv_cache=False, **options)
            must_equal(by_operators(model, 15, options), plain, f"{changes} {options}")
    return "float32 ids equal those without a cache"


def by_graph(device: torch.device, compile: bool = False) -> str:
    """A captured step, through several cuts of the window and stops, against whole windows without a cache."""
    model = make_model(device)
    for options in (GREEDY, SAMPLED):
        plain = generate(model, PROMPTS, 100, kv_cache=False, **options)
        must_equal(generate(model, PROMPTS, 100, compile=compile, **options), plain, str(options))
        stop = plain[0][40]
        stopped = [row[: row.index(stop)] if stop in row else row for row in plain]
        again = generate(model, PROMPTS, 100, compile=compile, stop_ids={stop}, **options)
        must_equal(again, stopped, f"{options}, stopped")
    return "float32 ids equal those without a cache, stops and windows too"


def in_bf16(device: torch.device, compile: bool = False) -> str:
    """Under autocast the captured step chooses what its operators choose; compiled, most of it."""
    model = make_model(device)
    ids = torch.randint(0, 200, (2, 40), device=device)
    with torch.inference_mode():
        exact = model(ids)
        with torch.autocast(device.type, torch.bfloat16):
            off = ((model(ids) - exact).abs().max() / exact.abs().max()).item()
            decoder = TorchDecoder(model, 2, Sampling(0.0))
            decoder.read(dict(enumerate(ids.tolist())))
            cached = decoder.model.decode(decoder.ids, decoder.cache, decoder.cache.max_length)
            off_cached = ((cached - exact[:, -1]).abs().max() / exact.abs().max()).item()
            decoder.close()
    if not (off <= 0.05 and off_cached <= 0.05):
        raise AssertionError(
            f"bf16's logits are off by {off:.2g} of the largest, {off_cached:.2g} with the cache"
        )
    with torch.autocast(device.type, torch.bfloat16):
        for options in (GREEDY, SAMPLED):
            one = by_operators(model, 15, options)
            other = generate(model, PROMPTS, 15, compile=compile, **options)
            same = sum(a == b for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))
            if same < (20 if compile else 45):  # once an id differs by rounding, those after it do
                raise AssertionError(f"{options}: {same} of 45 ids agree: {one} {other}")
    return f"logits within {off:.1e}, with the cache {off_cached:.1e}; ids of operators and graph agree"


def second_call(device: torch.device) -> str:
    """Another call takes the same decoder and graph, with other numbers, after the weights changed, and at once."""
    model, other = make_model(device), make_model(device)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.02 * torch.randn_like(p))
    with torch.autocast(device.type, torch.bfloat16):
        first = generate(model, PROMPTS, 15, **GREEDY)
        graph = decoder_cache_for(model).idle[-1].graph
        must_equal(generate(model, PROMPTS, 15, **GREEDY), first, "the same call again")
        with torch.no_grad():
            for p, q in zip(model.parameters(), other.parameters(), strict=True):
                p.copy_(q)
        must_equal(generate(model, PROMPTS, 15, **GREEDY), generate(other, PROMPTS, 15, **GREEDY), "weights")
    if len(decoder_cache_for(model).idle) != 1 or decoder_cache_for(model).idle[0].graph is not graph:
        raise AssertionError("another decoder or graph was made")
    want = [generate(model, [prompt], 15, **GREEDY)[0] for prompt in PROMPTS]
    streams = [stream(model, [prompt], 15, Sampling(**GREEDY)) for prompt in PROMPTS]
    rows = [[ids[0] for ids in step] for step in zip(*streams, strict=True)]
    must_equal([list(row) for row in zip(*rows, strict=True)], want, "streams at once")
    return "same decoder, refreshed weights, streams at once"


def take(decoder: TorchSlots, new: int, sampling: Sampling) -> list[list[int]]:
    """`new` ids of PROMPTS, which join one step apart: one whole, one in parts, one after a copied beginning."""
    ids: list[list[int]] = [[] for _ in PROMPTS]
    long, slots = PROMPTS[-1], [5, 2, 0]
    in_flight: list[tuple[list[int], Callable[[], list[int]]]] = []
    with torch.inference_mode():
        for number in range(new + len(PROMPTS)):
            if number == 0:
                decoder.fill([(7, long[:20], 0), (slots[1], PROMPTS[1][:-1], 0)])
            if number == 2:
                decoder.copy(7, slots[2], 12)
                for begin in range(12, len(long) - 1, 5):
                    decoder.fill([(slots[2], long[begin : min(begin + 5, len(long) - 1)], begin)])
            if number < len(PROMPTS):
                prompt = PROMPTS[number]
                decoder.start(slots[number], len(prompt) - 1, prompt[-1], sampling, number)
            rows = [row for row in range(len(PROMPTS)) if 0 <= number - row < new]
            if rows:
                in_flight.append((rows, decoder.step([slots[row] for row in rows])))
            while len(in_flight) > (decoder.lag if rows else 0):
                done, wait = in_flight.pop(0)
                for row, token in zip(done, wait(), strict=True):
                    ids[row].append(token)
    return ids


def in_slots(device: torch.device) -> str:
    """Sequences that join and leave, by graphs of several sizes and without waiting, against whole windows without a
    cache; then the logits under autocast, in company."""
    for changes in ({}, {"qk_norm": True, "num_kv_heads": 1, "sliding_window": 9}):
        model = make_model(device, **changes)
        decoder = TorchSlots(model, 12)
        decoder.warm_up()
        graphs = len(decoder.graphs), len(decoder.prefills)
        for options in (GREEDY, {"temperature": 0.8, "seed": 2}, SAMPLED):
            want = generate(model, PROMPTS, 15, kv_cache=False, **options)
            for mode in ("default", "error"):
                if device.type == "cuda":
                    torch.cuda.set_sync_debug_mode(mode)
                try:
                    got = take(decoder, 15, Sampling(**options))
                finally:
                    if device.type == "cuda":
                        torch.cuda.set_sync_debug_mode("default")
                must_equal(got, want, f"{changes} {options}")
        must_equal((len(decoder.graphs), len(decoder.prefills)), graphs, "graphs after warm_up")
        decoder.close()
    with torch.autocast(device.type, torch.bfloat16):
        decoder = TorchSlots(model, 12)
    take(decoder, 3, Sampling(0.0))
    worst = 0.0
    for slot, prompt in enumerate(PROMPTS):
        decoder.fill([(slot, prompt[:-1], 0)])
        decoder.start(slot, len(prompt) - 1, prompt[-1], Sampling(0.0), 0)
    decoder.step(list(range(len(PROMPTS))))()
    for slot, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            exact = model(torch.tensor([prompt], device=device))[0, -1].cpu()
        off = (torch.from_numpy(decoder.logits(slot)) - exact).abs().max() / exact.abs().max()
        worst = max(worst, off.item())
    decoder.close()
    if not worst <= 0.05:
        raise AssertionError(f"bf16's logits in company are off by {worst:.2g} of the largest")
    return f"float32 ids equal those without a cache; bf16's logits in company within {worst:.1e}"


def without_waiting(device: torch.device) -> str:
    """A warm call must not synchronise anywhere but where it reads ids: PyTorch raises an error if it does."""
    if device.type != "cuda":
        return "skipped, needs a CUDA device"
    model = make_model(device)
    for options in (GREEDY, SAMPLED):
        want = generate(model, PROMPTS, 15, **options)
        torch.cuda.set_sync_debug_mode("error")
        try:
            must_equal(generate(model, PROMPTS, 15, **options), want, "without waiting")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "no synchronising call"


CHECKS: dict[str, gpu_checks.Check] = {
    "append": append,
    "eager": eager,
    "graph": by_graph,
    "graph-bf16": in_bf16,
    "second-call": second_call,
    "without-waiting": without_waiting,
    "slots": in_slots,
    "compiled": partial(by_graph, compile=True),
    "compiled-bf16": partial(in_bf16, compile=True),
}


@torch.inference_mode()
def costs(device: torch.device, layers: int) -> list[str]:
    """Until the first id of a warm call, and in a replayed step: 124M's width, bf16, batch 1, a prompt of 32 ids."""
    lines = []
    model = make_model(
        device, vocab_size=50304, context_length=1024, d_model=768, num_layers=layers, num_heads=12
    )
    prompt = [list(range(1, 33))]
    with torch.autocast(device.type, torch.bfloat16):
        generate(model, prompt, 20, **GREEDY)
        parts: dict[str, list[float]] = {"borrow": [], "read": [], "first id": []}
        for _ in range(10):
            torch.cuda.synchronize()
            marks = [time.perf_counter()]
            decoder = borrow(model, 1, Sampling(**GREEDY))
            marks.append(time.perf_counter())
            decoder.read({0: prompt[0]})
            marks.append(time.perf_counter())
            decoder.step([0], 0)()
            marks.append(time.perf_counter())
            decoder.close()
            for (_, times), begin, end in zip(parts.items(), marks, marks[1:], strict=False):
                times.append(1e3 * (end - begin))
        shown = ", ".join(f"{name} {statistics.median(times):.2f} ms" for name, times in parts.items())
        lines.append(f"a warm call, {layers} layers: {shown}")
        decoder = borrow(model, 1, Sampling(**GREEDY))
        decoder.read({0: prompt[0]})
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for number in range(20):
                last = decoder.step([0], number)
            last()
        decoder.close()
    counts, times = Counter(), Counter()
    for event in profile.events():
        counts[event.name] += 1
        times[event.name] += event.device_time_total
    times = Counter({name: total for name, total in times.items() if total})  # without the host's calls
    kernels = sum(counts[name] for name in times)
    lines.append(f"a step: {kernels / 20:.1f} kernels and copies, {sum(times.values()) / 20:.1f} us in them")
    for name, total in times.most_common():
        lines.append(f"  {counts[name] / 20:5.1f} x {total / counts[name]:6.2f} us  {name[:100]}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = gpu_checks.parser_of("gpu_smoke_decoding", __doc__, CHECKS)
    parser.add_argument("--layers", type=int, default=12, help="of the model whose costs are shown")
    options = parser.parse_args(arguments)
    # Ids are compared over a hundred steps: TF32's rounding decides between logits as close as those of this model.
    torch.set_float32_matmul_precision("highest")
    return gpu_checks.run(options, CHECKS, partial(costs, layers=options.layers))


if __name__ == "__main__":
    sys.exit(main())
