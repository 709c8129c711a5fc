"""Small tokenizer.json files of the kinds that published models have, for tests that compare with `tokenizers`.

KINDS lists them; `document(kind)` is the content of a file. The merges are the same; vocabularies, added tokens and what
happens before the merges differ as in the real files.
"""

import functools
from collections.abc import Sequence
from typing import Any

from lmfast.tokenizer import patterns
from lmfast.tokenizer.byte_characters import spell

MERGES = "Ġ t|h e|Ġt he|a b|ab c|Ġ Ġ|ĠĠ ĠĠ|1 2|12 3|Ġ a|l l|' s|e r|Ã ©|Ġ Ã©|æ ¼|æ¼ ¢|c c|Ċ Ċ|ĠĠ a|x y|Ġ x|Ġx y".split(
    "|"
)
UNREACHABLE = ["zq", "the", "Ġabc", "!!"]  # without a merge that makes them


@functools.cache
def _vocabulary(absent: bytes = b"") -> tuple[str, ...]:
    single = [spell(bytes([byte])) for byte in range(256) if byte not in absent]
    return (*single, *(merge.replace(" ", "") for merge in MERGES))


def split(expression: str, behavior: str = "Isolated", invert: bool = False) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert}


def byte_level(use_regex: bool, prefix: bool = False) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def make(
    pre_tokenizer: dict[str, Any],
    added: Sequence[tuple[str, dict[str, bool]]] = (("<|end|>", {}),),
    normalizer: dict[str, Any] | None = None,
    ignore_merges: bool = False,
    absent: bytes = b"",
    more: Sequence[str] = (),
) -> dict[str, Any]:
    """added: texts and the flags in which they differ from `<|end|>`'s; more: entries after those of the merges."""
    entries = [*_vocabulary(absent), *more]
    ids = {entry: number for number, entry in enumerate(entries)}
    for text, _ in added:
        ids.setdefault(text, len(ids))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[text], "content": text, **flags, **own} for text, own in added],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": byte_level(use_regex=True, prefix=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": ignore_merges,
            "vocab": {entry: ids[entry] for entry in entries},
            "merges": [merge.split(" ") for merge in MERGES],
        },
    }


NEVER_IN_UTF8 = bytes([0xC0, 0xC1, *range(0xF5, 0x100)])
_NORMALIZED = {"normalized": True, "special": False}
_NFC = {"type": "NFC"}
_MASKS = [
    ("<mask>", {"lstrip": True}),
    ("</s>", {"rstrip": True}),
    ("ab", {"single_word": True}),
    ("<|both|>", {"lstrip": True, "rstrip": True, "normalized": True}),
    ("<|end|>", {}),
    ("end|>", _NORMALIZED),
]
KINDS = {
    "llama3": make(sequence(split(patterns.CL100K), byte_level(False)), ignore_merges=True, more=UNREACHABLE),
    "gpt-oss": make(sequence(split(patterns.O200K), byte_level(False)), ignore_merges=True, more=["cab"]),
    "qwen2": make(
        sequence(split(patterns.QWEN2), byte_level(False)),
        [("<|end|>", {}), ("<think>", {"special": False})],
        _NFC,
        more=UNREACHABLE,
    ),
    "deepseek": make(
        sequence(*map(split, patterns.DEEPSEEK_STEPS), byte_level(False)),
        [("<｜end▁of▁sentence｜>", {}), ("<｜User｜>", _NORMALIZED)],
        {"type": "Sequence", "normalizers": []},
    ),
    "gpt-neox": make(
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        [("<|end|>", {}), *((" " * k, _NORMALIZED) for k in (4, 3, 2))],
        _NFC,
        absent=NEVER_IN_UTF8,
    ),
    "starcoder": make(
        sequence({"type": "Digits", "individual_digits": True}, byte_level(True)), [("<|end|>", _NORMALIZED)]
    ),
    "smollm": make(
        sequence({"type": "Digits", "individual_digits": True}, byte_level(True)),
        absent=NEVER_IN_UTF8 + b"\x04\x06\x13\x14\x16\x1d\xf1\xf2",
    ),
    "whisper": make(byte_level(True), [("<|end|>", {}), ("<|0.02|>", {"special": False})], more=[""]),
    "kimi": make(sequence(split(patterns.KIMI), byte_level(False))),
    "prefix": make(byte_level(True, prefix=True), [("<mask>", {"lstrip": True}), ("<|end|>", {})]),
    "flags": make(byte_level(True), _MASKS, more=UNREACHABLE),
    "all": make(
        byte_level(True, prefix=True),
        [*_MASKS, ("日éx", _NORMALIZED), ("日x", _NORMALIZED), (">e", _NORMALIZED)],
        _NFC,
    ),
    "steps": make(
        sequence(
            {"type": "Split", "pattern": {"String": "a."}, "behavior": "Isolated", "invert": True},
            {"type": "Digits", "individual_digits": False},
            split(r"[\p{L}\p{M}&&[^\p{Han}]]+"),
            split("[\r\n]|\\s?[A-Za-zµ]+"),
            byte_level(False),
        )
    ),
    "removed": make(sequence(split(patterns.CL100K, "Removed", True), byte_level(False))),
}


def document(kind: str) -> dict[str, Any]:
    return KINDS[kind]
