"""progress.py: occasional lines without a terminal; the peak of the memory readings."""

import mmap

import numpy as np

from lmfast.cli import progress as module
from lmfast.cli.progress import PeakMemory, SteadyRate, amount, memory_in_use, progress
from tests.processes import wait_until


def test_plain_lines(capsys, monkeypatch):
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress(counting="bytes", merging="merges") as update:
        update("counting", 500_000, 1_000_000)
        update("merging", 3, 4)
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0].startswith("counting: 50 %, 0.5 MB, ") and lines[0].endswith("B/s")
    assert lines[1].startswith("merging: 75 %, 3 merges, ") and lines[1].endswith("merges/s")


def test_a_phase_with_one_update_has_a_rate(capsys, monkeypatch):
    """Rates were once measured from the first update on, so that a single update had 0.0 MB/s."""
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    now = iter([10.0, 10.0, 12.0, 12.0, 13.0, 13.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(now))
    with progress(counting="bytes", merging="merges") as update:
        update("counting", 4_000_000, 4_000_000)
        update("merging", 3, 3)
    assert capsys.readouterr().err.splitlines() == [
        "counting: 100 %, 4.0 MB, 2.0 MB/s",
        "merging: 100 %, 3 merges, 3 merges/s",
    ]


def test_the_steady_rate_excludes_start_up():
    times = iter([5.0, 5.4, 5.5, 6.4, 6.5])
    rate = SteadyRate(lambda: next(times))
    for done in (10, 20, 30, 120):
        rate.update(done)
        assert rate.rate is None
    rate.update(130)
    assert rate.rate == 100.0


def test_lines_are_few(capsys):
    with progress(counting="bytes") as update:
        for i in range(1000):
            update("counting", i, 1000)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    with progress(counting="bytes", merging="merges") as update:
        update("counting", 1, 2)
        update("counting", 2, 2)
        update("merging", 1, 2)


def test_amounts():
    assert amount(2_500_000, "bytes") == "2.5 MB" and amount(1234, "merges") == "1,234 merges"


def test_peak_of_the_readings():
    read: list[int] = []

    def rising_and_falling() -> int:
        read.append(50 if len(read) == 3 else 10)
        return read[-1]

    with PeakMemory(rising_and_falling, seconds=0.001) as memory:
        wait_until(lambda: len(read) >= 6)
    assert memory.peak == 50
    with PeakMemory(lambda: 2_000_000) as memory:
        pass
    assert str(memory) == "peak memory 2 MB"
    with PeakMemory(lambda: None) as unknown:
        pass
    assert unknown.peak is None and str(unknown) == "peak memory unknown"


def test_memory_in_use_sees_what_is_allocated():
    before = memory_in_use()
    if before is None:
        return  # a system without /proc
    # Newly mapped pages: the heap may still hold 64 MB that earlier tests have freed.
    block = mmap.mmap(-1, 64 << 20)
    np.frombuffer(block, np.uint8)[:] = 1
    assert memory_in_use() - before > 50e6
