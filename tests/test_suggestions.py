"""Suggestions for unknown names, as users of other programs type them, per command."""

import importlib

import pytest

from lmfast.__main__ import COMMANDS
from lmfast.cli.settings_line import parse
from lmfast.errors import UserError
from lmfast.settings import TrainSettings, flat_types, read_yaml
from lmfast.suggestions import _OTHERS_SAY, nearest, remedy


def settings_of(command: str) -> set[str]:
    module, name = {
        "train": ("lmfast.train", "TrainSettings"),
        "sft": ("lmfast.training.post_training_settings", "SFTSettings"),
        "dpo": ("lmfast.training.post_training_settings", "DPOSettings"),
        "generate": ("lmfast.generate", "GenerateSettings"),
        "evaluate": ("lmfast.evaluate", "EvaluateSettings"),
        "flops": ("lmfast.flops", "FlopsSettings"),
    }[command]
    return set(flat_types(getattr(importlib.import_module(module), name)))


@pytest.mark.parametrize(
    ("command", "typed", "meant"),
    [
        ("train", "block_size", "context_length"),  # not vocab_size
        ("train", "n_layer", "num_layers"),
        ("train", "n_head", "num_heads"),
        ("train", "n_embd", "d_model"),
        ("train", "steps", "max_iters"),
        ("sft", "num_train_epochs", "epochs"),
        ("train", "batch", "batch_size"),
        ("train", "rope", "rope_theta"),
        ("train", "adam_beta1", "beta1"),
        ("train", "learnig_rate", "learning_rate"),
        ("generate", "temp", "temperature"),  # not system
        ("generate", "max_new_tokens", "max_tokens"),
        ("generate", "num_samples", None),  # not no_compile
        ("evaluate", "num_samples", "samples"),
        ("evaluate", "checkpoint", "run"),
        ("generate", "n_predict", "max_tokens"),
        ("generate", "model_name_or_path", "checkpoint"),
        ("train", "train_micro_batch_size", "batch_size"),  # litgpt's, with a dot
        ("train", "per_device_train_batch_size", "batch_size"),
        ("train", "wandb_run_name", "wandb_name"),
        ("train", "lr_scheduler_type", "schedule"),
        ("flops", "hidden_size", "d_model"),
        ("dpo", "dpo_beta", "beta"),
        ("train", "decay", None),  # of weights, or of the learning rate?
        ("train", "zzz", None),
    ],
)
def test_meaning_comes_before_spelling(command, typed, meant):
    assert nearest(typed, settings_of(command)) == meant


@pytest.mark.parametrize("typed", ["epochs", "num_train_epochs"])
def test_a_run_has_no_epochs(typed):
    """--epochs 3 is not --max-iters 3."""
    assert "did you mean" not in remedy(typed, settings_of("train"))
    assert "max_iters" in remedy(typed, settings_of("train"))
    assert typed == "epochs" or remedy(typed, settings_of("sft")) == "did you mean --epochs?"


@pytest.mark.parametrize("typed", ["n", "num_samples"])
def test_each_prompt_is_continued_once(typed):
    assert "repeat --prompt" in remedy(typed, settings_of("generate"))
    assert remedy("num_samples", settings_of("evaluate")) == "did you mean --samples?"


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        (["lr=1"], "unknown argument 'lr=1'; did you mean --learning-rate 1?"),
        (["lr", "1"], "unknown argument 'lr'; did you mean --learning-rate 1?"),
        (["-lr", "1"], "unknown argument '-lr'; did you mean --learning-rate 1?"),
        (["block_size=64"], "unknown argument 'block_size=64'; did you mean --context-length?"),
        (["configs/quickstart.yaml"], "did you mean --config configs/quickstart.yaml?"),
        (["--train.micro_batch_size", "8"], "did you mean --batch-size?"),
        (["--no-compil"], "did you mean --no-compile?"),
        (
            ["--compile", "True"],
            "unknown argument 'True'; switches take no value: --NAME is on, --no-NAME is off",
        ),
        (["--D-MODEL", "8"], "unknown option '--D-MODEL'; did you mean --d-model?"),
        (["qqq"], "unknown argument 'qqq'; see --help"),
    ],
)
def test_words_that_belong_to_no_option(words, ending):
    with pytest.raises(UserError) as error:
        parse(TrainSettings, words, "lmfast train")
    assert str(error.value).endswith(ending)


@pytest.mark.parametrize("flag", ["--checkpoint", "--model", "--run"])
def test_a_positional_argument_is_suggested(flag):
    """It once suggested `--run`, which does not exist."""
    from lmfast.evaluate import EvaluateSettings

    with pytest.raises(UserError) as error:
        parse(EvaluateSettings, [flag, "x"], "lmfast evaluate")
    assert str(error.value) == f"unknown option '{flag}'; did you mean the argument lmfast evaluate RUN?"


def test_epochs_in_a_file(tmp_path):
    (tmp_path / "x.yaml").write_text("epochs: 3\n")
    with pytest.raises(UserError, match="unknown setting 'epochs'; set the length of a run with max_iters"):
        read_yaml(tmp_path / "x.yaml", TrainSettings)


def test_other_programs_names_of_commands():
    assert [nearest(word, COMMANDS) for word in ("finetune", "eval", "chat", "trian", "prepare")] == [
        "sft", "evaluate", "generate", "train", "data",
    ]  # fmt: skip


def test_every_name_in_the_table_is_one_of_ours():
    """Otherwise a suggestion could name an option that no longer exists."""
    from lmfast.data.__main__ import build_parser as data_parser
    from lmfast.tokenizer.__main__ import build_parser as tokenizer_parser

    known = set(COMMANDS).union(*(settings_of(c) for c in ("sft", "dpo", "generate", "evaluate", "flops")))
    for parser in (data_parser(), tokenizer_parser()):
        for command in parser._subparsers._group_actions[0].choices.values():
            known |= {w.strip("-").replace("-", "_") for a in command._actions for w in a.option_strings}
    assert not set(_OTHERS_SAY) - known
