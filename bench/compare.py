"""Did my change help? `python -m bench.compare REV [--select EXPRESSION] [--rounds N] [--full | --default]`.

REV is checked out into a worktree beside this one, and both versions' benches run in turns on the same data: A B A B …,
each in a process of its own, A being REV and B what lies here (changes included). Out: for each benchmark that both
have, how many times as fast B is, as the median over the pairs with its spread, and a verdict only where that stands
clear of the noise: every pair on the same side of 1, and the median further from 1 than the same version's runs are
from each other.

The small sizes of --quick are the default; --select is pytest's -k. Peers are timed as well, so pick what you need.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import corpora, machine
from bench.table import aligned, amount, duration
from bench.timing import Ratio, ratio
from lmfast.errors import UserError, exit_on_user_error

HEAD = ("benchmark", "REV", "here", "rate here", "times as fast", "verdict")


@dataclass(frozen=True)
class Change:
    """One benchmark in both versions: medians of its runs in seconds, in the order of the rounds."""

    name: str
    before: list[float]
    after: list[float]
    rate: str = ""

    @property
    def ratio(self) -> Ratio:
        return ratio(self.before, self.after)

    @property
    def noise(self) -> float:
        """How far one version's runs are from each other: the greater of (slowest / fastest - 1) of the two."""
        return max(max(times) / min(times) - 1 for times in (self.before, self.after))

    @property
    def verdict(self) -> str:
        """Words only where the noise cannot explain the ratio."""
        pairs = [a / b for a, b in zip(self.before, self.after)]
        median = statistics.median(pairs)
        apart = max(median, 1 / median) - 1
        if len(pairs) < 2 or apart <= self.noise:
            return f"within the noise ({self.noise:.0%})"
        if all(pair > 1 for pair in pairs):
            return "faster"
        if all(pair < 1 for pair in pairs):
            return "slower"
        return f"within the noise ({self.noise:.0%})"


def changes(before: Sequence[dict], after: Sequence[dict]) -> list[Change]:
    """Runs as pytest-benchmark saves them, one a round; benchmarks that every run has, doing the same work."""
    by_name = [{result["fullname"]: result for result in run["benchmarks"]} for run in (*before, *after)]
    found = []
    for name, last in by_name[-1].items():
        if not all(name in run for run in by_name):
            continue
        results = [run[name] for run in by_name]
        if any(result["extra_info"].get("work") != last["extra_info"].get("work") for result in results):
            continue
        medians = [result["stats"]["median"] for result in results]
        rates = last["extra_info"].get("rates", {})
        rate = next(
            (
                f"{amount(rates[f'{unit}_per_second'])} {unit}/s"
                for unit in ("tokens", "bytes")
                if f"{unit}_per_second" in rates
            ),
            "",
        )
        found.append(Change(name, medians[: len(before)], medians[len(before) :], rate))
    return found


def left_out(before: Sequence[dict], after: Sequence[dict], compared: Sequence[Change]) -> list[str]:
    """Benchmarks that not every run has, or that do other work in the two versions."""
    every = {result["fullname"] for run in (*before, *after) for result in run["benchmarks"]}
    return sorted(every - {change.name for change in compared})


def table(found: Sequence[Change]) -> list[str]:
    rows = [
        [
            change.name.removeprefix("bench/"),
            duration(statistics.median(change.before)),
            duration(statistics.median(change.after)),
            change.rate,
            str(change.ratio),
            change.verdict,
        ]
        for change in found
    ]
    return aligned(HEAD, rows)


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A checkout of `revision` in a temporary folder, gone afterwards. Raises UserError for an unknown one."""
    if machine.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") is None:
        raise UserError(f"{revision}: git knows no such commit here; name one that `git log` shows")
    with tempfile.TemporaryDirectory(prefix="lmfast-compare-") as folder:
        path = Path(folder, "rev")
        if machine.git("worktree", "add", "--detach", str(path), revision) is None:
            raise UserError(f"{revision}: git could not make a worktree of it in {path}")
        try:
            if not (path / "bench" / "conftest.py").exists():
                raise UserError(f"{revision}: has no bench suite yet; compare with a later commit")
            yield path
        finally:
            machine.git("worktree", "remove", "--force", str(path))


def run(checkout: Path, output: Path, arguments: argparse.Namespace) -> dict:
    """One run of a version's suite, in a process of its own; what pytest printed is shown where it failed."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench",
        f"--benchmark-json={output}",
        f"--benchmark-storage={output.parent}/store",
    ]
    if arguments.mode:
        command.append(f"--{arguments.mode}")
    if arguments.select:
        command += ["-k", arguments.select]
    environment = os.environ | {
        "PYTHONPATH": str(checkout),
        "LMFAST_BENCH_CORPORA": str(corpora.folder()),
    }
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode == 5 or (done.returncode == 0 and not output.exists()):
        raise UserError(
            f"--select {arguments.select!r}: no benchmark matches it; see `pytest bench --collect-only`"
        )
    if not output.exists():
        raise UserError(f"{checkout}: the suite failed\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    if done.returncode:
        print(f"{checkout}: some benches failed and are left out\n{done.stdout[-1000:]}", flush=True)
    return json.loads(output.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.split("\n")[0])
    parser.add_argument("revision", metavar="REV", help="what to compare with: a commit, a branch, HEAD")
    parser.add_argument("--select", help="only benchmarks that match, as pytest's -k: 'encode and A'")
    parser.add_argument("--rounds", type=int, default=4, help="pairs of runs (default 4)")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--default", dest="mode", action="store_const", const="", help="the suite's default sizes"
    )
    sizes.add_argument("--full", dest="mode", action="store_const", const="full", help="the large corpora")
    parser.set_defaults(mode="quick")
    arguments = parser.parse_args()
    with exit_on_user_error(), worktree(arguments.revision) as other:
        if arguments.rounds < 1:
            raise UserError(f"--rounds {arguments.rounds}: at least 1, and 2 or more for a verdict")
        here = machine.describe(machine.gpu_name())
        changed = " with changes" if here["dirty"] else ""
        print(f"{here['gpu'] or here['cpu']}, {here['cores']} cores: A = {arguments.revision}")
        print(f"B = {here['commit']}{changed}")
        before, after = [], []
        with tempfile.TemporaryDirectory(prefix="lmfast-compare-") as folder:
            for number in range(arguments.rounds):
                for letter, checkout, runs in (("A", other, before), ("B", machine.ROOT, after)):
                    runs.append(run(checkout, Path(folder, f"{number}{letter}.json"), arguments))
                    print(f"round {number + 1} of {arguments.rounds}: {letter} done", flush=True)
        found = changes(before, after)
        for text in table(found):
            print(text)
        if missing := left_out(before, after, found):
            print(f"left out, since only one version has them or their work differs: {', '.join(missing)}")


if __name__ == "__main__":
    main()
