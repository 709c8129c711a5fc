"""`TokenizerParts`: everything that determines ids, as tokenizer files represent it; and the checks of a vocabulary."""

from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lmfast.errors import UserError
from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.text_rules import NO_RULES, TextRules

MAX_ID = (1 << 29) - 1  # the compiled merges pack an id into 29 bits
MAX_MERGES = 1 << 26
NEEDED = b"\t\n" + bytes(range(0x20, 0x7F))
"""bytes that a vocabulary must contain. Those of GPT-NeoX and SmolLM, learnt from characters, lack others: 13 that are never
in UTF-8, control characters, and bytes of planes that Unicode does not assign"""


@dataclass
class TokenizerParts:
    """vocab: id → bytes, special tokens included. pattern: a name, an expression or a Pattern; None if the file has none.
    ignore_merges: a pretoken that is a token gets its id without merging (whole_pretokens.py). rules: what is done to text
    before the pattern. published: the ids of special tokens that the publisher of this vocabulary uses and the file does
    not contain (special_tokens.py)."""

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: dict[str, int] = field(default_factory=dict)
    pattern: str | Pattern | None = None
    ignore_merges: bool = False
    rules: TextRules = NO_RULES
    published: dict[str, int] = field(default_factory=dict)

    @property
    def has_text_rules(self) -> bool:
        """Whether text is changed, or special tokens are found in another way than by their text alone."""
        return self.rules.ruled_text(self.special_tokens) is not None

    def ordinary_ids(self) -> dict[bytes, int]:
        return ordinary_ids(self.vocab, self.merges, self.special_tokens.values())


def ordinary_ids(
    vocab: Mapping[int, bytes], merges: Iterable[tuple[bytes, bytes]], special_ids: Collection[int]
) -> dict[bytes, int]:
    """bytes → id of the tokens that ordinary text can be encoded to; of two ids with the same bytes the lower one.

    A special token is included if it is a single byte or the result of a merge, because merges still produce it.
    """
    special_ids = set(special_ids)
    made = {left + right for left, right in merges}
    return {
        token: number
        for number, token in sorted(vocab.items(), reverse=True)
        if number not in special_ids or len(token) == 1 or token in made
    }


def checked_ids(
    vocab: Mapping[int, bytes], merges: Collection[tuple[bytes, bytes]], special_ids: Collection[int]
) -> dict[bytes, int]:
    """`ordinary_ids`; UserError if a byte or a part of a merge is missing, an id is negative, or either has too many."""
    ids = ordinary_ids(vocab, merges, special_ids)
    missing = [byte for byte in NEEDED if bytes([byte]) not in ids]
    if missing:
        raise UserError(
            f"the vocabulary lacks {len(missing)} of the characters of ASCII text (the first: {missing[0]:#04x}), so "
            "most text could not be encoded; is it a byte-level BPE?"
        )
    largest = max(vocab)
    if largest > MAX_ID:
        raise UserError(f"the vocabulary: id {largest} is too large; use ids up to {MAX_ID}")
    lowest = min(vocab)
    if lowest < 0:
        raise UserError(f"the vocabulary: id {lowest} ({vocab[lowest]!r}) is negative; ids begin at 0")
    if len(merges) > MAX_MERGES:
        raise UserError(f"merges: {len(merges)} are too many; use at most {MAX_MERGES}")
    for number, (a, b), token in unknown_parts(merges, ids):
        raise UserError(
            f"merge {number} ({a!r} + {b!r}) needs {token!r}, which the vocabulary does not contain; do "
            "vocabulary and merges belong together?"
        )
    return ids


def absent_bytes(ids: Container[bytes]) -> bytes:
    """The bytes that are not tokens."""
    return bytes(byte for byte in range(256) if bytes([byte]) not in ids)


def unknown_parts(
    merges: Iterable[tuple[bytes, bytes]], known: Container[bytes]
) -> Iterator[tuple[int, tuple[bytes, bytes], bytes]]:
    """(number of the merge from 1, the merge, the token) for each part or result of a merge that is not in `known`."""
    for number, (a, b) in enumerate(merges, 1):
        for token in (a, b, a + b):
            if token not in known:
                yield number, (a, b), token
