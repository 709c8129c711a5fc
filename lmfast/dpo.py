"""python -m lmfast.dpo: teach a model that talks which of two answers is the better one.

The training loop, its settings and its run folder are lmfast.train's; this command adds preferences, and a reference:
the model it starts from, whose log-probabilities are computed once and kept in the run folder.
"""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lmfast.cli.settings_line import parse
from lmfast.counted import counted
from lmfast.errors import UserError, exit_on_user_error
from lmfast.model import compile_cache
from lmfast.settings import precision_of
from lmfast.training.post_training_settings import DPOSettings


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not dpo(argv):
            sys.exit(130)


def dpo(argv: Sequence[str]) -> bool:
    """Runs the training that a command line describes; returns False when it was stopped before its end."""
    read = functools.partial(parse, DPOSettings, argv, "lmfast dpo")
    read()  # --help and mistakes before torch is imported
    compile_cache.use()
    import torch

    from lmfast.training.distributed import joined
    from lmfast.training.post_training import settings_of
    from lmfast.training.run import execute

    with joined() as ranks:
        settings, folder, resuming, run = ranks.from_first(lambda: settings_of(DPOSettings, read, "dpo"))
        device = torch.device(settings.run.device)
        ranks.use_device(device)
        settings, task = ranks.first_then_rest(lambda: _task(settings, folder, resuming, run, device, ranks))
        return execute(settings, task, folder, resuming, device, ranks)


def task_of_run(run: Path, device):
    """(settings, what was taught) of a finished or unfinished run, its preferences read again and the reference's
    log-probabilities filled in."""
    from lmfast.training.distributed import ALONE
    from lmfast.training.resolve import batch_ramp
    from lmfast.training.resume import saved_settings

    settings, task = _task(saved_settings(run, DPOSettings), run, True, run, device, ALONE)
    task.make_batches(batch_ramp(settings.optimizer), settings.model.context_length, settings.run.seed, run)
    return settings, task


def _task(settings: DPOSettings, folder: Path | None, resuming: bool, run: Path, device, ranks):
    """(resolved settings, what is to be taught) from the preferences, and from the run that is the reference."""
    from lmfast.data.packing import RowBatches
    from lmfast.inference.decode import generate
    from lmfast.training.objectives import DPO
    from lmfast.training.post_training import (
        answer_sampler,
        chat_tokenizer,
        digest,
        number_of_ids,
        steps_for_epochs,
    )
    from lmfast.training.resolve import resolve
    from lmfast.training.run import Rows, Task

    _check(settings)
    tokenizer, tokenizer_path = chat_tokenizer(run)
    pairs, held, prompts, hashes = _pairs(settings, tokenizer, run, ranks.remark)
    shape = Rows(length=pairs.shape[-1] - 1, per_sequence=2)
    settings = resolve(steps_for_epochs(settings, len(pairs)), number_of_ids(run, tokenizer), shape.tokens)
    ranks.remark(
        f"{settings.data.train_data_path}: {counted(len(pairs), 'pair')} of up to {pairs.shape[-1]} tokens; "
        f"{len(held):,} held out"
    )
    loss = settings.preference
    objective = DPO(loss.beta, loss.loss_type, loss.label_smoothing, loss.length_normalised, device)
    data = {"train": digest(pairs), "held_out": digest(held)}
    reference = _Reference(settings, folder, resuming, data, len(pairs) + len(held), device, ranks)

    def make_batches(batch, context_length, seed, folder):
        reference.fill(folder, pairs, held)
        return RowBatches(pairs, batch, seed)

    return settings, Task(
        objective=objective,
        make_batches=make_batches,
        make_evaluate=_make_evaluate(held) if len(held) else None,
        sample=answer_sampler(tokenizer, prompts[:3], generate) if prompts else None,
        tokenizer=tokenizer_path,
        evaluation_tokens=held.size,
        rows=shape,
        facts={
            "stage": "dpo",
            "train_data": {"pairs": len(pairs), "sha256": digest(pairs)},
            "held_out": hashes,
            "reference_model": reference.model_key,
        },
        measure=lambda: objective.read_metrics(ranks),
    )


def _check(settings: DPOSettings) -> None:
    loss = settings.preference
    if settings.run.fp8:
        raise UserError(
            "fp8 is not available here: the reference's log-probabilities are bf16; leave --fp8 out"
        )
    if not 0 < loss.beta < float("inf"):
        raise UserError(f"beta is {loss.beta}; it must be a number greater than 0")
    if not 0 <= loss.label_smoothing < 0.5:
        raise UserError(f"label_smoothing is {loss.label_smoothing}; it must be at least 0 and below 0.5")
    if loss.label_smoothing and loss.loss_type == "ipo":
        raise UserError("label_smoothing with loss_type ipo has no meaning; leave one of them out")
    if settings.optimizer.z_loss:
        raise UserError(
            f"z_loss is {settings.optimizer.z_loss}; preferences have no use for it, leave it out"
        )


def _pairs(settings: DPOSettings, tokenizer, run: Path, remark: Callable[[str], None]):
    """(training pairs, held-out pairs (n, 2, length) of TOKEN, held-out prompts, hashes of prompts kept out)."""
    from lmfast.data.chat_records import read_preferences
    from lmfast.training.post_training import read_records, trained_on
    from lmfast.training.preference_rows import pair_rows

    data = settings.data
    training, held, hashes = read_records(
        data, lambda path: read_preferences(path, data.skip_bad), lambda pair: pair.prompt, remark
    )
    if seen := trained_on(run, hashes):
        remark(f"{run}: {seen} of the {len(hashes)} held-out prompts may have been trained on there")
    rows, held_rows = pair_rows(
        training, held, tokenizer, settings.model.context_length + 1, data.train_data_path, remark
    )
    return rows, held_rows, [pair.prompt for pair in held], sorted(hashes)


class _Reference:
    """The reference model's log-probabilities of all pairs: from the file if it is there, else computed and kept."""

    def __init__(
        self,
        settings: DPOSettings,
        folder: Path | None,
        resuming: bool,
        data: dict,
        pairs: int,
        device,
        ranks,
    ):
        from lmfast.files import check_writable
        from lmfast.training.reference import model_key
        from lmfast.training.run_folder import find_checkpoint, read_facts

        self.settings, self.pairs, self.device, self.ranks, self.source = settings, pairs, device, ranks, None
        named = settings.preference.reference_cache
        self.path = Path(named) if named is not None else None  # None: in the run folder, which `fill` names
        if self.path is not None:
            check_writable(self.path)
        if resuming:
            self.model_key = read_facts(folder).get("reference_model")
        else:
            self.source = find_checkpoint(Path(settings.run.init_from))
            self.model_key = model_key(self.source)
        # In a new run's own folder there can be but remains of one that never reached a checkpoint.
        self.may_be_there = resuming or named is not None
        facts = {"length": settings.model.context_length, "bf16": settings.run.bf16}
        if settings.run.fp16:
            facts["fp16"] = True
        self.key = {"model": self.model_key, "data": data, "settings": facts}
        if self.path is not None:
            self._load()  # a file for another model or data is refused before anything is written

    def _load(self):
        from lmfast.training.reference import load_reference

        return load_reference(self.path, self.key, self.pairs) if self.may_be_there else None

    def fill(self, folder: Path, *parts) -> None:
        """Writes the numbers into `reference` of each part's rows; folder: the run's."""
        import numpy as np

        from lmfast.training.reference import compute_reference, save_reference

        self.path = self.path or folder / "reference.npz"
        found = self.ranks.from_first(self._load)
        if found is None:
            model, opt = self._model(), self.settings.optimizer
            found = np.concatenate(
                [
                    compute_reference(
                        model, part, opt.batch_size, self.device, precision_of(self.settings.run), self.ranks
                    )
                    for part in parts
                    if len(part)
                ]
            )
            self.ranks.only_first(lambda: save_reference(self.path, self.key, found))
        at = 0
        for part in parts:
            part["reference"] = found[at : at + len(part), :, None]
            at += len(part)

    def _model(self):
        from lmfast.training.reference import model_key
        from lmfast.training.run_folder import find_checkpoint, model_of

        source = self.source or find_checkpoint(Path(self.settings.run.init_from))
        if model_key(source) != self.model_key:
            self.ranks.fail(
                f"{source.path}: no longer the weights that the run began with, and {self.path} is gone; put one back"
            )
        return model_of(source, self.settings.model, self.device)


def _make_evaluate(held):
    """The loss and the rewards on held-out pairs, `val_` before their names, and how far the chosen answers' own
    log-probability has moved from the reference's, as a share of it."""

    def prepare(model, objective, settings, device, ranks):
        """Of several ranks each takes every N-th batch, and all of them get the whole result."""
        import torch

        from lmfast.data.packing import in_order
        from lmfast.model.device import autocast
        from lmfast.training.objectives import IGNORE, sequence_log_probs

        opt, limit = settings.optimizer, settings.logging.eval_batches
        # So many optimizer steps' worth of pairs: the same pairs however a step is split.
        batches = in_order(held, opt.batch_size, limit * opt.grad_accumulation)

        @torch.no_grad()
        def evaluate() -> dict[str, float]:
            model.eval()
            # Summed over the pairs: the loss, what `objective.NAMES` names, the reference's log-probability.
            sums = torch.zeros(len(objective.NAMES) + 2, device=device)
            for batch in batches[ranks.rank :: ranks.world_size]:
                inputs, targets, reference = objective.tensors(batch, device)
                with autocast(device, precision_of(settings.run)):
                    log_probs = sequence_log_probs(model, inputs, targets)
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


if __name__ == "__main__":
    main()
