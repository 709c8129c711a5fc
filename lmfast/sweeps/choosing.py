"""Chooses the next trial of a sweep within its budget: a waiting one of the storage, or one that the search suggests."""

import time

from lmfast.errors import UserError
from lmfast.sweeps.checking import tokens_of
from lmfast.sweeps.space import describe
from lmfast.sweeps.specification import Specification
from lmfast.sweeps.study import MOST_REPEATS, Record, SweepStudy


class Chooser:
    """exhausted: whether the budget is spent or the search has nothing new."""

    def __init__(self, study: SweepStudy, specification: Specification):
        self.study, self.specification = study, specification
        self.began, self.before = time.monotonic(), study.seconds()
        self.exhausted = False

    def take(self) -> Record | None:
        """Starts the next trial in the storage; None without one. Call it while the study is `claiming`."""
        records = self.study.records()
        started = [record for record in records if not record.waiting]
        budget = self.specification.budget
        minutes = (self.before + time.monotonic() - self.began) / 60
        if (budget.trials is not None and len(started) >= budget.trials) or (
            budget.minutes is not None and minutes >= budget.minutes
        ):
            self.exhausted = True
            return None
        spent = sum(record.tokens for record in started)
        while (waiting := self.study.next_waiting()) is not None:
            tokens = tokens_of(self.specification, waiting.point)
            if self._exceeds(spent, tokens):
                return None
            if (record := self.study.start(waiting, tokens)) is not None:
                return record
        if self.specification.search == "grid":
            return None
        return self._suggested(spent)

    def _suggested(self, spent: int) -> Record | None:
        """A new trial of a search. Skips combinations that a run would reject, such as d_model 97 with 2 heads."""
        rejected = ""
        for _ in range(MOST_REPEATS):
            suggested = self.study.suggest()
            if suggested is None:
                self.exhausted = True
                return None
            trial_id, point = suggested
            try:
                tokens = tokens_of(self.specification, point)
            except UserError as error:
                rejected = f"{describe(point)}: {error}"
                self.study.drop(trial_id)
                continue
            if self._exceeds(spent, tokens):
                self.study.drop(trial_id)
                return None
            return self.study.accept(trial_id, point, tokens)
        raise UserError(f"{self.study.folder}: the search found no settings that work: {rejected}")

    def _exceeds(self, spent: int, tokens: int | None) -> bool:
        limit = self.specification.budget.tokens
        self.exhausted = limit is not None and spent + (tokens or 0) > limit
        return self.exhausted
