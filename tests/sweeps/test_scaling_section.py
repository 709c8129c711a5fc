import dataclasses
import re
import sys

import pytest

from lmfast.sweeps.groups import group_trials
from lmfast.sweeps.scaling_section import fitted_points, scaling_section
from lmfast.sweeps.trial_runs import read_trials
from tests.sweeps.synthetic import scaling_sweep

pytest.importorskip("scipy")


def section(results, plots=False):
    return scaling_section(results, group_trials(results), read_trials(results), plots)


def test_the_fit_its_residuals_and_the_compute_optimal_models(tmp_path):
    text = section(scaling_sweep(tmp_path, noise=0.0))
    assert "L(N, D) = 1.2 + 30 / N<sup>0.300</sup> + 250 / D<sup>0.350</sup>" in text
    assert "power of 0.54" in text and "C = 6 N D" in text and "embeddings included" in text
    assert "Fits that leave out one combination" in text and "Warning" not in text
    budgets, residuals = text.split("<h3>Residuals</h3>")
    assert budgets.count("<tr>") == 1 + 5 and budgets.count("(extrapolated)") == 3
    assert residuals.count("<tr>") == 1 + 9 and len(re.findall(r"[+−]0\.00%", residuals)) == 18
    largest = 6 * 8e6 * 32e6
    assert f"{largest:.2e}" in budgets


def test_five_points_are_fitted_with_a_warning(tmp_path):
    results = scaling_sweep(tmp_path)
    some = [results.trials[i] for i in (0, 1, 2, 3, 8)]
    text = section(dataclasses.replace(results, trials=some))
    assert "Warning: fewer than 6 combinations" in text and "leave out" not in text


def test_noise_that_hides_the_exponents_is_reported(tmp_path):
    assert "Do not extrapolate" in section(scaling_sweep(tmp_path, noise=0.1))


def test_what_cannot_be_fitted_is_one_sentence(tmp_path, monkeypatch):
    results = scaling_sweep(tmp_path)
    few = dataclasses.replace(results, trials=results.trials[:3])
    assert "No fit. The law has five parameters" in section(few) and "<table" not in section(few)
    assert "maximises" in section(dataclasses.replace(results, direction="maximize"))
    assert "No fit." in section(dataclasses.replace(results, trials=[]))
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert "scipy is not installed" in section(results)


def test_trials_of_other_settings_and_unfinished_ones_are_not_fitted(tmp_path):
    results = scaling_sweep(tmp_path)
    worse = dataclasses.replace(
        results.trials[0], values=results.trials[0].values | {"lr": 1.0}, value=99.0, number=50
    )
    running = dataclasses.replace(results.trials[1], state="running", number=51)
    results = dataclasses.replace(results, trials=[*results.trials, worse, running])
    points = fitted_points(results, group_trials(results), read_trials(results))
    assert len(points) == 9 and max(point.loss for point in points) < 9
    (tmp_path / "trials/0000/run.json").unlink()
    assert len(fitted_points(results, group_trials(results), read_trials(results))) == 8
