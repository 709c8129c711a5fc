import pytest
import torch

from lmfast.training.finite_guard import PATIENCE, FiniteGuard

GOOD, CPU = torch.tensor(1.0), torch.device("cpu")


def feed(guard, values, start=1):
    return [guard.check(step, torch.tensor(v), GOOD).item() for step, v in enumerate(values, start)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_loss_and_norm_are_both_checked(value):
    for loss, norm in ((value, 1.0), (1.0, value), (value, value), (value, float("inf"))):
        assert FiniteGuard(CPU).check(1, torch.tensor(loss), torch.tensor(norm)) == 1.0
    assert FiniteGuard(CPU).check(1, GOOD, GOOD) == 0.0


def test_each_skipped_step_is_reported_once():
    guard, nan = FiniteGuard(CPU), float("nan")
    feed(guard, [1, nan, 1, nan])
    assert guard.skipped() == (2, [2, 4]) and guard.skipped() == (0, [])
    feed(guard, [nan] * 3, start=5)
    assert guard.skipped() == (3, [5, 6, 7]) and not guard.gave_up


def test_excused_steps_are_skipped_and_neither_end_nor_extend_a_streak():
    guard, nan, inf = FiniteGuard(CPU, step=7), float("nan"), torch.tensor(float("inf"))
    feed(guard, [1.0, *[nan] * (PATIENCE - 1)], start=8)
    for step in range(8 + PATIENCE, 18 + PATIENCE):
        assert guard.check(step, GOOD, inf, torch.tensor(True)) == 1.0
    assert guard.skipped() == (PATIENCE - 1, list(range(9, 8 + PATIENCE))) and not guard.gave_up
    feed(guard, [nan], start=18 + PATIENCE)
    guard.skipped()
    assert guard.gave_up and guard.last_taken == 8


def test_it_gives_up_at_the_same_step_whenever_it_is_checked():
    nan = float("nan")
    values = [1.0, 1.0, *[nan] * PATIENCE, 1.0, nan, 1.0]
    asked_late, asked_always = FiniteGuard(CPU), FiniteGuard(CPU)
    flags = feed(asked_late, values)
    assert flags == [0.0, 0.0] + [1.0] * (PATIENCE + 3)  # good steps after the end are not taken
    for step, value in enumerate(values, 1):
        feed(asked_always, [value], start=step)
        asked_always.skipped()
    number, steps = asked_late.skipped()
    assert number == PATIENCE and steps == list(range(3, 3 + PATIENCE))
    for guard in (asked_late, asked_always):
        assert guard.gave_up and guard.last_step == 2 + PATIENCE
