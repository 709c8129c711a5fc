"""Inductor as a backend of torch.compile, whose compilers an interrupt does not reach.

Ctrl-C goes to all processes of a terminal's job. A linker ended by it left an empty library in the cache, which each later
run with the same graph then failed to load. Whatever compiles in lmfast compiles through here.
"""

import contextlib
import importlib
import logging
import signal
from collections.abc import Callable, Iterator

import torch

from lmfast.model.compile_cache import remove_empty_libraries


def inductor(graph: torch.fx.GraphModule, inputs: list) -> Callable:
    """Compiles a graph for inputs such as these."""
    remove_empty_libraries()
    _load_cpp_extension()
    with _block_signals():
        return torch._dynamo.lookup_backend("inductor")(graph, inputs)


def _load_cpp_extension() -> None:
    """Imports what Inductor will, without torch's warning of a CUDA toolkit on a machine that has no CUDA device."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    if not torch.cuda.is_available():
        logger.setLevel(logging.ERROR)
    with contextlib.suppress(ImportError):
        importlib.import_module("torch.utils.cpp_extension")
    logger.setLevel(level)


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Keeps SIGINT and SIGTERM from the compilers that this thread starts, which inherit its mask; this process still sees
    them, when compiling ends at the latest."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
