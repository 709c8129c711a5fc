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


def train(argv: Sequence[str], corpus=None) -> bool:
    """Runs the training that a command line describes; returns False when it was stopped before its end.

    corpus: what `lmfast.data.builtin.prepare` returned, where the caller has prepared the built-in corpus already.
    """
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
        settings, facts = _with_builtin_corpus(settings, corpus)
    # Where a run lies is not part of what it is: its config.yaml starts the same run anew elsewhere.
    settings = replace_flat(settings, {"out_dir": None, "resume": False})
    return run(settings, folder, resuming, facts)


def run(settings: TrainSettings, folder: Path, resuming: bool, facts: dict) -> bool:
    """Trains on the token files that `settings` name; every check of the input comes before the first write."""
    from lmfast.data.batches import Batches
    from lmfast.data.token_file import open_tokens
    from lmfast.model.device import pick_device
    from lmfast.training.evaluation import make_evaluate
    from lmfast.training.objectives import NextToken
    from lmfast.training.run import Task, execute, resolve

    device = pick_device(settings.run.device)
    tokenizer_path, vocab_size = _tokenizer_of(settings)
    settings = resolve(settings, vocab_size)
    vocab_size, window = settings.model.vocab_size, settings.model.context_length + 1
    train_tokens = open_tokens(settings.data.train_data_path, vocab_size, window).tokens
    val_tokens = None
    if settings.data.val_data_path is not None:
        val_tokens = open_tokens(settings.data.val_data_path, vocab_size, 2).tokens
    else:
        print("no val_data_path: training without evaluation")
    if tokenizer_path is not None:
        settings = replace_flat(settings, {"tokenizer": str(tokenizer_path)})
    task = Task(
        objective=NextToken(),
        make_batches=lambda rows, length, seed: Batches(train_tokens, rows, length, seed),
        make_evaluate=make_evaluate(val_tokens, tokenizer_path) if val_tokens is not None else None,
        sample=_sampler(tokenizer_path) if tokenizer_path is not None else None,
        tokenizer=tokenizer_path,
        facts=facts,
    )
    return execute(settings, task, folder, resuming, device)


def _with_builtin_corpus(settings: TrainSettings, corpus) -> tuple[TrainSettings, dict]:
    if corpus is None:
        from lmfast.data.builtin import prepare

        print("no training data given: using the built-in stories (--train-data FILE trains on your own)")
        corpus = prepare(vocab_size=settings.model.vocab_size or 4096)
    paths = {
        "train_data_path": str(corpus.train),
        "val_data_path": str(corpus.valid),
        "tokenizer": str(corpus.tokenizer),
    }
    return replace_flat(settings, paths), {"floor_bits_per_byte": corpus.floor_bits_per_byte}


def _tokenizer_of(settings: TrainSettings) -> tuple[Path | None, int | None]:
    """The tokenizer's path, the setting's or else the one that the training file names, and the vocabulary's size."""
    from lmfast.data.token_file import open_tokens

    named = settings.data.tokenizer
    if named is not None and not os.path.exists(named):
        raise UserError(f"{named}: no such tokenizer folder or file")
    summary_size = None
    if named is None:
        file = open_tokens(settings.data.train_data_path, settings.model.vocab_size)
        named, summary_size = file.tokenizer_path, (file.summary or {}).get("vocab_size")
        if named is not None and not os.path.exists(named):
            print(f"{named}: the tokenizer is no longer there; training without bits per byte and samples")
            named = None
    if named is None:
        return None, summary_size
    from lmfast.tokenizer.bpe import Tokenizer

    return Path(named), Tokenizer.load(named).vocab_size


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
