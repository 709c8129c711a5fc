import dataclasses

import pytest

from lmfast.sweeps import axes
from lmfast.sweeps.groups import group_trials
from tests.sweeps.test_groups import make


def choose(runs, page=None, **options):
    results = dataclasses.replace(make(runs, **options), page=page or {})
    groups = group_trials(results)
    x = axes.horizontal_setting(results, groups)
    return x, x and axes.line_setting(results, groups, x)


def test_learning_rate_and_batch_size_are_the_default():
    runs = [
        ({"d": d, "learning_rate": lr, "batch_size": b}, 1.0)
        for d in (1, 2, 3)
        for lr in (1, 2, 3)
        for b in (8, 9)
    ]
    assert choose(runs) == ("learning_rate", "batch_size")
    assert choose(runs, {"x": "batch_size", "lines": "d"}) == ("batch_size", "d")
    assert choose(runs, {"x": "absent", "lines": "absent"}) == ("learning_rate", "batch_size")


def test_else_the_first_numeric_setting_with_three_values_and_the_variants():
    runs = [({"variant": v, "w": w, "on": on}, 1.0) for v in "ab" for w in (1, 2, 4) for on in (True, False)]
    assert choose(runs, variants={"a": {}, "b": {}}) == ("w", "variant")
    assert choose([({"on": on, "w": w}, 1.0) for on in (True, False) for w in (1, 2)]) == (None, None)
    assert choose([({"seed": s}, 1.0) for s in range(5)]) == (None, None)


def test_a_setting_of_the_variants_can_be_the_axis():
    runs = [({"variant": v}, 1.0) for v in "abc"]
    variants = {v: {"d_model": 8 * i} for i, v in enumerate("abc", start=1)}
    assert choose(runs, {"x": "d_model"}, variants=variants)[0] == "d_model"


def test_lines_with_many_values_are_not_drawn():
    runs = [({"learning_rate": lr, "batch_size": b}, 1.0) for lr in (1, 2, 3) for b in range(1, 10)]
    assert choose(runs) == ("learning_rate", None)


@pytest.mark.parametrize(
    ("values", "maximize", "expected"),
    [
        ([1.0, 1.1, 1.2, 9.0], False, (1.0, 1.2)),
        ([-1.0, -1.1, -1.2, -9.0], True, (-1.2, -1.0)),
        ([1.0, 1.1, 1.2, 1.45], False, (1.0, 1.45)),  # hardly worse
        ([2.0], False, (2.0, 2.0)),
        ([2.0, 2.0, 2.0, 5.0], False, (2.0, 5.0)),
    ],
)
def test_one_bad_run_does_not_flatten_the_others(values, maximize, expected):
    assert axes.good_range(values, maximize) == expected


def test_powers_of_two():
    assert [axes.is_power_of_two(x) for x in (1, 2.0, 64, 0.5, 3, 2.5)] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
