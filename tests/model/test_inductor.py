"""An interrupt does not reach the compilers, in any process."""

import importlib
import logging
import signal
import subprocess
import sys

import pytest
import torch

from lmfast.inference import torch_decoder
from lmfast.model.inductor import inductor
from lmfast.training.compiled import CompiledLoss

CODE = "import os, signal; [os.kill(os.getpid(), s) for s in (signal.SIGINT, signal.SIGTERM)]"


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signal masks")
@pytest.mark.parametrize(
    "compiled",
    [CompiledLoss, lambda function: torch.compile(function, **torch_decoder.COMPILE)],
    ids=["a training step", "a decoding step"],
)
def test_an_interrupt_does_not_reach_the_compilers(compiled, monkeypatch):
    """A linker stopped by Ctrl-C left an empty library in the cache, which every later run failed to load."""
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="the warning is about machines without CUDA")
def test_a_cuda_toolkit_without_a_device_gives_no_warning(tmp_path, monkeypatch, caplog):
    """torch's CUDA builds warn while this module is imported; the test's module does the same."""
    name = "torch.utils.cpp_extension"
    (tmp_path / "cpp_extension.py").write_text(
        "import logging\nlogging.getLogger(__name__).warning(\"No CUDA runtime is found, using CUDA_HOME='x'\")\n"
    )
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(
        torch.utils, "cpp_extension", None, raising=False
    )  # importing sets it; undone afterwards
    monkeypatch.setattr(torch.utils, "__path__", [str(tmp_path), *torch.utils.__path__])
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda _: lambda *_: importlib.import_module(name))
    logger = logging.getLogger(name)  # torch's loggers pass nothing on to pytest's
    logger.addHandler(caplog.handler)
    inductor(None, [])
    logger.removeHandler(caplog.handler)
    assert name in sys.modules and "CUDA_HOME" not in caplog.text
    sys.modules.pop(name)
