"""Which texts may be special tokens, and their ids over vocabularies that do not hold them."""

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


def test_published_ids_are_tiktokens(monkeypatch):
    """Every vocabulary that tiktoken knows, without its files: what it would load and the ids it then gives."""
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
def test_over_a_vocabulary_whose_ids_are_known(tmp_path, monkeypatch, texts, expected):
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


def test_a_skipped_gap_is_noted(caplog):
    with caplog.at_level(logging.WARNING):
        assert place_special_tokens({END: None}, {}, [0, 1], {END: 5}) == {END: 5}
    assert "'<|endoftext|>' gets id 5; lower ids stay unused (3, the first is 2)" in caplog.text
    caplog.clear()
    place_special_tokens({END: None}, {}, [0, 2], {})  # nobody knows what the free id is for
    assert "gets id 3; lower ids stay unused (1, the first is 1)" in caplog.text
    caplog.clear()
    place_special_tokens({END: 9}, {}, [0, 1], {})  # chosen
    place_special_tokens({END: None}, {END: 4}, [0, 1], {})  # the file's
    place_special_tokens({END: None}, {}, [0, 1], {})
    assert not caplog.text


def test_an_id_that_the_file_contradicts():
    with pytest.raises(UserError, match=r"'<\|endoftext\|>': has id 4 in this file, so it cannot be 5"):
        place_special_tokens({END: 5}, {END: 4}, range(4))


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (END, r"one string would be taken letter by letter; give a list, \['<\|endoftext\|>'\]"),
        (b"ab", "letter by letter"),
        ([5], "5: is no text"),
        ([b"x"], "b'x': is no text"),
        ([""], "special token '': an empty one"),
        (["\ud800"], r"'\\ud800': holds half a character"),
        ({"a\udcff": 300}, r"'a\\udcff': holds half a character"),
        ({END: "300"}, "id '300' is no integer"),
        ({END: True}, "id True is no integer"),
        ({END: 300.0}, "id 300.0 is no integer"),
    ],
)
def test_what_cannot_be_a_special_token(tmp_path, wrong, match):
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


def test_ids_are_integers_of_any_kind():
    tokenizer = Tokenizer(VOCAB, [], {END: np.int64(300)})
    assert type(tokenizer.special_tokens[END]) is int and tokenizer.encode(END) == [300]


@pytest.mark.parametrize("text", ["a", "Ġ", "é", "Ġthe"])
def test_texts_that_files_use_for_bytes_are_rejected_before_training(tmp_path, monkeypatch, text):
    """`Ġ` is how vocab.json spells a blank: saving found that out, after training."""
    from lmfast.tokenizer import counting

    monkeypatch.setattr(counting, "count_pretokens", None)  # not reached
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(UserError, match=f"special token '{text}' is"):
        train_bpe(tmp_path / "text.txt", 300, special_tokens=[text])


def test_other_texts_that_look_like_it_are_fine(tmp_path):
    (tmp_path / "text.txt").write_text("some text<|café|>", encoding="utf-8")
    tokenizer = train_bpe(tmp_path / "text.txt", 260, special_tokens=["<|café|>", "日本"])
    tokenizer.save(tmp_path / "tok")
    assert Tokenizer.load(tmp_path / "tok").fingerprint() == tokenizer.fingerprint()


def test_the_lines_of_a_file_are_those_its_hash_is_of(tmp_path):
    tokenizer = Tokenizer({**VOCAB, 256: b"ab"}, [(b"a", b"b")])
    tokenizer.save(tmp_path / "x.tiktoken")
    assert (tmp_path / "x.tiktoken").read_text() == ranks._lines(
        {token: i for i, token in tokenizer.vocab.items()}
    )
