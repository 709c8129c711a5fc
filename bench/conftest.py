"""The frame of the bench suite: `pytest bench/ [--quick | --full] [--benchmark-compare]`.

Every run saves itself under `.benchmarks/<host, device, cores, mode>/`, with commit, machine and versions, and ends
with a table of rates. `--benchmark-compare` adds how much faster each benchmark is than in the last run of the same
host, device and mode that had it; `--benchmark-compare=0003` than in that run. Sizes: at most eight minutes on two
cores, --quick for 90 seconds, --full for the large corpora; what must be compiled the first time ever comes on top.
"""

import os
import time
from pathlib import Path

import pytest

from bench import machine, storage, table
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
    """Before pytest-benchmark reads its options: where runs are kept, under which name, and what to compare with."""
    options = config.option
    if options.quick and options.full:
        raise pytest.UsageError("--quick and --full contradict each other; give one")
    set_threads(machine.num_cores())  # peers and our own workers get the same number
    gpu = machine.gpu_name()
    config.bench_machine = machine.describe(gpu)
    here = config.bench_machine
    folder = storage.run_folder(here["host"], gpu or here["cpu"], here["cores"], mode_of(config))
    config.bench_before = {}
    config.bench_compares = bool(options.benchmark_compare)
    if options.benchmark_storage == "file://./.benchmarks":
        options.benchmark_storage = f"file://{folder}"
        runs = storage.saved_runs(folder)
        if isinstance(options.benchmark_compare, str):
            runs = [chosen_run(options.benchmark_compare, runs, mode_of(config))]
        config.bench_before = storage.last_results(runs)
        if not config.bench_before:
            options.benchmark_compare_fail = []  # the first run has nothing to fail against
        if not options.benchmark_compare_fail:
            # Our table compares; pytest-benchmark would warn of other versions.
            options.benchmark_compare = None
    if options.collectonly:
        return
    if not (options.benchmark_save or options.benchmark_autosave):
        dirty = "-dirty" if config.bench_machine["dirty"] else ""
        commit = config.bench_machine["commit"] or "no-git"
        options.benchmark_autosave = f"{commit}{dirty}_{time.strftime('%Y%m%d_%H%M%S', time.gmtime())}"
    options.benchmark_save_data = True
    options.benchmark_quiet = not options.benchmark_verbose  # our table stands in for pytest-benchmark's


def selection(config) -> str:
    """What of the suite this run was asked for, as it was written; empty for all of it."""
    options = config.option
    asked = [
        arg
        for arg in config.args
        if not Path(__file__).is_relative_to(Path(arg.partition("::")[0]).resolve())
    ]
    asked += [f"--deselect {one}" for one in options.deselect or []]
    return " ".join(asked + ([f"-k {options.keyword}"] if options.keyword else []))


def chosen_run(name: str, runs: list[dict], mode: str) -> dict:
    """The saved run that --benchmark-compare=NAME means: the beginning of its name. Raises UsageError for another."""
    found = [run for run in runs if run["source"].startswith(name)]
    if not found:
        there = ", ".join(run["source"].partition("_")[0] for run in runs[-20:])
        raise pytest.UsageError(
            f"--benchmark-compare={name}: no run of this host, device and mode ({mode}) is called so; "
            f"{f'there are {there}' if there else 'none is saved yet'}"
        )
    return found[-1]


def pytest_benchmark_generate_machine_info(config):
    info = config.bench_machine | {"mode": mode_of(config), "selection": selection(config)}
    if hasattr(config, "bench_ceilings"):
        info["ceilings"] = config.bench_ceilings
    return info


def pytest_terminal_summary(terminalreporter):
    config = terminalreporter.config
    results = [
        bench.as_dict(include_data=False) for bench in config._benchmarksession.benchmarks if bench.stats.data
    ]
    if not results:
        return
    here = config.bench_machine
    terminalreporter.section(f"bench ({mode_of(config)})", sep="-")
    told = [
        f"{here['gpu'] or here['cpu']}, {here['cores']} cores, torch {here['versions'].get('torch', 'absent')}, "
        f"commit {here['commit']}{' with changes' if here['dirty'] else ''}"
    ]
    if hasattr(config, "bench_ceilings"):
        told.append(table.ceiling_line(config.bench_ceilings))
    before = config.bench_before if config.bench_compares else {}
    if config.bench_compares and not before:
        told.append("Nothing to compare with yet: this is the first saved run of this host, device and mode.")
    elif before:
        sources = sorted({result["source"] for result in before.values()})
        told.append(f"change: how many times as fast as in {', '.join(sources[-3:])}")
        told.append(table.drift_line(results, before))
    for text in (*told, *table.table(results, before)):
        for line in table.wrapped(text) if text in told else [text]:
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
    """The device that torch benches use: CUDA where it is there."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def ceilings(request, mode, device) -> dict[str, float]:
    """Measured once a session, before the first benchmark."""
    from bench.ceilings import measured

    if not request.config.getoption("benchmark_disable"):
        request.config.bench_ceilings = measured(device, tries=3 if mode == "quick" else 8)
    return getattr(request.config, "bench_ceilings", {})


@pytest.fixture
def measure(benchmark, mode, ceilings, device) -> Measure:
    from bench.ceilings import synchronizer

    return Measure(benchmark, mode, ceilings, synchronizer(device))


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """A folder for outputs, on the disk that the corpora are on."""
    from bench import corpora

    folder = corpora.folder().parent / f"scratch-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def pytest_xdist_auto_num_workers(config) -> int:
    """Measurements run alone, in one process."""
    return 0
