import math
from pathlib import Path

from lmfast.sweeps import groups as g
from lmfast.sweeps.trials import Results, Trial


def make(values_and_scores, direction="minimize", variants=None, space=None):
    """A score is a value, None for a diverged trial, or (state, value)."""
    trials = []
    for i, (values, score) in enumerate(values_and_scores):
        state, value = score if isinstance(score, tuple) else ("complete", score)
        trials.append(Trial(i, values, "diverged" if score is None else state, Path(f"{i:04}"), value))
    return Results(
        "s", "val_loss", direction, {"seed": 7, "d_model": 8}, space or {}, variants or {}, {}, trials
    )


def test_trials_that_differ_only_in_the_seed_are_a_group():
    runs = [({"lr": lr, "seed": s, "x": [1]}, 3.0 - lr + s) for s in (0, 1) for lr in (0.2, 0.1)]
    groups = g.group_trials(make(runs))
    assert [group.values for group in groups] == [{"lr": 0.1, "x": [1]}, {"lr": 0.2, "x": [1]}]
    assert [group.index for group in groups] == [0, 1]
    assert groups[0].scores == [2.9, 3.9] and groups[0].mean == 3.4
    assert g.varying(groups) == ["lr"]


def test_only_finite_values_of_complete_trials_count():
    runs = [
        ({"lr": 1}, x) for x in (math.nan, math.inf, ("pruned", 1.0), ("running", 0.5), ("failed", None), 2.0)
    ]
    (group,) = g.group_trials(make(runs))
    assert group.scores == [2.0]


def test_order_of_groups_is_that_of_the_sweep_and_numbers_ascend():
    space = {"size": ["small", "big"], "lr": [3, 1]}
    runs = [({"lr": lr, "size": size}, 1.0) for lr in (3, 1) for size in ("big", "small")]
    found = [
        tuple(group.values[n] for n in ("size", "lr")) for group in g.group_trials(make(runs, space=space))
    ]
    assert found == [("small", 1), ("small", 3), ("big", 1), ("big", 3)]


def test_settings_that_diverged_with_a_seed_are_not_the_best():
    runs = [({"lr": 1, "seed": 0}, 1.0), ({"lr": 1, "seed": 1}, None), ({"lr": 2}, 2.0), ({"lr": 3}, None)]
    results = make(runs)
    groups = g.group_trials(results)
    assert [group.values["lr"] for group in g.best_first(results, groups)] == [2, 1, 3]
    best = g.best_group(results, groups)
    assert best is not None and best.values == {"lr": 2}
    assert g.best_group(make(runs[1:2]), g.group_trials(make(runs[1:2]))) is None


def test_maximize_prefers_high_values():
    runs = [({"lr": 1, "seed": 0}, 1.0), ({"lr": 2, "seed": 0}, 3.0), ({"lr": 2, "seed": 1}, 4.0)]
    for direction, lr, number in (("maximize", 2, 2), ("minimize", 1, 0)):
        results = make(runs, direction)
        best = g.best_group(results, g.group_trials(results))
        assert best is not None and best.values["lr"] == lr
        assert g.best_trial(results, best).number == number


def test_the_reference_has_the_first_variant_and_equal_other_settings():
    runs = [({"variant": v, "lr": lr}, 1.0) for v in ("base", "muon") for lr in (1, 2)]
    results = make(
        runs, variants={"base": {}, "muon": {"optimizer": "muon"}}, space={"variant": ["base", "muon"]}
    )
    groups = g.group_trials(results)
    found = {tuple(group.values.values()): g.reference_of(results, group, groups) for group in groups}
    assert found[("base", 1)] is None
    assert all(found["muon", lr].values == {"variant": "base", "lr": lr} for lr in (1, 2))
    assert g.resolved(results, groups[-1]) == {"d_model": 8, "optimizer": "muon", "lr": 2}
