"""Did my change help? `python -m bench.compare REV [--select EXPRESSION] [--rounds N] [--full | --default]`.

REV is checked out into a temporary worktree, and both versions' benches run in turns on the same data: A B A B …, each in
a separate process, A being REV and B this checkout (changes included). Out: for each benchmark that both have, how many
times as fast B is, as the median over the pairs with its spread, and a verdict only where the noise cannot explain it:
every pair on the same side of 1, and the median further from 1 than the same version's runs are from each other.

The small sizes of --quick are the default; --select is pytest's -k. Peers are timed as well, so select what you need.
"""

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import corpora, machine, process, results
from bench.results import Run
from bench.table import aligned, duration, same_work, wrapped
from bench.timing import Ratio, ratio
from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.errors import UserError

HEAD = ("benchmark", "REV", "here", "times as fast", "verdict")
NEEDED = "bench/results.py"  # the schema in which both versions save their runs


@dataclass(frozen=True)
class Change:
    """One benchmark in both versions: medians of its runs in seconds, in the order of the rounds."""

    name: str
    before: list[float]
    after: list[float]

    @property
    def ratio(self) -> Ratio:
        return ratio(self.before, self.after)

    @property
    def noise(self) -> float:
        """The difference between one version's runs: the greater of (slowest / fastest - 1) of the two."""
        return max(max(times) / min(times) - 1 for times in (self.before, self.after))

    @property
    def verdict(self) -> str:
        """Faster or slower only if the noise cannot explain the ratio."""
        pairs = [a / b for a, b in zip(self.before, self.after)]
        median = statistics.median(pairs)
        if len(pairs) < 2:
            return "one pair, no verdict"
        if max(median, 1 / median) - 1 > self.noise:
            if min(pairs) > 1:
                return "faster"
            if max(pairs) < 1:
                return "slower"
        return f"within the noise ({self.noise:.0%})"


def changes(before: Sequence[Run], after: Sequence[Run]) -> tuple[list[Change], list[str]]:
    """(changes of the benchmarks that every run has with the same work, names of the others); one run per round."""
    by_name = [{f"{row.group} {row.name}": row for row in run.rows} for run in (*before, *after)]
    found, others = [], []
    for name in dict.fromkeys(name for rows in by_name[::-1] for name in rows):
        rows = [rows[name] for rows in by_name if name in rows]
        if len(rows) == len(by_name) and all(same_work(row, rows[-1]) for row in rows):
            medians = [row.median for row in rows]
            found.append(Change(name, medians[: len(before)], medians[len(before) :]))
        else:
            others.append(name)
    return found, sorted(others)


def table(found: Sequence[Change]) -> list[str]:
    rows = [
        [change.name, *(duration(statistics.median(times)) for times in (change.before, change.after)),
         str(change.ratio), change.verdict]
        for change in found
    ]  # fmt: skip
    return aligned(HEAD, rows)


def require(revision: str) -> None:
    """Raises UserError if git does not know `revision` as a commit, or this is not a checkout."""
    if machine.git("rev-parse", "HEAD") is None:
        raise UserError(
            f"{machine.ROOT}: not a git checkout with a commit, so there is nothing to compare with"
        )
    if machine.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}") is None:
        raise UserError(f"{revision}: git knows no such commit here; name one that `git log` shows")
    if not machine.git("ls-tree", "--name-only", revision, NEEDED):
        raise UserError(
            f"{revision}: has no {NEEDED}, so its suite saves other files or there is none; compare with a later commit"
        )


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A checkout of `revision` in a temporary folder, removed afterwards. Raises UserError for an unknown one."""
    require(revision)
    with tempfile.TemporaryDirectory(prefix="lmfast-compare-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "rev")
        try:
            if machine.git("worktree", "add", "--detach", str(path), revision) is None:
                raise UserError(f"{revision}: git could not make a worktree of it in {path}")
            yield path
        finally:
            with undisturbed():
                if machine.git("worktree", "remove", "--force", str(path)) is None:
                    shutil.rmtree(path, ignore_errors=True)  # then git has only its own entry to remove
                    machine.git("worktree", "remove", "--force", str(path))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignores Ctrl-C: a second one would leave a worktree behind."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def interrupt(number: int, frame: object) -> None:
    """The handler of SIGTERM and SIGHUP: like Ctrl-C, so that the worktree is removed."""
    raise KeyboardInterrupt


def run(version: str, checkout: Path, output: Path, mode: str, select: str | None) -> Run:
    """One run of a version's suite, in a separate process; pytest's output is shown if it failed."""
    command = [
        sys.executable, "-m", "pytest", "bench", f"--benchmark-json={output}",
        f"--benchmark-storage={output.parent}/store", *([f"--{mode}"] if mode else []), *(["-k", select] if select else []),
    ]  # fmt: skip
    environment = os.environ | {
        "PYTHONPATH": machine.import_path(checkout),
        "LMFAST_BENCH_CORPORA": str(corpora.folder().resolve()),
    }
    code, text = 0, ""
    try:
        process.run(command, checkout, environment, watch_memory=False)
    except subprocess.CalledProcessError as error:
        code, text = error.returncode, error.output
    if code == 4:  # a usage error
        lines = [line for line in text.splitlines() if "ERROR: " in line]
        raise UserError(f"--select {select!r}: {lines[-1].partition('ERROR: ')[2] if lines else 'rejected'}")
    if code == 5 or (code == 0 and not output.exists()):
        raise UserError(
            f"--select {select!r}: no benchmark of {version} ran, none matches or all were skipped; "
            "see `pytest bench --collect-only`"
        )
    if not output.exists():
        raise UserError(f"{version}: the suite failed\n{text[-4000:]}")
    if code:
        print(f"{version}: some benches failed and are left out\n{text[-1000:]}", flush=True)
    return results.read(output)


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
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), interrupt)
    with exit_on_user_error():
        if arguments.rounds < 1:
            raise UserError(f"--rounds {arguments.rounds}: at least 1, and 2 or more for a verdict")
        compare(arguments.revision, arguments.rounds, arguments.mode, arguments.select)


def compare(revision: str, rounds: int, mode: str, select: str | None) -> None:
    """Runs both versions in turns and prints what changed."""
    before, after = [], []
    with (
        worktree(revision) as other,
        tempfile.TemporaryDirectory(prefix="lmfast-compare-", ignore_cleanup_errors=True) as folder,
    ):
        here = machine.describe(machine.gpu_name())
        changed = " with changes" if here["dirty"] else ""
        print(f"{here['gpu'] or here['cpu']}, {here['cores']} cores")
        print(f"A = {revision} ({machine.git('rev-parse', '--short=10', revision + '^{commit}')})")
        print(f"B = {here['commit']}{changed}", flush=True)
        for number in range(rounds):
            for letter, checkout, runs in (("A", other, before), ("B", machine.ROOT, after)):
                runs.append(run(letter, checkout, Path(folder, f"{number}{letter}.json"), mode, select))
                print(f"round {number + 1} of {rounds}: {letter} done", flush=True)
    found, others = changes(before, after)
    if not found:
        raise UserError(
            f"{revision}: no benchmark does the same work in both versions; choose another --select"
        )
    for text in table(found):
        print(text)
    if others:
        for text in wrapped(
            f"left out, since not every run has them or their work differs: {', '.join(others)}"
        ):
            print(text)


if __name__ == "__main__":
    main()
