"""Options, hooks and fixtures of the suite: `pytest bench/ [--quick | --full] [--benchmark-compare]`.

Every run saves itself under `.benchmarks/<host, device, cores, mode>/` (results.py) and ends with a table of rates.
`--benchmark-compare` adds how much faster each benchmark is than in the last run of the same host, device and mode
that had it; `--benchmark-compare=0003` than in that run. It takes at most eight minutes on two cores, --quick 90
seconds, --full longer (the large corpora), plus compilation the first time.
"""

import os
import time
from pathlib import Path

import pytest
from pytest_benchmark.stats import Stats

from bench import machine, results, storage, table
from bench.measuring import Measure
from bench.tokenizer_peers import set_threads


def pytest_addoption(parser):
    group = parser.getgroup("lmfast")
    group.addoption("--quick", action="store_true", help="small sizes and few rounds: 90 seconds in all")
    group.addoption("--full", action="store_true", help="the large corpora: A of 300 MB, B of 200 MB")


def mode_of(config) -> str:
    return "quick" if config.getoption("--quick") else "full" if config.getoption("--full") else "default"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Before pytest-benchmark reads its options: where to save runs, under which name, and what to compare with."""
    options = config.option
    if options.quick and options.full:
        raise pytest.UsageError("--quick and --full contradict each other; give one")
    set_threads(machine.num_cores())  # peers and our own workers get the same number
    gpu = machine.gpu_name()
    config.bench_run = run = results.Run("suite", machine.describe(gpu), [])
    run.settings |= {"mode": mode_of(config), "selection": selection(config)}
    here = run.machine
    folder = storage.run_folder(here["host"], gpu or here["cpu"], here["cores"], mode_of(config))
    if options.benchmark_storage == "file://./.benchmarks":
        options.benchmark_storage = f"file://{folder}"
    runs = storage.saved_runs(Path(options.benchmark_storage.removeprefix("file://")))
    # Our table compares and fails, instead of pytest-benchmark.
    config.bench_compares, options.benchmark_compare = options.benchmark_compare, None
    config.bench_may_fail, options.benchmark_compare_fail = options.benchmark_compare_fail or [], []
    config.bench_failures = []
    if isinstance(config.bench_compares, str):
        runs = [chosen_run(config.bench_compares, runs, mode_of(config))]
    config.bench_before = storage.last_rows(runs) if config.bench_compares else {}
    if options.collectonly:
        return
    if not (options.benchmark_save or options.benchmark_autosave):
        dirty = "-dirty" if here["dirty"] else ""
        now = time.strftime("%Y%m%d_%H%M%S", time.gmtime())
        options.benchmark_autosave = f"{here['commit'] or 'no-git'}{dirty}_{now}"
    options.benchmark_quiet = not options.benchmark_verbose  # our table replaces pytest-benchmark's


def selection(config) -> str:
    """The requested part of the suite, as typed; empty for all of it."""
    options = config.option
    asked = [
        arg
        for arg in config.args
        if not Path(__file__).is_relative_to(Path(arg.partition("::")[0]).resolve())
    ]
    asked += [f"--deselect {one}" for one in options.deselect or []]
    return " ".join(asked + ([f"-k {options.keyword}"] if options.keyword else []))


def chosen_run(name: str, runs: list[results.Run], mode: str) -> results.Run:
    """The saved run that --benchmark-compare=NAME means: the beginning of its name. Raises UsageError for another."""
    found = [run for run in runs if run.source.startswith(name)]
    if not found:
        there = ", ".join(run.source.partition("_")[0] for run in runs[-20:])
        raise pytest.UsageError(
            f"--benchmark-compare={name}: no run of this host, device and mode ({mode}) has this name; "
            f"{f'there are {there}' if there else 'none is saved yet'}"
        )
    return found[-1]


def pytest_benchmark_generate_json(config):
    """What pytest-benchmark saves."""
    return config.bench_run.as_dict()


def pytest_sessionfinish(session):
    """--benchmark-compare-fail: exit code 1 if a benchmark is slower than that allows."""
    config = session.config
    for row in config.bench_run.rows:
        then, _ = config.bench_before.get(row.key, (None, None))
        for check in config.bench_may_fail if then else []:
            if reason := check.fails(statistics_of(row), statistics_of(then)):
                config.bench_failures.append(f"Performance has regressed: {row.group} {row.name}: {reason}")
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


def statistics_of(row: results.Row) -> dict[str, float]:
    """Under pytest-benchmark's names: median, mean, …"""
    found = Stats()
    for taken in row.ours:
        found.update(taken)
    return found.as_dict()


def pytest_terminal_summary(terminalreporter):
    config = terminalreporter.config
    run = config.bench_run
    if not run.rows:
        return
    here = run.machine
    terminalreporter.section(f"bench ({run.settings['mode']})", sep="-")
    head = [
        f"{here['gpu'] or here['cpu']}, {here['cores']} cores, torch {here['versions'].get('torch', 'absent')}, "
        f"commit {here['commit']}{' with changes' if here['dirty'] else ''}"
    ]
    if run.ceilings:
        head.append(table.ceiling_line(run.ceilings))
    before = {key: row for key, (row, _) in config.bench_before.items()}
    if before:
        sources = sorted({then.source for _, then in config.bench_before.values()})
        head.append(f"change: how many times as fast as in {', '.join(sources[-3:])}")
        head.append(table.drift_line(run.rows, before))
    elif config.bench_compares:
        head.append("Nothing to compare with yet: this is the first saved run of this host, device and mode.")
    lines = [line for text in head for line in table.wrapped(text)]
    for line in [*lines, *table.table(run.rows, before), *config.bench_failures]:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def mode(request) -> str:
    """quick, default or full."""
    return mode_of(request.config)


@pytest.fixture(scope="session")
def num_workers() -> int:
    return machine.num_cores()


@pytest.fixture(scope="session")
def device():
    """The device that torch benches use: CUDA if available."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def ceilings(request, mode, device) -> dict[str, float]:
    """Measured once per session, before the first benchmark."""
    from bench.ceilings import measured

    run = request.config.bench_run
    if not request.config.getoption("benchmark_disable"):
        run.ceilings = measured(device, tries=3 if mode == "quick" else 8)
    return run.ceilings


@pytest.fixture
def measure(request, benchmark, mode, ceilings, device) -> Measure:
    from bench.ceilings import synchronizer

    key = request.path.stem.removeprefix("test_"), request.node.name.removeprefix("test_")
    return Measure(benchmark, key, mode, ceilings, request.config.bench_run.rows, synchronizer(device))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder for outputs, on the same disk as the corpora."""
    from bench import corpora

    folder = corpora.folder().parent / f"scratch-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def pytest_xdist_auto_num_workers(config) -> int:
    """Measurements run in one process, one at a time."""
    return 0
