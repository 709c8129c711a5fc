"""What an unknown name means: each as users of other programs type it, per command."""

import importlib

import pytest

from lmfast.__main__ import COMMANDS
from lmfast.settings import flat_types
from lmfast.suggestions import _OTHERS_SAY, nearest


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
        ("train", "epochs", "max_iters"),
        ("sft", "num_train_epochs", "epochs"),
        ("train", "batch", "batch_size"),
        ("train", "rope", "rope_theta"),
        ("train", "adam_beta1", "beta1"),
        ("train", "learnig_rate", "learning_rate"),
        ("generate", "temp", "temperature"),  # not system
        ("generate", "max_new_tokens", "max_tokens"),
        ("generate", "num_samples", None),  # not no_compile
        ("evaluate", "num_samples", "samples"),
        ("flops", "hidden_size", "d_model"),
        ("dpo", "dpo_beta", "beta"),
        ("train", "decay", None),  # of weights, or of the learning rate?
        ("train", "zzz", None),
    ],
)
def test_meaning_comes_before_spelling(command, typed, meant):
    assert nearest(typed, settings_of(command)) == meant


def test_commands_by_what_others_call_them():
    assert [nearest(word, COMMANDS) for word in ("finetune", "eval", "chat", "trian", "prepare")] == [
        "sft", "evaluate", "generate", "train", "data",
    ]  # fmt: skip


def test_every_name_in_the_table_is_one_of_ours():
    """Or a suggestion would name what no longer exists."""
    from lmfast.data.__main__ import build_parser as data_parser
    from lmfast.tokenizer.__main__ import build_parser as tokenizer_parser

    known = set(COMMANDS).union(*(settings_of(c) for c in ("sft", "dpo", "generate", "evaluate", "flops")))
    for parser in (data_parser(), tokenizer_parser()):
        for command in parser._subparsers._group_actions[0].choices.values():
            known |= {w.strip("-").replace("-", "_") for a in command._actions for w in a.option_strings}
    assert not set(_OTHERS_SAY) - known
