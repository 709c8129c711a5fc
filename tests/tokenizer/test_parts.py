"""parts.py: the ids of ordinary text."""

from lmfast.tokenizer.parts import TokenizerParts


def test_special_tokens_that_are_bytes_or_merges_are_ordinary_too():
    vocab = {0: b"a", 1: b"b", 2: b"ab", 3: b"ab", 4: b"<|x|>", 5: b"b"}
    parts = TokenizerParts(vocab, [(b"a", b"b")], {"<|x|>": 4, "b": 1, "ab": 2})
    assert parts.ordinary_ids() == {b"a": 0, b"b": 1, b"ab": 2}
    assert TokenizerParts(vocab, []).ordinary_ids()[b"<|x|>"] == 4
