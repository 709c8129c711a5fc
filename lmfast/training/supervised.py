"""The task of `lmfast sft`: conversations, rendered, masked and packed into rows."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from lmfast.counted import counted
from lmfast.data.chat import BOS, Rendered, render
from lmfast.data.chat_records import Message, read_conversations
from lmfast.data.packing import RowBatches, mean_span, pack, sequential_batches
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, selected_precision
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.evaluation import evaluate
from lmfast.training.interfaces import Evaluate, Generate, MakeEvaluate
from lmfast.training.objectives import SFT
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.post_training import (
    answer_sampler,
    embedding_rows,
    read_records,
    rows_sha256,
    steps_for_epochs,
    truncate_all,
)
from lmfast.training.post_training_settings import SFTSettings
from lmfast.training.resolve import batch_ramp, resolve
from lmfast.training.task import Rows, Task


def supervised_task(
    settings: SFTSettings,
    base: Path,
    tokenizer: Tokenizer,
    generate: Generate,
    report: Callable[[str], None],
) -> tuple[SFTSettings, Task]:
    """(resolved settings, task) for the records given in the settings.

    base: the run folder that training starts from. report: called with one line about each file read.
    """
    length = settings.model.context_length + 1
    records = _read(settings, tokenizer, length, report)
    pad = tokenizer.special_tokens[BOS]
    rows = pack(records.training, length, pad, settings.data.packing)
    settings = resolve(steps_for_epochs(settings, len(rows)), embedding_rows(base, tokenizer))
    loss_tokens = sum(int(document.loss.sum()) for document in records.training)
    fill = sum(len(document.ids) for document in records.training) / rows.size
    report(
        f"{settings.data.train_data_path}: {counted(len(records.training), 'conversation')} in "
        f"{counted(len(rows), 'row')} of {length} tokens "
        f"({fill:.0%} filled, {loss_tokens:,} tokens with loss); {len(records.held):,} held out"
    )
    objective = SFT(settings.optimizer.z_loss)
    held_rows = pack(records.held, length, pad, settings.data.packing) if records.held else None

    prompts = records.prompts[:3]
    return settings, Task(
        objective=objective,
        batches=RowBatches(rows, batch_ramp(settings.optimizer), settings.run.seed),
        make_evaluate=_make_evaluate(held_rows, objective) if held_rows is not None else None,
        sample=answer_sampler(tokenizer, prompts, generate) if prompts else None,
        tokenizer=tokenizer,
        evaluation_tokens=held_rows.size if held_rows is not None else 0,
        rows=Rows(length=length - 1, attention_span=mean_span(rows["document"][:, :-1])),
        facts={
            "stage": "sft",
            "train_data": {"conversations": len(records.training), "sha256": rows_sha256(rows)},
            "held_out": records.hashes,
        },
        grows_vocabulary=True,
    )


def _make_evaluate(held: np.ndarray, objective: SFT) -> MakeEvaluate:
    """The loss on rows of held-out records."""

    def prepare(
        model: TransformerLM, settings: TrainSettings, device: torch.device, ranks: Ranks
    ) -> Evaluate:
        opt, limit = settings.optimizer, settings.logging.eval_batches
        # In optimizer steps, so that the evaluated rows do not depend on grad_accumulation.
        batches = sequential_batches(held, opt.batch_size, limit * opt.grad_accumulation)
        return lambda: evaluate(
            model, objective, batches, device, selected_precision(settings.run), None, ranks
        )

    return prepare


class _Records(NamedTuple):
    training: list[Rendered]
    held: list[Rendered]
    prompts: list[tuple[Message, ...]]  # of the held-out records
    hashes: list[str]  # of prompts kept out of training


def _read(
    settings: SFTSettings, tokenizer: Tokenizer, length: int, report: Callable[[str], None]
) -> _Records:
    data = settings.data
    talks, held_talks, held = read_records(
        data,
        lambda path: read_conversations(path, data.format, data.skip_bad),
        lambda talk: talk[:-1],
        report,
    )
    training, kept = (
        truncate_all([render(talk, tokenizer) for talk in part], length, what, report) if part else []
        for part, what in ((talks, str(data.train_data_path)), (held_talks, "held out"))
    )
    prompts = [talk[:-1] for talk in held_talks]
    return _Records([d for d in training if d], [d for d in kept if d], prompts, sorted(held))
