"""python -m lmfast.train: train a language model on a token file."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmfast.cli.exit_codes import run_training
from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.model.torch_environment import set_environment
from lmfast.settings import TrainSettings
from lmfast.training.parallel.environment import number_of_ranks
from lmfast.training.resolve import resolve

if TYPE_CHECKING:
    from lmfast.data.stories.builtin import Prepared


def build_parser() -> SettingsParser:
    return SettingsParser(TrainSettings, "lmfast train")


def check_settings(settings: TrainSettings) -> None:
    """Raises UserError for settings that no data makes valid, such as a d_model that the heads do not divide."""
    resolve(settings, settings.model.vocab_size or 1)


def main(argv: Sequence[str] | None = None) -> None:
    run_training(train, argv)


def train(argv: Sequence[str], corpus: "Prepared | None" = None) -> bool:
    """Runs the training described by a command line; returns False if it was interrupted.

    corpus: the result of `lmfast.data.stories.builtin.prepare`, if the caller has already prepared the built-in stories.
    """
    if number_of_ranks() == 1:  # of several processes, the first reports
        parse(TrainSettings, argv, "lmfast train")  # handles --help and mistakes before importing torch
    set_environment()
    from lmfast.cli.pretraining import pretrain

    return pretrain(argv, corpus)


if __name__ == "__main__":
    main()
