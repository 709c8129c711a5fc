"""Tokenizer files: GPT-2's vocab.json + merges.txt, Hugging Face's tokenizer.json, tiktoken's .tiktoken ranks.

In and out: `TokenizerParts`, everything that decides ids, and paths. Ids are kept as the file has them: GPT-2's
byte ids are permuted, and special tokens may stand anywhere. In vocab.json, merges.txt and tokenizer.json bytes are
spelt as characters by GPT-2's byte-to-unicode map; special tokens stand there as they are.

What each format holds: tokenizer.json everything; vocab.json + merges.txt neither the pattern nor which entries
are special (an entry that is neither a byte nor made by a merge is taken as special); .tiktoken (ranks.py) neither
special tokens nor a pattern nor merges.

Refused, in one line that names the file and the way out: broken files, merges whose parts are unknown, tokenizers
that are not byte-level BPE, and settings that would change ids and that we do not have (normalizers, several
splits, prefix spaces). Sources: openai/gpt-2 encoder.py, huggingface/tokenizers, openai/tiktoken load.py.
"""

import functools
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lmfast.errors import UserError
from lmfast.files import written_beside
from lmfast.tokenizer.dialects import check_portable
from lmfast.tokenizer.parts import TokenizerParts
from lmfast.tokenizer.patterns import NAMED, get_pattern
from lmfast.tokenizer.ranks import read_ranks

logger = logging.getLogger(__name__)

GPT2_PATTERN = "gpt2"
PATTERN_FILE = "split_pattern.txt"
"""next to vocab.json and merges.txt: the expression, where no tokenizer.json can hold it"""
NO_SPLIT = r"[\s\S]+"


@functools.lru_cache(maxsize=1)
def byte_characters() -> list[str]:
    """The character for each byte: printable Latin-1 stands for itself, the other 68 from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    characters = {byte: chr(byte) for byte in printable}
    characters |= {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


@functools.lru_cache(maxsize=1)
def _character_bytes() -> dict[str, int]:
    return {character: byte for byte, character in enumerate(byte_characters())}


def spell(token: bytes) -> str:
    """b" the\\n" → "ĠtheĊ"."""
    characters = byte_characters()
    return "".join([characters[byte] for byte in token])


def unspell(text: str) -> bytes | None:
    """The inverse of `spell`; None where a character stands for no byte."""
    table = _character_bytes()
    try:
        return bytes(map(table.__getitem__, text))
    except KeyError:
        return None


# Reading ------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    text = _read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); is the file whole?") from None


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); is it a tokenizer file?") from None


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a tokenizer folder or file that is there") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if not content.strip():
        raise UserError(f"{path}: is empty; save the tokenizer again")
    return content


def read_vocab_and_merges(
    vocab_path: Path, merges_path: Path, special_tokens: Iterable[str] | None = None
) -> TokenizerParts:
    """vocab.json {spelt token: id} and merges.txt, a pair a line.

    special_tokens: texts that are special (those that the vocabulary lacks get new ids behind it); None takes
    every entry that is neither a byte nor made by a merge.
    """
    entries = _entries(read_json(vocab_path), vocab_path)
    spelt_entries = {text: unspell(text) for text in entries}
    merges = _merges(_lines(merges_path), spelt_entries, merges_path)
    made = {a + b for a, b in merges}
    wanted = None if special_tokens is None else set(special_tokens)
    vocab: dict[int, bytes] = {}
    found: dict[str, int] = {}
    for text, token in entries.items():
        spelt = spelt_entries[text]
        name = _special_name(text, spelt, wanted, made)
        if name is not None:
            found[name] = token
            vocab[token] = _utf8(name, vocab_path)
        elif spelt is not None:
            vocab[token] = spelt
        else:
            raise UserError(
                f"{vocab_path}: entry {text!r} is not spelt in GPT-2's byte characters; is it a special token? "
                "then name it with --special-tokens"
            )
    _check_merges(merges, set(vocab.values()), merges_path, vocab_path)
    return TokenizerParts(vocab, merges, found)


def _special_name(text: str, spelt: bytes | None, wanted: set[str] | None, made: set[bytes]) -> str | None:
    """The special token that an entry is, stored as it is or spelt in byte characters; None where it is none."""
    try:
        decoded = spelt.decode() if spelt is not None else text
    except UnicodeDecodeError:
        decoded = text
    if wanted is not None:
        return text if text in wanted else decoded if decoded in wanted else None
    ordinary = spelt is not None and (len(spelt) <= 1 or spelt in made)  # Whisper has an empty one
    return None if ordinary else decoded


def _entries(vocab: Any, path: Path) -> dict[str, int]:
    if not isinstance(vocab, dict) or not vocab:
        raise UserError(f'{path}: not a vocabulary; it should be {{"token": id, …}}')
    seen: dict[int, str] = {}
    for text, token in vocab.items():
        if not _is_id(token):
            raise UserError(f"{path}: entry {text!r} has the id {token!r}; ids are whole numbers from 0")
        if token in seen:
            raise UserError(f"{path}: id {token} belongs to {seen[token]!r} and to {text!r}; ids must differ")
        seen[token] = text
    return vocab


def _lines(path: Path) -> list[tuple[int, Any]]:
    """(line number, line) of merges.txt. Only the first line may be a header: "# #" is a merge."""
    lines = _read_text(path).split("\n")
    numbered = [(number, line.rstrip("\r")) for number, line in enumerate(lines, 1)]
    return [(n, line) for n, line in numbered if line and not (n == 1 and line.startswith("#version"))]


def _merges(
    lines: Iterable[tuple[int, Any]], spelt: dict[str, bytes], path: Path
) -> list[tuple[bytes, bytes]]:
    """Pairs of bytes from "a b" strings or [a, b] lists. spelt: the bytes of known texts, a shortcut."""
    merges = []
    for number, line in lines:
        pair = line.split(" ") if isinstance(line, str) else line
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise UserError(f"{path}: merge {number} is {line!r}; a merge is two tokens with a blank between")
        a, b = spelt.get(pair[0]) or unspell(pair[0]), spelt.get(pair[1]) or unspell(pair[1])
        if not a or not b:
            raise UserError(f"{path}: merge {number}, {line!r}, is not spelt in GPT-2's byte characters")
        merges.append((a, b))
    # Of a pair that is there twice, GPT-2's encoder and tokenizers take the last.
    return list(dict.fromkeys(reversed(merges)))[::-1]


def _check_merges(merges: list[tuple[bytes, bytes]], known: set[bytes], path: Path, vocab_path: Path) -> None:
    for number, (a, b) in enumerate(merges, 1):
        for token in (a, b, a + b):
            if token not in known:
                raise UserError(
                    f"{path}: merge {number} ({spell(a)} + {spell(b)}) needs {spell(token)!r}, which {vocab_path.name} "
                    "does not hold; do the two files belong together?"
                )


def _member(mapping: dict, name: str, kind: type, path: Path) -> Any:
    """mapping[name], which must be a `kind`; an empty one where it is missing or null."""
    value = mapping.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        wanted = {dict: "an object", list: "a list", str: "a string"}[kind]
        raise UserError(
            f"{path}: {name!r} is {json.dumps(value)[:60]}, not {wanted}; is it a tokenizer.json?"
        )
    return value


def read_tokenizer_json(path: Path) -> TokenizerParts:
    """Hugging Face's tokenizer.json, where it is byte-level BPE. Ids are those of `add_special_tokens=False`."""
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: not a tokenizer.json with a BPE model; name one that is, or vocab.json")
    for name in ("added_tokens", "model"):
        if name in document and document[name] is None:
            raise UserError(f"{path}: {name!r} is null, as in no tokenizer.json; is the file whole?")
    for name in (
        "decoder",
        "post_processor",
        "truncation",
        "padding",
    ):  # not read, but a sign of another format
        _member(document, name, dict, path)
    model = _member(document, "model", dict, path)
    kind = model.get("type", "BPE")  # old files do not name it
    if kind != "BPE" or "vocab" not in model:
        raise UserError(
            f"{path}: not a tokenizer.json with a BPE model (its type is {kind!r}); name one that is, or vocab.json"
        )
    pattern = _read_pattern(document, path)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UserError(
                f"{path}: its {name} {model[name]!r} is not supported; only plain byte-level BPE is"
            )
    entries = _entries(model["vocab"], path)
    special = _added_tokens(document, path)
    vocab: dict[int, bytes] = {}
    ordinary: dict[str, bytes] = {}
    unspelt = []
    for text, token in entries.items():
        spelt = unspell(text)
        if text in special or spelt is None:
            vocab[token] = _utf8(text, path)
            if text not in special:
                unspelt.append(text)
        else:
            vocab[token] = ordinary[text] = spelt
    for text, token in special.items():
        if entries.get(text, token) != token or vocab.get(token, text.encode()) != text.encode():
            raise UserError(
                f"{path}: added token {text!r} has id {token}, which disagrees with the vocabulary; is the file whole?"
            )
        vocab[token] = text.encode()
    merges = _merges(enumerate(_member(model, "merges", list, path), 1), ordinary, path)
    _check_merges(merges, set(vocab.values()), path, path)
    ignore_merges = bool(model.get("ignore_merges"))
    known = set(ordinary.values()) if unspelt else set()
    for text in unspelt:
        # Text never gives such an entry, so its bytes must not lead to it.
        if ignore_merges or text.encode() in known:
            raise UserError(
                f"{path}: entry {text!r} is not spelt in GPT-2's byte characters, so no text gives its id "
                f"{entries[text]}; name it as an added token, or take it out"
            )
    return TokenizerParts(vocab, merges, special, pattern, ignore_merges)


def _added_tokens(document: dict, path: Path) -> dict[str, int]:
    special: dict[str, int] = {}
    for added in _member(document, "added_tokens", list, path):
        if not isinstance(added, dict) or not isinstance(added.get("content"), str) or not added["content"]:
            raise UserError(
                f"{path}: added token {json.dumps(added)[:60]} has no content; is the file whole?"
            )
        text, token = added["content"], added.get("id")
        if not _is_id(token):
            raise UserError(
                f"{path}: added token {text!r} has the id {token!r}; ids are whole numbers from 0"
            )
        for flag in ("lstrip", "rstrip", "single_word"):
            if added.get(flag):
                raise UserError(f"{path}: added token {text!r} has {flag}, which is not supported")
        _utf8(text, path)
        if special.setdefault(text, token) != token:
            raise UserError(
                f"{path}: added token {text!r} has two ids, {special[text]} and {token}; keep one"
            )
    return special


def _utf8(text: str, path: Path) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: {text!r} holds half a character (a lone surrogate), which no text has; take it out"
        ) from None


def _is_id(token: Any) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 1 << 31


def _read_pattern(document: dict, path: Path) -> str:
    """The split pattern of a pre-tokenizer that is ByteLevel, or one Split before it."""
    normalizer = document.get("normalizer")
    if normalizer not in (None, {"type": "Sequence", "normalizers": []}):
        kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
        raise UserError(
            f"{path}: has a normalizer ({kind}), which would change the text; only tokenizers without one are supported"
        )
    before = _member(document, "pre_tokenizer", dict, path)
    steps = _member(before, "pretokenizers", list, path) if before.get("type") == "Sequence" else [before]
    kinds = [step.get("type") if isinstance(step, dict) else repr(step) for step in steps]
    if kinds[-1:] != ["ByteLevel"] or kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise UserError(
            f"{path}: its pre-tokenizer {kinds} is not byte-level with at most one split; only such are supported"
        )
    byte_level = steps[-1]
    if byte_level.get("add_prefix_space"):
        raise UserError(f"{path}: its add_prefix_space would change the text; it is not supported")
    use_regex = byte_level.get("use_regex", True)
    if len(steps) == 1:
        return GPT2_PATTERN if use_regex else NO_SPLIT
    split = steps[0]
    pattern = split.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    # Removed + inverted drops what does not match: the same where all text does, as with the named patterns.
    isolated = (split.get("behavior"), bool(split.get("invert"))) == ("Isolated", False)
    removed = (split.get("behavior"), split.get("invert")) == ("Removed", True)
    if (
        use_regex
        or not isinstance(expression, str)
        or not (isolated or (removed and get_pattern(expression).name in NAMED))
    ):
        raise UserError(f"{path}: its split {split} is not supported; only a Regex, Isolated, is")
    return expression


# Writing ------------------------------------------------------------------------------------------------------


def _spelt_vocab(parts: TokenizerParts, path: Path, with_special: bool) -> dict[str, int]:
    special = {token: text for text, token in parts.special_tokens.items()}
    entries: dict[str, int] = {}
    for token in sorted(parts.vocab):
        if token in special and not with_special:
            continue
        text = special[token] if token in special else spell(parts.vocab[token])
        if text in entries:
            raise UserError(
                f"{path}: ids {entries[text]} and {token} would both be {text!r}; the format holds each text once, so "
                "choose another special token"
            )
        entries[text] = token
    return entries


def write_vocab_and_merges(parts: TokenizerParts, vocab_path: Path, merges_path: Path) -> None:
    entries = _spelt_vocab(parts, vocab_path, with_special=True)
    _write(vocab_path, json.dumps(entries, ensure_ascii=False))
    lines = [f"{spell(a)} {spell(b)}\n" for a, b in parts.merges]
    _write(merges_path, "#version: 0.2\n" + "".join(lines))


def write_tokenizer_json(parts: TokenizerParts, path: Path, expression: str, is_gpt2: bool) -> None:
    """A file that `tokenizers.Tokenizer.from_file` and `transformers.PreTrainedTokenizerFast` load.

    expression: the split pattern, which must be portable (dialects.py); is_gpt2: it is the one that ByteLevel has built in.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": is_gpt2}
    split = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = sorted(parts.special_tokens.items(), key=lambda item: item[1])
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token, "content": text, **flags} for text, token in added],
        "normalizer": None,
        "pre_tokenizer": byte_level
        if is_gpt2
        else {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": parts.ignore_merges,
            "vocab": _spelt_vocab(parts, path, with_special=True),
            "merges": [[spell(a), spell(b)] for a, b in parts.merges],
        },
    }
    _write(path, json.dumps(document, ensure_ascii=False))


def write_pattern(path: Path, expression: str) -> None:
    _utf8(expression, path)
    _write(path, expression)


def _write(path: Path, text: str) -> None:
    with written_beside(path) as beside:
        beside.write_text(text, encoding="utf-8")


# Which format a path is in ------------------------------------------------------------------------------------


def read(
    path: Path, special_tokens: Sequence[str] | None = None, pattern: str | None = None
) -> TokenizerParts:
    """Reads a folder (tokenizer.json, else vocab.json + merges.txt, else one .tiktoken) or a file of any format.

    special_tokens: for vocab.json, which does not say. pattern: goes before the file's; .tiktoken needs one.
    """
    parts = _read(_file_in(path) if path.is_dir() else path, special_tokens, pattern)
    if pattern is not None:
        parts.pattern = pattern
    elif parts.pattern is None and (own := (path if path.is_dir() else path.parent) / PATTERN_FILE).is_file():
        parts.pattern = _read_text(own)
    elif parts.pattern is not None:
        try:
            check_portable(
                get_pattern(parts.pattern), f"{path}: its split pattern (override it with --pattern)"
            )
        except UserError as error:
            if not _is_of_a_run(path):
                raise
            logger.warning("%s; this run was trained with what it means here, and goes on so", error)
    return parts


def _is_of_a_run(folder: Path) -> bool:
    """Whether it is the tokenizer's folder of a run: written here, by versions too that did not check patterns."""
    return folder.is_dir() and (folder.parent / "config.yaml").exists()


def _file_in(folder: Path) -> Path:
    ranks = sorted(folder.glob("*.tiktoken"))
    for file in (folder / "tokenizer.json", folder / "vocab.json", *ranks[:1]):
        if file.exists():
            return file
    raise UserError(
        f"{folder}: holds no tokenizer (tokenizer.json, vocab.json + merges.txt or a .tiktoken); train one with "
        "`python -m lmfast.tokenizer train`"
    )


def _read(path: Path, special_tokens: Sequence[str] | None, pattern: str | None) -> TokenizerParts:
    if path.suffix == ".tiktoken":
        if pattern is None:
            raise UserError(
                f"{path}: does not say how text is split; add --pattern (gpt2, cl100k, o200k or a regex)"
            )
        return read_ranks(_read_bytes(path), path)
    if path.suffix == ".txt":
        return read_vocab_and_merges(_neighbour(path, "merges.txt", "vocab.json"), path, special_tokens)
    document = read_json(path)
    if path.name == "tokenizer.json" or (
        isinstance(document, dict) and isinstance(document.get("model"), dict)
    ):
        return read_tokenizer_json(path)
    return read_vocab_and_merges(path, _neighbour(path, "vocab.json", "merges.txt"), special_tokens)


def _neighbour(path: Path, name: str, other: str) -> Path:
    """x-vocab.json → x-merges.txt, and the other way round."""
    stem = name.split(".")[0]
    if stem not in path.name:
        raise UserError(
            f"{path}: its {other} is not to be guessed from this name; give both with --vocab and --merges"
        )
    neighbour = path.with_name(path.name.replace(stem, other.split(".")[0])).with_suffix(Path(other).suffix)
    if not neighbour.exists():
        raise UserError(f"{path}: needs {neighbour.name} beside it; give both with --vocab and --merges")
    return neighbour
