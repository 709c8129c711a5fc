"""chunks.py: safe cuts, special tokens, order of results from threads, custom patterns."""

import random
import threading

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.tokenizer import chunks as chunks_module
from lmfast.tokenizer.chunks import SpecialTokens, Splitter, map_in_order, next_cut, padded
from lmfast.tokenizer.patterns import NAMED, get_pattern
from tests.tokenizer import oracle
from tests.tokenizer.compiled.test_scanner import HARD

SPECIALS = [b"<|endoftext|>", b"<|end|>", b"<|end|><|end|>", b"a b", b"|>"]


def pretokens(data: bytes, specials: list[bytes], pattern) -> list[bytes]:
    """The oracle's pretokens of the whole text, special tokens included."""
    found = []
    for piece, special in oracle.split_specials(data, specials):
        found += [piece] if special else oracle.split_pretokens(piece, pattern.regex)
    return found


def through_cuts(data: bytes, specials: list[bytes], pattern, piece_bytes: int) -> list[bytes]:
    """The pretokens of all pieces, cut at safe positions about every `piece_bytes`."""
    finder, splitter = SpecialTokens(specials), Splitter(pattern)
    found, begin, bounds = [], 0, np.empty(1 << 12, np.int64)
    while begin < len(data):
        end = next_cut(np.frombuffer(data, np.uint8), begin + piece_bytes, finder, pattern)
        piece = padded(data[begin:end])
        spans, _ = finder.find(piece, 0, end - begin)
        at = 0
        for start, after, count in splitter.batches(piece, 0, end - begin, spans, bounds):
            assert start == at
            for stop in np.abs(bounds[:count]).tolist():
                found.append(piece[at:stop].tobytes())
                at = stop
            assert after == at
        assert at == end - begin
        begin = end
    return found


def hard_text(rng: random.Random) -> bytes:
    alphabet = [
        *rng.sample(HARD, 6),
        *SPECIALS,
        b" ",
        b"a",
        b" a",
        b"\n",
        "漢".encode(),
        "。".encode(),
        b"'s",
        b"<|end",
    ]
    return b"".join(rng.choice(alphabet) for _ in range(rng.randint(0, 300)))


@pytest.mark.parametrize("name", [*sorted(NAMED), r"\p{L}+|\s"])
def test_pretokens_do_not_depend_on_where_the_text_is_cut(name):
    rng, pattern = random.Random(5), get_pattern(name)
    for _ in range(150):
        data = hard_text(rng)
        specials = rng.sample(SPECIALS, rng.randint(0, len(SPECIALS)))
        expected = pretokens(data, specials, pattern)
        for piece_bytes in (1, 17, 100):
            assert through_cuts(data, specials, pattern, piece_bytes) == expected, (data, specials)


def test_cuts_are_found():
    """Otherwise the test above would pass with a single chunk."""
    none, gpt2 = SpecialTokens([]), get_pattern("gpt2")
    for data, cut in (
        (b"hello world", 5),
        (b"!?!\nworld", 4),
        ("。\n漢字漢字".encode(), 4),
        (b"12 34 56 x y", 8),
        ("漢字漢，漢字漢".encode(), 9),
        (b"it's, it", 4),
    ):
        assert next_cut(np.frombuffer(data, np.uint8), 1, none, gpt2) == cut
    only_specials = SpecialTokens([b"<x>"])
    data = np.frombuffer(b"\xe6\xbc\xa2!!<x>!!!", np.uint8)
    assert next_cut(data, 1, only_specials, get_pattern(r"\w+|\W")) == data.tobytes().index(b"<x>")


def test_no_cut_in_a_text_without_a_safe_cut():
    none, gpt2 = SpecialTokens([]), get_pattern("gpt2")
    for data in (b"x" * 5000, b"  \n  \n  " * 500, "\u00a0\n漢".encode() * 500):
        assert next_cut(np.frombuffer(data, np.uint8), 100, none, gpt2) == len(data)


def test_cuts_inside_special_tokens_are_skipped():
    specials = SpecialTokens([b"no cut here please"])
    data = np.frombuffer(b"-no cut here please now here", np.uint8)
    assert next_cut(data, 1, specials, get_pattern("gpt2")) == data.tobytes().index(b" now")


def test_specials_leftmost_then_longest():
    rng = random.Random(6)
    for _ in range(300):
        data, specials = hard_text(rng), rng.sample(SPECIALS, rng.randint(1, len(SPECIALS)))
        finder = SpecialTokens(specials)
        spans, which = finder.find(padded(data), 0, len(data))
        found = [(data[a:b], finder.tokens[k]) for a, b, k in zip(spans[::2], spans[1::2], which)]
        expected = [piece for piece, special in oracle.split_specials(data, specials) if special]
        assert found == [(piece, piece) for piece in expected]


def test_specials_of_one_byte_and_at_every_alignment():
    finder = SpecialTokens([b"\x00", b"<>"])
    for shift in range(130):
        data = b"." * shift + b"<><\x00>"
        spans, _ = finder.find(padded(data), 0, len(data))
        assert spans.tolist() == [shift, shift + 2, shift + 3, shift + 4]
    assert len(SpecialTokens([b"ab"]).find(padded(b"ab" * 10_000), 0, 20_000)[1]) == 10_000


def test_an_occurrence_past_the_end_is_ignored():
    spans, _ = SpecialTokens([b"<x>"]).find(padded(b"..<x>"), 0, 4)
    assert len(spans) == 0


def test_an_empty_special_token_is_rejected():
    with pytest.raises(UserError, match="empty"):
        SpecialTokens([b"a", b""])


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_are_in_task_order(workers):
    busy = threading.Semaphore(workers)

    def work(worker, task):
        assert busy.acquire(blocking=False)
        busy.release()
        return task * task

    assert list(map_in_order(work, range(50), range(workers))) == [task * task for task in range(50)]


def test_a_workers_exception_reaches_the_caller():
    def work(worker, task):
        if task == 3:
            raise UserError("three")
        return task

    with pytest.raises(UserError, match="three"):
        list(map_in_order(work, range(1000), range(2)))


def test_a_slow_pattern_is_reported_once(capsys):
    chunks_module._report_slow_pattern.cache_clear()
    for _ in range(2):
        Splitter(get_pattern(r"\w+|\W+"))
    printed = capsys.readouterr().err
    assert printed.count("slower") == 1 and printed.count("\n") == 1
