"""The tokenizer and the token files of a pretraining run, each opened once and checked against the others.

In: settings and paths. Out: resolved settings and `TokenInputs`. Rejected (UserError): missing files, ids outside the
vocabulary, files too short for one window, files of different tokenizers, document_mask without a separator.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lmfast.data.token_file import TokenFile, open_tokens
from lmfast.errors import UserError
from lmfast.settings import TrainSettings
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.special_tokens import DOCUMENT_END
from lmfast.training.resolve import resolve

NO_TOKENIZER = "none"
"""value of the setting tokenizer that trains without one"""
SEPARATOR_SEARCH = 10_000_000
"""tokens of the training file in which document_mask looks for a separator, to report that there is none"""


@dataclass(frozen=True)
class TokenInputs:
    """Open files of a run. `separator`: the id that ends each document, with document_mask."""

    train: TokenFile
    valid: TokenFile | None
    tokenizer: Tokenizer | None
    separator: int | None


def open_inputs(
    settings: TrainSettings,
    train_path: str | Path,
    valid_path: str | Path | None,
    tokenizer_path: str | Path | None,
    kept_tokenizer: Path | None,
    report: Callable[[str], None],
) -> tuple[TrainSettings, TokenInputs]:
    """(resolved settings, open files). Raises UserError, see this module's docstring.

    tokenizer_path: None for the one that the training file names, else kept_tokenizer, a resumed run's own copy;
    NO_TOKENIZER for none. report: called with one line for each thing that is missing but not needed.
    """
    train, length = None, settings.model.context_length + 1
    if tokenizer_path is None or tokenizer_path == NO_TOKENIZER:
        train = open_tokens(train_path, settings.model.vocab_size)
        if tokenizer_path is None:
            tokenizer_path = _tokenizer_path(train, kept_tokenizer, report)
        else:
            tokenizer_path = None
    elif not os.path.exists(tokenizer_path):
        if kept_tokenizer is None:
            raise UserError(f"{tokenizer_path}: no such tokenizer folder or file")
        tokenizer_path = kept_tokenizer
    tokenizer = None if tokenizer_path is None else Tokenizer.load(tokenizer_path)
    if tokenizer is not None:
        vocab_size = tokenizer.vocab_size
    else:
        vocab_size = ((train.summary if train is not None else None) or {}).get("vocab_size")
    settings = resolve(settings, vocab_size)
    ids = tokenizer.vocab_size if tokenizer is not None else settings.model.vocab_size
    if train is None:
        train = open_tokens(train_path, ids, length)
    else:
        train.check(ids, length)
    _check_tokenizer(train, tokenizer, tokenizer_path)
    valid = None
    if valid_path is not None:
        valid = open_tokens(valid_path, ids, 2)
        _check_tokenizer(valid, tokenizer, tokenizer_path)
        one, other = train.tokenizer_sha256, valid.tokenizer_sha256
        if one and other and one != other:
            raise UserError(
                f"{valid.path}: was encoded with another tokenizer than {train.path}; encode both with one"
            )
    else:
        report("no val_data_path: training without evaluation")
    separator = None
    if settings.data.document_mask:
        separator = _separator(tokenizer, tokenizer_path, train, report)
    return settings, TokenInputs(train, valid, tokenizer, separator)


def _tokenizer_path(train: TokenFile, kept: Path | None, report: Callable[[str], None]) -> str | Path | None:
    """The tokenizer that the training file names, else the run's own copy."""
    named = train.tokenizer_path
    if named is not None and os.path.exists(named):
        return named
    if kept is not None:
        return kept
    if named is not None:
        raise UserError(
            f"{train.path}: its tokenizer {named} is no longer there, and without it the run could never generate "
            "text; name its new place with --tokenizer, or give --tokenizer none to train without text and bits per byte"
        )
    report(
        f"{train.path}: no {train.path.name}.json names its tokenizer: no samples, no bits per byte, and the run "
        "can never generate text; --tokenizer FOLDER names it"
    )
    return None


def _check_tokenizer(file: TokenFile, tokenizer: Tokenizer | None, path: str | Path | None) -> None:
    if tokenizer is not None and file.tokenizer_sha256 not in (None, tokenizer.fingerprint()):
        raise UserError(
            f"{file.path}: was encoded with another tokenizer than {path}; encode it again, or name the right one "
            "with --tokenizer"
        )


def _separator(
    tokenizer: Tokenizer | None, path: str | Path | None, train: TokenFile, report: Callable[[str], None]
) -> int:
    if tokenizer is None:
        raise UserError(
            f"document_mask needs the id of {DOCUMENT_END}, and {train.path} names no tokenizer; give --tokenizer"
        )
    separator = tokenizer.special_tokens.get(DOCUMENT_END)
    if separator is None:
        raise UserError(
            f"{path}: has no {DOCUMENT_END}, which document_mask tells documents apart by; leave --document-mask "
            "out, or train a tokenizer with that special token"
        )
    searched = train.tokens[:SEPARATOR_SEARCH]
    if not (searched == separator).any():
        report(f"document_mask: no {DOCUMENT_END} among the first {len(searched):,} tokens of {train.path}")
    return separator
