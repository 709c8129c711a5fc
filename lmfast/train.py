"""python -m lmfast.train: train a language model on a token file."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmfast.cli.settings_line import SettingsParser, named_settings, parse
from lmfast.errors import UserError, exit_on_user_error
from lmfast.model import compile_cache
from lmfast.settings import CONFIGS, TrainSettings, read_yaml, replace_flat

if TYPE_CHECKING:
    from lmfast.training.task import Start


def build_parser() -> SettingsParser:
    return SettingsParser(TrainSettings, "lmfast train")


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not train(argv):
            sys.exit(130)


def train(argv: Sequence[str], corpus=None) -> bool:
    """Runs the training described by a command line; returns False if it was interrupted.

    corpus: the result of `lmfast.data.stories.builtin.prepare`, if the caller has already prepared the built-in stories.
    """
    compile_cache.set_directory()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return run(*_read_command_line(argv, corpus))
    from lmfast.training.distributed import joined_ranks

    with joined_ranks() as ranks:
        return run(*ranks.from_first(lambda: _read_command_line(argv, corpus)), ranks)


def _read_command_line(argv: Sequence[str], corpus) -> tuple[TrainSettings, "Start", Any]:
    """(settings, start of the run, built-in corpus or None) of a command line."""
    settings = parse(TrainSettings, argv, "lmfast train")
    from lmfast.training.resume import choose_folder, reject_missing_data, settings_to_resume

    folder, resuming = choose_folder(settings)
    if resuming and folder is not None:
        settings = parse(TrainSettings, argv, "lmfast train", base=settings_to_resume(folder, TrainSettings))
        reject_missing_data(folder, settings)
    elif settings.data.train_data_path is None and settings.config is None:
        # Without data and --config: the quickstart's settings on the built-in stories, overridden by the command line.
        quickstart = replace_flat(TrainSettings(), read_yaml(CONFIGS / "quickstart.yaml", TrainSettings))
        settings = parse(TrainSettings, argv, "lmfast train", base=quickstart)
    if "val_data_path" in named_settings(argv, TrainSettings) and settings.data.train_data_path is None:
        raise UserError("val_data_path is given without train_data_path; add --train-data, or remove it")
    if settings.data.tokenizer is not None and settings.data.train_data_path is None:
        raise UserError(
            "tokenizer is given without train_data_path, and the built-in stories have their own; remove it"
        )
    if settings.data.train_data_path is None and corpus is None:
        from lmfast.data.stories.builtin import prepare

        print("no training data given: using the built-in stories (use --train-data FILE for your own)")
        corpus = prepare(vocab_size=settings.model.vocab_size or 4096)
    # Not part of config.yaml, which must start the same run in another folder.
    settings = replace_flat(settings, {"out_dir": None, "resume": False})
    source = None
    if not resuming and settings.run.init_from is not None:
        from lmfast.training.run_folder import find_checkpoint

        source = find_checkpoint(Path(settings.run.init_from))
    from lmfast.training.task import Start

    return (
        settings,
        Start(folder, resuming, source),
        corpus if settings.data.train_data_path is None else None,
    )


def run(settings: TrainSettings, start: "Start", corpus, ranks=None) -> bool:
    """Trains on the token files named in `settings`, or on the built-in `corpus`.

    ranks: the `lmfast.training.distributed.Ranks` of a multi-process run. All input is checked before the first write.
    """
    from lmfast.model.device import pick_device
    from lmfast.training.distributed import SINGLE_PROCESS
    from lmfast.training.run import execute

    ranks = ranks or SINGLE_PROCESS
    device = pick_device(settings.run.device)
    ranks.use_device(device)
    settings = replace_flat(settings, {"device": device.type})
    # Rank 0 first: it may convert a text file of ids to one that can be memory-mapped.
    settings, task = ranks.first_then_rest(lambda: _task(settings, start, corpus, ranks.report))
    return execute(settings, task, start, device, ranks)


def _task(settings: TrainSettings, start: "Start", corpus, report: Callable[[str], None]):
    """(resolved settings, task) for the token files in `settings` or the built-in corpus; opens and checks each once."""
    from lmfast.inference.decode import generate
    from lmfast.training.pretraining import pretraining_task
    from lmfast.training.token_inputs import NO_TOKENIZER, open_inputs

    facts = None
    if corpus is None:
        data, run = settings.data, settings.run
        paths = {
            "train_data_path": data.train_data_path,
            "val_data_path": data.val_data_path,
            "tokenizer": None if data.tokenizer == NO_TOKENIZER else data.tokenizer,
            "init_from": run.init_from,
        }
        absolute = {name: os.path.abspath(path) for name, path in paths.items() if path is not None}
        settings = replace_flat(settings, absolute)
        sources = absolute["train_data_path"], settings.data.val_data_path, settings.data.tokenizer
    else:
        sources = corpus.train, corpus.valid, corpus.tokenizer
        facts = {"floor_bits_per_byte": corpus.floor_bits_per_byte}
    kept = start.folder / "tokenizer" if start.resuming and start.folder is not None else None
    if kept is not None and not kept.is_dir():
        kept = None
    settings, inputs = open_inputs(settings, *sources, kept, report)
    return settings, pretraining_task(settings, inputs, generate, facts)


if __name__ == "__main__":
    main()
