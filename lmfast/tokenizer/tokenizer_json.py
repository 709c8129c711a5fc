"""Hugging Face's tokenizer.json, where it is byte-level BPE.

In and out: `TokenizerParts` and paths. Rejects, naming the file and the remedy: broken files, tokenizers that are not
byte-level BPE, and settings that would change ids and are not supported (normalizers, several splits, prefix spaces).
Source: huggingface/tokenizers.
"""

import json
from pathlib import Path
from typing import Any

from lmfast.errors import UserError
from lmfast.tokenizer.byte_characters import spell, unspell
from lmfast.tokenizer.gpt2_files import (
    check_merges,
    encode_utf8,
    is_id,
    parse_merges,
    spelt_vocabulary,
    vocabulary_entries,
    write_text,
)
from lmfast.tokenizer.parts import TokenizerParts
from lmfast.tokenizer.patterns import NAMED, get_pattern

GPT2_PATTERN = "gpt2"
NO_SPLIT = r"[\s\S]+"


def _member(mapping: dict, name: str, kind: type, path: Path) -> Any:
    """mapping[name], which must be a `kind`; an empty one if it is missing or null."""
    value = mapping.get(name)
    if value is None:
        return kind()
    if not isinstance(value, kind):
        wanted = {dict: "an object", list: "a list", str: "a string"}[kind]
        raise UserError(
            f"{path}: {name!r} is {json.dumps(value)[:60]}, not {wanted}; is it a tokenizer.json?"
        )
    return value


def read_tokenizer_json(document: Any, path: Path) -> TokenizerParts:
    """The content of a tokenizer.json of byte-level BPE. Ids are those of `add_special_tokens=False`. path: for messages."""
    if not isinstance(document, dict):
        raise UserError(f"{path}: is not a tokenizer.json with a BPE model; name one that is, or vocab.json")
    for name in ("added_tokens", "model"):
        if name in document and document[name] is None:
            raise UserError(
                f"{path}: {name!r} is null, which tokenizer.json does not allow; is the file complete?"
            )
    for name in (
        "decoder",
        "post_processor",
        "truncation",
        "padding",
    ):  # not used, but another type means another format
        _member(document, name, dict, path)
    model = _member(document, "model", dict, path)
    kind = model.get("type", "BPE")  # old files do not name it
    if kind != "BPE" or "vocab" not in model:
        raise UserError(
            f"{path}: is not a tokenizer.json with a BPE model (its type is {kind!r}); name one that is, or vocab.json"
        )
    pattern = _read_pattern(document, path)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UserError(f"{path}: {name} {model[name]!r} is not supported; use a plain byte-level BPE")
    entries = vocabulary_entries(model["vocab"], path)
    special = _added_tokens(document, path)
    vocab: dict[int, bytes] = {}
    ordinary: dict[str, bytes] = {}
    unspelt = []
    for text, token in entries.items():
        spelt = unspell(text)
        if text in special or spelt is None:
            vocab[token] = encode_utf8(text, path)
            if text not in special:
                unspelt.append(text)
        else:
            vocab[token] = ordinary[text] = spelt
    for text, token in special.items():
        if entries.get(text, token) != token or vocab.get(token, text.encode()) != text.encode():
            raise UserError(
                f"{path}: added token {text!r} has id {token}, which contradicts the vocabulary; is the file complete?"
            )
        vocab[token] = text.encode()
    merges = parse_merges(enumerate(_member(model, "merges", list, path), 1), ordinary, path)
    check_merges(merges, set(vocab.values()), path, path)
    ignore_merges = bool(model.get("ignore_merges"))
    known = set(ordinary.values()) if unspelt else set()
    for text in unspelt:
        # No text encodes to such an entry, so encoding its bytes must not produce it.
        if ignore_merges or text.encode() in known:
            raise UserError(
                f"{path}: entry {text!r} is not spelt in GPT-2's byte characters, so no text is encoded to its id "
                f"{entries[text]}; list it under added_tokens, or remove it"
            )
    return TokenizerParts(vocab, merges, special, pattern, ignore_merges)


def _added_tokens(document: dict, path: Path) -> dict[str, int]:
    special: dict[str, int] = {}
    for added in _member(document, "added_tokens", list, path):
        if not isinstance(added, dict) or not isinstance(added.get("content"), str) or not added["content"]:
            raise UserError(
                f"{path}: added token {json.dumps(added)[:60]} has no content; is the file complete?"
            )
        text, token = added["content"], added.get("id")
        if not is_id(token):
            raise UserError(
                f"{path}: added token {text!r} has the id {token!r}; ids are whole numbers from 0"
            )
        for flag in ("lstrip", "rstrip", "single_word"):
            if added.get(flag):
                raise UserError(
                    f"{path}: added token {text!r} sets {flag}, which is not supported; remove it"
                )
        encode_utf8(text, path)
        if special.setdefault(text, token) != token:
            raise UserError(
                f"{path}: added token {text!r} has two ids, {special[text]} and {token}; keep one"
            )
    return special


def _read_pattern(document: dict, path: Path) -> str:
    """The split pattern of a pre-tokenizer that is ByteLevel, or one Split before it."""
    normalizer = document.get("normalizer")
    if normalizer not in (None, {"type": "Sequence", "normalizers": []}):
        kind = normalizer.get("type") if isinstance(normalizer, dict) else normalizer
        raise UserError(
            f"{path}: has a normalizer ({kind}), which would change the text; use a tokenizer without one"
        )
    before = _member(document, "pre_tokenizer", dict, path)
    steps = _member(before, "pretokenizers", list, path) if before.get("type") == "Sequence" else [before]
    kinds = [step.get("type") if isinstance(step, dict) else repr(step) for step in steps]
    if kinds[-1:] != ["ByteLevel"] or kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        raise UserError(
            f"{path}: pre-tokenizer {kinds} is not supported; use ByteLevel, or one Split before ByteLevel"
        )
    byte_level = steps[-1]
    if byte_level.get("add_prefix_space"):
        raise UserError(f"{path}: add_prefix_space would change the text and is not supported; turn it off")
    use_regex = byte_level.get("use_regex", True)
    if len(steps) == 1:
        return GPT2_PATTERN if use_regex else NO_SPLIT
    split = steps[0]
    pattern = split.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    # Removed + inverted drops what does not match: equivalent if all text matches, as with the named patterns.
    isolated = (split.get("behavior"), bool(split.get("invert"))) == ("Isolated", False)
    removed = (split.get("behavior"), split.get("invert")) == ("Removed", True)
    if (
        use_regex
        or not isinstance(expression, str)
        or not (isolated or (removed and get_pattern(expression).name in NAMED))
    ):
        raise UserError(f"{path}: split {split} is not supported; use a Regex with behavior Isolated")
    return expression


def write_tokenizer_json(parts: TokenizerParts, path: Path, expression: str, is_gpt2: bool) -> None:
    """A file that `tokenizers.Tokenizer.from_file` and `transformers.PreTrainedTokenizerFast` load.

    expression: the split pattern, which must be portable (dialects.py); is_gpt2: whether it is the one built into
    ByteLevel.
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
            "vocab": spelt_vocabulary(parts, path, with_special=True),
            "merges": [[spell(a), spell(b)] for a, b in parts.merges],
        },
    }
    write_text(path, json.dumps(document, ensure_ascii=False))
