import io

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from lmfast.data.batch_ramp import BatchRamp
from lmfast.errors import UserError
from lmfast.training.clock import Clock
from lmfast.training.finite_guard import PATIENCE
from lmfast.training.loop import train_loop
from lmfast.training.loss_scale import LossScale
from lmfast.training.optimizers import make_optimizer
from lmfast.training.run_plan import Hooks, Plan, Progress
from lmfast.training.schedules import Schedule
from lmfast.training.sinks import ConsoleSink, Sinks

CPU = torch.device("cpu")


class Quadratic:
    """An objective with a known gradient: the loss is the sum over rows of w · row."""

    def tensors(self, batch, device):
        return (torch.from_numpy(batch[:, 1:]).float(),)

    def valid_tokens(self, batch):
        return batch.shape[0]

    def loss(self, model, rows):
        return (rows @ model.weight[0]).sum()


class Rows:
    """step(i) gives rows of ones; the steps in `bad` contain an infinity, or another `value`."""

    def __init__(self, bad=(), value=np.inf):
        self.bad, self.asked, self.value = set(bad), [], value

    def step(self, i):
        self.asked.append(i)
        return np.full((4, 4), self.value if i + 1 in self.bad else 1.0)

    def describe(self, i):
        return f"row {4 * i}"


def run(
    max_iters=6,
    batches=None,
    hooks=None,
    progress=None,
    optimizer="adamw",
    keep=None,
    loss_scale=None,
    objective=None,
    **changes,
):
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False)
    if keep is not None:
        keep.append(model)
    optimizer = make_optimizer(model, optimizer, 0.1, (0.9, 0.95), 0.0)
    lines, messages = [], []
    console = ConsoleSink(max_iters)
    console.console = Console(file=io.StringIO())
    sinks = Sinks(console)
    sinks.log, sinks.message = lines.append, messages.append
    options = {
        "max_iters": max_iters, "batch": BatchRamp(4), "learning_rate": lambda step, share: 0.1,
        "grad_clip": 0.0, "seed": 0, "bf16": False, "log_interval": 1, "eval_interval": 0, "checkpoint_interval": 0,
        "sample_interval": 0, "max_seconds": None, "flops_per_token": 1.0, "peak_flops": 1e9,
    }  # fmt: skip
    objective = objective or Quadratic()
    done = train_loop(
        model, optimizer, objective, objective.loss, batches or Rows(), Plan(**(options | changes)),
        progress or Progress(), sinks, hooks or Hooks(), loss_scale=loss_scale,
    )  # fmt: skip
    return model, lines, messages, done


def test_steps_batches_and_tokens_are_counted():
    rows, progress = Rows(), Progress()
    _, lines, _, done = run(3, rows, progress=progress)
    assert done and rows.asked == [0, 1, 2]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["tokens"] for line in lines] == [12, 24, 36] and progress.tokens == 36
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]


def test_tasks_are_evaluated_at_their_interval_and_at_the_end_outside_the_clock(monkeypatch):
    excluded = []
    real = Clock.excluded
    monkeypatch.setattr(Clock, "excluded", lambda self, what: excluded.append(what) or real(self, what))
    for interval, steps in ((2, [2, 4, 5]), (0, [5])):
        excluded.clear()
        hooks = Hooks(evaluate_tasks=lambda: {"a/acc": 0.5})
        _, lines, messages, _ = run(5, hooks=hooks, tasks_interval=interval)
        assert [line["step"] for line in lines if line.get("a/acc") == 0.5] == steps
        assert messages == [f"tasks at step {step}: a acc 0.5000" for step in steps]
        assert excluded == ["tasks"] * len(steps)


def test_mfu_never_exceeds_one():
    _, lines, messages, _ = run(30, peak_flops=1e-3)
    shares = [line["mfu"] for line in lines if "mfu" in line]
    assert len(shares) == 29 and shares[0] == 1 >= max(shares)
    assert messages and all("MFU is relative to this new peak from here on" in line for line in messages)
    assert len(messages) == shares.count(1.0)


def test_loss_and_gradient_are_means_however_a_step_is_split():
    whole, one, _, _ = run(3)
    split, four, _, _ = run(3, batch=BatchRamp(1, 4))
    torch.testing.assert_close(whole.weight, split.weight)
    assert one[0]["grad_norm"] == pytest.approx(3**0.5) == pytest.approx(four[0]["grad_norm"])


class RampedRows(Rows):
    """Rows of ones, in the number of the ramp, with infinities in the steps in `bad`."""

    def __init__(self, ramp, bad=()):
        super().__init__(bad)
        self.ramp = ramp

    def step(self, i):
        rows = self.ramp.rows * self.ramp.passes_in(i)
        return np.full((rows, 4), np.inf if i + 1 in self.bad else 1.0)


def test_a_ramp_adds_passes_of_one_shape():
    """1, 1, 2, 2, 3, 3, 4, 4 passes; the loss and the gradient stay means over the step."""
    ramp, shapes = BatchRamp(rows=2, passes=4, start=1, steps=6), []

    class Watched(Quadratic):
        def loss(self, model, rows):
            shapes.append(tuple(rows.shape))
            return super().loss(model, rows)

    whole, one, _, _ = run(8)
    model, lines, _, _ = run(8, RampedRows(ramp), batch=ramp, objective=Watched())
    assert len(shapes) == 20 and set(shapes) == {(2, 3)}
    assert [line["tokens"] for line in lines] == [6 * n for n in (1, 2, 4, 6, 9, 12, 16, 20)]
    torch.testing.assert_close(model.weight, whole.weight)
    assert [line["grad_norm"] for line in lines] == pytest.approx([line["grad_norm"] for line in one])


def test_tokens_of_abandoned_steps_in_a_ramp_are_subtracted():
    ramp, seen = BatchRamp(rows=2, passes=9, start=1, steps=16), []
    with pytest.raises(UserError, match="the checkpoint of step 5 precedes them"):
        run(
            60, RampedRows(ramp, range(6, 60)), Hooks(checkpoint=lambda p: seen.append(p.tokens) or True),
            batch=ramp, log_interval=100,
        )  # fmt: skip
    assert seen == [3 * ramp.rows_before(5)]


def test_clipping():
    _, lines, _, _ = run(1, grad_clip=0.5)
    assert lines[0]["grad_norm"] == pytest.approx(3**0.5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_non_finite_step_is_skipped_and_reported(optimizer):
    clean, _, _, _ = run(3, optimizer=optimizer)
    model, lines, messages, _ = run(4, Rows(bad=[2]), optimizer=optimizer)
    assert model.weight.isfinite().all()
    torch.testing.assert_close(model.weight, clean.weight)
    assert "train_loss" not in lines[1] and "train_loss" in lines[2]
    assert messages == ["loss or gradient not finite: 1 step(s) skipped: step 2 (row 4)"]
    assert lines[1]["skipped_steps"] == 1


@pytest.mark.parametrize("log_interval", [1, 7, 100])
def test_too_many_in_a_row_end_the_run_with_an_earlier_checkpoint(log_interval):
    """Whenever the failure is noticed, the step and the weights are the same; later good steps are not taken."""
    clean, _, _, _ = run(5)
    seen = []
    model = None

    def save(progress):
        seen.append((progress.step, progress.tokens))
        return True

    bad = [*range(6, 6 + PATIENCE)]
    message = f"not finite for {PATIENCE} steps in a row, up to step {5 + PATIENCE}; the checkpoint of step 5 precedes them"
    with pytest.raises(UserError, match=message):
        run(60, Rows(bad), Hooks(checkpoint=save), log_interval=log_interval, keep=(kept := []))
    assert seen == [(5, 60)]
    (model,) = kept
    torch.testing.assert_close(model.weight, clean.weight, rtol=0, atol=0)


def test_a_run_that_was_never_finite_has_no_checkpoint():
    seen = []
    with pytest.raises(
        UserError, match=r"steps in a row, up to step 10; restart with a lower learning_rate$"
    ):
        run(30, Rows(range(1, 40)), Hooks(checkpoint=lambda p: seen.append(p) or True))
    assert not seen


def test_streaks_below_the_limit_do_not_end_the_run():
    _, _, messages, done = run(30, Rows(bad=[s for s in range(30) if s % PATIENCE]), log_interval=25)
    assert done and len(messages) == 2
    assert "23 step(s) skipped; the last 10: step 15 (row 56); step 16 (row 60)" in messages[0]


def test_a_stop_saves_a_checkpoint():
    saved = []
    hooks = Hooks(checkpoint=lambda p: not saved.append(p.step), should_stop=lambda: True)
    *_, done = run(5, hooks=hooks)
    assert not done and saved == [1]


def test_an_end_that_cannot_be_saved_is_an_error():
    with pytest.raises(UserError, match="step 5 could not be saved"):
        run(5, hooks=Hooks(checkpoint=lambda p: False), checkpoint_interval=3)


def hooks_with(losses, saved, fails=()):
    """Evaluations give `losses` in order; a checkpoint at a step in `fails` cannot be written."""
    losses = iter(losses)

    def save(progress):
        saved.append((progress.step, progress.best_step))
        return progress.step not in fails

    return Hooks(evaluate=lambda: {"val_loss": next(losses)}, checkpoint=save)


def test_hooks_are_called_at_their_intervals():
    saved, progress = [], Progress()
    run(5, hooks=hooks_with([9.0] * 3, saved), progress=progress, eval_interval=2, checkpoint_interval=3)
    assert saved == [(2, 2), (3, 2), (5, 2)]


def test_an_evaluation_that_improves_writes_a_checkpoint():
    saved, progress = [], Progress()
    losses = [3.0, float("nan"), 2.0, 2.5, 2.0]
    run(5, hooks=hooks_with(losses, saved), progress=progress, eval_interval=1, checkpoint_interval=4)
    assert saved == [(1, 1), (3, 3), (4, 3), (5, 3)]
    assert (progress.best_val_loss, progress.best_step) == (2.0, 3)


def test_a_best_checkpoint_that_could_not_be_written_does_not_count():
    saved, progress = [], Progress()
    losses = [3.0, 1.0, 2.0, 2.5]
    run(4, hooks=hooks_with(losses, saved, fails=[2]), progress=progress, eval_interval=1)
    assert saved == [(1, 1), (2, 2), (3, 3), (4, 3)]


def test_the_clock_ends_a_run_with_its_schedule_finished(monkeypatch):
    """Steps take 1 s, evaluations 2 s, and the limit is 15 s: eleven steps and two evaluations."""
    from lmfast.training import clock

    now = [0.0]

    def tick(seconds, result=None):
        now[0] += seconds
        return result

    class Slow(Rows):
        def step(self, i):
            return tick(1.0, super().step(i))

    monkeypatch.setattr(clock.time, "perf_counter", lambda: now[0])
    asked, progress = [], Progress()
    rate = Schedule("linear", 0.1, 0.0, 0, None)
    _, lines, _, done = run(
        None, Slow(), Hooks(evaluate=lambda: asked.append(now[0]) or tick(2.0, {"val_loss": 1.0})), progress,
        max_seconds=15.0, learning_rate=rate, eval_interval=6,
    )  # fmt: skip
    assert done and progress.out_of_time and progress.step == 11
    assert now[0] == 15.0 and asked == [6.0, 13.0]
    rates = [line["learning_rate"] for line in lines]
    assert rates == sorted(rates, reverse=True) and rates[-1] == 0.0 < rates[-2]
    # A run that ran out of time stays finished; one stopped earlier resumes with the remaining time.
    assert run(None, Slow(), progress=progress, max_seconds=15.0)[3] and progress.step == 11
    before, now[0] = Progress(step=3, seconds=12.0), 0.0
    run(None, Slow(), progress=before, max_seconds=15.0)
    assert before.step == 6 and now[0] == 3.0


def test_the_first_step_of_a_process_is_reported_once():
    seconds = []
    run(3, hooks=Hooks(first_step=seconds.append), progress=Progress(step=1))
    assert len(seconds) == 1 and seconds[0] > 0
    run(3, hooks=Hooks(first_step=seconds.append), progress=Progress(step=3))
    assert len(seconds) == 1


def test_steps_or_minutes_whichever_comes_first(monkeypatch):
    progress = Progress()
    run(4, progress=progress, max_seconds=1e6)
    assert progress.step == 4 and not progress.out_of_time


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_loss_scale_without_overflow_changes_no_bit(optimizer, clip):
    """The weights are fp32 here, and the scale is a power of two."""
    options = {"optimizer": optimizer, "grad_clip": clip, "batch": BatchRamp(2, 2)}
    plain, before, _, _ = run(4, **options)
    scaled, after, _, _ = run(4, **options, loss_scale=LossScale(CPU))
    assert torch.equal(scaled.weight, plain.weight)
    for a, b in zip(before, after, strict=True):
        assert (a["train_loss"], a["grad_norm"]) == (b["train_loss"], b["grad_norm"])
        assert (b["loss_scale"], b["overflows"]) == (65536.0, 0)


OVERFLOWING = 1e18  # a gradient whose norm is finite in fp32 until it is multiplied by 16


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_overflowing_steps_are_skipped_and_lower_the_scale_without_ending_the_run(optimizer):
    overflows = 13  # from a scale of 65536 down to 8: more in a row than the guard's patience
    assert overflows > PATIENCE
    scale, batches = LossScale(CPU), Rows(bad=range(3, 4 + overflows), value=OVERFLOWING)
    model, lines, messages, done = run(30, batches, optimizer=optimizer, loss_scale=scale, grad_clip=1e-6)
    assert done and messages == []
    assert [line["loss_scale"] for line in lines[:2]] == [65536.0] * 2
    assert [line["loss_scale"] for line in lines[2 : 2 + overflows]] == [
        2.0 ** (15 - i) for i in range(overflows)
    ]
    assert lines[-1]["loss_scale"] == 8.0 and lines[-1]["overflows"] == overflows
    clean, _, _, _ = run(
        30 - overflows, Rows(bad=[3], value=OVERFLOWING), optimizer=optimizer, grad_clip=1e-6
    )
    torch.testing.assert_close(model.weight, clean.weight, rtol=0, atol=0)


@pytest.mark.parametrize("log_interval", [1, 100])
def test_overflow_at_every_scale_ends_the_run_with_an_earlier_checkpoint(log_interval):
    """16 halvings to a scale of 1, then as many steps as without a scale."""
    seen = []
    hooks = Hooks(checkpoint=lambda p: not seen.append((p.step, p.tokens)))
    message = f"in a row, up to step {4 + 16 + PATIENCE}; the checkpoint of step 4 precedes them"
    with pytest.raises(UserError, match=message):
        run(60, Rows(range(5, 60), 1e30), hooks, loss_scale=LossScale(CPU), log_interval=log_interval)
    assert seen == [(4, 48)]


def test_a_non_finite_loss_does_not_change_the_scale():
    scale = LossScale(CPU)
    _, lines, messages, _ = run(4, Rows(bad=[2]), loss_scale=scale)
    assert messages == ["loss or gradient not finite: 1 step(s) skipped: step 2 (row 4)"]
    assert scale.scale.item() == 65536.0 and lines[-1]["overflows"] == 0


@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_host_never_waits_for_the_device_between_logs(optimizer, fp16):
    """Counts calls that would wait on a GPU: as many in ten steps as in three, all when the last step is logged."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Waits(TorchDispatchMode):
        names = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            if operator.overloadpacket.__name__ in self.names:
                waits.append(str(operator))
            return operator(*args, **(kwargs or {}))

    counts = []
    for steps in (3, 10):
        waits = []
        with Waits():
            run(
                steps, optimizer=optimizer, grad_clip=1.0, batch=BatchRamp(2, 2), log_interval=10**9,
                loss_scale=LossScale(CPU) if fp16 else None,
            )  # fmt: skip
        counts.append(len(waits))
    assert 0 < counts[0] == counts[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("fp16", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_on_a_gpu_a_step_that_waits_is_an_error(optimizer, fp16):
    from lmfast.model.config import ModelConfig
    from lmfast.model.transformer import TransformerLM
    from lmfast.training.objectives import NextToken

    device = torch.device("cuda")
    shape = {"vocab_size": 256, "context_length": 64, "d_model": 64, "num_layers": 2, "num_heads": 2}
    model = TransformerLM(ModelConfig(**shape)).to(device)
    optimizer = make_optimizer(model, optimizer, 0.01, (0.9, 0.95), 0.1)
    ids = np.random.default_rng(0).integers(0, 256, (8, 65))
    seen = []

    class SameRows:
        def step(self, i):
            seen.append(torch.cuda.get_sync_debug_mode())
            torch.cuda.set_sync_debug_mode("error" if i in (3, 4, 5) else "default")
            return ids

    objective = NextToken()
    plan = Plan(
        8, None, BatchRamp(8), lambda step, share: 0.01, 1.0, 0, not fp16, 10**9, 0, 0, 0, flops_per_token=1.0,
        peak_flops=1.0, fp16=fp16,
    )  # fmt: skip
    sinks = Sinks(ConsoleSink(8))
    train_loop(
        model, optimizer, objective, objective.loss, SameRows(), plan, Progress(), sinks, Hooks(),
        loss_scale=LossScale(device) if fp16 else None,
    )  # fmt: skip
    assert seen.count(2) == 3
