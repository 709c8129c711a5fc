"""Which launch parameters are fastest on this device? `python -m bench.gpu_tiles [--only GROUP …]`.

Groups: attention's forward, dq and dk, dv kernels at head_dim 64 and 128 (lmfast_kernels/attention_tiles.py); RMSNorm's
backward, the loss kernel and its chunks (lmfast_kernels/tuning.py). Each at the sizes of training, in bf16, forward and
backward together. A row lists the time of each candidate, the default first, and names the fastest; a candidate whose
result differs from the default's is WRONG. Compiling takes longer than measuring, so all candidates are compiled first,
in parallel processes; with Triton's cache filled they are then timed one after another. Needs a CUDA device, or
`--rehearse`.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import torch

import lmfast_kernels
from bench import machine
from bench.results import Row
from bench.target_table import attempt, measure, parser_of
from lmfast_kernels import attention_tiles, backend, tuning
from lmfast_kernels.check_report import time_ms

SEQ, WIDTH = 4096, 2048  # of attention: tokens of a sequence, heads × head_dim
TOKENS, D_MODEL, VOCAB = 16_384, 768, 50_304
CLOSE = 2**-6  # of the largest value, two roundings of bf16


@dataclass(frozen=True)
class Group:
    """Candidates for one kernel; `using` selects one, `make` returns the call that runs it."""

    candidates: Sequence
    using: Callable[[object], contextlib.AbstractContextManager]
    make: Callable[[torch.device, bool], Callable[[], Sequence[torch.Tensor]]]


def randn(device: torch.device, *shape: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(shape, device=device).bfloat16().requires_grad_()


def attend(device: torch.device, tiny: bool, head_dim: int, backward: bool) -> Callable:
    batch, seq, width = (1, 32, head_dim) if tiny else (TOKENS // SEQ, SEQ, WIDTH)
    q, k, v = (randn(device, batch, width // head_dim, seq, head_dim) for _ in range(3))
    upstream = torch.randn_like(q)

    def call():
        with backend.use_choice("attention", "triton"):
            if not backward:
                with torch.no_grad():
                    return (lmfast_kernels.attention(q, k, v),)
            return torch.autograd.grad(lmfast_kernels.attention(q, k, v), (q, k, v), upstream)

    return call


def normalise(device: torch.device, tiny: bool, width: int) -> Callable:
    rows = 16 if tiny else 4 * TOKENS * D_MODEL // width
    x, weight = randn(device, rows, width), torch.ones(width, device=device, requires_grad=True)
    upstream = torch.randn_like(x)
    return lambda: torch.autograd.grad(lmfast_kernels.rms_norm(x, weight), (x, weight), upstream)


def lose(device: torch.device, tiny: bool) -> Callable:
    tokens, width, vocab = (16, 32, 64) if tiny else (TOKENS, D_MODEL, VOCAB)
    hidden, weight = randn(device, tokens, width), randn(device, vocab, width)
    weight.data *= 0.05
    targets = torch.arange(tokens, device=device) % vocab
    return lambda: torch.autograd.grad(
        lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0], (hidden, weight)
    )


def use(config: str, chosen: dict[str, int]) -> contextlib.AbstractContextManager:
    return tuning.use_config(config, **chosen)


def groups() -> dict[str, Group]:
    found = {}
    for head_dim, lists in attention_tiles.CANDIDATES.items():
        for kernel, candidates in lists.items():
            found[f"attention-{kernel}-d{head_dim}"] = Group(
                candidates,
                lambda tile, kernel=kernel: attention_tiles.use_tiles(**{kernel: tile}),
                partial(attend, head_dim=head_dim, backward=kernel != "forward"),
            )
    rms_norm = import_module("lmfast_kernels.rms_norm")
    loss = import_module("lmfast_kernels.linear_cross_entropy")
    narrow, wide = (partial(normalise, width=width) for width in (768, 4096))
    chunks = [{"ROWS": rows} for rows in loss.CHUNK_ROWS_CANDIDATES]
    for name, config, candidates, make in (
        ("rms_norm-768", "rms_norm_backward", rms_norm.NARROW_BACKWARD_CANDIDATES, narrow),
        ("rms_norm-4096", "rms_norm_backward", rms_norm.BACKWARD_CANDIDATES, wide),
        ("loss", "loss", loss.LOSS_CANDIDATES, lose),
        ("loss-chunks", "loss chunks", chunks, lose),
    ):
        found[name] = Group(candidates, partial(use, config), make)
    return found


def compile_one(name: str, number: int, tiny: bool) -> str | None:
    """Runs one candidate once, so that its kernels are in Triton's cache; returns its error as text."""
    group, device = groups()[name], torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with group.using(group.candidates[number]):
            group.make(device, tiny)()
    except Exception as problem:
        return f"{type(problem).__name__}: {str(problem).strip()[:200]}"
    return None


def compile_all(names: Sequence[str], tiny: bool, workers: int) -> None:
    jobs = [(name, number) for name in names for number in range(len(groups()[name].candidates))]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for (name, number), problem in zip(
            jobs, pool.map(compile_one, *zip(*jobs), [tiny] * len(jobs)), strict=True
        ):
            if problem:
                print(f"{name}, candidate {number}: {problem}", flush=True)


def sweep(name: str, group: Group, device: torch.device, tiny: bool) -> Row:
    """Milliseconds of each candidate; the value is how many times as fast as the default the fastest is."""
    call, times, wrong, default = group.make(device, tiny), {}, [], None
    for candidate in group.candidates:
        label = ",".join(map(str, candidate.values() if isinstance(candidate, dict) else candidate))
        with group.using(candidate):
            try:
                found = call()
                default = default or found
                if any((a - b).abs().max() > CLOSE * b.abs().max() for a, b in zip(found, default)):
                    wrong.append(f"{label} differs from the default")
                times[label] = time_ms(call, device)[0]
            except Exception as problem:  # shared memory, registers: such a candidate is excluded
                print(f"{name}, {label}: {type(problem).__name__}: {str(problem).strip()[:300]}", flush=True)
    fastest = min(times, key=times.get)
    gain = next(iter(times.values())) / times[fastest]
    shown = f"{fastest} is {gain:.3f} x the default; ms: " + ", ".join(
        f"{k} {v:.4f}" for k, v in times.items()
    )
    return Row(name, gain, shown, data={"ms": times}, wrong="; ".join(wrong))


def rows(names: Sequence[str], device: torch.device, tiny: bool) -> Iterator[Row]:
    for name in names:
        yield attempt(name, partial(sweep, name, groups()[name], device, tiny))


def main() -> int:
    parser = parser_of("gpu_tiles", __doc__, groups())
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on any machine, two workers")
    arguments = parser.parse_args()
    gpu = machine.gpu_name()
    if gpu is None and not arguments.rehearse:
        parser.error("needs a CUDA device, or --rehearse")
    device, tiny = torch.device("cpu" if gpu is None else "cuda"), gpu is None
    names = arguments.only or list(groups())
    compile_all(names, tiny, 2 if tiny else min(14, os.cpu_count() or 1))
    return measure("gpu_tiles", rows(names, device, tiny), arguments.output, gpu=gpu)


if __name__ == "__main__":
    raise SystemExit(main())
