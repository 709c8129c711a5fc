"""What the first step of a compiled run cost, and what the cache of compiled code saved: one line for the console.

In: the seconds of the step, and the CompiledLoss that took it. Out: the line. The cost of compiling a step for the first
time is remembered beside the compiled code, under a hash of the graph, so that a later run can tell what it saved; every
number was measured. Inductor counts what it found in its cache (`fxgraph_cache_hit`) and what it had to compile.
"""

import contextlib
import json
import os
from pathlib import Path

import torch
from torch._dynamo.utils import calculate_time_spent, counters

from lmfast.files import atomic_write
from lmfast.model.compile_cache import VARIABLE
from lmfast.training.compiled import CompiledLoss

RECORDS = "lmfast-first-steps"


def first_step_line(seconds: float, loss: CompiledLoss) -> str:
    """The line; remembers the cost where the step had to be compiled."""
    compiling = calculate_time_spent().get("total_wall_time", 0.0)
    found, missed = (counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss"))
    folder = os.environ.get(VARIABLE)
    line = f"first step {seconds:.1f} s, of them compiling {compiling:.1f} s"
    if folder is None or not (found or missed):
        return line
    record = Path(folder) / RECORDS / f"{loss.key}.json"
    if missed:
        with contextlib.suppress(OSError):  # a full disk: the next run does not know what it saves
            record.parent.mkdir(exist_ok=True)
            with atomic_write(record) as temporary:
                temporary.write_text(json.dumps({"compiling": compiling, "torch": torch.__version__}))
        return f"{line}; the compiled code is kept in {folder} for the next run"
    line = f"first step {seconds:.1f} s, of them {compiling:.1f} s to load compiled code from {folder}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        line += f"; compiling it took {json.loads(record.read_text())['compiling']:.1f} s"
    return line
