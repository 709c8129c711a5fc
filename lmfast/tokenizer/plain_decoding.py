"""Decodes ids in plain Python: 50 to 100 ns per id, against 2 ns for the compiled gather of decoding.py.

In: integers of any type. Out: the tokens' bytes, joined. Rejects what is not an integer, and ids that are not in the
vocabulary, with the position of the first one.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

from lmfast.errors import UserError


def join_tokens(ids: Sequence[Any], vocab: Mapping[int, bytes], vocab_size: int) -> bytes:
    """The tokens' bytes; UserError for a value that is not an id."""
    try:  # `suppress` would add 5 % to the time of 100 ids
        return b"".join([vocab[token] for token in ids])
    except (KeyError, TypeError):  # not an id, or another integer type, such as a tensor's elements
        pass
    parts: list[bytes] = []
    for position, token in enumerate(ids):
        try:
            number = operator.index(token)
        except TypeError:
            shown = " ".join(repr(token).split())[:40]
            raise UserError(
                f"ids: {shown} at position {position} is not an integer; give a one-dimensional list or array of integers"
            ) from None
        if number not in vocab:
            raise unknown_id(number, position, vocab_size)
        parts.append(vocab[number])
    return b"".join(parts)


def unknown_id(token: int, position: int, vocab_size: int) -> UserError:
    return UserError(
        f"id {int(token)} at position {position} is outside the vocabulary of {vocab_size}; "
        "was it encoded with another tokenizer?"
    )
