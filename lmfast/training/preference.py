"""The task of `lmfast dpo`: pairs of answers and their log-probabilities under the reference model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from lmfast.counted import counted
from lmfast.data.chat_records import Message, read_preferences
from lmfast.data.packing import RowBatches, sequential_batches
from lmfast.errors import UserError
from lmfast.model.device import autocast
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, selected_precision
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.interfaces import Evaluate, Generate, MakeEvaluate
from lmfast.training.objectives import DPO, IGNORE, sequence_log_probs
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.post_training import (
    answer_sampler,
    count_seen,
    embedding_rows,
    read_records,
    rows_sha256,
    steps_for_epochs,
)
from lmfast.training.post_training_settings import DPOSettings
from lmfast.training.preference_rows import pair_rows
from lmfast.training.reference import Reference
from lmfast.training.resolve import batch_ramp, resolve
from lmfast.training.task import Rows, Start, Task


def preference_task(
    settings: DPOSettings,
    start: Start,
    tokenizer: Tokenizer,
    generate: Generate,
    device: torch.device,
    ranks: Ranks,
) -> tuple[DPOSettings, Task]:
    """(resolved settings, task) for the preferences given in the settings; the reference is the model of `start`."""
    _check(settings)
    pairs = _read(settings, start, tokenizer, ranks.report)
    training, held = pairs.training, pairs.held
    shape = Rows(length=training.shape[-1] - 1, per_sequence=2)
    settings = resolve(
        steps_for_epochs(settings, len(training)), embedding_rows(start.base, tokenizer), shape.tokens
    )
    ranks.report(
        f"{settings.data.train_data_path}: {counted(len(training), 'pair')} of up to {training.shape[-1]} tokens; "
        f"{len(held):,} held out"
    )
    loss = settings.preference
    objective = DPO(loss.beta, loss.loss_type, loss.label_smoothing, loss.length_normalised, device)
    data = {"train": rows_sha256(training), "held_out": rows_sha256(held)}
    reference = Reference(settings, start, data, (training, held), device, ranks)
    prompts = pairs.prompts[:3]
    return settings, Task(
        objective=objective,
        batches=RowBatches(training, batch_ramp(settings.optimizer), settings.run.seed),
        make_evaluate=_make_evaluate(held, objective) if len(held) else None,
        sample=answer_sampler(tokenizer, prompts, generate) if prompts else None,
        tokenizer=tokenizer,
        evaluation_tokens=held.size,
        rows=shape,
        facts={
            "stage": "dpo",
            "train_data": {"pairs": len(training), "sha256": data["train"]},
            "held_out": pairs.hashes,
            "reference_model": reference.model_key,
        },
        prepare=reference.fill,
        measure=lambda: objective.read_metrics(ranks),
    )


def _check(settings: DPOSettings) -> None:
    loss = settings.preference
    if settings.run.fp8:
        raise UserError(
            "fp8 is not supported by dpo, whose reference log-probabilities are bf16; remove --fp8"
        )
    if not 0 < loss.beta < float("inf"):
        raise UserError(f"beta is {loss.beta}; it must be a number greater than 0")
    if not 0 <= loss.label_smoothing < 0.5:
        raise UserError(f"label_smoothing is {loss.label_smoothing}; it must be at least 0 and below 0.5")
    if loss.label_smoothing and loss.loss_type == "ipo":
        raise UserError("label_smoothing does not apply to loss_type ipo; remove one of them")
    if settings.optimizer.z_loss:
        raise UserError(f"z_loss is {settings.optimizer.z_loss}, but dpo does not use it; remove it")


class _Pairs(NamedTuple):
    training: np.ndarray  # (n, 2, length) of packing.TOKEN, like `held`
    held: np.ndarray
    prompts: list[tuple[Message, ...]]  # of the held-out pairs
    hashes: list[str]  # of prompts kept out of training


def _read(settings: DPOSettings, start: Start, tokenizer: Tokenizer, report: Callable[[str], None]) -> _Pairs:
    data = settings.data
    training, held, hashes = read_records(
        data, lambda path: read_preferences(path, data.skip_bad), lambda pair: pair.prompt, report
    )
    if seen := count_seen(start.base, hashes):
        report(f"{start.base}: may have been trained on {seen} of the {len(hashes)} held-out prompts")
    name, limit = str(data.train_data_path), settings.model.context_length + 1
    rows, held_rows = pair_rows(training, held, tokenizer, limit, name, report)
    return _Pairs(rows, held_rows, [pair.prompt for pair in held], sorted(hashes))


def _make_evaluate(held: np.ndarray, objective: DPO) -> MakeEvaluate:
    """Loss and rewards on held-out pairs, with the prefix `val_`, and the relative change of the log-probability of the
    chosen answers against the reference."""

    def prepare(
        model: TransformerLM, settings: TrainSettings, device: torch.device, ranks: Ranks
    ) -> Evaluate:
        """Each of N data ranks evaluates every N-th batch; all ranks return the result for all batches."""
        opt, limit = settings.optimizer, settings.logging.eval_batches
        # In optimizer steps, so that the evaluated pairs do not depend on grad_accumulation.
        batches = sequential_batches(held, opt.batch_size, limit * opt.grad_accumulation)

        @torch.no_grad()
        def evaluate() -> dict[str, float]:
            model.eval()
            # Sums over pairs: the loss, `objective.NAMES`, the log-probability under the reference.
            sums = torch.zeros(len(objective.NAMES) + 2, device=device)
            for batch, counts in ranks.deal(batches):
                inputs, targets, reference = objective.tensors(batch, device)
                with autocast(device, selected_precision(settings.run)):
                    log_probs = sequence_log_probs(model, inputs, targets)
                if not counts:
                    continue
                losses, found = objective.pairs(log_probs, reference, targets)
                lengths = (targets != IGNORE).sum(1) if objective.length_normalised else 1
                before = (reference / lengths)[0::2].sum()
                sums += torch.cat([losses.sum()[None], found.sum(1), before[None]])
            count = sum(map(objective.valid_tokens, batches))
            loss, *means, before = (ranks.sum(sums) / count).tolist()
            metrics = {"val_loss": loss}
            metrics |= {f"val_{name}": value for name, value in zip(objective.NAMES, means, strict=True)}
            metrics["val_logps/chosen_change"] = (metrics["val_logps/chosen"] - before) / abs(before)
            return metrics

        return evaluate

    return prepare
