"""Hugging Face's tokenizer.json, where it is byte-level BPE.

In and out: `TokenizerParts` and paths. Rejects, naming the file and the remedy: broken files, tokenizers that are not
byte-level BPE, and settings that would change ids or decoded text and are not supported. `truncation`, `padding` and
`post_processor` are not used: they belong to a call, or add special tokens.
Source: huggingface/tokenizers.
"""

import json
import logging
import string
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
from lmfast.tokenizer.patterns import GPT2, NAMED, Pattern, get_pattern, get_steps
from lmfast.tokenizer.text_rules import Flags, TextRules

logger = logging.getLogger(__name__)

NO_SPLIT = r"[\s\S]+"
DIGITS = {True: r"\p{N}", False: r"\p{N}+"}
"""what the pre-tokenizer Digits splits off, by its setting individual_digits"""


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
    _check_decoder(document, path)
    pattern, prefix_space = _read_pre_tokenizer(document, path)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UserError(f"{path}: {name} {model[name]!r} is not supported; use a plain byte-level BPE")
    entries = vocabulary_entries(model["vocab"], path)
    special, flags = _added_tokens(document, path)
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
    made = {a + b for a, b in merges}
    for text in special:
        if unspell(text) in made and unspell(text) != text.encode():
            raise UserError(
                f"{path}: added token {text!r} is also the spelling of {unspell(text)!r}, which merges make, so one id "
                "would stand for two texts; remove it from added_tokens"
            )
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
    _check_added_ids(special, entries, path)
    for text, of in flags.items():
        if ignore_merges and of.single_word and text in entries and unspell(text) is not None:
            raise UserError(
                f"{path}: added token {text!r} sets single_word and is in the vocabulary, which with ignore_merges encodes "
                "it inside words too; this is not supported"
            )
    rules = TextRules(_has_nfc(document, path), prefix_space, flags)
    return TokenizerParts(vocab, merges, special, pattern, ignore_merges, rules)


def _added_tokens(document: dict, path: Path) -> tuple[dict[str, int], dict[str, Flags]]:
    """({text: id}, {text: its flags, if they are not the usual ones})."""
    special: dict[str, int] = {}
    flags: dict[str, Flags] = {}
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
        if unspell(text) not in (None, encode_utf8(text, path)):
            logger.warning(
                "%s: tokenizers decodes the added token %r as %r, lmfast as its text",
                path,
                text,
                unspell(text),
            )
        if special.setdefault(text, token) != token:
            raise UserError(
                f"{path}: added token {text!r} has two ids, {special[text]} and {token}; keep one"
            )
        of = Flags(**{name: bool(added.get(name, default)) for name, default in vars(Flags()).items()})
        if of != Flags():
            flags[text] = of
    return special, flags


def _check_added_ids(special: dict[str, int], entries: dict[str, int], path: Path) -> None:
    """tokenizers does not use the ids of added tokens that are not in the vocabulary: it numbers them in order."""
    new = [text for text in special if text not in entries]
    for token, text in enumerate(new, len(entries)):
        if special[text] != token:
            raise UserError(
                f"{path}: added token {text!r} has id {special[text]}, but tokenizers gives it {token}; add it to the "
                "vocabulary too"
            )


def _check_decoder(document: dict, path: Path) -> None:
    decoder = _member(document, "decoder", dict, path)
    steps = _member(decoder, "decoders", list, path) if decoder.get("type") == "Sequence" else [decoder]
    kinds = [step.get("type") if isinstance(step, dict) else repr(step) for step in steps]
    if not decoder:
        logger.warning("%s: has no decoder; decoding joins the bytes of tokens, as ByteLevel does", path)
    elif kinds != ["ByteLevel"]:
        raise UserError(f"{path}: decoder {kinds} is not supported; use ByteLevel")


def _has_nfc(document: dict, path: Path) -> bool:
    """Whether the normalizer is NFC, alone or in sequences. Rejects others."""
    steps = [document.get("normalizer")]
    kinds = []
    while steps:
        step = steps.pop()
        if isinstance(step, dict) and step.get("type") == "Sequence":
            steps += _member(step, "normalizers", list, path)
        elif step is not None:
            kinds.append(step.get("type") if isinstance(step, dict) else repr(step))
    for kind in kinds:
        if kind != "NFC":
            raise UserError(
                f"{path}: has a normalizer ({kind}), which would change the text; only NFC is supported"
            )
    return bool(kinds)


def _read_pre_tokenizer(document: dict, path: Path) -> tuple[Pattern, bool]:
    """(the pattern, whether pieces get a space before them) of a ByteLevel, or of Splits and Digits before it."""
    steps = _flattened(_member(document, "pre_tokenizer", dict, path), path)
    kinds = [step.get("type") if isinstance(step, dict) else repr(step) for step in steps]
    if kinds[-1:] != ["ByteLevel"] or not {*kinds[:-1]} <= {"Split", "Digits"}:
        raise UserError(
            f"{path}: pre-tokenizer {kinds} is not supported; use ByteLevel, or Split and Digits before ByteLevel"
        )
    expressions = [_expression(step, path) for step in steps[:-1]]
    prefix_space = bool(steps[-1].get("add_prefix_space"))
    if prefix_space and expressions:
        raise UserError(
            f"{path}: add_prefix_space after {kinds[:-1]} adds a space to every piece, which is not supported; turn it off"
        )
    if steps[-1].get("use_regex", True):
        expressions.append(GPT2)
    return get_steps(expressions or [NO_SPLIT]), prefix_space


def _flattened(step: Any, path: Path) -> list[Any]:
    if not isinstance(step, dict) or step.get("type") != "Sequence":
        return [step]
    return [inner for each in _member(step, "pretokenizers", list, path) for inner in _flattened(each, path)]


def _expression(step: dict, path: Path) -> str:
    """What a Split or Digits splits off."""
    if step["type"] == "Digits":
        return DIGITS[bool(step.get("individual_digits"))]
    pattern = step.get("pattern")
    kind, text = next(iter(pattern.items()), ("", None)) if isinstance(pattern, dict) else ("", None)
    if kind == "String" and isinstance(text, str) and text:
        kind, text = "Regex", "".join("\\" * (letter in string.punctuation) + letter for letter in text)
    # Removed + inverted drops what does not match: equivalent if all text matches, as with the named patterns.
    behavior, invert = step.get("behavior"), bool(step.get("invert"))
    if (
        kind != "Regex"
        or not isinstance(text, str)
        or not (
            behavior == "Isolated"
            or ((behavior, invert) == ("Removed", True) and get_pattern(text).name in NAMED)
        )
    ):
        raise UserError(
            f"{path}: split {step} is not supported; use a Regex or String with behavior Isolated"
        )
    return text


def write_tokenizer_json(parts: TokenizerParts, path: Path, pattern: Pattern) -> None:
    """A file that `tokenizers.Tokenizer.from_file` and `transformers.PreTrainedTokenizerFast` load.

    pattern: must be portable (dialects.py). Rejects what the file would change: with ignore_merges, a token with
    single_word, which must be in the vocabulary to keep its id.
    """
    rules = parts.rules
    words = [text for text, of in rules.flags.items() if of.single_word and unspell(text) is not None]
    if parts.ignore_merges and words:
        raise UserError(
            f"{path}: tokenizers would encode {words[0]!r}, which sets single_word, inside words too; remove the flag"
        )
    steps = list(pattern.expressions)
    ends_in_gpt2 = steps[-1] == GPT2
    before = [_step(expression) for expression in (steps[:-1] if ends_in_gpt2 else steps)]
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": rules.prefix_space,
        "trim_offsets": True,
        "use_regex": ends_in_gpt2,
    }
    added = sorted(parts.special_tokens.items(), key=lambda item: item[1])
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token, "content": text, **vars(rules.flags.get(text, Flags()))} for text, token in added
        ],
        "normalizer": {"type": "NFC"} if rules.nfc else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*before, byte_level]}
        if before
        else byte_level,
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


def _step(expression: str) -> dict[str, Any]:
    for individual, digits in DIGITS.items():
        if expression == digits:
            return {"type": "Digits", "individual_digits": individual}
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}
