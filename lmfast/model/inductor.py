"""Inductor as a torch.compile backend that protects its compiler processes from Ctrl-C.

Ctrl-C is sent to all processes in the foreground. A linker killed by it left an empty library in the cache, which every
later run with the same graph failed to load. All of lmfast compiles through this backend.
"""

import contextlib
import importlib
import logging
import signal
from collections.abc import Callable, Iterator

import torch

from lmfast.model.compile_cache import remove_empty_libraries


def inductor(graph: torch.fx.GraphModule, inputs: list) -> Callable:
    """Compiles a graph for the given example inputs."""
    remove_empty_libraries()
    _load_cpp_extension()
    with _block_signals():
        return torch._dynamo.lookup_backend("inductor")(graph, inputs)


def _load_cpp_extension() -> None:
    """Imports a module that Inductor needs, without torch's warning about a CUDA toolkit on a machine without CUDA."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    if not torch.cuda.is_available():
        logger.setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.utils.cpp_extension")
    logger.setLevel(level)


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Blocks SIGINT and SIGTERM in this thread, and so in the compilers it starts, which inherit the signal mask.

    This process receives the signals in another thread, or after compiling."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
