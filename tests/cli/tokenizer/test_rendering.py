"""rendering.py: tokens are separated, special tokens stand out, and tokens with loss are marked."""

import re

import numpy as np
import pytest

from lmfast.cli.tokenizer.rendering import marked, mask_fact
from lmfast.tokenizer.bpe import Tokenizer

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
ESCAPES = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCAB, MERGES, ["<|endoftext|>"])


def test_marked_tokens(tokenizer):
    ids = tokenizer.encode("the the<|endoftext|>é")
    assert marked(tokenizer, ids, colors=False) == "the│ the│⟦<|endoftext|>⟧│\\xc3│\\xa9"
    colored = marked(tokenizer, ids, colors=True)
    assert ESCAPES.sub("", colored) == "the the<|endoftext|>\\xc3\\xa9"
    assert "\x1b[1;97;41m<|endoftext|>\x1b[0m" in colored
    assert len(set(re.findall(r"48;5;(\d+)m", colored))) > 1


def test_a_newline_does_not_colour_the_line(tokenizer):
    colored = marked(tokenizer, tokenizer.encode("a\nb"), colors=True)
    assert "⏎\x1b[0m\n" in colored and ESCAPES.sub("", colored) == "a⏎\nb"


@pytest.mark.parametrize(
    ("mask", "plain"),
    [
        ([False, True, True, False], "a│▶b│c◀│⟦<|endoftext|>⟧"),
        ([True, False, False, True], "▶a◀│b│c│▶⟦<|endoftext|>⟧◀"),
        ([False] * 4, "a│b│c│⟦<|endoftext|>⟧"),
        ([True] * 4, "▶a│b│c│⟦<|endoftext|>⟧◀"),
    ],
)
def test_tokens_with_loss(tokenizer, mask, plain):
    ids = tokenizer.encode("abc<|endoftext|>")
    assert marked(tokenizer, ids, False, mask) == plain
    colored = marked(tokenizer, ids, True, mask)
    assert ESCAPES.sub("", colored) == "abc<|endoftext|>"
    styles = re.findall(r"(\x1b\[[\d;]*m)[abc<]", colored)
    assert ["48;5;" in style or "41m" in style for style in styles] == mask
    assert marked(tokenizer, ids, True, [True] * 4) == marked(tokenizer, ids, True)
    assert mask_fact(np.array(mask), False).startswith(f"{sum(mask)} of 4 tokens carry loss")
