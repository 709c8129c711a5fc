"""python -m lmfast.dpo: train a chat model on preferences.

Uses the training loop, settings and run folder of lmfast.train. The reference model is the one that training starts
from; its log-probabilities are computed once and stored in the run folder.
"""

import functools
from collections.abc import Sequence

from lmfast.cli.exit_codes import run_training
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.model.torch_environment import set_environment
from lmfast.training.post_training_settings import DPOSettings


def build_parser() -> SettingsParser:
    return SettingsParser(DPOSettings, "lmfast dpo")


def main(argv: Sequence[str] | None = None) -> None:
    run_training(dpo, argv)


def dpo(argv: Sequence[str]) -> bool:
    """Runs the training described by a command line; returns False if it was interrupted."""
    read = functools.partial(parse, DPOSettings, argv, "lmfast dpo")
    read()  # handles --help and mistakes before importing torch
    set_environment()
    from lmfast.cli.post_training import train_on_preferences

    return train_on_preferences(argv, read)


if __name__ == "__main__":
    main()
