"""python -m lmfast.train: train a language model on a token file."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lmfast.cli.settings_line import given_names, parse
from lmfast.errors import UserError, exit_on_user_error
from lmfast.model import compile_cache
from lmfast.settings import CONFIGS, TrainSettings, read_yaml, replace_flat, to_flat

NO_TOKENIZER = "none"
"""value of the setting tokenizer that trains without one"""
PROMPTS = ("Once upon a time", "One day")
"""what the samples written while training start from"""
SEPARATOR = "<|endoftext|>"
SEPARATOR_SEARCH = 10_000_000
"""tokens of the training file in which document_mask looks for a separator, to report that there is none"""
WORDS_TOKENS = 50_000_000
"""tokens, from the first on, whose words are known ones to the figures of those samples: seconds of counting"""


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else list(argv)
    with exit_on_user_error():
        if not train(argv):
            sys.exit(130)


def train(argv: Sequence[str], corpus=None) -> bool:
    """Runs the training that a command line describes; returns False when it was stopped before its end.

    corpus: what `lmfast.data.stories.builtin.prepare` returned, where the caller has prepared the built-in corpus already.
    """
    compile_cache.use()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return run(*_understand(argv, corpus))
    from lmfast.training.distributed import joined

    with joined() as ranks:
        return run(*ranks.from_first(lambda: _understand(argv, corpus)), ranks)


def _understand(argv: Sequence[str], corpus) -> tuple:
    """(settings, run folder, whether the run in it resumes, built-in corpus or None) of a command line."""
    settings = parse(TrainSettings, argv, "lmfast train")
    from lmfast.training.resume import choose_folder, refuse_missing_data, settings_to_resume

    folder, resuming = choose_folder(settings)
    if resuming:
        settings = parse(TrainSettings, argv, "lmfast train", base=settings_to_resume(folder))
        refuse_missing_data(folder, settings)
    elif settings.data.train_data_path is None and settings.config is None:
        # Nothing was named: the quickstart's run on the built-in corpus, whatever the line changes in it.
        quickstart = replace_flat(TrainSettings(), read_yaml(CONFIGS / "quickstart.yaml", TrainSettings))
        settings = parse(TrainSettings, argv, "lmfast train", base=quickstart)
    if "val_data_path" in given_names(argv, TrainSettings) and settings.data.train_data_path is None:
        raise UserError("val_data_path is given without train_data_path; give both, or neither")
    if settings.data.tokenizer is not None and settings.data.train_data_path is None:
        raise UserError(
            "tokenizer is given without train_data_path; the built-in stories have their own, leave it out"
        )
    if settings.data.train_data_path is None and corpus is None:
        from lmfast.data.stories.builtin import prepare

        print("no training data given: using the built-in stories (--train-data FILE trains on your own)")
        corpus = prepare(vocab_size=settings.model.vocab_size or 4096)
    # Where a run lies is not part of what it is: its config.yaml starts the same run anew elsewhere.
    settings = replace_flat(settings, {"out_dir": None, "resume": False})
    return settings, folder, resuming, corpus if settings.data.train_data_path is None else None


def run(settings: TrainSettings, folder: Path | None, resuming: bool, corpus, ranks=None) -> bool:
    """Trains on the token files that `settings` name, or on the built-in `corpus`.

    ranks: the `lmfast.training.distributed.Ranks` of a run of several processes. Every check of the input comes before
    the first write.
    """
    from lmfast.model.device import pick_device
    from lmfast.training.distributed import ALONE
    from lmfast.training.run import execute

    ranks = ranks or ALONE
    device = pick_device(settings.run.device)
    ranks.use_device(device)
    settings = replace_flat(settings, {"device": device.type})
    # Rank 0 comes first: it may turn a text file of ids into one that can be mapped.
    settings, task = ranks.first_then_rest(
        lambda: _task(settings, folder / "tokenizer" if resuming else None, corpus, ranks.remark)
    )
    return execute(settings, task, folder, resuming, device, ranks)


def _task(settings: TrainSettings, kept_tokenizer: Path | None, corpus, remark: Callable[[str], None]):
    """(resolved settings, what is to be trained) from the token files, each checked; `remark` is told what is missing."""
    from lmfast.data.batches import Batches
    from lmfast.training.evaluation import make_evaluate
    from lmfast.training.objectives import NextToken
    from lmfast.training.resolve import resolve
    from lmfast.training.run import Task

    if corpus is None:
        names = ("train_data_path", "val_data_path", "tokenizer", "init_from")
        given = {
            name: value
            for name, value in to_flat(settings).items()
            if name in names and value is not None and (name, value) != ("tokenizer", NO_TOKENIZER)
        }
        settings = replace_flat(settings, {name: os.path.abspath(value) for name, value in given.items()})
        train_path, val_path = settings.data.train_data_path, settings.data.val_data_path
        tokenizer_path, vocab_size = _tokenizer_of(settings, kept_tokenizer, remark)
    else:
        train_path, val_path, tokenizer_path = corpus.train, corpus.valid, corpus.tokenizer
        vocab_size = _load_tokenizer(tokenizer_path).vocab_size
    settings = resolve(settings, vocab_size)
    train_file = _open(train_path, settings, tokenizer_path, settings.model.context_length + 1)
    val_file = _open(val_path, settings, tokenizer_path, 2) if val_path is not None else None
    if val_file is None:
        remark("no val_data_path: training without evaluation")
    else:
        _refuse_two_tokenizers(train_file, val_file)
    separator = None
    if settings.data.document_mask:
        separator = _separator(tokenizer_path, train_file, remark)
    facts = {"train_data": {"tokens": len(train_file), "tokenizer": _fingerprint(train_file)}}
    facts["train_data"]["sample_sha256"] = train_file.sample_sha256()
    if corpus is not None:
        facts["floor_bits_per_byte"] = corpus.floor_bits_per_byte
    task = Task(
        objective=NextToken(settings.optimizer.z_loss, separator),
        make_batches=lambda batch, length, seed, folder: Batches(train_file.tokens, batch, length, seed),
        make_evaluate=make_evaluate(val_file.tokens, tokenizer_path) if val_file is not None else None,
        sample=_sampler(tokenizer_path, train_file.tokens) if tokenizer_path is not None else None,
        tokenizer=tokenizer_path,
        evaluation_tokens=_evaluation_tokens(settings, val_file),
        facts=facts,
    )
    return settings, task


def _evaluation_tokens(settings: TrainSettings, val_file) -> int:
    """Tokens of one evaluation."""
    if val_file is None:
        return 0
    opt, limit = settings.optimizer, settings.logging.eval_batches
    most = limit * opt.grad_accumulation * opt.batch_size * settings.model.context_length
    return min(len(val_file), most) if limit else len(val_file)


def _tokenizer_of(
    settings: TrainSettings, kept: Path | None, remark: Callable[[str], None]
) -> tuple[Path | None, int | None]:
    """The tokenizer's path and the vocabulary's size.

    The setting's tokenizer, else the one that the training file names, else the run's own copy `kept`. None where the
    setting says so, or no file names one; raises UserError where one is named and is gone.
    """
    from lmfast.data.token_file import open_tokens

    named, copy = settings.data.tokenizer, kept if kept is not None and kept.is_dir() else None
    if named is None or named == NO_TOKENIZER:
        file = open_tokens(settings.data.train_data_path, settings.model.vocab_size)
        known = file.tokenizer_path if named is None else None
        if known is None and (copy is None or named == NO_TOKENIZER):
            if named is None:
                remark(
                    f"{file.path}: no {file.path.name}.json names its tokenizer: no samples, no bits per byte, and the run "
                    "can never generate text; --tokenizer FOLDER names it"
                )
            return None, (file.summary or {}).get("vocab_size")
        if copy is None and not os.path.exists(known):
            raise UserError(
                f"{file.path}: its tokenizer {known} is no longer there, and without it the run could never generate "
                "text; name its new place with --tokenizer, or give --tokenizer none to train without text and bits per byte"
            )
        named = known
    elif not os.path.exists(named) and copy is None:
        raise UserError(f"{named}: no such tokenizer folder or file")
    path = Path(named) if named is not None and os.path.exists(named) else copy
    return path, _load_tokenizer(path).vocab_size


def _load_tokenizer(path):
    from lmfast.tokenizer.bpe import Tokenizer

    return Tokenizer.load(path)


def _open(path, settings: TrainSettings, tokenizer_path: Path | None, min_length: int):
    """A checked token file, whose ids the tokenizer knows, and which that tokenizer made, as far as its summary tells."""
    from lmfast.data.token_file import open_tokens

    if tokenizer_path is None:
        return open_tokens(path, settings.model.vocab_size, min_length)
    tokenizer = _load_tokenizer(tokenizer_path)
    file = open_tokens(path, tokenizer.vocab_size, min_length)
    if _fingerprint(file) not in (None, tokenizer.fingerprint()):
        raise UserError(
            f"{path}: was encoded with another tokenizer than {tokenizer_path}; encode it again, or name the right one "
            "with --tokenizer"
        )
    return file


def _separator(tokenizer_path: Path | None, train_file, remark: Callable[[str], None]) -> int:
    """The id that ends each document. Raises UserError where it is not known."""
    if tokenizer_path is None:
        raise UserError(
            f"document_mask needs the id of {SEPARATOR}, and {train_file.path} names no tokenizer; give --tokenizer"
        )
    separator = _load_tokenizer(tokenizer_path).special_tokens.get(SEPARATOR)
    if separator is None:
        raise UserError(
            f"{tokenizer_path}: has no {SEPARATOR}, which document_mask tells documents apart by; leave --document-mask "
            "out, or train a tokenizer with that special token"
        )
    looked_at = train_file.tokens[:SEPARATOR_SEARCH]
    if not (looked_at == separator).any():
        remark(
            f"document_mask: no {SEPARATOR} among the first {len(looked_at):,} tokens of {train_file.path}"
        )
    return separator


def _fingerprint(file) -> str | None:
    return (file.summary or {}).get("tokenizer_sha256")


def _refuse_two_tokenizers(train_file, val_file) -> None:
    one, other = _fingerprint(train_file), _fingerprint(val_file)
    if one and other and one != other:
        raise UserError(
            f"{val_file.path}: was encoded with another tokenizer than {train_file.path}; encode both with one"
        )


def _sampler(tokenizer_path: Path, train_tokens):
    """(model, step) → text that continues PROMPTS, the same prompts and seed every time; figures about it."""
    from lmfast.data.chat import ending_ids
    from lmfast.data.text_figures import text_figures, words_of_tokens
    from lmfast.inference.decode import generate

    tokenizer = _load_tokenizer(tokenizer_path)
    stops = ending_ids(tokenizer)

    @functools.cache
    def known_words() -> set[str]:
        return words_of_tokens(train_tokens, tokenizer, limit=WORDS_TOKENS)

    def sample(model, step: int) -> tuple[str, dict[str, float]]:
        model.eval()
        model.write_only(tokenizer.vocab)
        prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
        length = min(200, model.config.context_length)
        new = generate(model, prompts, length, temperature=0.8, top_p=0.95, seed=0, stop_ids=stops)
        texts = [tokenizer.decode(p + n) for p, n in zip(prompts, new, strict=True)]
        return "\n\n".join(texts), text_figures(texts, known_words())

    return sample


if __name__ == "__main__":
    main()
