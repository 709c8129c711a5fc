"""tiktoken's .tiktoken files: a token's bytes in base64 and its rank, which is its id, one per line.

In and out: `TokenizerParts` and paths. The format contains neither special tokens nor a pattern, and no merges: tiktoken
looks each pretoken up as a whole, then merges any two neighbours that together are a token, lowest rank first. In any
text, the last merge that makes a token is the one that ends the merging of its own bytes alone; so these merges and
the lookup give tiktoken's ids. Rejects broken lines, tokens or ranks that occur twice, and, when writing, merges that
ranks cannot express. Source: openai/tiktoken load.py, core.py, src/lib.rs.
"""

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.tokenizer.parts import TokenizerParts
from lmfast.tokenizer.special_tokens import published_ids

_NEVER = 1 << 62


def read_ranks(content: bytes, path: Path) -> TokenizerParts:
    """The parts of a .tiktoken file; path: for messages."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            encoded, text = line.split()
            # Whisper's file has an empty token, written as "=", which strict decoding rejects.
            token, rank = base64.b64decode(encoded, validate=encoded != b"="), int(text)
        except (ValueError, binascii.Error):
            raise UserError(
                f"{path}: line {number} is {line[:60]!r}, expected `base64 rank`; is it a .tiktoken file?"
            ) from None
        if token in ranks:
            raise UserError(f"{path}: line {number} repeats the token {token!r}; remove one of the two lines")
        ranks[token] = rank
    vocab = {rank: token for token, rank in ranks.items()}
    if len(vocab) != len(ranks) or min(vocab) < 0:
        raise UserError(f"{path}: ranks are negative or repeated; each token needs its own rank from 0 up")
    merges = merges_from_ranks(ranks)
    made = {left + right for left, right in merges}
    whole = any(len(token) > 1 and token not in made for token in ranks)
    published = published_ids(hashlib.sha256(_lines(ranks).encode()).hexdigest())
    return TokenizerParts(vocab, merges, ignore_merges=whole, published=published)


def _lines(ranks: Mapping[bytes, int]) -> str:
    in_order = sorted(ranks.items(), key=lambda item: item[1])
    return "".join([f"{base64.b64encode(token).decode() or '='} {rank}\n" for token, rank in in_order])


def merges_from_ranks(ranks: Mapping[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merge that makes each token, in order of rank: the last two parts when its bytes are merged.

    A token whose bytes cannot be merged into two parts has none and is found only by looking up whole pretokens. A token
    may have a lower rank than its parts (Llama 3's `.:..`), so all ranks are used, not only the lower ones.
    """
    get = ranks.get
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        parts = _merge_to_two_parts(token, lambda a, b: get(a + b, _NEVER))
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def _merge_to_two_parts(token: bytes, pair_rank: Callable[[bytes, bytes], int]) -> list[bytes]:
    """Merges the token's bytes, lowest rank first, until two parts or no mergeable pair are left; the parts."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        ranked = [pair_rank(a, b) for a, b in pairwise(parts)]
        best = min(ranked)
        if best == _NEVER:
            break
        at = ranked.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def write_ranks(parts: TokenizerParts, path: Path) -> None:
    """Writes ranks for `tiktoken.Encoding`, which takes the pattern and the special tokens as arguments."""
    if parts.has_text_rules:
        raise UserError(
            f"{path}: .tiktoken cannot represent NFC, a prefix space, or how the added tokens of this tokenizer are found; "
            "save as tokenizer.json instead"
        )
    ids = parts.ordinary_ids()
    made = [ids[a + b] for a, b in parts.merges]
    if made != sorted(made):
        raise UserError(
            f"{path}: ids do not increase in the order of the merges, as .tiktoken requires; "
            "save as tokenizer.json instead"
        )
    _check_same_merges(parts, ids, path)
    with atomic_write(path) as temporary:
        temporary.write_text(_lines(ids), encoding="ascii")


def _check_same_merges(parts: TokenizerParts, ids: Mapping[bytes, int], path: Path) -> None:
    """Checks that tiktoken, which has only tokens, derives exactly those of these merges that are ever used."""
    order: dict[tuple[bytes, bytes], int] = {}
    for rank, pair in enumerate(parts.merges):
        order.setdefault(pair, rank)
    taken = {
        (a, b)
        for a, b in order
        if _merge_to_two_parts(a + b, lambda a, b: order.get((a, b), _NEVER)) == [a, b]
    }
    found = set(merges_from_ranks(ids))
    for would, pairs in (("would merge", found - taken), ("would not merge", taken - found)):
        for a, b in sorted(pairs):
            raise UserError(
                f"{path}: tiktoken {would} {a!r} and {b!r}, unlike this tokenizer, because it merges any two neighbours "
                "that form a token; save as tokenizer.json instead"
            )
    produced = {a + b for a, b in taken}
    whole = [] if parts.ignore_merges else [t for t in ids if len(t) > 1 and t not in produced]
    if whole:
        raise UserError(
            f"{path}: tiktoken would encode {whole[0]!r} as id {ids[whole[0]]}, which the merges of this tokenizer "
            "never produce; save as tokenizer.json instead"
        )
