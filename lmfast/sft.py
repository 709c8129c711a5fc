"""python -m lmfast.sft: fine-tune a base model on instructions or conversations.

Uses the training loop, settings and run folder of lmfast.train, with its own data and the chat tokens.
"""

import functools
from collections.abc import Sequence

from lmfast.cli.exit_codes import run_training
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.model.torch_environment import set_environment
from lmfast.training.post_training_settings import SFTSettings


def build_parser() -> SettingsParser:
    return SettingsParser(SFTSettings, "lmfast sft")


def main(argv: Sequence[str] | None = None) -> None:
    run_training(sft, argv)


def sft(argv: Sequence[str]) -> bool:
    """Runs the fine-tuning described by a command line; returns False if it was interrupted."""
    read = functools.partial(parse, SFTSettings, argv, "lmfast sft")
    read()  # handles --help and mistakes before importing torch
    set_environment()
    from lmfast.cli.post_training import fine_tune

    return fine_tune(argv, read)


if __name__ == "__main__":
    main()
