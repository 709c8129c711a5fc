"""`lmfast train` after its command line was checked: reads it, opens the data, trains."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from lmfast.cli.settings_line import named_settings, parse
from lmfast.cli.training_tasks import with_tasks
from lmfast.data.stories.builtin import VOCAB_SIZE, Prepared, prepare
from lmfast.data.stories.entropy import known_entropy
from lmfast.errors import UserError
from lmfast.inference.decode import generate
from lmfast.model.device import pick_device
from lmfast.settings import CONFIGS, TrainSettings, read_yaml, replace_flat
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.parallel.agreement import reject_other_programs
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks, joined_ranks
from lmfast.training.pretraining import pretraining_task
from lmfast.training.resume import choose_folder, reject_missing_data, settings_to_resume
from lmfast.training.run import execute
from lmfast.training.task import Start, Task
from lmfast.training.token_inputs import NO_TOKENIZER, open_inputs


def pretrain(argv: Sequence[str], corpus: Prepared | None) -> bool:
    """As `lmfast.train.train`."""
    with joined_ranks() as ranks:
        reject_other_programs(ranks, argv)
        return run(*ranks.from_first(lambda: _read_command_line(argv, corpus)), ranks)


def _read_command_line(
    argv: Sequence[str], corpus: Prepared | None
) -> tuple[TrainSettings, Start, Prepared | None]:
    """(settings, start of the run, built-in corpus or None) of a command line."""
    settings = parse(TrainSettings, argv, "lmfast train")

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
        print("no training data given: using the built-in stories (use --train-data FILE for your own)")
        corpus = prepare(vocab_size=settings.model.vocab_size or VOCAB_SIZE)
    # Not part of config.yaml, which must start the same run in another folder.
    settings = replace_flat(settings, {"out_dir": None, "resume": False})
    source = None
    if not resuming and settings.run.init_from is not None:
        source = find_checkpoint(Path(settings.run.init_from))
    return (
        settings,
        Start(folder, resuming, source),
        corpus if settings.data.train_data_path is None else None,
    )


def run(
    settings: TrainSettings, start: Start, corpus: Prepared | None, ranks: Ranks = SINGLE_PROCESS
) -> bool:
    """Trains on the token files named in `settings`, or on the built-in `corpus`.

    All input is checked before the first write.
    """
    device = pick_device(settings.run.device)
    ranks.use_device(device)
    ranks = ranks.in_tensor_groups(settings.run.tensor_parallel)
    settings = replace_flat(settings, {"device": device.type})
    # Rank 0 first: it may convert a text file of ids to one that can be memory-mapped.
    settings, task = ranks.first_then_rest(lambda: _task(settings, start, corpus, ranks.report))
    settings, task = with_tasks(settings, task, ranks)
    return execute(settings, task, start, device, ranks)


def _task(
    settings: TrainSettings, start: Start, corpus: Prepared | None, report: Callable[[str], None]
) -> tuple[TrainSettings, Task]:
    """(resolved settings, task) for the token files in `settings` or the built-in corpus; opens and checks each once."""

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
    if settings.data.val_data_path is not None and (floor := known_entropy(settings.data.val_data_path)):
        facts = {"floor_bits_per_byte": floor}
    kept = start.folder / "tokenizer" if start.resuming and start.folder is not None else None
    if kept is not None and not kept.is_dir():
        kept = None
    settings, inputs = open_inputs(settings, *sources, kept, report)
    return settings, pretraining_task(settings, inputs, generate, facts)
