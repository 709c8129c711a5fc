"""`lmfast sweep` after its command line was read: checks the sweep, runs its trials, prints what happens."""

import shlex
import sys
import time
from pathlib import Path

from lmfast.cli.task_options import NEEDS_TOKENIZER, check_package, wanted_tasks
from lmfast.counted import counted
from lmfast.data.stories.builtin import VOCAB_SIZE, prepare
from lmfast.errors import UserError
from lmfast.files import remove_new_folders_on_error
from lmfast.hardware import machine_memory, may_have_gpu
from lmfast.sweeps.checking import check_trials, resolve_largest, tokens_of
from lmfast.sweeps.groups import best_group, best_trial, group_trials
from lmfast.sweeps.optuna_objects import storage_errors
from lmfast.sweeps.page import write_page
from lmfast.sweeps.processes import train_command, visible_gpus
from lmfast.sweeps.running import Events, Runner
from lmfast.sweeps.space import describe
from lmfast.sweeps.specification import (
    Specification,
    find_sweep,
    read_specification,
    write_specification,
)
from lmfast.sweeps.study import Outcome, Record, SweepStudy, reject_lost_study, saved_largest
from lmfast.sweeps.trials import Results
from lmfast.training.parallel.environment import number_of_ranks
from lmfast.training.token_inputs import NO_TOKENIZER
from lmfast.units import duration

PAGE_SHARE = 0.05
"""share of the time that may go to writing the page while trials run"""


def sweep(
    name: str,
    out_dir: Path | None,
    workers: int | None,
    storage: str | None,
    dry_run: bool,
) -> int:
    """Runs or resumes a sweep; returns the exit code: 1 if trials failed, 130 if it was stopped."""
    if number_of_ranks() > 1:
        raise UserError("lmfast sweep starts its own processes; run it without torchrun, with --workers N")
    path = find_sweep(name)
    folder = Path("sweeps") / path.stem if out_dir is None else out_dir
    _reject_foreign_folder(folder)
    reject_lost_study(folder, storage)
    specification = read_specification(path)
    device = specification.settings.get("device", "auto")
    gpus = visible_gpus() if device in ("auto", "cuda") else []
    workers = workers or max(1, len(gpus))
    if specification.wants_largest():
        with storage_errors(str(folder)):
            before = saved_largest(folder, storage)
        specification = resolve_largest(
            specification, lambda device: _capacity(device, workers), str(path), before
        )
    check_trials(specification, str(path))
    _check_tasks(specification, str(path))
    if dry_run:
        _list_trials(specification)
        return 0
    trials = folder / "trials"
    with remove_new_folders_on_error(trials), storage_errors(str(folder)):
        # First, because it marks the folder as that of a sweep: another process may start, or this one be killed.
        trials.mkdir(parents=True, exist_ok=True)
        study = SweepStudy(specification, folder, storage)
    _prepare_corpora(specification)
    write_specification(folder / "sweep.yaml", specification)
    console = Console(study)
    print(_introduction(specification, folder, workers))
    try:
        with storage_errors(str(folder)):
            runner = Runner(study, specification, folder, workers, gpus, train_command, console.events())
            finished = runner.run()
    finally:
        console.write_page()
    with storage_errors(str(folder)):
        results = study.results()
    if not finished:
        left = sum(trial.state == "running" for trial in results.trials)
        print(f"stopped; {counted(left, 'trial')} unfinished; rerun the same command to resume")
        return 130
    return _summary(results, folder)


class Console:
    """Prints a line for every event, and keeps the page up to date."""

    def __init__(self, study: SweepStudy):
        self.study = study
        self.written = self.cost = 0.0

    def events(self) -> Events:
        return Events(self.started, self.ended, self.restarted, self.waiting)

    def started(self, record: Record, resumed: bool) -> None:
        self._print(f"trial {record.number} {'resumed' if resumed else 'started'}: {describe(record.point)}")

    def restarted(self, record: Record, why: str) -> None:
        self._print(f"trial {record.number} was ended by {why} and resumes")

    def waiting(self, record: Record) -> None:
        self._print(f"trial {record.number} is still training since an earlier start; waiting for it")

    def ended(self, record: Record, outcome: Outcome, seconds: float) -> None:
        results = self.study.results()
        metric, number = results.metric, record.number
        value = "" if outcome.value is None else f"{metric} {outcome.value:.4f}"
        if outcome.state == "complete":
            best = results.best()
            place = ""
            if best is not None and best.value is not None:
                place = (
                    "the best so far"
                    if best.number == number
                    else f"best so far: trial {best.number}, {best.value:.4f}"
                )
            self._print(f"trial {number}: {value} in {duration(seconds)} ({place})")
        elif outcome.state == "pruned":
            self._print(f"trial {number} pruned after {duration(seconds)}: {value}")
        else:
            self._print(f"trial {number} {outcome.state}: {outcome.message}")
        if time.monotonic() - self.written >= self.cost / PAGE_SHARE:
            self.write_page()

    def _print(self, line: str) -> None:
        print(line, flush=True)

    def write_page(self) -> None:
        """Writes the page; a failure is only a warning, because the trials matter more."""
        began = time.monotonic()
        try:
            write_page(self.study.results(), self.study.folder / "sweep.html")
        except Exception as error:
            print(f"{self.study.folder}: sweep.html could not be written: {error!r}", file=sys.stderr)
        self.written = time.monotonic()
        self.cost = self.written - began


def _reject_foreign_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; choose another --out-dir")
    if folder.is_dir() and not (folder / "trials").is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not the folder of a sweep, and not empty; choose another --out-dir")


def _capacity(device: str, workers: int) -> tuple[float, bool]:
    """(bytes for one trial, whether on a CPU)"""
    if device not in ("cpu", "mps") and may_have_gpu():
        from lmfast.model.device import pick_device
        from lmfast.training.forecast import memory_capacity

        picked = pick_device(device)
        if picked.type == "cuda":
            return memory_capacity(picked) or 0, False
    memory = machine_memory()
    if memory is None:
        raise UserError("batch_size largest: the memory of this machine is unknown; give a number instead")
    return memory / workers, True


def _prepare_corpora(specification: Specification) -> None:
    """Prepares the built-in stories for the trials without training data, so that no two processes do."""
    settings = [specification.train_settings(point) for point in specification.points_to_check()]
    sizes = {s.model.vocab_size or VOCAB_SIZE for s in settings if s.data.train_data_path is None}
    for size in sorted(sizes):
        prepare(vocab_size=size)


def _check_tasks(specification: Specification, where: str) -> None:
    """Raises UserError for trials whose eval_tasks cannot be evaluated. Does not look up the tasks: that takes seconds."""
    for point in specification.points_to_check():
        settings = specification.train_settings(point)
        try:
            if wanted_tasks(settings.logging) and settings.data.tokenizer == NO_TOKENIZER:
                raise UserError(NEEDS_TOKENIZER)
        except UserError as error:
            raise UserError(f"{where}: {describe(point)}: {error}") from None
        if wanted_tasks(settings.logging):
            check_package("eval_tasks")


def _list_trials(specification: Specification) -> None:
    axes = ", ".join(specification.axes)
    if specification.search != "grid":
        print(f"{specification.search} search over {axes}")
        for name, axis in specification.axes.items():
            print(f"  {name}: {axis}")
    else:
        points = specification.points()
        tokens = [tokens_of(specification, point) for point in points]
        for number, (point, count) in enumerate(zip(points, tokens, strict=True)):
            print(f"{number:4}  {describe(point)}" + ("" if count is None else f"  ({count:,} tokens)"))
        total = "" if None in tokens else f", {sum(filter(None, tokens)):,} tokens"
        print(f"grid of {counted(len(points), 'trial')} over {axes}{total}")
    budget = specification.budget
    for name in ("trials", "tokens", "minutes"):
        if (limit := getattr(budget, name)) is not None:
            print(f"budget: {limit:,} {name}")


def _introduction(specification: Specification, folder: Path, workers: int) -> str:
    axes = ", ".join(specification.axes)
    if specification.search == "grid":
        what = f"grid of {counted(len(specification.points()), 'trial')} over {axes}"
    else:
        what = f"{specification.search} search over {axes}"
    return f"{folder}: {what}, {counted(workers, 'worker')}"


def _summary(results: Results, folder: Path) -> int:
    """Prints the best settings and where everything is; returns the exit code."""
    counts = {
        state: sum(trial.state == state for trial in results.trials)
        for state in ("complete", "diverged", "pruned", "failed", "running")
    }
    print(", ".join(f"{number} {state}" for state, number in counts.items() if number) or "no trials")
    groups = group_trials(results)
    group = best_group(results, groups)
    if group is not None:
        best = best_trial(results, group)
        config = shlex.quote(f"{best.folder}.yaml")
        value = f"{results.metric} {best.value:.4f}"
        if len(group.scores) > 1:
            value = f"mean {results.metric} {group.mean:.4f} of {len(group.scores)} seeds"
        print(f"best: {describe(group.values)}: {value}" if group.values else f"best: {value}")
        print(f"its run is {best.folder}/; to train with its settings: lmfast train --config {config}")
    print(f"page: {folder / 'sweep.html'}")
    failed = [trial for trial in results.trials if trial.state == "failed"]
    for trial in failed:
        print(f"trial {trial.number} failed: {trial.message} (see {trial.folder}.log)", file=sys.stderr)
    if failed:
        print("rerun the same command to try the failed trials again", file=sys.stderr)
    return 1 if failed else 0
