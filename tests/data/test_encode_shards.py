"""encode_shards.py: ids of documents, and which are held out."""

import numpy as np
import pytest

from lmfast.data import encode_shards
from lmfast.data.encode_shards import encode_documents, is_held_out
from lmfast.tokenizer.bpe import Tokenizer

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCAB, MERGES, ["<|endoftext|>", "<|user|>"])


def ids(tokenizer, texts) -> list[int]:
    return np.concatenate([*encode_documents(tokenizer, texts), np.zeros(0, np.uint32)]).tolist()


def test_each_document_ends_with_end_of_text(tokenizer):
    end = tokenizer.special_tokens["<|endoftext|>"]
    texts = [b"the the", b"\xff two", b"t"]
    want = [token for text in texts for token in [*tokenizer.encode(text), end]]
    assert ids(tokenizer, texts) == want
    assert ids(tokenizer, []) == []


def test_text_that_looks_like_a_special_token_is_text(tokenizer):
    end, user = (tokenizer.special_tokens[name] for name in ("<|endoftext|>", "<|user|>"))
    texts = [b"a <|user|> b", b"the <|endoftext|>", b"c"]
    found = ids(tokenizer, texts)
    assert found.count(end) == 3 and user not in found
    assert tokenizer.decode_bytes(found) == b"".join(text + b"<|endoftext|>" for text in texts)
    assert ids(tokenizer, texts[:1]) == [*tokenizer.encode(texts[0], "none"), end]


def test_held_out_documents():
    texts = [b"document %d" % i for i in range(4000)]
    held = {
        fraction: {text for text in texts if is_held_out(text, fraction, 7)} for fraction in (0.0, 0.05, 0.5)
    }
    assert not held[0.0] and held[0.05] < held[0.5]
    assert 150 < len(held[0.05]) < 250 and 1850 < len(held[0.5]) < 2150
    assert {text for text in texts if is_held_out(b"\n " + text + b"\n", 0.05, 7)} == held[0.05]
    other = {text for text in texts if is_held_out(text, 0.05, 8)}
    assert len(other & held[0.05]) < 30
    assert is_held_out(texts[0], 0.5, -1) in (True, False)


def test_batches_of_any_size_give_the_same_ids(tokenizer, tmp_path, monkeypatch):
    texts = [b"the %d" % i * (i % 7 + 1) for i in range(200)]
    files = []
    for size in (1, 100, 1 << 20):
        monkeypatch.setattr(encode_shards, "BATCH_BYTES", size)
        with (tmp_path / str(size)).open("w+b") as file:
            part = encode_shards._Part(tokenizer, file)
            for text in texts:
                part.add(text)
            facts = part.finish()
        files.append(np.fromfile(tmp_path / str(size), "<u2").tolist())
        assert facts == {
            "documents": 200,
            "tokens": len(files[0]),
            "bytes": sum(map(len, texts)) + 200 * len("<|endoftext|>"),
        }
    assert files[0] == files[1] == files[2] == ids(tokenizer, texts)
