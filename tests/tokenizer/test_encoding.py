"""encoding.py compared with the oracle and with tiktoken using the same ranks; files compared with memory."""

import functools
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.errors import UserError
from lmfast.tokenizer import encoding, text_file
from lmfast.tokenizer.encoding import Encoder, encode_file
from lmfast.tokenizer.parts import MAX_ID
from lmfast.tokenizer.patterns import NAMED, get_pattern
from tests.tokenizer import oracle, sample_text
from tests.tokenizer.compiled.test_scanner import HARD

END = "<|endoftext|>"
LESSON = (
    b"the cat sat on the mat, the other cat's hat isn't there; they're aaaaa aaaaaa abababab " * 3
    + "naïve café 漢字漢字 漢 Ünïcödé 1234 12 \n\n    indent\n    indent\n '' \"\" ... !!! ".encode() * 3
    + b" internationalisation internationalisation " * 3
)


@functools.cache
def lesson(pattern: str):
    """(vocab, merges, special tokens) learnt by the oracle; ids are shuffled, as they may be in others' files."""
    expression = get_pattern(pattern).regex
    merges = oracle.learn_merges(oracle.count(LESSON, [], expression), 250)
    texts = [bytes([byte]) for byte in range(256)]
    for left, right in merges:
        if left + right not in texts:
            texts.append(left + right)
    random.Random(0).shuffle(texts)
    vocab = dict(enumerate(texts))
    specials = {END: len(vocab), "<|end": len(vocab) + 1, f"{END}{END}": len(vocab) + 5}
    return vocab, merges, specials


@functools.cache
def encoder(pattern: str = "gpt2") -> Encoder:
    return Encoder(*lesson(pattern), get_pattern(pattern))


texts = st.lists(
    st.sampled_from([*HARD, END.encode(), b"<|end", b"<|", b" the", b" cat", b"aaaaa", b"ab", LESSON[90:130]])
    | st.binary(max_size=40),
    max_size=40,
).map(b"".join)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(texts, st.sampled_from([*sorted(NAMED), r"\w+|\s+"]))
def test_ids_equal_the_oracles(text, pattern):
    assert encoder(pattern).encode(text).tolist() == oracle.encode(
        text, *lesson(pattern), get_pattern(pattern).regex
    )


def test_hard_input():
    for text in (
        b"", b" ", b"\n" * 3000, b"x" * 3000, b"'s" * 1000, b"today\n \n", b"a \n\n  b", b"aaaaa", b"they'LL", "'ſ".encode(),
        *(b"\x80" * i for i in range(1, 70)), *(b"a" * i for i in (15, 16, 17, 63, 64, 65, 512, 513)), b"caf\xc3",
        b"\xe2\x82", END.encode(), END.encode() * 2, END.encode() * 5, b"<|end" * 3, b"<|end|>", b" " + END.encode(),
    ):  # fmt: skip
        assert encoder().encode(text).tolist() == oracle.encode(
            text, *lesson("gpt2"), get_pattern("gpt2").regex
        ), text[:50]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.binary(max_size=300))
def test_any_bytes_round_trip(text):
    vocab, _, specials = lesson("gpt2")
    texts = {**vocab, **{number: name.encode() for name, number in specials.items()}}
    assert b"".join(texts[number] for number in encoder().encode(text).tolist()) == text


def test_allowed_special_tokens():
    text = b"the" + END.encode()
    vocab, merges, specials = lesson("gpt2")
    plain = oracle.encode(text, vocab, merges, {}, get_pattern("gpt2").regex)
    assert encoder().encode(text, "none").tolist() == plain
    assert encoder().encode(text, set()).tolist() == plain
    assert encoder().encode(text, {END})[-1] == specials[END]
    assert encoder().encode(text, {"<|end"}).tolist() != encoder().encode(text, {END}).tolist()
    with pytest.raises(UserError, match="not a special token"):
        encoder().encode(text, {"<|nope|>"})


def test_a_token_that_no_merge_makes_is_never_used():
    """`abc` is in the vocabulary, but `ab` is not: a cache that maps each token to its own id would return it."""
    texts = [*(bytes([byte]) for byte in range(256)), b"abc", b"bc"]
    compiled = Encoder(dict(enumerate(texts)), [(b"b", b"c")], {}, get_pattern("gpt2"))
    assert compiled.encode(b"abc").tolist() == [97, 257]


def test_an_empty_entry_has_no_effect():
    vocab, merges, specials = lesson("gpt2")
    compiled = Encoder({**vocab, len(vocab) + 10: b""}, merges, specials, get_pattern("gpt2"))
    without = Encoder(vocab, merges, specials, get_pattern("gpt2"))
    assert compiled._cache.used.tolist() == without._cache.used.tolist()
    assert compiled.encode(LESSON).tolist() == encoder().encode(LESSON).tolist()


def test_the_lower_of_two_ids_with_the_same_bytes_is_used():
    texts = [*(bytes([byte]) for byte in range(256)), b"aa", b"aaa", b"aaa"]
    merges = [(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")]
    assert Encoder(dict(enumerate(texts)), merges, {}, get_pattern("gpt2")).encode(b"aaa").tolist() == [257]


@pytest.mark.parametrize(
    "wrong, message",
    [("byte", "0x61"), ("merge", "which the vocabulary does not contain"), ("id", "too large")],
)
def test_bad_vocabularies_are_rejected(wrong, message):
    vocab = {byte: bytes([byte]) for byte in range(256)}
    merges = []
    if wrong == "byte":
        del vocab[ord("a")]
    elif wrong == "merge":
        merges = [(b"a", b"b")]
    else:
        vocab[MAX_ID + 1] = b"ab"
    with pytest.raises(UserError, match=message):
        Encoder(vocab, merges, {}, get_pattern("gpt2"))


@functools.cache
def learnt():
    """(vocab, up to 2,000 merges from the generated texts, special tokens)."""
    from lmfast.tokenizer.counting import count_pretokens
    from lmfast.tokenizer.merging import learn_merges

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in sample_text.GENERATED]
        for path in paths:
            path.write_bytes(sample_text.sample(path.name))
        merges = learn_merges(count_pretokens(paths, [END], get_pattern("gpt2")), 2000)
    texts = list(dict.fromkeys([*(bytes([byte]) for byte in range(256)), *(a + b for a, b in merges)]))
    return dict(enumerate(texts)), merges, {END: len(texts)}


@functools.cache
def trained():
    """What was learnt, as encoders and as tiktoken encodings, by pattern."""
    tiktoken = pytest.importorskip("tiktoken")
    vocab, merges, specials = learnt()
    theirs = {
        name: tiktoken.Encoding(
            "x",
            pat_str=NAMED[name].regex,
            mergeable_ranks={t: i for i, t in vocab.items()},
            special_tokens=specials,
        )
        for name in NAMED
    }
    return {name: Encoder(vocab, merges, specials, get_pattern(name)) for name in NAMED}, theirs


@pytest.mark.parametrize("name", sorted(NAMED))
@pytest.mark.parametrize("text_name", sample_text.NAMES)
def test_tiktoken_on_whole_texts(name, text_name):
    ours, theirs = trained()
    text = sample_text.sample(text_name)[:300_000].decode("utf-8", "replace")
    assert ours[name].encode(text.encode()).tolist() == theirs[name].encode(text, allowed_special="all")


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.text(max_size=200), st.sampled_from(sorted(NAMED)))
def test_tiktoken_on_random_unicode(text, name):
    ours, theirs = trained()
    assert ours[name].encode(text.encode()).tolist() == theirs[name].encode(text, allowed_special="all")


@pytest.fixture
def small_chunks(monkeypatch):
    for module in (encoding, text_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", 200)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("workers", [1, 2, 7])
def test_files_and_memory_give_the_same_ids(tmp_path, small_chunks, workers, dtype):
    text = (LESSON + END.encode() + b"\xff\xfe\n") * 40
    (tmp_path / "text.txt").write_bytes(text)
    seen = []
    summary = encode_file(
        encoder(),
        tmp_path / "text.txt",
        tmp_path / "ids.npy",
        dtype,
        workers,
        lambda *progress: seen.append(progress),
    )
    ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
    assert ids.dtype == dtype and ids.ndim == 1
    assert np.array_equal(ids, encoder().encode(text))
    assert (summary.tokens, summary.bytes) == (len(ids), len(text))
    assert (summary.specials, summary.special_bytes) == (40, 40 * len(END))
    assert seen[-1] == (len(text), len(text)) and len(seen) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy", "text.txt"]


def test_an_empty_file_gives_no_ids(tmp_path):
    (tmp_path / "empty.txt").touch()
    assert encode_file(encoder(), tmp_path / "empty.txt", tmp_path / "ids.npy", np.uint16).tokens == 0
    assert np.load(tmp_path / "ids.npy").shape == (0,)


def test_an_interrupted_run_leaves_no_files(tmp_path, small_chunks):
    (tmp_path / "text.txt").write_bytes(LESSON * 10)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_file(encoder(), tmp_path / "text.txt", tmp_path / "ids.npy", np.uint16, 2, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.parametrize("left", [0, -1])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_truncated_while_read_is_one_error_line(tmp_path, small_chunks, workers, left):
    path = tmp_path / "text.txt"
    path.write_bytes(LESSON * 10)
    with pytest.raises(UserError, match=r"text\.txt: changed while it was read"):
        encode_file(
            encoder(),
            path,
            tmp_path / "ids.npy",
            np.uint16,
            workers,
            lambda done, total: os.truncate(path, left % total),
        )
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537])
def test_vocabularies_around_65536_ids(tmp_path, size):
    """The last merges make the highest ids, below one special token."""
    texts = [bytes([byte]) for byte in range(256)]
    merges = [(bytes([i]), bytes([k])) for i in range(256) for k in range(256)][: size - 258]
    merges.append((b"zz", b"zz"))
    vocab = dict(enumerate([*texts, *(left + right for left, right in merges)]))
    specials = {END: size - 1}
    compiled = Encoder(vocab, merges, specials, get_pattern("gpt2"))
    text = b"zzzz" + END.encode() + " żółw 漢字 zz\0\0\0zzzzz".encode()
    expected = [size - 2, size - 1]
    dtype = np.dtype(np.uint16 if size <= 65_536 else np.uint32)
    (tmp_path / "text.txt").write_bytes(text)
    encode_file(compiled, tmp_path / "text.txt", tmp_path / "ids.npy", dtype)
    ids = np.load(tmp_path / "ids.npy")
    assert compiled.dtype == ids.dtype == dtype
    assert ids[:2].tolist() == expected
    assert ids.tolist() == compiled.encode(text).tolist()
    assert b"".join({**vocab, size - 1: END.encode()}[i] for i in ids.tolist()) == text


def test_a_long_pretoken_takes_linear_time():
    """Four times the length takes five times as long on an idle machine (docs/LOG.md); quadratic time would be sixteen
    times."""
    best = []
    for size in (1_000_000, 4_000_000):
        times = []
        for _ in range(3):
            began = time.process_time()
            encoder().encode(b"a" * size)
            times.append(time.process_time() - began)
        best.append(min(times))
    assert best[1] <= 7 * best[0]
