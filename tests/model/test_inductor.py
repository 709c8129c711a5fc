"""An interrupt does not reach the compilers, whoever compiles."""

import signal
import subprocess
import sys

import pytest
import torch

from lmfast.inference import torch_decoder
from lmfast.training.compiled import CompiledLoss

CODE = "import os, signal; [os.kill(os.getpid(), s) for s in (signal.SIGINT, signal.SIGTERM)]"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signal masks")
@pytest.mark.parametrize(
    "compiled",
    [CompiledLoss, lambda function: torch.compile(function, **torch_decoder.COMPILE)],
    ids=["a training step", "a decoding step"],
)
def test_an_interrupt_does_not_reach_the_compilers(compiled, monkeypatch):
    """A linker stopped by Ctrl-C left an empty library in the cache, and each later run failed to load it."""
    ended = []

    def backend(graph, inputs):
        ended.append(subprocess.run([sys.executable, "-c", CODE], check=False).returncode)
        return graph.forward

    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert compiled(lambda x: (x * 2).sum())(torch.ones(3)) == 6
    assert ended == [0] and signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    torch._dynamo.reset()
