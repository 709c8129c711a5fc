"""Compares a training step with its targets on a CPU: `python -m bench.training_table [--quick] [--output FILE]`.

The 5.3M model, batch 8 × 256, float32, compiled: `train_loop` itself against Hugging Face's LlamaForCausalLM with fused
AdamW, clipping and the same compile mode, both in one process, with its threads and allocator, step by step in turns
(training_step.py). The peer's weights are copies of ours, and its loss on a batch must be ours before anything is timed.
The multipliers' rate is what MFU divides by on a CPU (lmfast/model/cpu_peak.py).

Memory: each side in a fresh process. After three steps (compilation and warm-up) freed memory and our operators' buffers
are returned to the system, the remaining anonymous memory (weights, optimizer state, code) is noted and the peak mark
reset (/proc/self/clear_refs); then come five steps, and the peak above what remained is the step's. Linux only.

Out: the table, and bench/results/training_<cpu>.json.
"""

import argparse
import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench import machine
from bench.huggingface import llama
from bench.results import Row
from bench.target_table import compared, measure, parser_of
from bench.timing import in_turns
from bench.training_step import OurSteps, TheirSteps, check_losses
from lmfast.data.batches import Batches
from lmfast.model.accounting import training_flops_per_token
from lmfast.model.config import ModelConfig
from lmfast.model.cpu_peak import cpu_peak
from lmfast.model.device import make_deterministic
from lmfast.model.transformer import TransformerLM
from lmfast_kernels import cpu_library

MODEL = ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=8, d_ff=704)
BATCH = 8
CPU = torch.device("cpu")
PEER = "LlamaForCausalLM"


def sides(
    which: tuple[str, ...] = ("ours", PEER), compiled: bool = True, config: ModelConfig | None = None
) -> dict:
    """For each side a function that takes one step; the peer's loss is compared with ours first. config: MODEL if None."""
    make_deterministic(CPU)
    torch.manual_seed(0)
    config = config or MODEL
    model = TransformerLM(config)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 1_000_000, np.int64).astype(np.uint16)
    batches = Batches(tokens, BATCH, config.context_length, seed=0)
    made = {}
    if PEER in which:
        theirs = llama(model).train()
        check_losses(model, theirs, batches, CPU)
        made[PEER] = partial(TheirSteps(theirs, batches, CPU, compiled), 1)
    if "ours" in which:
        made["ours"] = partial(OurSteps(model, batches, CPU, BATCH, compiled), 1)
    return made


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def peak_of_steps(side: str, compiled: bool = True) -> int:
    """Bytes by which five steps raise resident memory above its level between steps."""
    (step,) = sides((side,), compiled).values()
    for _ in range(3):
        step()
    if cpu_library.library() is not None:
        cpu_library.call("release_scratch")  # our operators' buffers are part of a step
    ctypes.CDLL(None).malloc_trim(0)  # so is what the allocator keeps for the next one
    before = resident("RssAnon")
    files = resident("RssFile") + resident("RssShmem")
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(5):
        step()
    return resident("VmHWM") - files - before


def peak_in_fresh_process(side: str) -> int:
    command = [sys.executable, "-m", "bench.training_table", "--memory-of", side]
    done = subprocess.run(command, cwd=machine.ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def speed(quick: bool) -> Iterator[Row]:
    functions = sides()
    in_turns(functions, 2)  # they compile, and warm up
    rate, _ = cpu_peak("fp32")
    times = in_turns(functions, 3 if quick else 41)
    tokens = BATCH * MODEL.context_length
    ours, theirs = (float(np.median(times[name])) for name in ("ours", PEER))
    shown = f"compiled Hugging Face, {1e3 * ours:.0f} against {1e3 * theirs:.0f} ms per step"
    yield compared("training step, 5.3M, fp32, compiled", times, shown, 1.3, 1.6)
    part = tokens * training_flops_per_token(MODEL, MODEL.context_length) / ours / rate
    shown = f"{part:.0%} of {rate / 1e9:.0f} GFLOP/s ({tokens / ours:,.0f} tokens/s)"
    yield Row("part of the multipliers' rate", part, shown, 0.0, 0.8, data={"multipliers": rate})


def memory(quick: bool) -> Iterator[Row]:
    found = {side: peak_in_fresh_process(side) for side in ("ours", PEER)}
    part = found["ours"] / found[PEER]
    shown = f"{part:.2f} of Hugging Face's, {found['ours'] / 1e6:.0f} against {found[PEER] / 1e6:.0f} MB"
    yield Row("peak memory of a training step", part, shown, 1.0, 0.5, at_most=True, data=found)


ROWS = {"speed": speed, "memory": memory}


def main() -> int:
    parser = parser_of("training_table", __doc__, ROWS)
    parser.add_argument("--quick", action="store_true", help="few rounds: only proves that it works")
    parser.add_argument("--memory-of", choices=("ours", PEER), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(peak_of_steps(arguments.memory_of)))
        return 0
    rows = (row for chosen in arguments.only or ROWS for row in ROWS[chosen](arguments.quick))
    suffix = "_quick" if arguments.quick else ""
    return measure("training", rows, arguments.output, suffix=suffix, threads=torch.get_num_threads())


if __name__ == "__main__":
    raise SystemExit(main())
