"""python -m lmfast.dpo: train a chat model on preferences.

Uses the training loop, settings and run folder of lmfast.train. The reference model is the one that training starts
from; its log-probabilities are computed once and stored in the run folder.
"""

import functools
import sys
from collections.abc import Sequence

from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import exit_on_user_error
from lmfast.model import compile_cache
from lmfast.training.post_training_settings import DPOSettings


def build_parser() -> SettingsParser:
    return SettingsParser(DPOSettings, "lmfast dpo")


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not dpo(argv):
            sys.exit(130)


def dpo(argv: Sequence[str]) -> bool:
    """Runs the training described by a command line; returns False if it was interrupted."""
    read = functools.partial(parse, DPOSettings, argv, "lmfast dpo")
    read()  # handles --help and mistakes before importing torch
    compile_cache.set_directory()
    import torch

    from lmfast.inference.decode import generate
    from lmfast.training.distributed import joined_ranks
    from lmfast.training.post_training import chat_tokenizer, stage_settings
    from lmfast.training.preference import preference_task
    from lmfast.training.run import execute

    with joined_ranks() as ranks:
        settings, start = ranks.from_first(lambda: stage_settings(DPOSettings, read, "dpo"))
        device = torch.device(settings.run.device)
        ranks.use_device(device)
        tokenizer = ranks.first_then_rest(lambda: chat_tokenizer(start.base))
        settings, task = ranks.first_then_rest(
            lambda: preference_task(settings, start, tokenizer, generate, device, ranks)
        )
        return execute(settings, task, start, device, ranks)


if __name__ == "__main__":
    main()
