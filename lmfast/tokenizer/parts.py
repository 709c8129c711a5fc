"""`TokenizerParts`: everything that decides ids, as files hold it and as formats.py and ranks.py hand it over."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from lmfast.errors import UserError


@dataclass
class TokenizerParts:
    """vocab: id → bytes, special tokens included. pattern: a name or an expression; None where the file has none.
    ignore_merges: a pretoken that is a token gets its id without merging (whole_pretokens.py). published: ids that
    special tokens have where this vocabulary comes from, though the file does not hold them (special_tokens.py)."""

    vocab: dict[int, bytes]
    merges: list[tuple[bytes, bytes]]
    special_tokens: dict[str, int] = field(default_factory=dict)
    pattern: str | None = None
    ignore_merges: bool = False
    published: dict[str, int] = field(default_factory=dict)

    def ordinary_ids(self) -> dict[bytes, int]:
        return ordinary_ids(self.vocab, self.merges, self.special_tokens.values())


def ordinary_ids(
    vocab: Mapping[int, bytes], merges: Iterable[tuple[bytes, bytes]], special_ids: Collection[int]
) -> dict[bytes, int]:
    """bytes → id of the tokens that encoding ordinary text may give; of two ids with the same bytes the lower one.

    A special token is among them if it is a byte or a merge makes it: text finds it as special, merges still lead to it.
    """
    special_ids = set(special_ids)
    made = {left + right for left, right in merges}
    return {
        token: number
        for number, token in sorted(vocab.items(), reverse=True)
        if number not in special_ids or len(token) == 1 or token in made
    }


def checked_ids(
    vocab: Mapping[int, bytes], merges: Iterable[tuple[bytes, bytes]], special_ids: Collection[int]
) -> dict[bytes, int]:
    """`ordinary_ids`; UserError where a byte or a part of a merge is missing, or an id is negative."""
    id_of = ordinary_ids(vocab, merges, special_ids)
    lacking = [byte for byte in range(256) if bytes([byte]) not in id_of]
    if lacking:
        raise UserError(
            f"the vocabulary lacks {len(lacking)} of the 256 single bytes (the first: {lacking[0]:#04x}), so some "
            "text could not be encoded; is it a byte-level BPE?"
        )
    lowest = min(vocab)
    if lowest < 0:
        raise UserError(f"the vocabulary: id {lowest} ({vocab[lowest]!r}) is negative; ids begin at 0")
    for number, (a, b) in enumerate(merges, 1):
        for token in (a, b, a + b):
            if token not in id_of:
                raise UserError(
                    f"merge {number} ({a!r} + {b!r}) needs {token!r}, which the vocabulary does not hold; do "
                    "vocabulary and merges belong together?"
                )
    return id_of
