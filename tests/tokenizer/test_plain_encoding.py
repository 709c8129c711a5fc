"""plain_encoding.py compared with the oracle and with the compiled encoder."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.tokenizer.encoding import Encoder, encode_file
from lmfast.tokenizer.parts import checked_ids
from lmfast.tokenizer.patterns import NAMED, get_pattern
from lmfast.tokenizer.plain_encoding import PlainEncoder
from lmfast.tokenizer.text_file import TextFile
from tests.tokenizer import oracle, sample_text
from tests.tokenizer.test_encoding import END, LESSON, encoder, learnt, lesson, texts

PATTERNS = [*sorted(NAMED), r"\w+|\s+"]


def plain_encoder(vocab, merges, specials, pattern, **options) -> PlainEncoder:
    ids = checked_ids(vocab, merges, specials.values())
    return PlainEncoder(ids, merges, specials, get_pattern(pattern), **options)


@functools.cache
def plain(pattern: str = "gpt2") -> PlainEncoder:
    return plain_encoder(*lesson(pattern), pattern)


@settings(deadline=None, derandomize=True, max_examples=120)
@given(texts, st.sampled_from(PATTERNS))
def test_ids_equal_the_oracles_and_the_compiled_ones(text, pattern):
    ids = plain(pattern).encode(text)
    assert ids == oracle.encode(text, *lesson(pattern), get_pattern(pattern).regex)
    assert ids == encoder(pattern).encode(text).tolist()


@pytest.mark.parametrize("name", sorted(NAMED))
@pytest.mark.parametrize("text_name", sample_text.NAMES)
def test_whole_texts(name, text_name):
    text = sample_text.sample(text_name)[:200_000] + b"\xff\xe2\x82"
    compiled = Encoder(*learnt(), get_pattern(name))
    assert plain_encoder(*learnt(), name).encode(text) == compiled.encode(text).tolist()


@pytest.mark.parametrize("allowed", ["all", "none", set(), {END}, {"<|end"}])
def test_allowed_special_tokens(allowed):
    text = b"the" + END.encode() * 2 + b"<|end cat"
    assert plain().encode(text, allowed) == encoder().encode(text, allowed).tolist()


def test_bytes_in_any_buffer():
    expected = plain().encode(LESSON)
    for data in (bytearray(LESSON), np.frombuffer(LESSON, np.uint8)):
        assert plain().encode(data) == expected


def test_equal_bytes_equal_merges_and_tokens_that_no_merge_makes():
    tokens = [*(bytes([byte]) for byte in range(256)), b"aa", b"aaa", b"aaa", b"abc"]
    merges = [(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa"), (b"a", b"a")]
    vocab = dict(enumerate(tokens))
    for text in (b"aaa", b"aaaaa", b"abc"):
        for whole in (False, True):
            compiled = Encoder(vocab, merges, {}, get_pattern("gpt2"), whole)
            ours = plain_encoder(vocab, merges, {}, "gpt2", ignore_merges=whole)
            assert ours.encode(text) == compiled.encode(text).tolist()
            assert not whole or ours.looks_up_whole == compiled.looks_up_whole is True


def test_tokens_that_merges_make_are_not_looked_up():
    ours = plain_encoder(*lesson("gpt2"), "gpt2", ignore_merges=True)
    assert not ours.looks_up_whole


def test_a_long_pretoken_takes_little_time():
    """Quadratic time would be minutes."""
    text = b"a" * 100_000 + b"ab" * 50_000
    assert plain().encode(text) == encoder().encode(text).tolist()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_files_are_the_compiled_encoder_s(tmp_path, dtype):
    source = tmp_path / "text.txt"
    source.write_bytes((LESSON + END.encode() + b"\xff\n") * 3)
    seen = []
    summary = plain().encode_file(
        TextFile(source), tmp_path / "plain.npy", np.dtype(dtype), lambda *step: seen.append(step)
    )
    expected = encode_file(encoder(), source, tmp_path / "compiled.npy", dtype)
    assert (tmp_path / "plain.npy").read_bytes() == (tmp_path / "compiled.npy").read_bytes()
    fields = ("tokens", "bytes", "specials", "special_bytes")
    assert [getattr(summary, name) for name in fields] == [getattr(expected, name) for name in fields]
    assert seen == [(summary.bytes, summary.bytes)]
