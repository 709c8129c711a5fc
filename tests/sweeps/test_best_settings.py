import dataclasses
from pathlib import Path

import numpy as np
import yaml

from lmfast.settings import TrainSettings, read_yaml
from lmfast.sweeps import best_settings as b
from lmfast.sweeps.groups import best_group, group_trials
from tests.sweeps.test_groups import make


def best_of(results):
    groups = group_trials(results)
    best = best_group(results, groups)
    assert best is not None
    return groups, best


def test_the_config_has_base_variant_and_searched_settings_without_seed(tmp_path):
    runs = [({"variant": "muon", "learning_rate": np.float64(1e-3), "seed": 3}, 1.0)]
    results = make(runs, variants={"muon": {"optimizer": "muon", "max_iters": 50}})
    results = dataclasses.replace(
        results,
        settings=results.settings | {"out_dir": "x", "train_data_path": Path("a/b"), "total_tokens": None},
    )
    text = b.best_config(results, best_of(results)[1])
    expected = {
        "d_model": 8,
        "optimizer": "muon",
        "max_iters": 50,
        "learning_rate": 1e-3,
        "train_data_path": "a/b",
    }
    assert yaml.safe_load(text) == expected
    (tmp_path / "best.yaml").write_text(text)
    assert read_yaml(tmp_path / "best.yaml", TrainSettings)["learning_rate"] == 1e-3


def test_the_command_trains_four_times_as_long():
    def command(**settings):
        results = dataclasses.replace(make([({}, 1.0)]), name="my sweep", settings=settings)
        return b.longer_command(results, best_of(results)[1])

    start = "lmfast train --config best.yaml --out-dir 'runs/my sweep-best'"
    assert command(total_tokens=1000, max_iters=None) == f"{start} --total-tokens 4000"
    assert command(max_iters=25) == f"{start} --max-iters 100"
    assert command(max_minutes=0.5) == f"{start} --max-minutes 2"
    assert command() == start


def test_a_best_value_at_the_edge_is_noted():
    def notes(best, name="learning_rate"):
        results = make([({name: x}, 1.0 + abs(x - best)) for x in (1, 2, 3)])
        return b.edge_notes(results, *best_of(results))

    assert notes(2) == [] and notes(1, "total_tokens") == []
    assert notes(3) == ["The best learning_rate, 3, is the largest one tried; larger ones may be better."]
    assert notes(1) == ["The best learning_rate, 1, is the smallest one tried; smaller ones may be better."]


def test_a_larger_value_that_diverged_is_no_edge():
    results = make([({"lr": 1}, 3.0), ({"lr": 2}, 2.0), ({"lr": 3}, None)])
    assert b.edge_notes(results, *best_of(results)) == []
