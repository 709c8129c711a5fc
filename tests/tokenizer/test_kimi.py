"""Kimi's folders, compared with what its own code does: tiktoken with its pattern and 256 special tokens."""

import json

import pytest
import tiktoken

from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.kimi import CODE
from lmfast.tokenizer.patterns import KIMI
from tests.tokenizer.sample_text import PROSE, SCRIPTS
from tests.tokenizer.test_ranks import BYTES, written

TOKENS = [
    *BYTES,
    b"he",
    b"ll",
    b"hell",
    " \u00e9".encode(),
    "\u6f22".encode()[:2],
    "\u6f22".encode(),
    b"12",
    b"123",
]
FIRST = len(TOKENS)
CONFIG = {
    "tokenizer_class": "TikTokenTokenizer",
    "auto_map": {"AutoTokenizer": [CODE, None]},
    "added_tokens_decoder": {
        str(FIRST): {"content": "[BOS]", "special": True},
        str(FIRST + 22): {"content": "<think>", "special": False},
    },
}


@pytest.fixture
def folder(tmp_path):
    written(tmp_path / "tiktoken.model", TOKENS)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_ids_are_those_of_kimis_code(folder, tmp_path):
    named = {FIRST: "[BOS]", FIRST + 22: "<think>"}
    special = {named.get(i, f"<|reserved_token_{i}|>"): i for i in range(FIRST, FIRST + 256)}
    ranks = {token: rank for rank, token in enumerate(TOKENS)}
    theirs = tiktoken.Encoding("kimi", pat_str=KIMI, mergeable_ranks=ranks, special_tokens=special)
    ours = Tokenizer.load(folder)
    assert (
        ours.special_tokens == special and ours.vocab_size == theirs.n_vocab and ours.pattern.name == "kimi"
    )
    ours.save(tmp_path / "saved")
    text = f"[BOS]hello \u00e9 \u6f22\u5b57\u30fc12345<think> <|reserved_token_{FIRST + 9}|>" + "".join(
        (*PROSE, *SCRIPTS)
    )
    for tokenizer in (ours, Tokenizer.load(folder / "tiktoken.model"), Tokenizer.load(tmp_path / "saved")):
        ids = tokenizer.encode(text)
        assert ids == theirs.encode(text, allowed_special="all") and tokenizer.decode(ids) == text


def test_other_configs_are_rejected(folder):
    path = folder / "tokenizer_config.json"
    for change, match in (
        ({"auto_map": {"AutoTokenizer": ["tokenization_other.TikTokenTokenizer", None]}}, "does not name tokenization_kimi"),
        ({"added_tokens_decoder": {"5": "x"}}, "added_tokens_decoder is not an object of tokens with content"),
        ({"added_tokens_decoder": {str(FIRST + i): {"content": "x"} for i in (0, 1)}}, "special token 'x' has id"),
    ):  # fmt: skip
        path.write_text(json.dumps(CONFIG | change))
        with pytest.raises(UserError, match=match) as caught:
            Tokenizer.load(folder)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match="does not contain the split pattern"):
        Tokenizer.load(folder)
    assert Tokenizer.load(folder, pattern="gpt2").special_tokens == {}
