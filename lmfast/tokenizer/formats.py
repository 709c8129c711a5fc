"""Tokenizer files: GPT-2's vocab.json + merges.txt, Hugging Face's tokenizer.json, tiktoken's .tiktoken ranks, Kimi's.

In and out: `TokenizerParts` and paths. This module chooses the format by the path; tokenizer_json.py, gpt2_files.py,
ranks.py and kimi.py read one format each, and the first three write it. tokenizer.json contains everything, vocab.json +
merges.txt neither the pattern nor which entries are special, .tiktoken neither special tokens nor a pattern nor merges. Ids
are kept as they are in the file: GPT-2's byte ids are permuted, and special tokens may have any id.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from lmfast.errors import UserError
from lmfast.tokenizer.dialects import check_portable, check_saveable
from lmfast.tokenizer.gpt2_files import (
    encode_utf8,
    read_bytes,
    read_json,
    read_text,
    read_vocab_and_merges,
    write_text,
    write_vocab_and_merges,
)
from lmfast.tokenizer.kimi import RANKS, read_kimi
from lmfast.tokenizer.parts import TokenizerParts
from lmfast.tokenizer.patterns import Pattern, get_pattern
from lmfast.tokenizer.ranks import read_ranks, write_ranks
from lmfast.tokenizer.tokenizer_json import read_tokenizer_json, write_tokenizer_json

logger = logging.getLogger(__name__)

PATTERN_FILE = "split_pattern.txt"
"""next to vocab.json and merges.txt: the split pattern, if tokenizer.json cannot represent it"""


def read(
    path: Path, special_tokens: Sequence[str] | None = None, pattern: str | None = None
) -> TokenizerParts:
    """Reads a folder (tokenizer.json, else vocab.json + merges.txt, Kimi's tiktoken.model, or one .tiktoken) or a file in
    any format.

    special_tokens: for vocab.json, which does not mark them. pattern: overrides the file's; .tiktoken requires one.
    """
    parts = _read(_file_in(path) if path.is_dir() else path, special_tokens, pattern)
    if pattern is not None:
        parts.pattern = pattern
    elif parts.pattern is None and (own := (path if path.is_dir() else path.parent) / PATTERN_FILE).is_file():
        parts.pattern = read_text(own)
    elif parts.pattern is not None:
        try:
            own_pattern = parts.pattern if isinstance(parts.pattern, Pattern) else get_pattern(parts.pattern)
            check_portable(own_pattern, f"{path}: its split pattern (override it with --pattern)")
        except UserError as error:
            if not _is_in_run(path):
                raise
            logger.warning("%s; this run was trained with lmfast's reading, which is used here too", error)
    return parts


def _is_in_run(folder: Path) -> bool:
    """Whether it is the tokenizer folder of a run, which older versions wrote without checking the pattern."""
    return folder.is_dir() and (folder.parent / "config.yaml").exists()


def _file_in(folder: Path) -> Path:
    ranks = sorted(folder.glob("*.tiktoken"))
    for file in (folder / "tokenizer.json", folder / "vocab.json", folder / RANKS, *ranks[:1]):
        if file.exists():
            return file
    raise UserError(
        f"{folder}: contains no tokenizer (tokenizer.json, vocab.json + merges.txt, {RANKS} or a .tiktoken); train one with "
        "`lmfast tokenizer train`"
    )


def _read(path: Path, special_tokens: Sequence[str] | None, pattern: str | None) -> TokenizerParts:
    if path.suffix == ".tiktoken":
        if pattern is None:
            raise UserError(
                f"{path}: does not contain the split pattern; add --pattern (gpt2, cl100k, o200k or a regex)"
            )
        return read_ranks(read_bytes(path), path)
    if path.name == RANKS:
        return read_kimi(path, pattern)
    if path.suffix == ".txt":
        return read_vocab_and_merges(_neighbour(path, "merges.txt", "vocab.json"), path, special_tokens)
    document = read_json(path)
    is_whole = isinstance(document, dict) and isinstance(document.get("model"), dict)
    if is_whole or path.name == "tokenizer.json":
        return read_tokenizer_json(document, path)
    return read_vocab_and_merges(path, _neighbour(path, "vocab.json", "merges.txt"), special_tokens)


def _neighbour(path: Path, name: str, other: str) -> Path:
    """x-vocab.json → x-merges.txt, and the other way round."""
    stem = name.split(".")[0]
    if stem not in path.name:
        raise UserError(
            f"{path}: cannot derive the name of {other} from this name; give both with --vocab and --merges"
        )
    neighbour = path.with_name(path.name.replace(stem, other.split(".")[0])).with_suffix(Path(other).suffix)
    if not neighbour.exists():
        raise UserError(
            f"{path}: needs {neighbour.name} in the same folder; give both with --vocab and --merges"
        )
    return neighbour


def write(parts: TokenizerParts, path: Path, pattern: Pattern) -> None:
    """Writes a .tiktoken or .json file, or a folder, as documented at `Tokenizer.save`."""
    if path.suffix == ".tiktoken":
        write_ranks(parts, path)
        return
    is_portable = True
    only_whole = (
        parts.ignore_merges or parts.has_text_rules or (pattern.name == "custom" and bool(pattern.steps))
    )
    try:
        check_saveable(pattern, path)
    except UserError as error:
        if path.suffix == ".json" or only_whole:
            raise
        is_portable = False
        logger.warning("%s; saved without a tokenizer.json, so only lmfast can load it", error)
    if path.suffix == ".json":
        write_tokenizer_json(parts, path, pattern)
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: cannot create the directory ({error.strerror}); choose another path"
        ) from None
    vocab_and_merges = path / "vocab.json", path / "merges.txt"
    if only_whole:  # which these two cannot represent, so they would be read as another tokenizer
        for file in vocab_and_merges:
            file.unlink(missing_ok=True)
    else:
        write_vocab_and_merges(parts, *vocab_and_merges)
    document, own_pattern = path / "tokenizer.json", path / PATTERN_FILE
    if is_portable:
        write_tokenizer_json(parts, document, pattern)
        own_pattern.unlink(missing_ok=True)
    else:
        encode_utf8(pattern.regex, own_pattern)
        write_text(own_pattern, pattern.regex)
        document.unlink(missing_ok=True)
