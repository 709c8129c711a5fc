"""Tokens that their own merges do not produce, compared with `tokenizers` and ignore_merges in all ways to encode."""

import copy
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from lmfast.data.chat import add_chat_tokens, shares_ids
from lmfast.errors import UserError
from lmfast.tokenizer import encoding, text_file
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.byte_characters import spell
from lmfast.tokenizer.compiled import pretoken_cache

BYTES = {spell(bytes([byte])): byte for byte in range(256)}
# `bc` is merged first, so `ab` and `cd` are never adjacent.
EXAMPLE = [("b", "c"), ("a", "b"), ("c", "d"), ("ab", "cd")]


def written(path: Path, merges: list, more: dict[str, int] | None = None, ignore_merges: bool = True) -> Path:
    """A tokenizer.json: the bytes, what the merges make, and more entries."""
    vocab = dict(BYTES)
    for a, b in merges:
        vocab.setdefault(a + b, len(vocab))
    vocab |= more or {}
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": ignore_merges}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    path.write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "model": model})
    )
    return path


def test_the_example(tmp_path):
    assert Tokenizer.load(written(tmp_path / "a.json", EXAMPLE)).encode("abcd xabcd abcde abcd") == [
        259, 32, 120, 97, 256, 100, 32, 97, 256, 100, 101, 32, 97, 256, 100
    ]  # fmt: skip
    without = Tokenizer.load(written(tmp_path / "b.json", EXAMPLE, ignore_merges=False))
    assert without.encode("abcd") == [97, 256, 100]


@pytest.mark.parametrize("seed", range(12))
def test_random_vocabularies_encode_like_tokenizers(tmp_path, seed):
    rng = random.Random(seed)
    symbols, merges = list("abc"), []
    while len(merges) < 8:
        merges.append((rng.choice(symbols), rng.choice(symbols)))
        symbols.append("".join(merges[-1]))
    entries = {"".join(rng.choices("abc", k=rng.randint(2, 20))) for _ in range(40)}
    first = rng.choice([400, 70_000])  # ids of 16 and of 32 bits
    more = {text: first + i for i, text in enumerate(sorted(entries - {a + b for a, b in merges}))}
    path = written(tmp_path / "tokenizer.json", merges, more)
    words = [*entries, *("".join(rng.choices("abc", k=rng.randint(1, 24))) for _ in range(100))]
    text = "\n".join(words)
    ours = Tokenizer.load(path)
    assert ours.ignore_merges
    assert ours.encode(text) == tokenizers.Tokenizer.from_file(str(path)).encode(text).ids
    assert ours.decode(ours.encode(text)) == text


# Around the limits: 15 bytes of a key, 64 of a short merge, 512 of the cache; and long enough for lists by rank.
LENGTHS = (2, 15, 16, 17, 63, 64, 65, 512, 513, 9000)


@pytest.fixture(params=[1000, 70_000], ids=["uint16", "uint32"])
def lengths(request, tmp_path) -> Path:
    entries = {"x" * length: request.param + i for i, length in enumerate(LENGTHS)}
    return written(tmp_path / "tokenizer.json", EXAMPLE, entries)


def test_tokens_of_any_length(lengths):
    ours, theirs = Tokenizer.load(lengths), tokenizers.Tokenizer.from_file(str(lengths))
    for length in LENGTHS:
        for text in ("x" * length, "x" * (length - 1), "x" * length + "y", "x" * (length - 1) + "y"):
            for _ in range(2):  # merged, then cached
                assert ours.encode(text) == theirs.encode(text).ids, (length, text[-1])


def test_files_streams_and_batches(lengths, tmp_path, monkeypatch):
    """Chunks of 200 bytes on three threads, and a cache that fills up repeatedly."""
    for module in (encoding, text_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", 200)
    monkeypatch.setattr(encoding, "MAX_ROWS", 1 << 10)
    monkeypatch.setattr(pretoken_cache, "MAX_ROWS", 1 << 10)
    rng = random.Random(0)
    words = ["abcd", *("x" * length for length in LENGTHS[:-1])]
    text = "\n".join(w for i in range(2000) for w in (rng.choice(words), f"q{i}"))
    expected = tokenizers.Tokenizer.from_file(str(lengths)).encode(text).ids
    ours = Tokenizer.load(lengths)
    (tmp_path / "text.txt").write_text(text)
    ours.encode_file(tmp_path / "text.txt", tmp_path / "ids.npy", num_workers=3)
    assert np.load(tmp_path / "ids.npy").tolist() == expected
    pieces = [text[i : i + 777] for i in range(0, len(text), 777)]
    assert list(ours.encode_iterable(pieces)) == expected
    assert ours.encode_batch([text, "abcd"])[0].tolist() == expected
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert again.encode(text) == expected


def test_a_custom_pattern(tmp_path):
    loaded = Tokenizer.load(written(tmp_path / "tokenizer.json", EXAMPLE), pattern=r"[a-d]+|\s|.")
    assert loaded.encode("abcd e abcd") == [259, 32, 101, 32, 259]


def test_saved_and_loaded_again(lengths, tmp_path):
    ours = Tokenizer.load(lengths)
    (tmp_path / "tok").mkdir()
    (tmp_path / "tok/vocab.json").write_text("of another tokenizer")
    ours.save(tmp_path / "tok")
    # vocab.json and merges.txt cannot represent it: alone they would be read as another tokenizer.
    assert [path.name for path in (tmp_path / "tok").iterdir()] == ["tokenizer.json"]
    again = Tokenizer.load(tmp_path / "tok")
    assert again.fingerprint() == ours.fingerprint() != Tokenizer(ours.vocab, ours.merges).fingerprint()
    assert again.encode("abcd " + "x" * 65) == ours.encode("abcd " + "x" * 65)
    with pytest.raises(UserError, match="tiktoken would merge b'x' and b'x'"):
        ours.save(tmp_path / "x.tiktoken")


def test_chat_tokens_keep_it(tmp_path):
    ours = Tokenizer.load(written(tmp_path / "tokenizer.json", EXAMPLE))
    chat = add_chat_tokens(ours)
    assert chat.encode("abcd<|end|>") == [259, chat.special_tokens["<|end|>"]]
    assert shares_ids(chat, ours.fingerprint())


def test_ignore_merges_is_off_if_merges_make_all_tokens(tmp_path):
    merges = [("a", "b"), ("ab", "c")]
    with_it, without = (
        Tokenizer.load(written(tmp_path / f"{on}.json", merges, ignore_merges=on)) for on in (True, False)
    )
    assert not with_it.ignore_merges and with_it.fingerprint() == without.fingerprint()
    assert len(with_it._encoder._tables) == len(without._encoder._tables) == 5
