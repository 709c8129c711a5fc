import dataclasses
import re

from lmfast.sweeps.group_plot import group_plot
from lmfast.sweeps.groups import group_trials
from tests.sweeps.synthetic import ablation

COLOURS = [f"#11111{i}" for i in range(6)]


def plot(results):
    return group_plot(results, group_trials(results), ["variant"], COLOURS)


def test_a_row_per_group_best_first(tmp_path):
    results = ablation(tmp_path)
    picture = plot(results)
    names = [text for text in re.findall(r">([^<>]+)</text>", picture) if text in results.variants]
    assert names == ["muon", "qk_norm", "plain", "no position", "post norm", "no norm"]
    assert "diverged" in picture
    for colour, points in zip(COLOURS, (3, 3, 3, 0, 3, 3), strict=True):
        assert picture.count(f"fill: {colour}; fill-opacity: 0.85") == points
    assert "stroke-dasharray" in picture  # the mean of the first variant


def test_names_are_literal_and_other_directions_work(tmp_path):
    results = ablation(tmp_path)
    trials = [
        dataclasses.replace(t, values=t.values | {"variant": f"$x_{t.values['variant'][0]}$" + "long" * 20})
        for t in results.trials
    ]
    picture = plot(dataclasses.replace(results, trials=trials, direction="maximize"))
    assert ">$x_p$longlong" in picture and "…" in picture
