"""plain_decoding.py compared with the compiled decoder."""

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.tokenizer.plain_decoding import join_tokens
from tests.tokenizer.test_decoding import DECODER, VOCAB


def test_ids_of_any_integer_type_give_the_compiled_decoder_s_bytes():
    ids = [*VOCAB] * 3
    expected = DECODER.decode(np.array(ids)).tobytes()
    for given in (ids, list(np.array(ids, np.uint16)), list(np.array(ids, np.int64))):
        assert join_tokens(given, VOCAB, 52) == expected


@pytest.mark.parametrize("strange", [40, 52, 60_000])
def test_unknown_ids_get_the_compiled_decoder_s_message(strange):
    ids = [1] * 17 + [strange, 1, strange]
    with pytest.raises(UserError) as compiled:
        DECODER.decode(np.array(ids))
    with pytest.raises(UserError) as plain:
        join_tokens(ids, VOCAB, 52)
    assert str(plain.value) == str(compiled.value)


@pytest.mark.parametrize("value", [None, 97.9, "a", b"a"])
def test_what_is_not_an_integer_is_named(value):
    with pytest.raises(UserError, match="at position 1 is not an integer"):
        join_tokens([1, value], VOCAB, 52)
