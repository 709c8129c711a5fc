"""The line on a compiled run's first step, in separate runs because Inductor counts per process."""

import os
import re
import subprocess
import sys

import pytest
import torch

from lmfast.model.device import compile_blocker
from lmfast.training.compiled import _key

PROGRAM = """
import torch
from lmfast.model import compile_cache
compile_cache.set_directory()
from lmfast.training.compiled import CompiledLoss
from lmfast.training.first_step import first_step_line
loss = CompiledLoss(lambda x: (x * 2).sum())
loss(torch.ones(3, requires_grad=True)).backward()
print(first_step_line(12.34, loss))
print(dict(torch._dynamo.utils.counters["inductor"]))
"""


@pytest.mark.ci
def test_a_second_process_finds_the_code_and_reports_the_time_saved(tmp_path):
    if reason := compile_blocker(torch.device("cpu")):
        pytest.skip(reason)
    environment = {k: v for k, v in os.environ.items() if k != "TORCHINDUCTOR_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(tmp_path)

    def lines() -> list[str]:
        words = [sys.executable, "-c", PROGRAM]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    folder = re.escape(str(tmp_path / "lmfast/torchinductor"))
    (cold, misses), (warm, hits) = lines(), lines()
    cost = re.fullmatch(
        rf"first step 12\.3 s, including (\d+\.\d) s to compile; compiled code cached in {folder}",
        cold,
    )
    assert "'fxgraph_cache_miss': 2" in misses
    assert re.fullmatch(
        rf"first step 12\.3 s, including \d+\.\d s to load compiled code from {folder}; compiling it took {cost[1]} s",
        warm,
    )
    assert "'fxgraph_cache_hit': 2" in hits and "fxgraph_cache_miss" not in hits


def test_another_graph_or_shape_is_another_step():
    double, triple = (torch.fx.symbolic_trace(f) for f in (lambda x: 2 * x, lambda x: 3 * x))
    calls = [
        (double, torch.ones(3)),
        (triple, torch.ones(3)),
        (double, torch.ones(5)),
        (double, torch.ones(3).half()),
    ]
    assert len({_key(graph, [x]) for graph, x in calls}) == 4
    assert _key(double, [torch.zeros(3)]) == _key(double, [torch.ones(3)])
