"""Opens the tokenizer and the token files of a pretraining run once, and checks them against each other.

Input: settings and paths. Output: resolved settings and `TokenInputs`. Rejects missing files, ids outside the vocabulary,
files too short for one window, files of different tokenizers, and document_mask without <|endoftext|>.
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
"""value of the setting `tokenizer` for training without one"""
SEPARATOR_SEARCH = 10_000_000
"""number of tokens of the training file that document_mask searches for <|endoftext|>, to report if there is none"""


@dataclass(frozen=True)
class TokenInputs:
    """Open files of a run. separator: the id of <|endoftext|>, with document_mask."""

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
    """(resolved settings, open files). Raises UserError as described in the module's docstring.

    tokenizer_path: None for the one recorded in the training file, or else kept_tokenizer, the copy in a resumed run;
    NO_TOKENIZER for none. report: called with one line for each optional file that is missing.
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
            raise UserError(f"{tokenizer_path}: no such tokenizer folder or file; check the path")
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
                f"{valid.path}: was encoded with a different tokenizer than {train.path}; encode both with the same one"
            )
    else:
        report("val_data_path is not set: training without evaluation")
    separator = None
    if settings.data.document_mask:
        separator = _separator(tokenizer, tokenizer_path, train, report)
    return settings, TokenInputs(train, valid, tokenizer, separator)


def _tokenizer_path(train: TokenFile, kept: Path | None, report: Callable[[str], None]) -> str | Path | None:
    """The tokenizer recorded in the training file, or else the copy in the run folder."""
    named = train.tokenizer_path
    if named is not None and os.path.exists(named):
        return named
    if kept is not None:
        return kept
    if named is not None:
        raise UserError(
            f"{train.path}: its tokenizer {named} no longer exists; give its new path with --tokenizer, or train without "
            "samples and bits per byte with --tokenizer none"
        )
    report(
        f"{train.path}: its tokenizer is unknown (no {train.path.name}.json), so the run has no samples or bits per byte "
        "and cannot generate text; to change that, give --tokenizer PATH"
    )
    return None


def _check_tokenizer(file: TokenFile, tokenizer: Tokenizer | None, path: str | Path | None) -> None:
    if tokenizer is not None and file.tokenizer_sha256 not in (None, tokenizer.fingerprint()):
        raise UserError(
            f"{file.path}: was encoded with a different tokenizer than {path}; encode it again, or give the right one "
            "with --tokenizer"
        )


def _separator(
    tokenizer: Tokenizer | None, path: str | Path | None, train: TokenFile, report: Callable[[str], None]
) -> int:
    if tokenizer is None:
        raise UserError(
            f"document_mask needs the id of {DOCUMENT_END}, but {train.path} records no tokenizer; give --tokenizer"
        )
    separator = tokenizer.special_tokens.get(DOCUMENT_END)
    if separator is None:
        raise UserError(
            f"{path}: has no {DOCUMENT_END}, which document_mask needs; remove --document-mask, or use a tokenizer with "
            "that special token"
        )
    searched = train.tokens[:SEPARATOR_SEARCH]
    if not (searched == separator).any():
        report(f"document_mask: no {DOCUMENT_END} in the first {len(searched):,} tokens of {train.path}")
    return separator
