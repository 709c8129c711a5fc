"""CUDA graphs of decoding steps, captured on a side stream and replayed on the caller's stream.

The captured function has no arguments and works in place on the device: no copies from or to the host, no `.item()`, the
same tensors in every call (see torch/cuda/graphs.py). Memory allocated during capture belongs to the graph. One side
stream per device serves all captures, because cuBLAS allocates a workspace (32 MiB on Hopper) per stream; the graphs share
that workspace, so replay them on one stream, or one at a time. A lock serialises warm-up and capture, because work that
another thread queues on the stream would be captured too.
"""

import functools
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_capture_lock = threading.Lock()  # held while a side stream is in use


def uses_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def new_event() -> torch.cuda.Event:
    return torch.cuda.Event()


def record(event: torch.cuda.Event, device: torch.device) -> None:
    event.record(torch.cuda.current_stream(device))


def wait_for(event: torch.cuda.Event, device: torch.device) -> None:
    """Makes the current stream wait for the event, without blocking the host."""
    torch.cuda.current_stream(device).wait_event(event)


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of `device` for warm-up and capture."""
    return torch.cuda.Stream(device)


def warm_up(step: Callable[[], None], state: Sequence[Tensor], device: torch.device) -> None:
    """Runs `step` twice on the side stream, to compile and load its kernels, then restores `state`."""
    before = [tensor.clone() for tensor in state]
    side, caller = side_stream(device), torch.cuda.current_stream(device)
    with _capture_lock, torch.cuda.stream(side):
        side.wait_stream(caller)
        for _ in range(2):
            step()
        for tensor, value in zip(state, before, strict=True):
            tensor.copy_(value)
        caller.wait_stream(side)


def capture(step: Callable[[], None], device: torch.device, pool=None) -> torch.cuda.CUDAGraph:
    """Captures one run of `step`, which must be warmed up, without executing it.

    Graphs with the same `pool` (the `pool()` of another graph) share memory; use it only for graphs that never run at the
    same time and write their results to tensors allocated outside.

    Not `torch.cuda.graph`, which also synchronises and returns all cached memory to the driver, so that later allocations
    take milliseconds. The default error mode would fail if another thread pins memory, as when preparing batches, or
    queries an event, as NCCL does.
    """
    graph, side, caller = torch.cuda.CUDAGraph(), side_stream(device), torch.cuda.current_stream(device)
    with _capture_lock, torch.cuda.stream(side):
        side.wait_stream(caller)
        graph.capture_begin(**({} if pool is None else {"pool": pool}), capture_error_mode="thread_local")
        try:
            step()
        finally:
            graph.capture_end()
        caller.wait_stream(side)
    return graph
