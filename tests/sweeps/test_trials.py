from pathlib import Path

from lmfast.sweeps.trials import Results, Trial


def results(direction="minimize"):
    trials = [
        Trial(0, {"learning_rate": 0.1, "variant": "a"}, "complete", Path("0"), 3.0),
        Trial(1, {"learning_rate": 0.2, "variant": "b"}, "complete", Path("1"), 2.0),
        Trial(2, {"learning_rate": 0.3, "variant": "a"}, "complete", Path("2"), 2.0),
        Trial(3, {"learning_rate": 9.0, "variant": "a"}, "diverged", Path("3"), None),
        Trial(4, {"learning_rate": 0.4, "variant": "b"}, "pruned", Path("4"), 1.0),
    ]
    variants = {"a": {}, "b": {"norm": "post", "seed": 1}}
    space = {"learning_rate": [0.1, 0.2, 0.3, 9.0, 0.4], "variant": ["a", "b"]}
    return Results("s", "val_loss", direction, {"seed": 0, "d_model": 8}, space, variants, {}, trials)


def test_best_is_the_first_of_the_best_complete_trials():
    smallest, greatest = results().best(), results("maximize").best()
    assert smallest is not None and smallest.number == 1
    assert greatest is not None and greatest.number == 0
    assert Results("s", "val_loss", "minimize", {}, {}, {}, {}, results().trials[3:]).best() is None


def test_settings_of_a_trial_include_those_of_its_variant():
    found = results()
    assert found.settings_of(found.trials[1]) == {
        "seed": 1,
        "d_model": 8,
        "norm": "post",
        "learning_rate": 0.2,
    }
    assert found.settings_of(found.trials[0]) == {"seed": 0, "d_model": 8, "learning_rate": 0.1}


def test_a_searched_length_replaces_the_shared_one():
    trial = Trial(0, {"total_tokens": 5}, "complete", Path("0"), 3.0)
    found = Results("s", "val_loss", "minimize", {"max_iters": 9}, {"total_tokens": [5]}, {}, {}, [trial])
    assert found.settings_of(trial) == {"max_iters": None, "total_tokens": 5}
