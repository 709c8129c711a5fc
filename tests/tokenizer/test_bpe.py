"""bpe.py and training.py: the public API of Tokenizer and train_bpe, compared with definitions and with tiktoken."""

import copy
import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast import Tokenizer, train_bpe
from lmfast.errors import UserError
from lmfast.tokenizer.compile_cost import Allowance
from tests.tokenizer import sample_text
from tests.tokenizer.test_merging import naive_merges

HARD = [
    "",
    " ",
    "\n" * 10_000,
    "x" * 1_000_000,
    "'s" * 10_000,
    "today\n \n",
    "a \n\n  b",
    "\u0085\u00a0\u2003\u001c",
    "'ſ they'LL",
    "aaaaa",
    "<|endoftext|><|endoftext|>a<|endoftext|",
    "\u0301e",
    "x" * 15 + " " + "y" * 16 + " " + "z" * 17,
    "q" * 65_535 + " " + "r" * 65_536,
    "one\r\ntwo\r\n",
    "\ud800 lone \udfff",
]
HARD_BYTES = [b"\x80" * i for i in range(1, 9)] + [
    b"a\xc3",
    b"a\xe2\x82",
    b"a\xf0\x9f\x99",
    b"\xff\xfe\0",
    bytes(range(256)),
]


@pytest.fixture(scope="module", params=["plain", "compiled"], autouse=True)
def way(request):
    """Everything in plain Python, or everything in compiled code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Allowance, "covers", lambda self, amount: request.param == "plain")
        yield request.param


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    lines = []
    for i in range(400):
        name, thing = ("Lily", "Tom", "Sue")[i % 3], ("ball", "dog", "small boat", "red apple")[i % 4]
        lines.append(
            f"{name} saw a {thing}. It's {i} o'clock, they said.\n\n  “Größe!” 日本 aaaa\n<|endoftext|>\n"
        )
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(stories, way) -> Tokenizer:
    return train_bpe(stories, 500)


def test_ids_bytes_merges_special(tokenizer):
    assert [tokenizer.vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert tokenizer.merges[0] in tokenizer.merges and tokenizer.vocab[256] == b"".join(tokenizer.merges[0])
    assert [tokenizer.vocab[256 + i] for i in range(len(tokenizer.merges))] == [
        a + b for a, b in tokenizer.merges
    ]
    assert tokenizer.special_tokens == {"<|endoftext|>": tokenizer.vocab_size - 1}
    assert tokenizer.vocab_size == len(tokenizer.vocab) <= 500
    assert tokenizer.dtype == np.uint16
    assert tokenizer.token_bytes(65) == b"A"
    with pytest.raises(UserError, match="id 9999 is outside"):
        tokenizer.token_bytes(9999)


def test_training_equals_its_definition(stories, tokenizer):
    import regex

    words: dict[bytes, int] = {}
    for document in stories.read_text(encoding="utf-8").split("<|endoftext|>"):
        for pretoken in regex.findall(tokenizer.pattern.regex, document):
            words[pretoken.encode()] = words.get(pretoken.encode(), 0) + 1
    assert tokenizer.merges == naive_merges(words, 500 - 257)


def test_training_summary(tokenizer, stories):
    training = tokenizer.training
    assert training.total_bytes == stories.stat().st_size
    assert training.distinct_pretokens > 100 and training.longest_token in tokenizer.vocab.values()
    assert training.counting_seconds > 0 and training.merging_seconds > 0


def test_result_is_independent_of_files_and_workers(stories, tokenizer, tmp_path):
    text = stories.read_bytes()
    half = text.index(b"<|endoftext|>", len(text) // 2)
    (tmp_path / "a.txt").write_bytes(text[:half])
    (tmp_path / "b.txt").write_bytes(text[half:])
    for workers in (1, 2, 7):
        again = train_bpe([tmp_path / "a.txt", str(tmp_path / "b.txt")], 500, num_workers=workers)
        assert again.fingerprint() == tokenizer.fingerprint()
    assert train_bpe(stories, 500, max_memory=1 << 20).fingerprint() == tokenizer.fingerprint()


def test_progress_of_training(stories):
    seen = []
    train_bpe(stories, 400, progress=lambda *step: seen.append(step))
    size = stories.stat().st_size
    assert ("count", size, size) in seen
    assert [step for step in seen if step[0] == "merge"][-1][2] == 400 - 257


def test_more_vocabulary_than_pairs(tmp_path, caplog):
    (tmp_path / "t.txt").write_text("abab abab")
    with caplog.at_level(logging.WARNING):
        tokenizer = train_bpe(tmp_path / "t.txt", 1000, special_tokens=["<|x|>", "<|y|>"])
    assert "no more pairs after 3 merges: the vocabulary is 261 instead of 1000" in caplog.text
    assert tokenizer.merges == [(b"a", b"b"), (b"ab", b"ab"), (b" ", b"abab")]
    assert tokenizer.special_tokens == {"<|x|>": 259, "<|y|>": 260}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"vocab_size": 256},
            "vocabulary size 256 is too small: 256 bytes and 1 special token need at least 257",
        ),
        ({"vocab_size": 300, "special_tokens": ["a", "bc"]}, "special token 'a' is a single byte"),
        ({"vocab_size": 300, "special_tokens": ["", "bc"]}, "special token ''"),
        ({"vocab_size": 300, "special_tokens": ["bc", "bc"]}, "'bc' is given twice"),
        ({"vocab_size": 300, "pattern": "gtp2"}, "gtp2"),
        ({"vocab_size": 300, "paths": "missing.txt"}, "missing.txt: no such file"),
        ({"vocab_size": 300, "paths": []}, "no input file"),
        ({"vocab_size": 300, "paths": "/dev/null"}, "/dev/null.*(empty|regular file)"),
    ],
)
def test_training_rejects_bad_settings(stories, arguments, match):
    with pytest.raises(UserError, match=match) as caught:
        train_bpe(**{"paths": stories} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pattern", ["gpt2", "cl100k", "o200k"])
def test_encodes_like_tiktoken(stories, pattern):
    tokenizer = train_bpe(stories, 420, pattern=pattern)
    theirs = tiktoken.Encoding(
        "ours",
        pat_str=tokenizer.pattern.regex,
        mergeable_ranks={token: i for i, token in tokenizer.vocab.items() if i < tokenizer.vocab_size - 1},
        special_tokens=tokenizer.special_tokens,
    )
    texts = [stories.read_text(encoding="utf-8"), *(t for t in HARD if len(t) < 20_000 and "\ud800" not in t)]
    texts += [sample_text.sample(name).decode() for name in sample_text.GENERATED]
    for text in texts:
        assert tokenizer.encode(text) == theirs.encode(text, allowed_special="all"), text[:80]


@pytest.mark.parametrize("text", HARD, ids=lambda text: ascii(text[:12]))
def test_difficult_text_round_trips(tokenizer, text):
    ids = tokenizer.encode_array(text)
    assert ids.dtype == np.uint32
    data = text.encode("utf-8", "surrogatepass")
    assert tokenizer.decode_bytes(ids) == data and tokenizer.decode_bytes(ids.tolist()) == data
    assert tokenizer.decode(ids) == data.decode("utf-8", "replace")
    assert tokenizer.encode(text) == tokenizer.encode(data) == ids.tolist()
    assert "".join(tokenizer.decode_stream(ids.tolist()[:3000])) == tokenizer.decode(ids[:3000])


@pytest.mark.parametrize("data", HARD_BYTES, ids=repr)
def test_difficult_bytes_round_trip(tokenizer, data):
    for text in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        assert tokenizer.decode_bytes(tokenizer.encode_array(text)) == data


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=100)))
def test_random_text_and_bytes_round_trip(tokenizer, text):
    ids = tokenizer.encode(text)
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    assert tokenizer.decode_bytes(ids) == data
    assert "".join(tokenizer.decode_stream(ids)) == tokenizer.decode(ids) == data.decode("utf-8", "replace")


def test_stream_yields_complete_characters(tokenizer):
    text = "🙂 naïve 日本語 e\u0301"
    ids = list(text.encode())  # one byte per token
    pieces = list(tokenizer.decode_stream(iter(ids)))
    assert "".join(pieces) == text and pieces == list(text)
    assert list(tokenizer.decode_stream([0xF0, 0x9F])) == ["\ufffd"]


def test_decode_rejects_ids_outside_the_vocabulary(tokenizer):
    for ids in (
        [1, 2, 5000],
        np.array([1, 2, 5000]),
        [1, 2, 5000] * 200,
        np.array([1, 2, 5000] * 200, np.uint16),
    ):
        with pytest.raises(
            UserError, match=f"id 5000 at position 2 is outside the vocabulary of {tokenizer.vocab_size}"
        ):
            tokenizer.decode(ids)
    for strange in (-1, 1 << 70):
        with pytest.raises(UserError, match=f"id {strange} at position 300"):
            tokenizer.decode([1] * 300 + [strange])


@pytest.mark.parametrize("many", [1, 300])
@pytest.mark.parametrize(
    ("ids", "match"),
    [
        (np.array([97.5]), r"shape \(\d+,\) and dtype float64"),
        (np.array([True]), "bool"),
        (np.array([97, None])[:1], "object"),
        (np.array([[97, 98]]), r"shape \(\d+, 2\)"),
        (np.array([-3], np.int8), "id -3 at position 0"),
        (np.array([2**64 - 1], np.uint64), "id 18446744073709551615 at position 0"),
        ([97.5], "97.5 at position 0 is not an integer"),
        (["97"], "'97' at position 0 is not an integer"),
        ([None], "None at position 0 is not an integer"),
        ([[97]], r"\[97\] at position 0 is not an integer"),
        ([2**63], "id 9223372036854775808 at position 0"),
    ],
    ids=str,
)
def test_decode_rejects_values_that_are_not_ids(tokenizer, ids, match, many):
    ids = np.concatenate([ids] * many) if isinstance(ids, np.ndarray) else ids * many
    with pytest.raises(UserError, match=match) as caught:
        tokenizer.decode(ids)
    assert "\n" not in str(caught.value)


def test_decode_accepts_empty_input_and_any_integer_type(tokenizer):
    class Element:  # like the elements of a tensor: integers, but not keys of a dict
        def __index__(self):
            return 97

    for nothing in ([], (), np.array([]), np.zeros(0, np.uint16)):
        assert tokenizer.decode(nothing) == ""
    for n in (2, 300):
        for ids in ([Element()] * n, np.full(n, 97, ">u2"), np.full(n, 97, np.uint64), iter([97] * n)):
            assert tokenizer.decode(ids) == "a" * n
    assert "".join(tokenizer.decode_stream([Element(), np.uint16(98)])) == "ab"
    with pytest.raises(UserError, match=r"id 97\.9 is not an integer"):
        list(tokenizer.decode_stream([97.9]))
    with pytest.raises(UserError, match="shape"):
        tokenizer.decode(np.array(97))


def test_text_arrays_must_be_bytes(tokenizer):
    for n in (6, 40_000):
        text = np.frombuffer(b"the cat " * n, np.uint8)
        expected = tokenizer.encode(bytes(text[::2]))
        assert tokenizer.encode_array(text[::2]).tolist() == expected
        assert tokenizer.encode_array(memoryview(text)[::2]).tolist() == expected
        assert tokenizer.encode_array(memoryview(text.view(np.uint32))).tolist() == tokenizer.encode(
            bytes(text)
        )
        for wrong in (text.astype(np.int64), text / 1, text.reshape(2, -1), text.view(np.int8)):
            with pytest.raises(UserError, match="text: an array of shape"):
                tokenizer.encode_array(wrong)


def test_copies_of_a_tokenizer_that_has_encoded(tokenizer):
    ids = tokenizer.encode("Lily saw a red apple<|endoftext|>" * 20)
    text = tokenizer.decode(ids * 20)
    for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), copy.copy(tokenizer)):
        assert again.fingerprint() == tokenizer.fingerprint()
        assert again.encode("Lily saw a red apple<|endoftext|>" * 20) == ids
        assert again.decode(ids * 20) == text


def test_longest_special_token_first():
    vocab = {i: bytes([i]) for i in range(256)}
    twice = "<|endoftext|><|endoftext|>"
    tokenizer = Tokenizer(vocab, [], ["<|endoftext|>", twice])
    assert tokenizer.special_tokens == {"<|endoftext|>": 256, twice: 257}
    assert tokenizer.encode(f"x{twice}<|endoftext|>") == [120, 257, 256]


def test_a_special_token_that_is_an_ordinary_entry():
    vocab = {i: bytes([i]) for i in range(256)} | {256: b"th"}
    tokenizer = Tokenizer(vocab, [(b"t", b"h")], ["th", "x"])
    assert tokenizer.special_tokens == {"th": 256, "x": 120} and tokenizer.vocab_size == 257
    assert tokenizer.encode("thx") == [256, 120] == tokenizer.encode("thx", allowed_special="none")
    assert tokenizer.encode("a the", allowed_special="none") == [97, 32, 256, 101]


@pytest.mark.parametrize(
    ("vocab", "merges", "special", "match"),
    [
        ({0: b"a"}, [], None, "lacks 96 of the characters of ASCII text"),
        ({i: bytes([i]) for i in range(256)}, [(b"a", b"b")], None, "needs b'ab'"),
        ({i: bytes([i]) for i in range(256)}, [], [""], "special token ''"),
        ({i: bytes([i]) for i in range(256)}, [], {"<|x|>": 5}, "id 5 is"),
        ({i: bytes([i]) for i in range(256)}, [], {"<|x|>": -5}, "id -5 .* is negative"),
    ],
)
def test_inconsistent_vocabularies_are_rejected(vocab, merges, special, match):
    with pytest.raises(UserError, match=match):
        Tokenizer(vocab, merges, special)


def test_batch(tokenizer):
    texts = ["One", "", "two<|endoftext|>", b"\xff"]
    batch = tokenizer.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts, "none")] == [
        tokenizer.encode(text, "none") for text in texts
    ]


@pytest.mark.parametrize("text", ["One", b"One"])
def test_a_single_text_is_not_a_batch(tokenizer, text):
    with pytest.raises(UserError, match="letter by letter"):
        tokenizer.encode_batch(text)


def test_encode_file_and_its_summary(tokenizer, stories, tmp_path):
    tokenizer.save(tmp_path / "tok")
    loaded = Tokenizer.load(tmp_path / "tok")
    seen = []
    summary = loaded.encode_file(
        stories, tmp_path / "x.npy", num_workers=2, progress=lambda *step: seen.append(step)
    )
    ids = np.load(tmp_path / "x.npy")
    assert ids.dtype == np.uint16 and ids.tolist() == tokenizer.encode(stories.read_bytes())
    size = stories.stat().st_size
    assert seen[-1] == (size, size)
    saved = json.loads((tmp_path / "x.npy.json").read_text())
    assert saved == {
        "source": str(stories),
        "tokens": len(ids),
        "bytes": size,
        "special_bytes": 400 * len("<|endoftext|>"),
        "vocab_size": tokenizer.vocab_size,
        "dtype": "uint16",
        "tokenizer": str(tmp_path / "tok"),
        "tokenizer_relative": "tok",
        "tokenizer_sha256": tokenizer.fingerprint(),
    }
    assert summary.tokens == len(ids) and summary.bytes == size


def test_encode_file_rejects_bad_paths(tokenizer, stories, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    for src, dst, match in (
        (tmp_path / "no.txt", tmp_path / "x.npy", "no.txt: no such file"),
        (tmp_path / "empty.txt", tmp_path / "x.npy", "empty.txt: is empty"),
        (stories, tmp_path / "no" / "x.npy", "does not exist"),
        (stories, tmp_path, "is a directory"),
    ):
        with pytest.raises(UserError, match=match):
            tokenizer.encode_file(src, dst)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


@pytest.mark.parametrize(("src", "dst"), [("a.txt", "a.txt"), ("ids.json", "ids")])
def test_encode_file_never_destroys_its_input(tokenizer, tmp_path, src, dst):
    """In the second case the summary, `dst`.json, would overwrite the input."""
    (tmp_path / src).write_text("One small boat.")
    with pytest.raises(UserError, match=f"{src}: is also the input"):
        tokenizer.encode_file(tmp_path / src, tmp_path / dst)
    assert (tmp_path / src).read_text() == "One small boat."
    assert [path.name for path in tmp_path.iterdir()] == [src]


def test_an_interrupted_encoding_leaves_no_files(tokenizer, stories, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_file(stories, tmp_path / "x.npy", progress=stop)
    assert list(tmp_path.iterdir()) == []
    tokenizer.encode_file(stories, tmp_path / "x.npy")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode_file(stories, tmp_path / "x.npy", progress=stop)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_different_tokenizers_have_different_fingerprints(tokenizer):
    parts = (tokenizer.vocab, tokenizer.merges)
    same = Tokenizer(*parts, tokenizer.special_tokens)
    assert same.fingerprint() == tokenizer.fingerprint()
    others = [
        Tokenizer(*parts, tokenizer.special_tokens, "cl100k"),
        Tokenizer(*parts),
        Tokenizer(*parts, ["<|endoftext|>", "<|pad|>"]),
        Tokenizer(tokenizer.vocab, tokenizer.merges[:-1], tokenizer.special_tokens),
    ]
    assert len({other.fingerprint() for other in [*others, tokenizer]}) == 5


def test_large_vocabularies_are_uint32():
    vocab = {i: bytes([i]) for i in range(256)}
    assert Tokenizer(vocab, [], {"<|a|>": 65_535}).dtype == np.uint16
    large = Tokenizer(vocab, [], {"<|a|>": 65_536})
    assert large.dtype == np.uint32 and large.vocab_size == 65_537
    assert large.encode("a<|a|>") == [97, 65_536]


def test_token_lengths():
    tokenizer = Tokenizer(
        {i: bytes([i]) for i in range(256)} | {256: b"ab"}, [(b"a", b"b")], {"<|end|>": 300}
    )
    lengths = tokenizer.token_lengths()
    assert len(lengths) == tokenizer.vocab_size
    assert [int(lengths[i]) for i in (97, 256, 299, 300)] == [1, 2, 0, len("<|end|>")]
