"""python -m lmfast.sft: fine-tune a base model on instructions or conversations.

Uses the training loop, settings and run folder of lmfast.train, with its own data and the chat tokens.
"""

import functools
import sys
from collections.abc import Sequence

from lmfast.cli.settings_line import SettingsParser, parse
from lmfast.errors import exit_on_user_error
from lmfast.model import compile_cache
from lmfast.training.post_training_settings import SFTSettings


def build_parser() -> SettingsParser:
    return SettingsParser(SFTSettings, "lmfast sft")


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not sft(argv):
            sys.exit(130)


def sft(argv: Sequence[str]) -> bool:
    """Runs the fine-tuning described by a command line; returns False if it was interrupted."""
    read = functools.partial(parse, SFTSettings, argv, "lmfast sft")
    read()  # handles --help and mistakes before importing torch
    compile_cache.set_directory()
    import torch

    from lmfast.inference.decode import generate
    from lmfast.training.distributed import joined_ranks
    from lmfast.training.post_training import chat_tokenizer, stage_settings
    from lmfast.training.run import execute
    from lmfast.training.supervised import supervised_task

    with joined_ranks() as ranks:
        settings, start = ranks.from_first(lambda: stage_settings(SFTSettings, read, "sft"))
        device = torch.device(settings.run.device)
        ranks.use_device(device)
        tokenizer = ranks.first_then_rest(lambda: chat_tokenizer(start.base, may_add=True))
        settings, task = ranks.first_then_rest(
            lambda: supervised_task(settings, start.base, tokenizer, generate, ranks.report)
        )
        return execute(settings, task, start, device, ranks)


if __name__ == "__main__":
    main()
