"""The trials of a sweep in an Optuna storage: which are waiting, running and finished, and which comes next.

A trial is identified by its searched values, so the same values never run twice. Several processes and machines may use a
storage at once: whoever sets a waiting trial to running has it. A record that another one makes redundant fails with the
attribute `dropped`. A failed trial is tried again when the command is restarted: in a new record, under its number.

Diverged trials are recorded as complete with an infinite value, which every sampler ranks last.
"""

import contextlib
import math
import platform
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lmfast.errors import UserError
from lmfast.files import folder_lock
from lmfast.sweeps.changes import reject_changes
from lmfast.sweeps.optuna_objects import (
    make_pruner,
    make_sampler,
    open_storage,
    optuna_package,
    quiet,
    suggest_value,
)
from lmfast.sweeps.space import Point, Range, number_of_points, point_key
from lmfast.sweeps.specification import Specification
from lmfast.sweeps.trials import Results, State, Trial

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

MOST_REPEATS = 100
"""suggestions of values that have already run after which a search counts as exhausted"""


@dataclass(frozen=True)
class Record:
    """A trial in the storage. trial_id: Optuna's. waiting: it has not started."""

    number: int
    trial_id: int
    point: Point
    state: State
    waiting: bool
    value: float | None
    message: str
    host: str
    folder: str
    tokens: int


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: State
    value: float | None = None
    message: str = ""


class SweepStudy:
    """The study of a sweep. Calls of one process must come from one thread."""

    def __init__(self, specification: Specification, folder: Path, url: str | None):
        """Opens or creates the study; url: of the storage, by default study.db in `folder`. Raises UserError."""
        optuna = optuna_package()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.specification, self.folder = specification, folder
        self.shared = url is not None
        self.lost: set[int] = set()  # trials that another process took first
        with quiet():
            self.pruner = make_pruner(specification)
            self.sampler = make_sampler(specification, specification.seed)
        # Two processes that create the same SQLite file disturb each other.
        with contextlib.nullcontext() if self.shared else self.claiming():
            self.storage = open_storage(url or _own_storage(folder))
            with quiet():
                self.study = self._create()
        self.study_id = self.storage.get_study_id_from_name(self.study.study_name)

    def _create(self):
        optuna, wanted = optuna_package(), self.specification
        name = _study_name(self.storage, self.folder, self.shared)
        if self.shared and name not in (known.study_name for known in self.storage.get_all_studies()):
            _reject_old_trials(self.folder, f"the storage has no study {name}")
        study = optuna.create_study(
            storage=self.storage,
            study_name=name,
            sampler=self.sampler,
            pruner=self.pruner,
            direction=wanted.direction,
            load_if_exists=True,
        )
        saved = study.user_attrs.get("lmfast_sweep")
        now = wanted.as_dict()
        if saved is None:
            if study.get_trials(deepcopy=False):
                raise UserError(
                    f"{name}: the storage has a study of this name that lmfast did not create; choose another --out-dir"
                )
        else:
            reject_changes(saved["specification"], now, str(self.folder))
        if saved is None or saved["specification"] != now:
            study.set_user_attr("lmfast_sweep", {"specification": now, "largest": wanted.largest})
        return study

    def claiming(self) -> contextlib.AbstractContextManager[None]:
        """Held while a trial is chosen, because SQLite lets two processes take the same one."""
        return folder_lock(self.folder / ".locks" / "claim")

    # Reading

    def records(self) -> list[Record]:
        """The trials, by number: one record for each point, its last that was not dropped."""
        first: dict[str, int] = {}
        last: dict[str, FrozenTrial] = {}
        for trial in self._trials():
            if "point" not in trial.user_attrs or "dropped" in trial.user_attrs:
                continue
            key = point_key(trial.user_attrs["point"])
            first.setdefault(key, trial.number)
            last[key] = trial
        return [self._record(trial, first[key]) for key, trial in last.items()]

    def _trials(self) -> "list[FrozenTrial]":
        found = self.storage.get_all_trials(self.study_id, deepcopy=False)
        return sorted(found, key=lambda trial: trial.number)

    def _record(self, trial: "FrozenTrial", number: int) -> Record:
        attributes, name = trial.user_attrs, trial.state.name
        states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
        state = cast(State, attributes.get("state") or states.get(name, "running"))
        if name in ("RUNNING", "WAITING"):
            state = "running"  # the attribute is written just before the trial's state
        value = trial.value if state == "complete" else None
        if state == "pruned" and trial.intermediate_values:
            value = trial.intermediate_values[max(trial.intermediate_values)]
        return Record(
            number=number,
            trial_id=trial._trial_id,
            point=attributes["point"],
            state=state,
            waiting=name == "WAITING",
            value=value,
            message=attributes.get("message", ""),
            host=attributes.get("host", ""),
            folder=attributes.get("folder", ""),
            tokens=attributes.get("tokens") or 0,
        )

    def results(self) -> Results:
        """The trials that have started, for the console and the page."""
        wanted = self.specification
        space = {name: a.as_dict() if isinstance(a, Range) else a for name, a in wanted.axes.items()}
        return Results(
            name=self.folder.name,
            metric=wanted.metric,
            direction=wanted.direction,
            settings=wanted.settings,
            space=space,
            variants=wanted.variants,
            page=wanted.page,
            trials=[self._trial(record) for record in self.records() if not record.waiting],
        )

    def _trial(self, record: Record) -> Trial:
        own = self.folder / "trials" / f"{record.number:04d}"
        folder = own if own.exists() or not record.folder else Path(record.folder)  # on another machine
        return Trial(record.number, record.point, record.state, folder, record.value, record.message)

    def seconds(self) -> float:
        """Running time of the command over all starts and machines."""
        attributes = self.storage.get_study_user_attrs(self.study_id)
        return sum(value for name, value in attributes.items() if name.startswith("seconds "))

    def add_seconds(self, session: str, seconds: float) -> None:
        """Records the running time of one start."""
        self.storage.set_study_user_attr(self.study_id, f"seconds {session}", seconds)

    # Writing

    def enqueue(self) -> None:
        """Adds the points of a grid that are missing, and failed trials once more. Call it while `claiming`."""
        for trial in self._trials():
            if trial.state.name == "RUNNING" and "point" not in trial.user_attrs and not self.shared:
                self.drop(trial._trial_id)  # its process was killed before the trial had values
        records = {point_key(record.point): record for record in self.records()}
        again = [record.point for record in records.values() if record.state == "failed"]
        points = self.specification.points() if self.specification.search == "grid" else []
        for point in [*again, *(point for point in points if point_key(point) not in records)]:
            self._add_waiting(point)

    def _add_waiting(self, point: Point) -> None:
        optuna = optuna_package()
        params, distributions = {}, {}
        for name, value in point.items():
            # Only numbers: the choices of Optuna's categories cannot grow later. The point itself is an attribute.
            if isinstance(value, int | float) and not isinstance(value, bool):
                kind = (
                    optuna.distributions.IntDistribution
                    if isinstance(value, int)
                    else optuna.distributions.FloatDistribution
                )
                params[name], distributions[name] = value, kind(value, value)
        self.study.add_trial(
            optuna.trial.create_trial(
                state=optuna.trial.TrialState.WAITING,
                params=params,
                distributions=distributions,
                user_attrs={"point": point},
            )
        )

    def next_waiting(self) -> Record | None:
        """The first trial that waits, without starting it."""
        return next((record for record in self.records() if record.waiting), None)

    def start(self, record: Record, tokens: int | None) -> Record | None:
        """Takes a waiting trial; None if another process was faster, or the record is redundant."""
        optuna = optuna_package()
        try:
            # So that no trial is without an owner if this process is killed before the next lines.
            self.storage.set_trial_user_attr(record.trial_id, self._intent, True)
            running = self.storage.set_trial_state_values(record.trial_id, optuna.trial.TrialState.RUNNING)
        except (RuntimeError, optuna.exceptions.OptunaError):  # finished meanwhile
            running = False
        if not running:
            self.lost.add(record.trial_id)
            return None
        if self._is_redundant(record.trial_id, record.point):
            self.drop(record.trial_id)
            return None
        return self._started(record.trial_id, record.point, tokens)

    def suggest(self) -> tuple[int, Point] | None:
        """(Optuna's id, values) of a new running trial of a search; None if it only repeats itself."""
        size = number_of_points(self.specification.axes)
        if size is not None and len(self.records()) >= size:
            return None
        for _ in range(MOST_REPEATS):
            with quiet():
                self.study.sampler = self._seeded_sampler()
                trial = self.study.ask()
                point = {
                    name: suggest_value(trial, name, axis) for name, axis in self.specification.axes.items()
                }
            if not self._is_redundant(trial._trial_id, point):
                return trial._trial_id, point
            self.drop(trial._trial_id)
        return None

    def accept(self, trial_id: int, point: Point, tokens: int | None) -> Record:
        """Records that a suggested trial runs."""
        return self._started(trial_id, point, tokens)

    def _seeded_sampler(self) -> "BaseSampler":
        """A sampler whose choices differ from those of the same command before a restart."""
        if self.specification.search in ("qmc", "cmaes"):  # keep their state in the storage
            return self.sampler
        origin = [self.specification.seed, self.storage.get_n_trials(self.study_id)]
        if self.shared:  # machines that suggest at the same time
            origin.append(zlib.crc32(platform.node().encode()))
        import numpy as np

        return make_sampler(self.specification, int(np.random.SeedSequence(origin).generate_state(1)[0]))

    def _is_redundant(self, trial_id: int, point: Point) -> bool:
        """Whether an older record of the same point is waiting, running or finished."""
        key = point_key(point)
        for trial in self._trials():
            if trial._trial_id == trial_id:
                return False
            attributes = trial.user_attrs
            if "point" in attributes and point_key(attributes["point"]) == key and trial.state.name != "FAIL":
                return True
        return False

    def drop(self, trial_id: int) -> None:
        """Ends a record that is not a trial: redundant, or without values, or beyond the budget."""
        self.storage.set_trial_user_attr(trial_id, "dropped", True)
        self._tell(trial_id, "FAIL", None)

    def _started(self, trial_id: int, point: Point, tokens: int | None) -> Record:
        self.storage.set_trial_user_attr(trial_id, "point", point)
        self.storage.set_trial_user_attr(trial_id, "tokens", tokens)
        folder = (self.folder / "trials" / f"{self._record_of(trial_id).number:04d}").resolve()
        self.storage.set_trial_user_attr(trial_id, "folder", str(folder))
        self.storage.set_trial_user_attr(trial_id, "host", platform.node())
        return self._record_of(trial_id)

    @property
    def _intent(self) -> str:
        """The attribute of a trial that this machine is about to take."""
        return f"wanted by {platform.node()} in {self.folder.resolve()}"

    def _record_of(self, trial_id: int) -> Record:
        return next(record for record in self.records() if record.trial_id == trial_id)

    def abandoned(self) -> list[Record]:
        """Running trials that were started in this folder, on this machine if machines share the storage."""
        running = [r for r in self.records() if r.state == "running" and not r.waiting]
        return [r for r in running if r.trial_id not in self.lost and (not self.shared or self._is_own(r))]

    def _is_own(self, record: Record) -> bool:
        if not record.host:
            return self._intent in self.storage.get_trial(record.trial_id).user_attrs
        return record.host == platform.node() and Path(record.folder).parent.parent == self.folder.resolve()

    def report(self, record: Record, step: int, value: float) -> None:
        """Records a value of the metric during a run."""
        self.storage.set_trial_intermediate_value(record.trial_id, step, value)

    def should_prune(self, record: Record) -> bool:
        trial = self.storage.get_trial(record.trial_id)
        with quiet():
            return bool(trial.intermediate_values) and self.pruner.prune(self.study, trial)

    def reported_step(self, record: Record) -> int:
        """The last step with a recorded value, -1 without any."""
        return max(self.storage.get_trial(record.trial_id).intermediate_values, default=-1)

    def finish(self, record: Record, outcome: Outcome) -> None:
        """Records how a trial ended."""
        self.storage.set_trial_user_attr(record.trial_id, "state", outcome.state)
        if outcome.message:
            self.storage.set_trial_user_attr(record.trial_id, "message", outcome.message)
        worst = math.inf if self.specification.direction == "minimize" else -math.inf
        name, value = {
            "complete": ("COMPLETE", outcome.value),
            "diverged": ("COMPLETE", worst),
            "pruned": ("PRUNED", outcome.value),
        }.get(outcome.state, ("FAIL", None))
        self._tell(record.trial_id, name, value)

    def _tell(self, trial_id: int, name: str, value: float | None) -> None:
        optuna = optuna_package()
        trial = self.storage.get_trial(trial_id)
        state = optuna.trial.TrialState[name]
        with quiet():
            self.study.tell(
                trial.number, value if name == "COMPLETE" else None, state=state, skip_if_finished=True
            )


def reject_lost_study(folder: Path, url: str | None) -> None:
    """Raises UserError if the folder has trials but not the study.db that describes them. With a url, opening checks."""
    if url is None:
        _reject_old_trials(folder, "study.db is missing", lambda: not (folder / "study.db").exists())


def _reject_old_trials(folder: Path, why: str, lost: Callable[[], bool] = lambda: True) -> None:
    # The trials first: another process that creates the sweep now makes study.db before them.
    if any((folder / "trials").glob("[0-9]*")) and lost():
        raise UserError(
            f"{folder}: has trials, but {why}, so their values are unknown; restore it, or choose another --out-dir"
        )


def saved_largest(folder: Path, url: str | None) -> int | None:
    """The batch size that `largest` meant when the sweep was created; None for a new sweep."""
    if url is None and not (folder / "study.db").exists():
        return None
    optuna = optuna_package()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = open_storage(url or _own_storage(folder))
    name = _study_name(storage, folder, url is not None)
    with contextlib.suppress(KeyError):
        saved = storage.get_study_user_attrs(storage.get_study_id_from_name(name))
        return saved["lmfast_sweep"]["largest"]
    return None


def _study_name(storage: "RDBStorage", folder: Path, shared: bool) -> str:
    """The name of the folder; in a storage of the folder's own, that of its study: the folder may have been renamed."""
    if not shared:
        names = [study.study_name for study in storage.get_all_studies()]
        if len(names) == 1:
            return names[0]
    return folder.resolve().name  # resolved, because the folder may be given as "."


def _own_storage(folder: Path) -> str:
    return f"sqlite:///{(folder / 'study.db').resolve()}"
