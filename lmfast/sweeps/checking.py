"""Checks the settings of all trials before the first one starts, without torch: shapes, data files, planned tokens.

Input: a `Specification`. Rejects combinations that `lmfast train` would reject, in one line that names the combination.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmfast.data.stories.builtin import VOCAB_SIZE
from lmfast.errors import UserError
from lmfast.model.bisection import largest_satisfying
from lmfast.model.memory import USABLE, training_memory
from lmfast.settings import TrainSettings, selected_precision
from lmfast.sweeps.space import LARGEST, Point, corner_points, describe
from lmfast.sweeps.specification import Specification
from lmfast.training.resolve import batch_ramp, resolve
from lmfast.training.token_inputs import open_inputs

Capacity = Callable[[str], tuple[float, bool]]
"""device setting → (bytes of memory for one trial, whether the device is a CPU)"""


def resolve_largest(
    specification: Specification, capacity: Capacity, where: str, before: int | None = None
) -> Specification:
    """Replaces the word `largest` by the largest batch that fits into memory with the settings of every trial.

    before: the number that it stood for when the sweep was created."""
    if not specification.wants_largest():
        return specification
    if before is not None:
        return dataclasses.replace(specification, largest=before)
    others = {name: axis for name, axis in specification.axes.items() if name != "batch_size"}
    points = corner_points(others) if others else [{}]
    sizes: dict[Any, int] = {}
    for point in points:
        settings = specification.train_settings(point | {"batch_size": 1})
        vocab = settings.model.vocab_size or VOCAB_SIZE
        model = dataclasses.replace(settings.model, vocab_size=vocab)
        dtype = "fp8" if settings.run.fp8 else selected_precision(settings.run)
        again = settings.run.activation_checkpointing
        key = model, dtype, settings.run.device, again
        if key in sizes:
            continue
        memory, on_cpu = capacity(settings.run.device)
        try:
            resolved = model.resolved()
        except UserError as error:
            raise UserError(f"{where}: {describe(point)}: {error}") from None
        sizes[key] = largest_satisfying(
            lambda batch, model=resolved, dtype=dtype, memory=memory, on_cpu=on_cpu, again=again: (
                training_memory(model, batch, dtype, None, on_cpu, again).total <= USABLE * memory
            )
        )
    smallest = min(sizes.values())
    if smallest < 1:
        raise UserError(
            f"{where}: batch_size {LARGEST}: not even one sequence fits into memory; use a smaller model"
        )
    return dataclasses.replace(specification, largest=smallest)


def check_trials(specification: Specification, where: str) -> None:
    """Raises UserError for the first combination of settings that a run would reject, and for missing data."""
    checker = TrialChecker()
    for point in specification.points_to_check():
        try:
            settings = checker.resolved(specification.train_settings(point))
            _check_metric(specification, settings)
        except UserError as error:
            raise UserError(f"{where}: {describe(point)}: {error}") from None
        if specification.budget.tokens is not None and planned_tokens(settings) is None:
            raise UserError(
                f"{where}: {describe(point)}: budget.tokens needs runs of a known length; set total_tokens or max_iters "
                "instead of max_minutes"
            )


class TrialChecker:
    """Resolves the settings of trials; opens each set of data files once."""

    def __init__(self):
        self.vocabularies: dict[tuple[Any, ...], int | None] = {}

    def resolved(self, settings: TrainSettings) -> TrainSettings:
        """The settings of a run as it resolves them. Raises UserError for what a run rejects, missing files included."""
        data, model = settings.data, settings.model
        if settings.run.init_from is not None and not Path(settings.run.init_from).exists():
            raise UserError(f"init_from {settings.run.init_from} does not exist; check the path")
        if data.train_data_path is None:
            for name in ("val_data_path", "tokenizer"):
                if getattr(data, name) is not None:
                    raise UserError(f"{name} is given without train_data_path; add it, or remove {name}")
            return resolve(settings, model.vocab_size or VOCAB_SIZE)
        key = (*dataclasses.astuple(data), model.vocab_size, model.context_length)
        if key in self.vocabularies:
            return resolve(settings, self.vocabularies[key])
        settings, inputs = open_inputs(
            settings, data.train_data_path, data.val_data_path, data.tokenizer, None, lambda line: None
        )
        tokenizer = inputs.tokenizer
        self.vocabularies[key] = settings.model.vocab_size if tokenizer is None else tokenizer.vocab_size
        return settings


def _check_metric(specification: Specification, settings: TrainSettings) -> None:
    data = settings.data
    if data.train_data_path is None or data.val_data_path is not None:
        return
    if specification.metric in ("val_loss", "bits_per_byte"):
        raise UserError(
            f"metric {specification.metric} needs val_data_path; add it, or set metric: train_loss"
        )


def planned_tokens(settings: TrainSettings) -> int | None:
    """The tokens of a run with resolved settings, None if the clock ends it."""
    steps = settings.optimizer.max_iters
    if steps is None:
        return None
    return batch_ramp(settings.optimizer).rows_before(steps) * settings.model.context_length


def tokens_of(specification: Specification, point: Point) -> int | None:
    """The planned tokens of a trial whose settings were checked."""
    settings = specification.train_settings(point)
    return planned_tokens(resolve(settings, settings.model.vocab_size or VOCAB_SIZE))
