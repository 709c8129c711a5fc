"""special_tokens.py: valid special tokens, and their ids in vocabularies that do not contain them."""

import importlib
import logging

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.tokenizer import ranks, special_tokens
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.special_tokens import place_special_tokens, published_ids
from lmfast.tokenizer.training import train_bpe

VOCAB = {byte: bytes([byte]) for byte in range(256)}
END = "<|endoftext|>"


def test_published_ids_equal_tiktokens(monkeypatch):
    """For every vocabulary of tiktoken, without its files: the hash of what it would load, and its special ids."""
    public = importlib.import_module("tiktoken_ext.openai_public")
    hashes = []

    def load(*_, **hashed):
        hashes.append(hashed.get("expected_hash"))
        return {b"a": 0}

    monkeypatch.setattr(public, "load_tiktoken_bpe", load)
    monkeypatch.setattr(public, "data_gym_to_mergeable_bpe_ranks", load)
    for name, make in public.ENCODING_CONSTRUCTORS.items():
        theirs = {text: token for text, token in make()["special_tokens"].items() if "reserved" not in text}
        ours = published_ids(hashes[-1]) if hashes[-1] else {END: 50256}  # gpt2 has files of another kind
        assert theirs.items() <= ours.items(), name
    assert published_ids("0" * 64) == {}


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([END], {END: 263}),
        (["<|pad|>", END], {"<|pad|>": 271, END: 263}),
        ({END: 300, "<|pad|>": None}, {END: 300, "<|pad|>": 301}),
        ([], {}),
    ],
)
def test_ids_in_a_published_vocabulary(tmp_path, monkeypatch, texts, expected):
    path = tmp_path / "cl100k_like.tiktoken"
    Tokenizer({**VOCAB, 256: b"ab"}, [(b"a", b"b")]).save(path)
    import hashlib

    known = {hashlib.sha256(path.read_bytes()).hexdigest(): {END: 263, "<|fim_prefix|>": 270}}
    monkeypatch.setattr(special_tokens, "_PUBLISHED", known)
    path.write_bytes(
        b"\r\n".join(reversed(path.read_bytes().splitlines()))
    )  # the same ranks, written otherwise
    tokenizer = Tokenizer.load(path, "gpt2", texts)
    assert tokenizer.special_tokens == expected
    for text, token in expected.items():
        assert tokenizer.encode(f"ab{text}") == [256, token]


def test_unused_ids_are_reported(caplog):
    with caplog.at_level(logging.WARNING):
        assert place_special_tokens({END: None}, {}, [0, 1], {END: 5}) == {END: 5}
    assert "'<|endoftext|>' gets id 5; 3 lower ids stay unused, the first is 2" in caplog.text
    caplog.clear()
    place_special_tokens({END: None}, {}, [0, 2], {})  # the unused id may have a purpose
    assert "gets id 3; 1 lower ids stay unused, the first is 1" in caplog.text
    caplog.clear()
    place_special_tokens({END: 9}, {}, [0, 1], {})  # chosen
    place_special_tokens({END: None}, {END: 4}, [0, 1], {})  # the file's
    place_special_tokens({END: None}, {}, [0, 1], {})
    assert not caplog.text


def test_an_id_that_contradicts_the_file():
    with pytest.raises(UserError, match=r"'<\|endoftext\|>': has id 4 in this file, not 5"):
        place_special_tokens({END: 5}, {END: 4}, range(4))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (END, r"a single string would be read letter by letter; give a list, \['<\|endoftext\|>'\]"),
        (b"ab", "letter by letter"),
        ([5], "5: is not a str"),
        ([b"x"], "b'x': is not a str"),
        ([""], "special token '': an empty token"),
        (["\ud800"], r"'\\ud800': contains a lone surrogate"),
        ({"a\udcff": 300}, r"'a\\udcff': contains a lone surrogate"),
        ({END: "300"}, "id '300' is not an integer"),
        ({END: True}, "id True is not an integer"),
        ({END: 300.0}, "id 300.0 is not an integer"),
    ],
)
def test_invalid_special_tokens_are_rejected(tmp_path, wrong, match):
    (tmp_path / "text.txt").write_text("some text")
    Tokenizer(VOCAB, []).save(tmp_path / "tok")
    ways = [
        lambda: Tokenizer(VOCAB, [], wrong),
        lambda: Tokenizer.load(tmp_path / "tok", special_tokens=wrong),
        lambda: Tokenizer.from_files(tmp_path / "tok/vocab.json", tmp_path / "tok/merges.txt", wrong),
    ]
    if not isinstance(wrong, dict):
        ways.append(lambda: train_bpe(tmp_path / "text.txt", 300, special_tokens=wrong))
    for way in ways:
        with pytest.raises(UserError, match=match) as caught:
            way()
        assert "\n" not in str(caught.value)


def test_ids_may_have_any_integer_type():
    tokenizer = Tokenizer(VOCAB, [], {END: np.int64(300)})
    assert type(tokenizer.special_tokens[END]) is int and tokenizer.encode(END) == [300]


@pytest.mark.parametrize("text", ["a", "Ġ", "é", "Ġthe"])
def test_texts_that_spell_bytes_are_rejected_before_training(tmp_path, monkeypatch, text):
    """`Ġ` is how vocab.json spells a space; without the check, saving would fail after training."""
    from lmfast.tokenizer import counting

    monkeypatch.setattr(counting, "count_pretokens", None)  # not reached
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(UserError, match=f"special token '{text}' is"):
        train_bpe(tmp_path / "text.txt", 300, special_tokens=[text])


def test_similar_texts_are_accepted(tmp_path):
    (tmp_path / "text.txt").write_text("some text<|café|>", encoding="utf-8")
    tokenizer = train_bpe(tmp_path / "text.txt", 260, special_tokens=["<|café|>", "日本"])
    tokenizer.save(tmp_path / "tok")
    assert Tokenizer.load(tmp_path / "tok").fingerprint() == tokenizer.fingerprint()


def test_the_hash_covers_the_lines_of_the_file(tmp_path):
    tokenizer = Tokenizer({**VOCAB, 256: b"ab"}, [(b"a", b"b")])
    tokenizer.save(tmp_path / "x.tiktoken")
    assert (tmp_path / "x.tiktoken").read_text() == ranks._lines(
        {token: i for i, token in tokenizer.vocab.items()}
    )
