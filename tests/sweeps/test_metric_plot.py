import dataclasses
import re

from lmfast.sweeps.groups import group_trials
from lmfast.sweeps.metric_plot import metric_plot
from lmfast.training.plotting import COLOURS
from tests.sweeps.synthetic import learning_rate_sweep


def plot(results, *arguments, **options):
    return metric_plot(results, group_trials(results), *arguments, **options)


def texts(picture):
    return re.findall(r">([^<>]+)</text>", picture)


def test_a_line_per_batch_size_and_a_point_per_seed(tmp_path):
    results = learning_rate_sweep(tmp_path)
    results = dataclasses.replace(results, trials=[t for t in results.trials if t.state == "complete"])
    picture = plot(results, "learning_rate", "batch_size")
    assert {"0.0001", "0.03", "learning_rate", "validation loss"} <= set(texts(picture))
    assert re.sub("<[^>]*>", "", picture[: picture.index("</p>")]) == "batch_size: 32128"
    for colour in COLOURS[:2]:
        assert len(re.findall(rf"fill: none; stroke: {colour}", picture)) == 1
    assert "diverged" not in picture and "▲" in picture  # 2.44 is outside the range of the good ones
    assert "to 2.44" in texts(picture) and not {"2.4", "2.40"} & set(texts(picture))
    points = sum(picture.count(f'style="fill: {colour}; fill-opacity: 0.85') for colour in COLOURS[:2])
    assert points + picture.count("▲") == 23


def test_diverged_trials_are_crosses_and_pruned_ones_hollow(tmp_path):
    results = learning_rate_sweep(tmp_path)
    pruned = dataclasses.replace(results.trials[8], state="pruned")
    picture = plot(
        dataclasses.replace(results, trials=[*results.trials[9:], pruned]), "learning_rate", "batch_size"
    )
    assert texts(picture).count("×") == 5 and "diverged" in texts(picture)
    assert picture.count("fill: #ffffff; fill-opacity: 0.85") == 1


def test_maximize_has_its_bad_edge_below(tmp_path):
    results = learning_rate_sweep(tmp_path)
    flipped = [t if t.value is None else dataclasses.replace(t, value=-t.value) for t in results.trials]
    picture = plot(dataclasses.replace(results, trials=flipped, direction="maximize"), "learning_rate")
    assert "▼" in picture and "▲" not in picture and "to −2.44" in texts(picture)


def test_random_values_are_not_joined(tmp_path):
    results = learning_rate_sweep(tmp_path)
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    for spread, lines in ((results, 1), (dataclasses.replace(results, space=space), 0)):
        assert len(re.findall(rf"fill: none; stroke: {COLOURS[0]}", plot(spread, "learning_rate"))) == lines
    assert not re.findall(rf"fill: none; stroke: {COLOURS[0]}", plot(results, "learning_rate", join=False))


def test_batch_sizes_are_on_an_axis_of_base_two(tmp_path):
    assert {"32", "128"} <= set(texts(plot(learning_rate_sweep(tmp_path), "batch_size")))


def test_rates_from_thousandths_to_thousands_have_no_prefixes(tmp_path):
    results = learning_rate_sweep(tmp_path)
    large = [dataclasses.replace(t, values=t.values | {"learning_rate": 1e4}) for t in results.trials[24:]]
    shown = texts(plot(dataclasses.replace(results, trials=[*results.trials[:24], *large]), "learning_rate"))
    assert "0.001" in shown and "1e+04" in shown


def test_without_any_value_the_diverged_are_still_shown(tmp_path):
    results = learning_rate_sweep(tmp_path)
    picture = plot(dataclasses.replace(results, trials=results.trials[24:]), "learning_rate")
    assert texts(picture).count("×") == 4
