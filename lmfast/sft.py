"""python -m lmfast.sft: teach a base model to answer, from instructions or conversations.

The training loop, its settings and its run folder are lmfast.train's; this command adds the data and the chat's tokens.
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lmfast.cli.settings_line import parse
from lmfast.counted import counted
from lmfast.errors import exit_on_user_error
from lmfast.model import compile_cache
from lmfast.settings import precision_of
from lmfast.training.post_training_settings import SFTSettings


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not sft(argv):
            sys.exit(130)


def sft(argv: Sequence[str]) -> bool:
    """Runs the fine-tuning that a command line describes; returns False when it was stopped before its end."""
    read = functools.partial(parse, SFTSettings, argv, "lmfast sft")
    read()  # --help and mistakes before torch is imported
    compile_cache.use()
    import torch

    from lmfast.training.distributed import joined
    from lmfast.training.post_training import chat_tokenizer, settings_of
    from lmfast.training.run import execute

    with joined() as ranks, tempfile.TemporaryDirectory() as scratch:
        settings, folder, resuming, run = ranks.from_first(lambda: settings_of(SFTSettings, read, "sft"))
        device = torch.device(settings.run.device)
        ranks.use_device(device)

        def prepare():
            tokenizer, path = chat_tokenizer(run, Path(scratch) / "tokenizer")
            return _task(settings, run, tokenizer, path, ranks.remark)

        settings, task = ranks.first_then_rest(prepare)
        return execute(settings, task, folder, resuming, device, ranks)


def task_of_run(run: Path, device):
    """(settings, what was taught) of a finished or unfinished run, its records read again."""
    from lmfast.tokenizer.bpe import Tokenizer
    from lmfast.training.resume import saved_settings

    path = run / "tokenizer"
    return _task(saved_settings(run, SFTSettings), run, Tokenizer.load(path), path, print)


def _task(settings: SFTSettings, run: Path, tokenizer, tokenizer_path: Path, remark: Callable[[str], None]):
    """(resolved settings, what is to be taught) from the records; `remark` is told what was read."""
    from lmfast.data.chat import BOS
    from lmfast.data.packing import RowBatches, in_order, mean_span, pack
    from lmfast.inference.decode import generate
    from lmfast.training.evaluation import evaluate
    from lmfast.training.objectives import SFT
    from lmfast.training.post_training import answer_sampler, digest, number_of_ids, steps_for_epochs
    from lmfast.training.resolve import resolve
    from lmfast.training.run import Rows, Task

    length = settings.model.context_length + 1
    training, held, prompts, held_hashes = _documents(settings, tokenizer, length, remark)
    pad = tokenizer.special_tokens[BOS]
    rows = pack(training, length, pad, settings.data.packing)
    settings = steps_for_epochs(settings, len(rows))
    settings = resolve(settings, number_of_ids(run, tokenizer))
    loss_tokens = sum(int(document.loss.sum()) for document in training)
    fill = sum(len(document.ids) for document in training) / rows.size
    remark(
        f"{settings.data.train_data_path}: {counted(len(training), 'conversation')} in "
        f"{counted(len(rows), 'row')} of {length} tokens "
        f"({fill:.0%} filled, {loss_tokens:,} tokens with loss); {len(held):,} held out"
    )
    held_rows = pack(held, length, pad, settings.data.packing) if held else None

    def make_evaluate(model, objective, settings, device, ranks):
        opt, limit = settings.optimizer, settings.logging.eval_batches
        # So many optimizer steps' worth of rows: the same rows however a step is split.
        batches = in_order(held_rows, opt.batch_size, limit * opt.grad_accumulation)
        return lambda: evaluate(model, objective, batches, device, precision_of(settings.run), None, ranks)

    task = Task(
        objective=SFT(settings.optimizer.z_loss),
        make_batches=lambda batch, context_length, seed, folder: RowBatches(rows, batch, seed),
        make_evaluate=make_evaluate if held else None,
        sample=answer_sampler(tokenizer, prompts[:3], generate) if prompts else None,
        tokenizer=tokenizer_path,
        evaluation_tokens=held_rows.size if held else 0,
        rows=Rows(length=length - 1, attention_span=mean_span(rows["document"][:, :-1])),
        facts={
            "stage": "sft",
            "train_data": {"conversations": len(training), "sha256": digest(rows)},
            "held_out": held_hashes,
        },
        grows_vocabulary=True,
    )
    return settings, task


def _documents(settings: SFTSettings, tokenizer, length: int, remark: Callable[[str], None]):
    """(training documents, held-out documents, held-out prompts, hashes of prompts kept out of training)."""
    from lmfast.data.chat import render
    from lmfast.data.chat_records import read_conversations
    from lmfast.training.post_training import cut, read_records

    data = settings.data
    talks, held_talks, held = read_records(
        data,
        lambda path: read_conversations(path, data.format, data.skip_bad),
        lambda talk: talk[:-1],
        remark,
    )
    training, kept = (
        cut([render(talk, tokenizer) for talk in part], length, what, remark) if part else []
        for part, what in ((talks, data.train_data_path), (held_talks, "held out"))
    )
    prompts = [talk[:-1] for talk in held_talks]
    return [d for d in training if d], [d for d in kept if d], prompts, sorted(held)


if __name__ == "__main__":
    main()
