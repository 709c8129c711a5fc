"""python -m lmfast.train: train a language model on a token file."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lmfast.errors import UserError, exit_on_user_error
from lmfast.settings import CONFIGS, TrainSettings, given_names, parse, read_yaml, replace_flat

PROMPTS = ("Once upon a time", "One day")
"""what the samples written while training start from"""


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not train(argv):
            sys.exit(130)


def train(argv: Sequence[str]) -> bool:
    """Runs the training that a command line describes; returns False when it was stopped before its end."""
    settings = parse(TrainSettings, argv, "lmfast train")
    from lmfast.training.resume import choose_folder, saved_settings

    folder, resuming = choose_folder(settings)
    if resuming:
        settings = parse(TrainSettings, argv, "lmfast train", base=saved_settings(folder))
    elif settings.data.train_data_path is None and settings.config is None:
        # Nothing was named: the quickstart's run on the built-in corpus, whatever the line changes in it.
        quickstart = replace_flat(TrainSettings(), read_yaml(CONFIGS / "quickstart.yaml", TrainSettings))
        settings = parse(TrainSettings, argv, "lmfast train", base=quickstart)
    if "val_data_path" in given_names(argv, TrainSettings) and settings.data.train_data_path is None:
        raise UserError("val_data_path is given without train_data_path; give both, or neither")
    facts = {}
    if settings.data.train_data_path is None:
        settings, facts = _with_builtin_corpus(settings)
    settings = replace_flat(settings, {"out_dir": str(folder), "resume": False})
    return run(settings, folder, resuming, facts)


def run(settings: TrainSettings, folder: Path, resuming: bool, facts: dict) -> bool:
    """Trains on the token files that `settings` name; every check of the input comes before the first write."""
    from lmfast.data.batches import Batches
    from lmfast.model.device import pick_device
    from lmfast.training.evaluation import make_evaluate
    from lmfast.training.objectives import NextToken
    from lmfast.training.run import Task, execute, resolve

    device = pick_device(settings.run.device)
    train_tokens, val_tokens, tokenizer_path = _open_data(settings)
    vocab_size = _vocab_size(settings, tokenizer_path, train_tokens)
    settings = resolve(settings, vocab_size)
    context = settings.model.context_length
    for file in filter(None, (train_tokens, val_tokens)):
        file.check(settings.model.vocab_size, context + 1)
    if tokenizer_path is not None:
        settings = replace_flat(settings, {"tokenizer": str(tokenizer_path)})
    if val_tokens is None:
        print("no val_data_path: training without evaluation")
    task = Task(
        objective=NextToken(),
        make_batches=lambda rows, length, seed: Batches(train_tokens.tokens, rows, length, seed),
        make_evaluate=make_evaluate(val_tokens.tokens, tokenizer_path) if val_tokens is not None else None,
        sample=_sampler(tokenizer_path) if tokenizer_path is not None else None,
        tokenizer=tokenizer_path,
        facts=facts,
    )
    return execute(settings, task, folder, resuming, device)


def _with_builtin_corpus(settings: TrainSettings) -> tuple[TrainSettings, dict]:
    from lmfast.data.builtin import prepare

    print("no training data given: using the built-in stories (--train-data FILE trains on your own)")
    corpus = prepare(vocab_size=settings.model.vocab_size or 4096)
    paths = {
        "train_data_path": str(corpus.train),
        "val_data_path": str(corpus.valid),
        "tokenizer": str(corpus.tokenizer),
    }
    return replace_flat(settings, paths), {"floor_bits_per_byte": corpus.floor_bits_per_byte}


def _open_data(settings: TrainSettings):
    """The token files, and the tokenizer's path: the setting's, else the one that the training file names."""
    from lmfast.data.token_file import open_tokens

    train_tokens = open_tokens(settings.data.train_data_path)
    val_path = settings.data.val_data_path
    val_tokens = open_tokens(val_path) if val_path is not None else None
    named = settings.data.tokenizer or train_tokens.tokenizer_path
    if named is None:
        return train_tokens, val_tokens, None
    if not os.path.exists(named):
        if settings.data.tokenizer:
            raise UserError(f"{named}: no such tokenizer folder or file")
        print(f"{named}: the tokenizer is no longer there; training without bits per byte and samples")
        return train_tokens, val_tokens, None
    return train_tokens, val_tokens, Path(named)


def _vocab_size(settings: TrainSettings, tokenizer_path: Path | None, train_tokens) -> int | None:
    if tokenizer_path is not None:
        from lmfast.tokenizer.bpe import Tokenizer

        return Tokenizer.load(tokenizer_path).vocab_size
    return (train_tokens.summary or {}).get("vocab_size")


def _sampler(tokenizer_path: Path):
    """(model, step) → text that continues PROMPTS, the same prompts and seed every time."""
    from lmfast.inference.decode import generate
    from lmfast.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(tokenizer_path)
    stop = tokenizer.special_tokens.get("<|endoftext|>")

    def sample(model, step: int) -> str:
        model.eval()
        prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
        length = min(200, model.config.context_length)
        new = generate(model, prompts, length, temperature=0.8, top_p=0.95, seed=0, stop_id=stop)
        return "\n\n".join(tokenizer.decode(p + n) for p, n in zip(prompts, new, strict=True))

    return sample


if __name__ == "__main__":
    main()
