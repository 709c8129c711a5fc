"""Functions shared by supervised fine-tuning and preference training: settings, base model, chat tokenizer, held-out
prompts, and reports about the data.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from lmfast.counted import counted
from lmfast.data.chat import (
    Rendered,
    add_chat_tokens,
    ending_ids,
    has_chat_tokens,
    render_prompt,
    truncate,
)
from lmfast.data.chat_records import Message
from lmfast.data.packing import hold_out, prompt_hash
from lmfast.errors import UserError
from lmfast.model.device import pick_device
from lmfast.model.transformer import TransformerLM
from lmfast.settings import read_model, replace_flat, to_flat
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.checkpoint import Checkpoint, find_checkpoint
from lmfast.training.interfaces import Generate, Sample
from lmfast.training.post_training_settings import ConversationData, DPOSettings, PreferenceData, SFTSettings
from lmfast.training.resolve import batch_ramp
from lmfast.training.resume import choose_folder, reject_missing_data, settings_to_resume
from lmfast.training.run_folder import load_tokenizer, read_facts
from lmfast.training.task import Start

T = TypeVar("T", SFTSettings, DPOSettings)


def stage_settings(cls: type[T], read: Callable[..., T], stage: str) -> tuple[T, Start]:
    """(settings with the model of the base run and absolute paths, start of the run).

    read: returns the settings of the command line, which override `base` if given.
    """
    settings = read()
    folder, resuming = choose_folder(settings, stage)
    if resuming and folder is not None:
        source, saved = None, settings_to_resume(folder, cls)
        settings = read(base=saved)
        if settings.data.epochs != saved.data.epochs and (
            settings.optimizer.max_iters == saved.optimizer.max_iters
        ):
            settings = replace_flat(settings, {"max_iters": None})  # derived from the previous `epochs`
        reject_missing_data(folder, settings)
    else:
        source = base_checkpoint(settings.run.init_from, stage)
        model = replace(read_model(source.run), vocab_size=None)
        settings = read(base=replace(cls(), model=model))
    if settings.data.tokenizer is not None:
        raise UserError(
            f"tokenizer is {settings.data.tokenizer}, but {stage} uses that of --init-from; remove --tokenizer"
        )
    if settings.data.document_mask:
        raise UserError(
            f"document_mask is only for train; {stage} always masks between records, so remove it"
        )
    if settings.data.train_data_path is None:
        raise UserError("train_data_path is not set; give a file of records with --train-data")
    # The location of a run is not one of its settings.
    changes = {"out_dir": None, "resume": False, "device": pick_device(settings.run.device).type}
    for name in ("train_data_path", "val_data_path", "init_from", "reference_cache"):
        if (path := to_flat(settings).get(name)) is not None:
            changes[name] = os.path.abspath(path)
    return replace_flat(settings, changes), Start(folder, resuming, source)


def steps_for_epochs(settings: T, items: int) -> T:
    """Sets max_iters from `epochs` over `items` rows, unless another setting determines the length of the run."""
    opt, epochs = settings.optimizer, settings.data.epochs
    if not (epochs > 0 and math.isfinite(epochs)):
        raise UserError(f"epochs is {epochs}; it must be a number greater than 0")
    if opt.max_iters is not None or opt.total_tokens is not None or opt.max_minutes is not None:
        return settings
    return replace_flat(settings, {"max_iters": batch_ramp(opt).steps_for(math.ceil(epochs * items))})


def base_checkpoint(init_from: str | None, stage: str) -> Checkpoint:
    """The checkpoint that a stage starts from."""
    if init_from is None:
        raise UserError(
            f"init_from is not set; give the run that {stage} starts from, such as --init-from runs/train-1"
        )
    return find_checkpoint(Path(init_from))


def chat_tokenizer(run: Path, may_add: bool = False) -> Tokenizer:
    """The tokenizer of a run with the chat tokens, which are added if `may_add`.

    Raises UserError if they are missing and may not be added, and if the run has no tokenizer."""
    tokenizer = load_tokenizer(run)
    if tokenizer is None:
        raise UserError(f"{run}: the run has no tokenizer; import or train it with --tokenizer")
    if has_chat_tokens(tokenizer):
        return tokenizer
    if not may_add:
        raise UserError(f"{run}: is not a chat model (no chat tokens); start from a run of lmfast sft")
    return add_chat_tokens(tokenizer)


def embedding_rows(run: Path, tokenizer: Tokenizer) -> int:
    """Number of rows of the embedding: the larger of the base model's and the tokenizer's vocabulary size."""
    return max(read_model(run).vocab_size, tokenizer.vocab_size)


def truncate_all(
    documents: Sequence[Rendered], length: int, what: str, report: Callable[[str], None] = print
) -> list[Rendered | None]:
    """Truncates each document to `length` tokens; None if no token with loss is left. Reports how many changed.

    Raises UserError if no document is left.
    """
    kept = [truncate(document, length) for document in documents]
    gone = sum(document is None for document in kept)
    short = sum(k is not None and len(k.ids) < len(d.ids) for k, d in zip(kept, documents, strict=True))
    if gone == len(kept):
        raise UserError(f"{what}: no record has an answer within {length - 1} tokens; raise --context-length")
    if gone or short:
        report(
            f"{what}: longer than {length - 1} tokens: {counted(short, 'answer')} truncated, "
            f"{counted(gone, 'record')} skipped (no answer left)"
        )
    return kept


def read_records(
    data: ConversationData | PreferenceData,
    read: Callable[[str], tuple[list, dict[str, int]]],
    get_prompt: Callable[..., Sequence[Message]],
    report: Callable[[str], None] = print,
) -> tuple[list, list, set[str]]:
    """(training records, held-out records, hashes of held-out prompts) of the files given in `data`.

    read: path → (records, {reason: number skipped}). Without a validation file, prompts are held out by hash.
    """

    def read_one(path: str) -> list:
        records, bad = read(path)
        report_skipped(path, bad, report)
        return records

    assert data.train_data_path is not None, "settings_of refuses that"
    training = read_one(data.train_data_path)
    if data.val_data_path is not None:
        return training, read_one(data.val_data_path), set()
    keys = [prompt_hash(get_prompt(record)) for record in training]
    hashes = hold_out(keys, data.held_out)
    held = [record for record, key in zip(training, keys, strict=True) if key in hashes]
    return [record for record, key in zip(training, keys, strict=True) if key not in hashes], held, hashes


def report_skipped(path, bad: dict[str, int], report: Callable[[str], None] = print) -> None:
    """Reports the bad records that --skip-bad skipped, in one line."""
    if bad:
        reason = max(bad, key=bad.__getitem__)
        report(f"{path}: skipped {counted(sum(bad.values()), 'bad record')} (most common problem: {reason})")


def count_seen(run: Path, held_out: set[str]) -> int:
    """How many of these prompts were not held out by an earlier run, and so may be in its training data; 0 if unknown."""
    before = read_facts(run).get("held_out")
    return len(held_out - set(before)) if before else 0


def rows_sha256(rows: np.ndarray) -> str:
    """SHA-256 of the ids, loss masks and document numbers of the rows."""
    named = [np.ascontiguousarray(rows[name]).tobytes() for name in ("id", "loss", "document")]
    return hashlib.sha256(b"".join(named)).hexdigest()


def answer_sampler(tokenizer: Tokenizer, prompts: Sequence[Sequence[Message]], generate: Generate) -> Sample:
    """The model's greedy answers to a few prompts."""
    stops = ending_ids(tokenizer)

    def sample(model: TransformerLM, step: int) -> tuple[str, dict[str, float]]:
        model.eval()
        model.restrict_to(tokenizer.vocab)
        ids = [render_prompt(prompt, tokenizer) for prompt in prompts]
        new = generate(model, ids, min(128, model.config.context_length), temperature=0.0, stop_ids=stops)
        talks = []
        for prompt, answer in zip(prompts, new, strict=True):
            asked = "\n".join(f"{message.role}: {message.content}" for message in prompt)
            talks.append(f"{asked}\nassistant: {tokenizer.decode(answer)}")
        return "\n\n".join(talks), {}

    return sample
