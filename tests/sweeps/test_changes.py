import copy

import pytest

from lmfast.errors import UserError
from lmfast.sweeps.changes import reject_changes

BEFORE = {
    "settings": {"d_model": 8},
    "search": "grid",
    "space": {"learning_rate": [0.1, 0.2], "weight_decay": {"low": 0, "high": 1, "step": 1}},
    "variants": {"a": {}, "b": {"norm": "post"}},
    "metric": "val_loss",
    "budget": {},
    "page": {},
    "seed": 0,
}


def changed(**parts):
    return copy.deepcopy(BEFORE) | parts


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"budget": {"trials": 5}, "page": {"x": "seed"}},
        {"space": BEFORE["space"] | {"learning_rate": [0.3, 0.2, 0.1]}},
        {"variants": {"c": {"norm": "none"}, **BEFORE["variants"]}},
        {"seed": 1},
    ],
)
def test_more_of_a_grid_budget_and_page_may_change(parts):
    reject_changes(BEFORE, changed(**parts), "s")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"settings": {"d_model": 16}}, "settings: d_model = 8, not 16"),
        ({"settings": {}}, "settings: d_model = 8, not not set"),
        ({"settings": {"d_model": 8, "bf16": True}}, "settings: bf16 = not set, not True"),
        ({"space": {**BEFORE["space"], "learning_rate": [0.1]}}, "with 0.2 in space: learning_rate"),
        ({"space": {"learning_rate": [0.1, 0.2]}}, "space = learning_rate, weight_decay, not learning_rate"),
        ({"variants": {"a": {}}}, "with b in variants"),
        ({"variants": {"a": {}, "b": {"norm": "none"}}}, "variant b: norm = post, not none"),
        ({"metric": "train_loss"}, "metric = val_loss, not train_loss"),
        ({"search": "tpe"}, "search = grid, not tpe"),
    ],
)
def test_other_changes_are_errors_that_name_them(parts, message):
    with pytest.raises(UserError) as error:
        reject_changes(BEFORE, changed(**parts), "s")
    assert message in str(error.value) and "another --out-dir" in str(error.value)


def test_the_space_of_a_search_may_not_grow():
    before = changed(search="tpe")
    with pytest.raises(UserError, match="space: learning_rate"):
        reject_changes(before, changed(search="tpe", space={"learning_rate": [0.1, 0.2, 0.3]}), "s")
