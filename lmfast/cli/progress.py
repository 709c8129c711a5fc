"""Progress of a long job and its peak memory.

Prints a bar on a terminal and a plain line every few seconds elsewhere, always to standard error, so that results on
standard output can be piped. Memory is the anonymous and shared memory of this process, without file pages. It is read
from /proc twenty times per second; without /proc it is unknown.
"""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

from lmfast.units import data_size

LINE_SECONDS = 5.0  # interval of plain lines


@contextmanager
def progress(**units: str):
    """with progress(counting="bytes", merging="merges") as update: update("counting", done, total).

    Phases run one after another; bytes are shown as MB and MB/s.
    """
    show = _bar if sys.stderr.isatty() else _lines
    with show(units) as update:
        yield update


def amount(n: float, unit: str) -> str:
    return data_size(n) if unit == "bytes" else f"{n:,.0f} {unit}"


@contextmanager
def _bar(units: dict[str, str]):
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    clock = _PhaseClock()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total, rate="")
            rate = amount(done / clock.seconds(phase), units[phase]) + "/s"
            bar.update(tasks[phase], completed=done, total=total, rate=rate)

        yield update


@contextmanager
def _lines(units: dict[str, str]):
    clock = _PhaseClock()
    last = time.perf_counter()

    def update(phase: str, done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        seconds = clock.seconds(phase)
        if now - last >= LINE_SECONDS:
            last = now
            unit = units[phase]
            rate = amount(done / seconds, unit)
            text = f"{phase}: {100 * done / max(total, 1):.0f} %, {amount(done, unit)}, {rate}/s"
            print(text, file=sys.stderr, flush=True)

    yield update


class _PhaseClock:
    """Seconds since the current phase began: at construction, or at the last call for the phase before it.

    Counting from the first update of a phase would give no rate for a phase with a single update."""

    def __init__(self):
        self._phase, self._began, self._asked = None, 0.0, time.perf_counter()

    def seconds(self, phase: str) -> float:
        if phase != self._phase:
            self._phase, self._began = phase, self._asked
        self._asked = time.perf_counter()
        return max(self._asked - self._began, 1e-9)


class SteadyRate:
    """Amount per second, excluding start-up: measured from half a second after the first update.

    The first update waits for compiled code and cold caches, which would dominate the rate of a short run."""

    START_UP, LEAST = 0.5, 1.0  # seconds

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._ready: float | None = None
        self._first: tuple[float, int] | None = None
        self._last = (0.0, 0)

    def update(self, done: int) -> None:
        now = self._clock()
        if self._ready is None:
            self._ready = now + self.START_UP
        if self._first is None and now >= self._ready:
            self._first = now, done
        self._last = now, done

    @property
    def rate(self) -> float | None:
        """None if less than `LEAST` seconds were measured."""
        if self._first is None or self._last[0] - self._first[0] < self.LEAST:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])


class PeakMemory:
    """with PeakMemory() as memory: …; memory.peak is in bytes, None if unknown."""

    def __init__(self, read: Callable[[], int | None] | None = None, seconds: float = 0.05):
        self.peak: int | None = None
        self._read, self._seconds = read or memory_in_use, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _sample(self) -> None:
        now = self._read()
        if now is not None:
            self.peak = max(self.peak or 0, now)

    def _watch(self) -> None:
        while not self._over.wait(self._seconds):
            self._sample()

    def __enter__(self) -> "PeakMemory":
        self._sample()
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._over.set()
        self._thread.join()
        self._sample()

    def __str__(self) -> str:
        return "peak memory unknown" if self.peak is None else f"peak memory {self.peak / 1e6:,.0f} MB"


def memory_in_use(process: int | str = "self") -> int | None:
    """Bytes of the anonymous and shared memory of a process, by default this one."""
    try:
        with open(f"/proc/{process}/status", encoding="ascii", errors="replace") as status:
            fields = dict(line.split(":", 1) for line in status if line.startswith(("RssAnon", "RssShmem")))
        return 1024 * sum(int(value.split()[0]) for value in fields.values())
    except (OSError, ValueError, IndexError):
        return None
