import dataclasses
import re

import pytest

from lmfast.sweeps.colours import group_colours
from lmfast.sweeps.curve_plots import curve_legend, curve_plots, vertical_range
from lmfast.sweeps.groups import group_trials, varying
from lmfast.sweeps.trial_runs import read_trials
from tests.sweeps.synthetic import ablation, learning_rate_sweep


def plots(results):
    groups = group_trials(results)
    return curve_plots(results, groups, read_trials(results), group_colours(len(groups)))


def test_validation_and_training_loss_of_all_trials_by_group(tmp_path):
    results = learning_rate_sweep(tmp_path)
    validation, training = plots(results)
    assert ">validation loss</text>" in validation and ">training loss</text>" in training
    for picture in (validation, training):
        assert ">tokens</text>" in picture
        for group in range(14):
            assert len(re.findall(rf'<g class="g{group}">', picture)) == 2
        assert picture.count("stroke-dasharray") == 5


def test_another_metric_has_its_own_plot_and_missing_ones_none(tmp_path):
    results = dataclasses.replace(ablation(tmp_path), metric="bits_per_byte")
    assert [">bits per byte</text>" in picture for picture in plots(results)] == [True, False, False]
    absent = dataclasses.replace(results, metric="tasks/x")
    assert len(plots(absent)) == 2
    assert plots(dataclasses.replace(results, trials=[])) == []


def test_the_legend_names_every_group(tmp_path):
    results = learning_rate_sweep(tmp_path)
    groups = group_trials(results)
    legend = curve_legend(groups, varying(groups), group_colours(14))
    assert (
        legend.count("<button") == 14 and "learning_rate, batch_size" in legend and ">0.003 · 32<" in legend
    )
    assert "<details>" not in legend and "<details>" in curve_legend(groups * 3, ["x"], group_colours(14))
    assert "Dashed" in legend and curve_legend(groups[:1], [], group_colours(1)) == ""


def test_the_range_is_that_of_the_good_curves():
    good = [[2.0, 1.5, 1.0], [2.1, 1.6, 1.1], [2.2, 1.7, 1.2]]
    assert vertical_range(good) == (pytest.approx(0.952), pytest.approx(2.248))
    low, high = vertical_range([*good, [500.0, 400.0]]) or (0, 0)
    assert low == pytest.approx(1 - 0.04 * (high - low) / 1.08, rel=0.1) and high < 10
    flipped = [[-value for value in curve] for curve in [*good, [500.0, 400.0]]]
    assert vertical_range(flipped, maximize=True) == (pytest.approx(-high), pytest.approx(-low))
    low, high = vertical_range([[6.1, 6.0], [6.2, 6.1], [3.0, 2.9]]) or (0, 0)  # a far better one
    assert low < 2.9 and high > 6.2
    assert (vertical_range(good, [3.0]) or (0, 0))[1] > 3
    assert vertical_range([]) is None and vertical_range([[2.0], [2.0]]) is not None
