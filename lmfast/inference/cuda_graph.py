"""A step of decoding as a CUDA graph: warmed up and captured on a side stream, replayed on the caller's.

In: a function without arguments that works on the device only and in place. Rules it must keep (torch/cuda/graphs.py):
no copy from or to the host, no `.item()`, the same tensors in every call; what it allocates while it is captured stays
the graph's. Streams: one side stream per device serves all captures, because cuBLAS keeps a workspace (32 MiB on Hopper)
for each stream it has seen. Graphs captured on it share that workspace, so replay them on one stream, or one after
another. Threads warm up and capture one at a time: what another queued on this stream meanwhile would become part of the
graph. Nothing here has run on a GPU yet.
"""

import functools
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_capture_lock = threading.Lock()  # held by whoever uses a side stream


def uses_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


def new_event() -> torch.cuda.Event:
    return torch.cuda.Event()


def record(event: torch.cuda.Event, device: torch.device) -> None:
    event.record(torch.cuda.current_stream(device))


def wait_for(event: torch.cuda.Event, device: torch.device) -> None:
    """Makes the current stream wait; the host goes on."""
    torch.cuda.current_stream(device).wait_event(event)


@functools.cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of `device` on which graphs are warmed up and captured."""
    return torch.cuda.Stream(device)


def warm_up(step: Callable[[], None], state: Sequence[Tensor], device: torch.device) -> None:
    """Runs `step` twice on the side stream, so that kernels are compiled and loaded, and restores `state` after it."""
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
    """The graph of one run of `step`, which has been warmed up; capturing carries nothing out.

    Graphs of one `pool` (another graph's `pool()`) share the memory of what they compute: only for graphs that are never
    replayed at the same time and leave their results in tensors from outside.

    `torch.cuda.graph` would also synchronise and return all cached memory to the driver, which costs the next
    allocations of everyone else milliseconds. The default error mode would fail where any other thread pins memory, as
    the one that makes training's batches may, or looks at an event, as NCCL's does.
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
