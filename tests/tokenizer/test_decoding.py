"""decoding.py compared with joining the tokens in plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.errors import UserError
from lmfast.tokenizer.decoding import Decoder

# Lengths around the eight bytes of a row, missing ids, an empty token.
VOCAB = {i: bytes([97 + i % 26]) * i for i in range(40)} | {50: b"\0" * 300, 51: bytes(range(256))}
DECODER = Decoder(VOCAB)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.lists(st.sampled_from(sorted(VOCAB)), max_size=60),
    st.sampled_from([np.uint16, np.uint32, np.int64, np.int32, np.uint8]),
)
def test_decoding_joins_the_tokens(ids, dtype):
    out = DECODER.decode(np.array(ids, dtype))
    assert out.tobytes() == b"".join(VOCAB[i] for i in ids)


@pytest.mark.parametrize("strange", [40, 45, 49, 52, 60_000])
def test_unknown_ids_are_reported_with_their_position(strange):
    ids = np.ones(100, np.uint16)
    ids[[17, 30]] = strange
    with pytest.raises(UserError, match=f"id {strange} at position 17 is outside the vocabulary of 52"):
        DECODER.decode(ids)


def test_negative_ids():
    with pytest.raises(UserError, match="id -1 at position 1"):
        DECODER.decode(np.array([1, -1, 2]))


def test_views_with_gaps():
    ids = np.arange(40, dtype=np.uint16)
    assert DECODER.decode(ids[::3]).tobytes() == b"".join(VOCAB[i] for i in range(0, 40, 3))
