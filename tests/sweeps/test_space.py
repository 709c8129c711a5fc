import pytest

from lmfast.errors import UserError
from lmfast.sweeps.space import (
    MOST_POINTS,
    Range,
    check_grid,
    corner_points,
    describe,
    grid_points,
    number_of_points,
    point_key,
    read_group,
    read_space,
)


def test_values_get_the_types_of_their_settings_and_aliases_work():
    found = read_space(
        {
            "lr": ["1e-3", 1],
            "num-layers": {"low": 1, "high": 4},
            "weight_decay": {"low": "1e-3", "high": 1, "log": True},
            "muon_lr": {"low": 0, "high": 1},
            "batch_size": [1, "largest"],
        },
        "s",
    )
    assert found == {
        "learning_rate": [1e-3, 1.0],
        "num_layers": Range(1, 4),
        "weight_decay": Range(1e-3, 1.0, log=True),
        "muon_lr": Range(0.0, 1.0),
        "batch_size": [1, "largest"],
    }


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lerning_rate": [1]}, "s: unknown setting 'lerning_rate'; did you mean learning_rate?"),
        ({"out_dir": ["a"]}, "s: out_dir cannot be searched; put it under `settings`"),
        ({"wandb": ["off"]}, "s: wandb cannot be searched"),
        ({"lr": [1], "learning_rate": [2]}, "s: learning_rate is given twice"),
        ({"lr": 1}, "s: learning_rate is 1; expected a list of choices or a range"),
        ({"lr": []}, "s: learning_rate is an empty list"),
        ({"lr": ["1e-3", 0.001]}, "s: learning_rate lists 0.001 twice"),
        ({"lr": ["fast"]}, "s: learning_rate is fast; expected a number"),
        ({"lr": {"low": 1}}, "s: learning_rate: a range needs low and high; add high"),
        ({"lr": {"low": 2, "high": 1}}, "low 2.0 is not below high 1.0"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "low is 0.0, which has no logarithm"),
        ({"lr": {"low": 1, "high": 2, "steps": 1}}, "unknown 'steps' in a range; did you mean step?"),
        ({"lr": {"low": 1, "high": 2, "step": 5}}, "step is 5.0; it must be above 0 and at most high - low"),
        ({"lr": {"low": 1, "high": 2, "step": 1, "log": True}}, "log and step exclude each other"),
        ({"norm": {"low": 1, "high": 2}}, "s: norm is not a number"),
        ({"qk_norm": {"low": 1, "high": 2}}, "s: qk_norm is not a number"),
    ],
)
def test_bad_spaces(space, message):
    with pytest.raises(UserError) as error:
        read_space(space, "s")
    assert message in str(error.value)


def test_a_group_may_not_choose_the_folder():
    with pytest.raises(UserError, match="s: out_dir is chosen by the sweep"):
        read_group({"out_dir": "x"}, "s")


def test_a_grid_varies_the_last_axis_fastest_and_the_seed_slowest():
    points = grid_points({"seed": [0, 1], "d_model": [8, 16], "lr": Range(0.1, 0.3, step=0.1)})
    assert [tuple(point.values()) for point in points[:4]] == [
        (0, 8, 0.1),
        (0, 8, 0.2),
        (0, 8, 0.3),
        (0, 16, 0.1),
    ]
    assert len(points) == 12 and [point["seed"] for point in points] == [0] * 6 + [1] * 6


def test_numbers_of_points():
    assert number_of_points({"a": [1, 2], "b": Range(1, 3), "c": Range(0.0, 1.0, step=0.5)}) == 18
    assert number_of_points({"a": [1, 2], "b": Range(0.0, 1.0)}) is None


def test_a_grid_needs_lists_and_an_end():
    with pytest.raises(UserError, match="lr is a range without step, which a grid cannot list"):
        check_grid({"lr": Range(0.1, 1.0)}, "s")
    with pytest.raises(UserError, match="the grid has 1,000,000 points"):
        check_grid({"a": list(range(1000)), "b": list(range(1000))}, "s")


def test_a_range_of_billions_of_steps_is_counted_without_listing_them(monkeypatch):
    monkeypatch.setattr(Range, "values", lambda self: pytest.fail("lists the values"))
    huge = Range(0.0, 1.0, step=1e-12)
    assert number_of_points({"learning_rate": huge}) == 1_000_000_000_001
    with pytest.raises(UserError, match="the grid has 1,000,000,000,001 points"):
        check_grid({"learning_rate": huge}, "s")
    with pytest.raises(UserError, match="the grid has"):  # infinite as a float
        check_grid({"learning_rate": Range(0.0, 1.0, step=5e-324)}, "s")
    assert number_of_points({"learning_rate": Range(0.0, 0.3, step=0.1)}) == 4


def test_corners_include_the_ends_of_ranges_and_are_few():
    assert corner_points({"a": Range(1, 9), "b": [1, 2]}) == [
        {"a": 1, "b": 1},
        {"a": 1, "b": 2},
        {"a": 9, "b": 1},
        {"a": 9, "b": 2},
    ]
    many = corner_points({name: list(range(200)) for name in "abc"})
    assert len(many) == 1 + 3 * 199 < MOST_POINTS


def test_points_as_text():
    point = {"learning_rate": 0.001, "variant": "a", "seed": 3}
    assert describe(point) == "learning_rate 0.001, variant a, seed 3"
    assert point_key(point) == point_key(dict(reversed(point.items())))
