"""A console line about the first step of a compiled run: the time to compile, or the time the compile cache saved.

Input: the seconds of the step and its CompiledLoss. The compile time of a graph is recorded next to the compiled code,
under a hash of the graph, so that a later run can report what the cache saved. Cache hits and misses come from Inductor's
counters (`fxgraph_cache_hit`, `fxgraph_cache_miss`).
"""

import contextlib
import json
import os
from pathlib import Path

import torch
from torch._dynamo.utils import calculate_time_spent, counters

from lmfast.files import atomic_write
from lmfast.model.compile_cache import FIRST_STEPS, VARIABLE
from lmfast.training.compiled import CompiledLoss


def first_step_line(seconds: float, loss: CompiledLoss) -> str:
    """The line for the console; records the compile time if the step was compiled."""
    compiling = calculate_time_spent().get("total_wall_time", 0.0)
    found, missed = (counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss"))
    folder = os.environ.get(VARIABLE)
    line = f"first step {seconds:.1f} s, including {compiling:.1f} s to compile"
    if folder is None or not (found or missed):
        return line
    record = Path(folder) / FIRST_STEPS / f"{loss.key}.json"
    if missed:
        with contextlib.suppress(OSError):  # a full disk: the next run cannot report the time saved
            record.parent.mkdir(exist_ok=True)
            with atomic_write(record) as temporary:
                temporary.write_text(json.dumps({"compiling": compiling, "torch": torch.__version__}))
        return f"{line}; compiled code cached in {folder}"
    line = f"first step {seconds:.1f} s, including {compiling:.1f} s to load compiled code from {folder}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        line += f"; compiling it took {json.loads(record.read_text())['compiling']:.1f} s"
    return line
