import dataclasses

import pytest

from lmfast.errors import UserError
from lmfast.settings import CONFIGS
from lmfast.sweeps.checking import check_trials, resolve_largest, tokens_of
from lmfast.sweeps.space import Range
from lmfast.sweeps.specification import Budget, find_sweep, read_specification, write_specification

SPACE = {"lr": ["1e-3", "1e-2"]}


def test_layers_of_settings(read, tmp_path):
    (tmp_path / "mine.yaml").write_text("d_model: 64\nmax_iters: 100\nlr: 1.0\nout_dir: old\n")
    found = read(
        base="mine.yaml",
        settings={"total_tokens": "2_000", "val_data": "v.npy"},
        space=SPACE,
        variants={"plain": None, "post": {"norm": "post", "d-model": 32}},
    )
    assert found.settings == {
        "d_model": 64,
        "max_iters": None,
        "learning_rate": 1.0,
        "total_tokens": 2000,
        "val_data_path": "v.npy",
    }
    assert list(found.axes) == ["variant", "learning_rate"] and found.axes["variant"] == ["plain", "post"]
    flat = found.flat({"variant": "post", "learning_rate": 0.01})
    assert (flat["norm"], flat["d_model"], flat["learning_rate"]) == ("post", 32, 0.01)
    settings = found.train_settings({"variant": "plain", "learning_rate": 0.01})
    assert settings.model.d_model == 64 and settings.optimizer.learning_rate == 0.01


def test_a_searched_length_replaces_the_other_one(read):
    found = read(base="quickstart", space={"total_tokens": [1000, 2000]})
    assert found.flat({"total_tokens": 1000})["max_iters"] is None


def test_without_a_base_it_starts_as_train_does(read):
    assert read(space=SPACE).settings["d_model"] == 192  # the quickstart's, as there is no data
    assert "d_model" not in read(settings={"train_data": "x.npy"}, space=SPACE).settings


def test_a_variant_may_be_a_settings_file_and_counts_where_it_differs(read):
    found = read(base="quickstart", settings={"max_iters": 9}, variants={"wsd": "ablation_wsd"})
    assert found.variants == {"wsd": {"schedule": "wsd"}}


def test_defaults_and_values(read):
    found = read(space=SPACE)
    assert (found.search, found.metric, found.direction, found.pruner, found.seed) == (
        "grid",
        "val_loss",
        "minimize",
        "none",
        0,
    )
    assert found.budget == Budget()
    budget = {"trials": 3, "tokens": "1e9", "minutes": 1.5}
    found = read(space=SPACE, search="random", budget=budget, page={"x": "lr"}, direction="maximize")
    assert found.budget == Budget(3, 10**9, 1.5) and found.page == {"x": "learning_rate"}
    assert found.direction == "maximize"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "nothing is searched; add `space`"),
        ({"space": SPACE, "buget": {}}, "unknown 'buget'; did you mean budget?"),
        ({"space": SPACE, "search": "tpee"}, "unknown search 'tpee'; did you mean tpe?"),
        ({"space": SPACE, "pruner": "medain"}, "unknown pruner 'medain'; did you mean median?"),
        ({"space": SPACE, "search": "best"}, "unknown search 'best'; use grid or random or tpe or gp"),
        ({"space": SPACE, "metric": "vall_loss"}, "unknown metric 'vall_loss'; did you mean val_loss?"),
        ({"space": SPACE, "settings": {"lr": 1}}, "learning_rate is in `settings` and in `space`"),
        ({"space": SPACE, "variants": {"a": {"lr": 1}}}, "is in `space` and in the variant a"),
        (
            {"space": SPACE, "settings": {"lerning_rate": 1}},
            "s.yaml: settings: unknown setting 'lerning_rate'",
        ),
        ({"space": SPACE, "variants": {"a": {"nrom": "post"}}}, "variants: a: unknown setting 'nrom'"),
        ({"space": SPACE, "variants": {"a": {"norm": "pots"}}}, "variants: a: norm is pots; expected one of"),
        ({"space": SPACE, "variants": {"a": "ablation_x"}}, "variants: a: ablation_x: no such settings file"),
        ({"space": SPACE, "variants": {"a": 3}}, "variants: a is 3; expected lines of `name: value`"),
        ({"space": [1]}, "space is [1]; expected lines of `name: value`"),
        ({"space": SPACE, "base": "quickstrat"}, "base: quickstrat: no such settings file"),
        ({"space": SPACE, "base": [1]}, "base is [1]; expected the name of one settings file"),
        ({"space": SPACE, "budget": {"trails": 3}}, "budget: unknown 'trails'; did you mean trials?"),
        ({"space": SPACE, "budget": {"trials": 0}}, "budget: trials is 0; it must be a number above 0"),
        ({"space": SPACE, "seed": -5}, "seed is -5; it must be from 0 to 4294967295"),
        ({"space": SPACE, "seed": 2**32}, "seed is 4294967296; it must be from 0 to 4294967295"),
        ({"space": SPACE, "search": "random"}, "search random has no end without a budget"),
        ({"space": SPACE, "search": "qmc", "budget": {"trials": 1}}, "search qmc needs a range of numbers"),
        ({"space": SPACE, "page": {"y": "lr"}}, "page: unknown 'y'; a page has x, lines and fit"),
        (
            {"space": SPACE, "page": {"x": "d_model"}},
            "page: x is d_model, which the trials share; choose one",
        ),
        ({"space": SPACE, "page": {"fit": "line"}}, "page: fit is line; the only one is scaling_law"),
        ({"space": {"lr": {"low": 0.1, "high": 1}}}, "learning_rate is a range without step"),
    ],
)
def test_bad_files(read, content, message):
    with pytest.raises(UserError) as error:
        read(**content)
    assert message in str(error.value) and "s.yaml" in str(error.value) and "\n" not in str(error.value)


def test_what_is_written_reads_back_as_the_same_sweep(read, tmp_path):
    found = read(
        base="quickstart",
        search="tpe",
        space={"lr": {"low": "1e-4", "high": 1, "log": True}, "batch_size": [1, "largest"]},
        variants={"a": {}, "b": {"norm": "post"}},
        budget={"trials": 3},
        seed=5,
    )
    found = dataclasses.replace(found, largest=40)
    assert found.axes["batch_size"] == [1, 40]
    write_specification(tmp_path / "out.yaml", found)
    again = read_specification(tmp_path / "out.yaml")
    assert again.as_dict() == found.as_dict() | {
        "space": {"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}, "batch_size": [1, 40]}
    }
    assert again.space["learning_rate"] == Range(1e-4, 1.0, log=True)


def test_built_in_sweeps_are_found_by_name():
    assert find_sweep("learning_rate") == CONFIGS / "sweeps/learning_rate.yaml"
    with pytest.raises(UserError, match=r"learning_rat: no such sweep file; did you mean learning_rate\?"):
        find_sweep("learning_rat")


@pytest.mark.parametrize("path", sorted((CONFIGS / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_built_in_sweeps_pass_every_check(path):
    found = read_specification(path)
    found = resolve_largest(found, lambda device: (8e9, True), str(path))
    check_trials(found, str(path))
    if found.search == "grid":
        assert all(tokens_of(found, point) for point in found.points())


def test_the_ablations_are_all_in_one_sweep():
    names = {path.stem.removeprefix("ablation_") for path in CONFIGS.glob("ablation_*.yaml")}
    found = read_specification(CONFIGS / "sweeps/ablations.yaml")
    assert found.variants.keys() == names | {"quickstart"}
    assert found.variants["quickstart"] == {} and all(found.variants[name] for name in names)
