"""Profile of a step on a device: kernels, idle time, waits of the host, peak memory."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

KERNELS, GAPS = 30, 10  # how many are listed, those that take the most time


class Profile(NamedTuple):
    """Of one step: the kernels that take the most time, the seconds of all of them, the seconds in which the
    device was idle between the first and the last, and the longest idle periods."""

    kernels: list[dict]
    busy: float
    idle: float
    gaps: list[dict]


def profile(call: Callable[[], object], device: torch.device, steps: int) -> Profile:
    """The profile of a call that takes `steps` steps; off CUDA, of the host's operators."""
    from torch.profiler import ProfilerActivity, profile

    activity, name = (
        (ProfilerActivity.CUDA, "self_device_time_total")
        if device.type == "cuda"
        else (ProfilerActivity.CPU, "self_cpu_time_total")
    )
    with profile(activities=[activity]) as found:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    totals = [(getattr(event, name) / 1e6 / steps, event) for event in found.key_averages()]
    totals.sort(key=lambda pair: -pair[0])
    kept = [
        {"kernel": event.key[:200], "ms": 1e3 * taken, "calls": event.count / steps}
        for taken, event in totals[:KERNELS]
    ]
    ranges = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    idle, gaps = idle_time(ranges)
    return Profile(kept, sum(taken for taken, _ in totals), idle / 1e6 / steps, gaps)


def idle_time(ranges: Sequence[tuple[float, float, str]]) -> tuple[float, list[dict]]:
    """(time between the first start and the last end in which nothing ran, the GAPS longest idle periods), of (start,
    end, name) in order of their starts, in microseconds."""
    gaps, (end, last) = [], ranges[0][1:] if ranges else (0.0, "")
    for start, stop, name in ranges:
        if start > end:
            gaps.append({"ms": (start - end) / 1e3, "after": last[:80], "before": name[:80]})
        if stop > end:
            end, last = stop, name
    longest = sorted(gaps, key=lambda gap: -gap["ms"])[:GAPS]
    return 1e3 * sum(gap["ms"] for gap in gaps), longest


class Watched:
    """Batches during whose steps CUDA warns whenever the host waits for the device, except the first and the last,
    where the loop may read results."""

    def __init__(self, batches, first: int, last: int):
        self.batches, self.first, self.last = batches, first, last

    def step(self, i: int) -> np.ndarray:
        torch.cuda.set_sync_debug_mode("warn" if self.first < i < self.last else "default")
        return self.batches.step(i)


def host_syncs(take, steps: int) -> list[str]:
    """Where CUDA warned of a wait in steps that log nothing: "file:line" for each warning. take: OurSteps."""
    begin, batches = take.progress.step, take.batches
    take.batches = Watched(batches, begin, begin + steps - 1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            take(steps)
    finally:
        take.batches = batches
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename}:{w.lineno}" for w in caught if "called a synchronizing" in str(w.message)]


def peak_memory(take: Callable[[], object], module: torch.nn.Module, device: torch.device) -> int | None:
    """Peak bytes of a second call of `take`, which trains `module`, without what other models hold; None off CUDA.

    The first call compiles, and allocates the optimizer's state, which counts."""
    if device.type != "cuda":
        take()
        return None
    others = torch.cuda.memory_allocated() - sum(p.nbytes for p in module.parameters())
    take()
    torch.cuda.reset_peak_memory_stats()
    take()
    return torch.cuda.max_memory_allocated() - others
