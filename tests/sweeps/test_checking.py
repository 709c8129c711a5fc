import dataclasses

import pytest

from lmfast.errors import UserError
from lmfast.model.memory import USABLE, training_memory
from lmfast.sweeps.checking import check_trials, planned_tokens, resolve_largest, tokens_of


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"space": {"num_heads": [3, 5], "seed": [0, 1]}},
            "s: num_heads 5, seed 0: d_model 192 is not divisible",
        ),
        ({"space": {"lr": [-1.0, 1.0]}}, "s: learning_rate -1: learning_rate is -1.0; it must be a number"),
        (
            {
                "space": {"dropout": {"low": 0.0, "high": 2.0}},
                "search": "random",
                "budget": {"trials": 9},
            },
            "s: dropout 2: dropout",
        ),
        ({"variants": {"a": {"bf16": True, "fp16": True}}}, "s: variant a: bf16 and fp16 are both set"),
        ({"settings": {"train_data": "no.npy"}, "space": {"seed": [0]}}, "s: seed 0: no.npy: "),
        ({"settings": {"init_from": "no"}, "space": {"seed": [0]}}, "s: seed 0: init_from no does not exist"),
        (
            {
                "settings": {"max_minutes": 1, "max_iters": None},
                "space": {"seed": [0]},
                "budget": {"tokens": 5},
            },
            "budget.tokens needs runs of a known length",
        ),
    ],
)
def test_what_a_run_would_reject_is_found_first(read, content, message):
    with pytest.raises(UserError) as error:
        check_trials(read(**content), "s")
    assert message in str(error.value)


def test_data_files_are_checked(read, corpus):
    settings = {
        "train_data": str(corpus.train),
        "val_data": str(corpus.valid),
        "context_length": 16,
        "d_model": 16,
        "num_heads": 2,
        "max_iters": 3,
    }
    found = read(settings=settings, space={"num_layers": [1, 2], "vocab_size": [300, 320]})
    check_trials(found, "s")
    assert tokens_of(found, {"num_layers": 1, "vocab_size": 300}) == 3 * 32 * 16
    with pytest.raises(UserError, match="s: vocab_size 200: "):
        check_trials(read(settings=settings, space={"vocab_size": [200]}), "s")
    del settings["val_data"]
    with pytest.raises(UserError, match="s: seed 0: metric val_loss needs val_data_path"):
        check_trials(read(settings=settings, space={"seed": [0]}), "s")


def test_planned_tokens_depend_on_the_clock(read):
    assert planned_tokens(read(space={"seed": [0]}).train_settings({})) == 840 * 8 * 256
    timed = read(settings={"max_minutes": 1, "max_iters": None}, space={"seed": [0]})
    assert planned_tokens(timed.train_settings({})) is None


def test_largest_is_the_largest_batch_that_fits_every_model(read):
    content = {"settings": {"max_iters": 2}, "space": {"batch_size": [1, "largest"], "d_model": [96, 192]}}
    memory = 2e9
    found = resolve_largest(read(**content), lambda device: (memory, True), "s")
    model = found.train_settings({"d_model": 192}).model.resolved()
    largest = found.largest
    assert largest is not None and found.axes["batch_size"] == [1, largest]
    used = [training_memory(model, n, "fp32", plain=True).total for n in (largest, largest + 1)]
    assert used[0] <= USABLE * memory < used[1]
    check_trials(found, "s")
    recomputed = content | {"settings": {"max_iters": 2, "activation_checkpointing": "block"}}
    assert (resolve_largest(read(**recomputed), lambda device: (memory, True), "s").largest or 0) > largest
    assert resolve_largest(read(**content), lambda device: (1.0, True), "s", before=7).largest == 7
    with pytest.raises(UserError, match="not even one sequence fits"):
        resolve_largest(read(**content), lambda device: (1e6, True), "s")
    unchanged = read(space={"batch_size": [1, 2]})
    assert resolve_largest(unchanged, lambda device: (1.0, True), "s") == dataclasses.replace(unchanged)
