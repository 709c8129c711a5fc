"""GPT-2's files: vocab.json {token in byte characters: id} and merges.txt, one pair per line.

In and out: `TokenizerParts` and paths. The two files contain neither the split pattern nor which entries are special: an
entry that is neither a byte nor the result of a merge is taken as special. Rejects, naming the file: broken files, and
merges whose parts are unknown. Source: openai/gpt-2 encoder.py.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.tokenizer.byte_characters import spell, unspell
from lmfast.tokenizer.parts import TokenizerParts, unknown_parts


def read_json(path: Path) -> Any:
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is not valid JSON ({error}); is the file complete?") from None


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); is it a tokenizer file?") from None


def read_bytes(path: Path) -> bytes:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a pipe or device; name a tokenizer folder or file")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name an existing tokenizer folder or file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if not content.strip():
        raise UserError(f"{path}: is empty; save the tokenizer again")
    return content


def read_vocab_and_merges(
    vocab_path: Path, merges_path: Path, special_tokens: Iterable[str] | None = None
) -> TokenizerParts:
    """The parts in vocab.json and merges.txt.

    special_tokens: the texts that are special (those that the vocabulary lacks get new ids after it); None means
    every entry that is neither a byte nor the result of a merge.
    """
    entries = vocabulary_entries(read_json(vocab_path), vocab_path)
    spelt_entries = {text: unspell(text) for text in entries}
    merges = parse_merges(_lines(merges_path), spelt_entries, merges_path)
    made = {a + b for a, b in merges}
    wanted = None if special_tokens is None else set(special_tokens)
    vocab: dict[int, bytes] = {}
    found: dict[str, int] = {}
    for text, token in entries.items():
        spelt = spelt_entries[text]
        name = _special_name(text, spelt, wanted, made)
        if name is not None:
            found[name] = token
            vocab[token] = encode_utf8(name, vocab_path)
        elif spelt is not None:
            vocab[token] = spelt
        else:
            raise UserError(
                f"{vocab_path}: entry {text!r} is not spelt in GPT-2's byte characters; if it is a special token, "
                "name it with --special-tokens"
            )
    check_merges(merges, set(vocab.values()), merges_path, vocab_path)
    return TokenizerParts(vocab, merges, found)


def _special_name(text: str, spelt: bytes | None, wanted: set[str] | None, made: set[bytes]) -> str | None:
    """The special token of an entry, which is stored as it is or spelt in byte characters; None if it is not one."""
    try:
        decoded = spelt.decode() if spelt is not None else text
    except UnicodeDecodeError:
        decoded = text
    if wanted is not None:
        return text if text in wanted else decoded if decoded in wanted else None
    ordinary = spelt is not None and (len(spelt) <= 1 or spelt in made)  # Whisper has an empty one
    return None if ordinary else decoded


def vocabulary_entries(vocab: Any, path: Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise UserError(f'{path}: is not a vocabulary; expected {{"token": id, …}}')
    seen: dict[int, str] = {}
    for text, token in vocab.items():
        if not is_id(token):
            raise UserError(f"{path}: entry {text!r} has the id {token!r}; ids are whole numbers from 0")
        if token in seen:
            raise UserError(f"{path}: id {token} belongs to {seen[token]!r} and to {text!r}; ids must differ")
        seen[token] = text
    return vocab


def _lines(path: Path) -> list[tuple[int, Any]]:
    """(line number, line) of merges.txt. Only the first line may be a header: "# #" is a merge."""
    lines = read_text(path).split("\n")
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1)]
    return [(n, line) for n, line in numbered if line and not (n == 1 and line.startswith("#version"))]


def parse_merges(
    lines: Iterable[tuple[int, Any]], spelt: Mapping[str, bytes | None], path: Path
) -> list[tuple[bytes, bytes]]:
    """Pairs of bytes from "a b" strings or [a, b] lists. spelt: the bytes of known texts, a shortcut."""
    merges = []
    for number, line in lines:
        pair = line.split(" ") if isinstance(line, str) else line
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise UserError(f"{path}: merge {number} is {line!r}; expected two tokens separated by a space")
        a, b = spelt.get(pair[0]) or unspell(pair[0]), spelt.get(pair[1]) or unspell(pair[1])
        if not a or not b:
            raise UserError(
                f"{path}: merge {number}, {line!r}, is not spelt in GPT-2's byte characters; is the file complete?"
            )
        merges.append((a, b))
    # If a pair occurs twice, GPT-2's encoder and tokenizers use the last one.
    return list(dict.fromkeys(reversed(merges)))[::-1]


def check_merges(merges: list[tuple[bytes, bytes]], known: set[bytes], path: Path, vocab_path: Path) -> None:
    for number, (a, b), token in unknown_parts(merges, known):
        raise UserError(
            f"{path}: merge {number} ({spell(a)} + {spell(b)}) needs {spell(token)!r}, which {vocab_path.name} "
            "does not contain; do the two files belong together?"
        )


def encode_utf8(text: str, path: Path) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: {text!r} contains a lone surrogate (half a character), which is not valid text; remove it"
        ) from None


def is_id(token: Any) -> TypeGuard[int]:
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 1 << 31


def spelt_vocabulary(parts: TokenizerParts, path: Path, with_special: bool) -> dict[str, int]:
    special = {token: text for text, token in parts.special_tokens.items()}
    entries: dict[str, int] = {}
    for token in sorted(parts.vocab):
        if token in special and not with_special:
            continue
        text = special[token] if token in special else spell(parts.vocab[token])
        if text in entries:
            raise UserError(
                f"{path}: ids {entries[text]} and {token} would both be {text!r}, and the format allows each text once; "
                "choose another special token"
            )
        entries[text] = token
    return entries


def write_vocab_and_merges(parts: TokenizerParts, vocab_path: Path, merges_path: Path) -> None:
    entries = spelt_vocabulary(parts, vocab_path, with_special=True)
    write_text(vocab_path, json.dumps(entries, ensure_ascii=False))
    lines = [f"{spell(a)} {spell(b)}\n" for a, b in parts.merges]
    write_text(merges_path, "#version: 0.2\n" + "".join(lines))


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
