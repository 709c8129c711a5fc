"""ranks.py compared with tiktoken: files that it reads, with its ids, and files that we write."""

import base64
import random
from pathlib import Path

import pytest
import tiktoken

from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.patterns import NAMED
from lmfast.tokenizer.ranks import merges_from_ranks

BYTES = [bytes([byte]) for byte in range(256)]


def written(path: Path, tokens: list[bytes]) -> Path:
    lines = [f"{base64.b64encode(token).decode() or '='} {rank}\n" for rank, token in enumerate(tokens)]
    path.write_text("".join(lines))
    return path


def theirs(path: Path) -> tiktoken.Encoding:
    """Reads the file itself, because tiktoken's loader caches by path."""
    ranks = {
        base64.b64decode(token): int(rank) for token, rank in map(str.split, path.read_text().splitlines())
    }
    return tiktoken.Encoding("x", pat_str=NAMED["gpt2"].regex, mergeable_ranks=ranks, special_tokens={})


def test_merges_from_ranks_uses_the_canonical_split():
    tokens = [*BYTES, b"ab", b"bc", b"abc", b"abab", b"aa", b"aaa", b"aaaa"]
    ranks = {token: rank for rank, token in enumerate(tokens)}
    assert merges_from_ranks(ranks) == [
        (b"a", b"b"),
        (b"b", b"c"),
        (b"ab", b"c"),
        (b"ab", b"ab"),
        (b"a", b"a"),
        (b"aa", b"a"),
        (b"aa", b"aa"),
    ]


def test_a_token_that_merging_its_bytes_does_not_make(tmp_path):
    """Merging `abcd` gives a, bc, d; in the second file `xyz` has a lower rank than its part `xy`."""
    path = written(tmp_path / "x.tiktoken", [*BYTES, b"bc", b"ab", b"cd", b"abcd"])
    ours = Tokenizer.load(path, "gpt2")
    assert ours.encode("abcd") == [259] == theirs(path).encode("abcd")
    assert (b"ab", b"cd") not in ours.merges
    path = written(tmp_path / "x.tiktoken", [*BYTES, b"xyz", b"xy"])
    assert (
        Tokenizer.load(path, "gpt2").encode("xyz xyzz")
        == theirs(path).encode("xyz xyzz")
        == [256, 32, 256, 122]
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_ranks_encode_like_tiktoken(tmp_path, seed):
    rng = random.Random(seed)
    tokens = list(dict.fromkeys(bytes(rng.choices(b"abcd", k=rng.randint(2, 5))) for _ in range(60)))
    path = written(tmp_path / "x.tiktoken", [*BYTES, *tokens])
    words = [*(token.decode() for token in tokens), *("".join(rng.choices("abcd", k=12)) for _ in range(200))]
    text = "\n".join(words)
    ours = Tokenizer.load(path, "gpt2")
    assert ours.encode(text) == theirs(path).encode(text)
    ours.save(tmp_path / "again.tiktoken")
    assert (tmp_path / "again.tiktoken").read_text() == path.read_text()


def test_the_empty_token_of_whispers_file(tmp_path):
    """Its last line is `= 50256`; special tokens follow it."""
    path = written(tmp_path / "multilingual.tiktoken", [*BYTES, b"ab", b""])
    assert path.read_text().endswith("\n= 257\n")
    ours = Tokenizer.load(path, "gpt2", ["<|endoftext|>"])
    assert ours.special_tokens == {"<|endoftext|>": 258}
    assert ours.encode("abab<|endoftext|>a") == [256, 256, 258, 97]
    assert ours.decode([256, 257, 97]) == "aba" == theirs(path).decode([256, 257, 97])
    ours.save(tmp_path / "again.tiktoken")
    ours.save(tmp_path / "tok")
    again = Tokenizer.load(tmp_path / "again.tiktoken", "gpt2", {"<|endoftext|>": 258})
    (tmp_path / "tok/tokenizer.json").rename(tmp_path / "tokenizer.json")
    for same in (again, Tokenizer.load(tmp_path / "tok"), Tokenizer.load(tmp_path / "tokenizer.json")):
        assert same.vocab == ours.vocab and same.fingerprint() == ours.fingerprint()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("YQ== 0\nnot base64!\n", r"line 2 is b'not base64!'"),
        ("YQ== 0\nYg== 0\n", "ranks are negative or repeated"),
        ("YQ== 0\nYQ== 1\n", r"line 2 repeats the token b'a'"),
        ("YQ== -1\n", "ranks are negative or repeated"),
        (" 7\n", r"line 1 is b' 7'"),
    ],
)
def test_broken_ranks(tmp_path, content, match):
    path = tmp_path / "x.tiktoken"
    path.write_text(content)
    with pytest.raises(UserError, match=f"x.tiktoken: {match}") as caught:
        Tokenizer.load(path, pattern="gpt2")
    assert "\n" not in str(caught.value)


VOCAB = dict(enumerate([*BYTES, b"bc", b"ab", b"cd", b"abcd"]))


@pytest.mark.parametrize(
    ("merges", "match"),
    [
        # No text is encoded to `abcd` here, but tiktoken looks it up.
        (
            [(b"b", b"c"), (b"a", b"b"), (b"c", b"d"), (b"ab", b"cd")],
            "would encode b'abcd' as id 259",
        ),
        ([(b"b", b"c"), (b"c", b"d")], "would merge b'a' and b'b', unlike"),
    ],
)
def test_merges_that_ranks_cannot_express_are_rejected(tmp_path, merges, match):
    with pytest.raises(UserError, match=match):
        Tokenizer(VOCAB, merges).save(tmp_path / "x.tiktoken")
    assert list(tmp_path.iterdir()) == []


def test_a_special_token_that_is_an_ordinary_entry_stays_in_the_ranks(tmp_path):
    tokenizer = Tokenizer({**dict(enumerate(BYTES)), 256: b"th"}, [(b"t", b"h")], ["th", "x"])
    tokenizer.save(tmp_path / "x.tiktoken")
    again = Tokenizer.load(tmp_path / "x.tiktoken", "gpt2", tokenizer.special_tokens)
    assert again.fingerprint() == tokenizer.fingerprint()
