"""StopFinder and TextStream against the text of all ids at once, for any chunking; log probabilities exactly once."""

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmfast.inference.batching import StopFinder
from lmfast.serving.text import TextStream
from lmfast.tokenizer.bpe import Tokenizer

MERGES = [(b"a", b"b"), (b"ab", b"c"), (b"\xe2", b"\x82"), (b"\x9f", b"\x98"), (b"b", b"\xf0")]
VOCAB = dict(enumerate([bytes([i]) for i in range(256)] + [a + b for a, b in MERGES]))
TOKENIZER = Tokenizer(VOCAB, MERGES, ["<|endoftext|>"])
VOCAB = TOKENIZER.vocab
EURO, SMILE = list("€".encode()), list("😀".encode())

# Ids that often form characters, parts of them, and stop strings.
LETTERS = st.sampled_from([*b"aaabbbc", 256, 257])
IDS = st.lists(LETTERS, max_size=24) | st.lists(
    LETTERS | st.sampled_from([*EURO, *SMILE, *range(258, 262), 0x80, 0xFF, 0xED, 0xA0, 0xC3]), max_size=24
)
STOPS = st.lists(
    st.text("ab", min_size=1, max_size=4)
    | st.text("abc€😀", min_size=1, max_size=3)
    | st.just("<|endoftext|>"),
    max_size=3,
)


def stop_begin(data: bytes, stops: list[str]) -> int:
    """Of the stop strings in `data`, the first byte of the one that ends first, else the end."""
    for end in range(len(data) + 1):
        begins = [end - len(stop.encode()) for stop in stops if data[:end].endswith(stop.encode())]
        if begins:
            return min(begins)
    return len(data)


def whole_text(ids: list[int], stops: list[str]) -> str:
    data = TOKENIZER.decode_bytes(ids)
    return data[: stop_begin(data, stops)].decode("utf-8", "replace")


def chunks(ids: list, cuts: list[int]) -> list[list]:
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [ids[a:b] for a, b in itertools.pairwise(edges)]


CUTS = st.lists(st.integers(0, 24), max_size=8)


@settings(max_examples=1000, deadline=None)
@given(IDS, STOPS, CUTS)
@example([0xE2, 97], [], [1])
@example(EURO[:2], [], [])
@example([*b"abcc"], ["abcc", "b"], [])
@example([*b"abcc"], ["abc", "bc"], [])
@example([97, 98, 97, 98, 99], ["abc"], [2, 4])
def test_pieces_join_to_the_whole_text(ids, stops, cuts):
    stream = TextStream(VOCAB, stops)
    pieces = [stream.feed(part) for part in chunks(ids, cuts)]
    assert stream.stopped == (
        stop_begin(TOKENIZER.decode_bytes(ids), stops) < len(TOKENIZER.decode_bytes(ids))
    )
    pieces += [stream.finish(), stream.finish(), stream.feed([97])]
    assert "".join(piece.text for piece in pieces) == whole_text(ids, stops)
    assert not any(piece.tokens for piece in pieces)


@settings(max_examples=300, deadline=None)
@given(IDS, STOPS)
def test_text_is_sent_as_soon_as_it_is_certain(ids, stops):
    """Held back is only an incomplete character and what may become a stop string."""
    stream, sent = TextStream(VOCAB, stops), ""
    data = b""
    for token in ids:
        data += VOCAB[token]
        sent += stream.feed([token]).text
        if stream.stopped:
            assert sent == whole_text([*data], stops)
            return
        held = max(
            (k for stop in stops for k in range(len(stop.encode())) if data.endswith(stop.encode()[:k])),
            default=0,
        )
        certain = data[: len(data) - held]
        whole = certain.decode("utf-8", "replace")
        # A shorter decodable beginning only if the last character is incomplete.
        assert sent == whole or (whole.startswith(sent) and whole.endswith("\ufffd"))


def character_of(data: bytes, at: int) -> int:
    """The index of the character in decode(data) to which byte `at` belongs."""
    # Python replaces each maximal invalid part by one U+FFFD: the byte belongs to the character that changes the count.
    lengths = []
    position = 0
    while position < len(data):
        for size in range(1, 5):
            rest = data[position + size :]
            if data[position : position + size].decode("utf-8", "replace") + rest.decode(
                "utf-8", "replace"
            ) == data[position:].decode("utf-8", "replace") and (
                len(data[position : position + size].decode("utf-8", "replace")) == 1
            ):
                best = size
        lengths.append(best)
        position += best
    total = 0
    for index, length in enumerate(lengths):
        total += length
        if at < total:
            return index
    raise AssertionError(at)


@settings(max_examples=1000, deadline=None)
@given(IDS, STOPS, CUTS)
@example([0xE2, 97], [], [1])
@example([0xED, 0xA0, 97], [], [])
@example([0xE2, 0x82, 0xAC], [], [1, 2])
@example([258, 258, 0xAC], [], [1])
@example([260, 98], ["b"], [1])
@example([*b"ab", *b"ac"], ["abc"], [1, 2, 3])
def test_each_token_is_reported_once_with_its_character(ids, stops, cuts):
    numbered = list(enumerate(ids))
    stream = TextStream(VOCAB, stops)
    pieces = []
    for part in chunks(numbered, cuts):
        pieces.append(stream.feed([token for _, token in part], [number for number, _ in part]))
    pieces.append(stream.finish())
    text = "".join(piece.text for piece in pieces)
    assert text == whole_text(ids, stops)

    data = TOKENIZER.decode_bytes(ids)
    kept = data[: stop_begin(data, stops)]
    expected, begin = [], 0
    for number, token in numbered:
        if begin < len(kept):
            expected.append((token, number, character_of(kept, begin)))
        begin += len(VOCAB[token])
    assert [tuple(token) for piece in pieces for token in piece.tokens] == expected

    begin = 0
    for piece in pieces:
        assert all(begin <= token.offset < begin + len(piece.text) for token in piece.tokens)
        begin += len(piece.text)


def test_offsets_and_pieces_of_an_example():
    stream = TextStream(VOCAB, ["abc"])
    assert stream.feed([*b"x", *EURO[:2]], "pqr") == ("x", [(120, "p", 0)])
    assert stream.feed([EURO[2], *b"ya"], "stu") == (
        "€y",
        [(0xE2, "q", 1), (0x82, "r", 1), (0xAC, "s", 1), (121, "t", 2)],
    )
    assert stream.feed([256], "v") == ("a", [(97, "u", 3)])
    assert stream.feed([*b"cd"], "wx") == ("", [])
    assert stream.stopped and stream.finish() == ("", [])


def test_as_many_logprobs_as_ids():
    with pytest.raises(ValueError):
        TextStream(VOCAB).feed([97, 98], [0])


@settings(max_examples=500, deadline=None)
@given(IDS, STOPS)
@example([*b"aab"], ["aab", "a"])
@example([97, 257], ["abc"])
@example([*b"abc"], ["abc"])
@example([*b"ab"], ["b"])
def test_stop_finder_stops_with_the_first_id_that_completes_a_stop_string(ids, stops):
    finder, data = StopFinder(VOCAB, stops), b""
    for token in ids:
        data += VOCAB[token]
        found = any(stop.encode() in data for stop in stops)
        assert finder(token) == found
        if found:
            return


def test_stop_finder_keeps_a_short_tail():
    finder = StopFinder(VOCAB, ["abc", "€"])
    for _ in range(1000):
        assert not finder(97) and len(finder._tail) <= 2
    single = StopFinder(VOCAB, ["a"])
    assert not single(98) and single._tail == b"" and single(97)


def test_special_tokens_are_text():
    end = TOKENIZER.special_tokens["<|endoftext|>"]
    assert TextStream(VOCAB).feed([97, end]).text == TOKENIZER.decode([97, end]) == "a<|endoftext|>"
