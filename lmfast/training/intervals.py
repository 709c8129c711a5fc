"""Work between steps: metrics, evaluation, samples and checkpoints at their intervals, and ending a run whose loss stays
non-finite.

The host reads device values only here.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lmfast.training.clock import Clock
from lmfast.training.finite_guard import PATIENCE, FiniteGuard
from lmfast.training.interfaces import Background, BatchSource, Evaluate
from lmfast.training.loss_scale import LossScale
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.run_plan import Hooks, Plan, Progress
from lmfast.training.sinks import Sinks
from lmfast.training.step import StepResult
from lmfast.training.task_metrics import task_line


class Due(NamedTuple):
    """What to do after a step. stopping: the run was asked to stop before its last step."""

    logging: bool
    evaluate: Evaluate | None
    tasks: Evaluate | None
    sample: Callable[[int], tuple[str | None, dict[str, float]]] | None
    saving: bool
    stopping: bool


class Intervals:
    """Does the work that is due after each step of a run."""

    def __init__(
        self,
        model: torch.nn.Module,
        batches: BatchSource,
        plan: Plan,
        progress: Progress,
        sinks: Sinks,
        hooks: Hooks,
        ranks: Ranks,
        clock: Clock,
        guard: FiniteGuard,
        loss_scale: LossScale | None,
    ):
        self.model, self.batches, self.plan, self.progress = model, batches, plan, progress
        self.sinks, self.hooks, self.ranks, self.clock = sinks, hooks, ranks, clock
        self.guard, self.loss_scale = guard, loss_scale
        self.peak = plan.peak_flops
        # (step, best loss, best step before it) of a checkpoint that is being written in the background
        self.unfinished: tuple[int, float | None, int | None] | None = None

    def after_step(self, result: StepResult, last: bool) -> bool:
        """Logs, evaluates, samples and saves what is due; returns whether to stop. last: this is the last step."""
        due, progress = self._due(last), self.progress
        metrics: dict[str, float] = {}
        if due.logging or due.evaluate or due.tasks or due.sample or due.saving:
            # Checked before writing anything, so that nothing is recorded beyond the step at which the run ends.
            metrics |= self._report_skipped()
            if self.guard.gave_up:
                self._give_up()
        if due.logging:
            metrics |= self._training_metrics(result)
        if due.evaluate is not None or due.saving:
            self._finish_saving()  # before an evaluation, which compares with the best checkpoint
        best_before = progress.best_val_loss, progress.best_step
        if due.evaluate is not None:
            metrics |= self._evaluated(due.evaluate)
        if due.tasks is not None:
            metrics |= self._evaluated_on_tasks(due.tasks)
        text = None
        if due.sample is not None:
            with self.clock.excluded("sample"):
                text, statistics = due.sample(progress.step)
            self.model.train()
            metrics |= statistics
        if metrics:
            progress.seconds = self.clock.seconds()
            finite = {name: value for name, value in metrics.items() if np.isfinite(value)}
            counts = {"step": progress.step, "tokens": progress.tokens, "seconds": progress.seconds}
            self.sinks.log(counts | finite)
        if text is not None:
            self.sinks.text(progress.step, "sample", text)
        improved = progress.best_step != best_before[1]
        if (due.saving or improved) and not self._save(best_before, wait=last or due.stopping):
            progress.best_val_loss, progress.best_step = best_before
            if last or due.stopping:
                self.ranks.fail(
                    f"step {progress.step} could not be saved (see above); free some space, then resume or restart"
                )
        return due.stopping

    def _due(self, last: bool) -> Due:
        plan, hooks, step = self.plan, self.hooks, self.progress.step
        stopping = not last and self._agree_on_stopping()
        return Due(
            logging=last or step % plan.log_interval == 0,
            evaluate=hooks.evaluate if last or _at(step, plan.eval_interval) else None,
            tasks=hooks.evaluate_tasks if last or _at(step, plan.tasks_interval) else None,
            sample=hooks.sample
            if plan.sample_interval and (last or _at(step, plan.sample_interval))
            else None,
            saving=last or stopping or _at(step, plan.checkpoint_interval),
            stopping=stopping,
        )

    def _agree_on_stopping(self) -> bool:
        """Whether a rank was asked to stop; with the same message, ends a checkpoint that all ranks have written."""
        asked, background = self.hooks.should_stop(), self.hooks.background
        if self.unfinished is None or background is None:
            return self.ranks.any(asked)
        asked, writing, failed = self.ranks.any_of(asked, background.writing, background.failed)
        if not writing:
            self._end_saving(background, failed)
        return asked

    def _training_metrics(self, result: StepResult) -> dict[str, float]:
        """Training metrics since the last call; waits for the device."""
        metrics = {
            "train_loss": result.loss.item(),
            "learning_rate": result.learning_rate,
            "grad_norm": result.norm.item(),
        }
        if rate := self.clock.tokens_per_second():
            # A peak measured on a busy machine may be too low; it is raised so that MFU never exceeds 1.
            reached = rate * self.plan.flops_per_token
            if reached > self.peak:
                self.sinks.message(
                    f"MFU: training reached {reached / 1e12:.3g} TFLOP/s, above the peak of {self.peak / 1e12:.3g}; "
                    "MFU is relative to this new peak from here on"
                )
                self.peak = reached
            metrics |= {"tokens_per_second": rate, "mfu": reached / self.peak}
        if self.loss_scale is not None:
            metrics |= self.loss_scale.metrics()
        return metrics | self.hooks.metrics()

    def _evaluated(self, evaluate: Evaluate) -> dict[str, float]:
        progress = self.progress
        with self.clock.excluded("evaluate"):
            metrics = evaluate()
        self.model.train()
        best = float("inf") if progress.best_val_loss is None else progress.best_val_loss
        if metrics["val_loss"] < best:  # False for NaN
            progress.best_val_loss, progress.best_step = metrics["val_loss"], progress.step
        return metrics

    def _evaluated_on_tasks(self, evaluate: Evaluate) -> dict[str, float]:
        with self.clock.excluded("tasks"):
            metrics = evaluate()
        self.model.train()
        if metrics:
            self.sinks.message(f"tasks at step {self.progress.step}: {task_line(metrics)}")
        return metrics

    def _save(self, best_before: tuple[float | None, int | None], wait: bool) -> bool:
        """Writes a checkpoint if the run keeps any; returns False if that failed. wait: also for one in the background."""
        if self.hooks.checkpoint is None:
            return True
        self._finish_saving()
        with self.clock.excluded("checkpoint"):
            self.progress.seconds = self.clock.seconds()
            saved = self.hooks.checkpoint(self.progress)
        if self.hooks.background is None:
            return saved
        self.unfinished = self.progress.step, *best_before
        return self._finish_saving() if wait else saved

    def _finish_saving(self) -> bool:
        """Waits for a checkpoint in the background; returns False if it failed. Ranks wait for each other, because a
        collective fails if one is lost."""
        background = self.hooks.background
        if self.unfinished is None or background is None:
            return True
        with self.clock.excluded("checkpoint"):
            while (found := self.ranks.any_of(background.writing, background.failed))[0]:
                time.sleep(0.01)
        return self._end_saving(background, failed=found[1])

    def _end_saving(self, background: Background, failed: bool) -> bool:
        assert self.unfinished is not None
        (step, best_loss, best_step), self.unfinished = self.unfinished, None
        background.finish()
        if failed and self.progress.best_step == step:
            self.progress.best_val_loss, self.progress.best_step = best_loss, best_step
        return not failed

    def _report_skipped(self) -> dict[str, int]:
        """Reports the steps skipped since the last call and where their data is; returns {} if there are none."""
        number, steps = self.guard.skipped()
        if not number:
            return {}
        where = "; ".join(f"step {step} ({self.batches.describe(step - 1)})" for step in steps)
        last = f"; the last {len(steps)}" if number > len(steps) else ""
        self.sinks.message(f"loss or gradient not finite: {number} step(s) skipped{last}: {where}")
        return {"skipped_steps": number}

    def _give_up(self) -> None:
        """Ends a run that can take no more steps; saves a checkpoint of the last step taken."""
        progress, batch, taken = self.progress, self.plan.batch, self.guard.last_taken
        # Every pass has the same number of tokens.
        progress.tokens = progress.tokens // batch.passes_before(progress.step) * batch.passes_before(taken)
        progress.step, progress.out_of_time = taken, False
        saved = taken > 0 and self.hooks.checkpoint is not None
        saved = saved and self._save((progress.best_val_loss, progress.best_step), wait=True)
        self.ranks.fail(
            f"loss not finite for {PATIENCE} steps in a row, up to step {self.guard.last_step}; "
            + (f"the checkpoint of step {taken} precedes them; " if saved else "")
            + "restart with a lower learning_rate"
            + (" (--init-from reuses its weights)" if saved else "")
        )


def _at(step: int, interval: int) -> bool:
    return bool(interval) and step % interval == 0
