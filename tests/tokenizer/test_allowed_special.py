"""allowed_special.py: special tokens that a call recognises, and those that it rejects."""

import pytest

from lmfast import Tokenizer
from lmfast.errors import UserError

END = 256
TEXT = "a<|endoftext|>b"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|endoftext|>"])


def test_allowed_tokens_are_recognised(tokenizer):
    for allowed in ("all", {"<|endoftext|>"}):
        assert tokenizer.encode(TEXT, allowed_special=allowed) == [97, END, 98]
    for allowed in ("none", set()):
        assert tokenizer.encode(TEXT, allowed_special=allowed) == list(TEXT.encode())
    assert tokenizer.encode(TEXT, disallowed_special="all") == [97, END, 98]  # allowed, so not disallowed


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"disallowed_special": {"<|endoftext|>"}}, r"special token '<\|endoftext\|>' at byte 1"),
        ({"disallowed_special": ["<|endoftext|>"]}, r"special token '<\|endoftext\|>' at byte 1"),
        ({"allowed_special": "none", "disallowed_special": "all"}, "at byte 1"),
        ({"allowed_special": {"<|pad|>"}}, r"'<\|pad\|>' is not a special token of this tokenizer"),
        ({"disallowed_special": {"<|pad|>"}}, r"'<\|pad\|>' is not a special token of this tokenizer"),
        ({"allowed_special": "some"}, "allowed_special='some'"),
        ({"disallowed_special": "some"}, "disallowed_special='some'"),
    ],
)
def test_other_calls_are_rejected(tokenizer, arguments, match):
    with pytest.raises(UserError, match=match):
        tokenizer.encode(TEXT, **arguments)
