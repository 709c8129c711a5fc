"""Safe cuts of a text, its special tokens, the ends of its pretokens, and the threads that process the pieces.

In: text as uint8, and special tokens as byte strings. Out: safe cuts, the spans of special tokens, and from `Splitter`
the ends of pretokens, in batches.

A cut is safe if the pretokens and special tokens on both sides are the same as without it (rules: docs/tokenizer.md). A
text with no safe cut is one piece: slower, never wrong; encoding it takes about 15 bytes of memory per byte.
"""

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
from numba import njit

from lmfast.errors import UserError
from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.intrinsics import PADDING, U1, byte_matches, trailing_zeros
from lmfast.tokenizer.compiled.next_end import char_at, is_letter
from lmfast.tokenizer.compiled.scanner import SCANNERS
from lmfast.tokenizer.patterns import NAMED, OTHER, SPACE, Pattern, cut_classes, scanner_classes
from lmfast.tokenizer.plain_text import Boundaries, decoded, encoded, split_pretokens
from lmfast.tokenizer.text_file import TextFile

ENDS_PER_BATCH = 1 << 15  # pretokens per compiled call; 2^12 to 2^17 made no difference
_SEARCH_BYTES = 512  # searched for a safe cut at first; doubled each time
_LONGEST_SEARCH = 1 << 20

NO_SPANS = np.zeros(0, np.int64)


def padded(text: bytes | bytearray | memoryview | np.ndarray) -> np.ndarray:
    """A read-only uint8 copy of the text with `PADDING` zero bytes after it."""
    copy = np.zeros(len(text) + PADDING, np.uint8)
    copy[: len(text)] = np.frombuffer(text, np.uint8)
    copy.flags.writeable = False
    return copy


class PieceReader:
    """One thread's buffer for the pieces it reads."""

    def __init__(self):
        self._buffer = np.empty(0, np.uint8)

    def read(self, file: TextFile, begin: int, end: int) -> np.ndarray:
        """Bytes begin..end of the file and `PADDING` zeros, uint8, read-only; the next call overwrites them."""
        size = end - begin
        if len(self._buffer) < size + PADDING:
            self._buffer = np.empty(size + size // 8 + PADDING, np.uint8)
        piece = self._buffer[: size + PADDING]
        file.read_into(begin, piece[:size])
        piece[size:] = 0
        piece.flags.writeable = False
        return piece


@njit(nogil=True)
def _find_specials(data, begin, end, tokens, spans, which):
    """Writes (start, end) of each special token in data[begin:end] to `spans` and its number to `which`.

    Leftmost first; `texts` are sorted from long to short, so the longest of those that begin together wins.
    Returns their number, even if `which` is too short for all of them."""
    firsts, seconds, texts, offsets = tokens
    found = 0
    i = begin
    while i < end:
        mask = np.uint64(0)
        for group in range(firsts.shape[0]):
            matches = byte_matches(data, i, firsts[group])
            if seconds[group] >= 0:
                matches &= byte_matches(data, i + 1, np.uint8(seconds[group]))
            mask |= matches
        step = i + 64
        while mask:
            at = i + trailing_zeros(mask)
            mask &= mask - U1
            for number in range(offsets.shape[0] - 1):
                length = offsets[number + 1] - offsets[number]
                if at + length > end:
                    continue
                k = 0
                while k < length and data[at + k] == texts[offsets[number] + k]:
                    k += 1
                if k == length:
                    if found < which.shape[0]:
                        spans[2 * found] = at
                        spans[2 * found + 1] = at + length
                        which[found] = number
                    found += 1
                    step = at + length
                    mask = np.uint64(0)
                    break
        i = step
    return found


class SpecialTokens:
    """A set of special tokens, compiled for searching; `tokens` are sorted from long to short. boundaries: where they
    allow and forbid cuts."""

    def __init__(self, tokens: Sequence[bytes], boundaries: Boundaries | None = None):
        if any(not token for token in tokens):
            raise UserError("special tokens: an empty token matches everywhere; remove it")
        self.tokens = sorted(set(tokens), key=lambda token: (-len(token), token))
        groups = sorted({(token[0], token[1] if len(token) > 1 else -1) for token in self.tokens})
        # For compiled code: first bytes, second bytes (-1: any), all texts, where each text begins.
        self._compiled = (
            np.array([first for first, _ in groups], np.uint8),
            np.array([second for _, second in groups], np.int64),
            np.frombuffer(b"".join(self.tokens) + b"\0", np.uint8),
            np.cumsum([0] + [len(token) for token in self.tokens]),
        )
        self.boundaries = boundaries or Boundaries(self.tokens)
        enable_cache(_find_specials)

    @classmethod
    def from_text(cls, texts: Iterable[str]) -> "SpecialTokens":
        """The set of tokens given as text."""
        return cls([text.encode("utf-8", "surrogateescape") for text in texts])

    def find(self, data: np.ndarray, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """(spans int64 (2k,): start and end of each occurrence in order; which int64 (k,): its index in
        `tokens`). `data` must be readable for `PADDING` bytes after `end`."""
        if not self.tokens:
            return NO_SPANS, NO_SPANS
        capacity = 16 + (end - begin) // 256
        while True:
            spans, which = np.empty(2 * capacity, np.int64), np.empty(capacity, np.int64)
            found = _find_specials(data, begin, end, self._compiled, spans, which)
            if found == 0:
                return NO_SPANS, NO_SPANS
            if found <= capacity:
                return spans[: 2 * found], which[:found]
            capacity = found

    def forbid(self, data: np.ndarray, cut: int) -> bool:
        """Whether what is found in the data depends on this cut."""
        low = max(0, cut - self.boundaries.context)
        return self.boundaries.forbids(data[low : cut + self.boundaries.context].tobytes(), cut - low)


@njit(inline="always")
def _is_ascii_letter(byte):
    return np.uint8((byte | 0x20) - 0x61) < 26


@njit(nogil=True)
def _next_text_cut(data, begin, end, classes):
    """The first safe cut of the named patterns in begin..end (2 <= begin, one byte follows end), or -1."""
    for cut in range(begin, end):
        first = data[cut]
        if first == 0x20:
            last = data[cut - 1]
            if (_is_ascii_letter(last) or 0x30 <= last <= 0x39) and _is_ascii_letter(data[cut + 1]):
                return cut
            continue
        if first & 0xC0 == 0x80:
            continue
        kind = char_at(data, cut, len(data), classes) & 0xFF
        if data[cut - 1] == 0x0A:
            # The character before the newline must not be whitespace.
            if is_letter(kind) and _kind_before(data, cut - 1, classes) != SPACE:
                return cut
        elif kind == OTHER and first != 0x27 and is_letter(_kind_before(data, cut, classes)):
            return cut
    return -1


@njit(nogil=True)
def _kind_before(data, end, classes):
    """The class of the character that ends at `end`; OTHER, as for any single byte, if no complete one does."""
    at = end - 1
    while at > 0 and at > end - 4 and data[at] & 0xC0 == 0x80:
        at -= 1
    char = char_at(data, at, end, classes)
    return char & 0xFF if at + (char >> 8) == end else OTHER


def next_cut(data: np.ndarray, target: int, specials: SpecialTokens, pattern: Pattern) -> int:
    """The first safe cut found at `target` or later; the end of the data if there is none."""
    size = len(data)
    tokens = specials.boundaries.starts
    longest = len(tokens[0]) if tokens else 0
    begin = max(target, 2)
    reach = _SEARCH_BYTES
    enable_cache(_next_text_cut)
    while begin + 2 < size:
        stop = min(begin + reach, size - 1)
        cut = begin - 1
        while pattern.name in NAMED and (cut := _next_text_cut(data, cut + 1, stop, cut_classes())) >= 0:
            if not specials.forbid(data, cut):
                return cut
        window = data[begin : stop + longest].tobytes()
        starts = sorted(begin + at for token in tokens if (at := window.find(token)) >= 0)
        for cut in starts:
            if not specials.forbid(data, cut):
                return cut
        begin = stop
        reach = min(2 * reach, _LONGEST_SEARCH)
    return size


class Splitter:
    """The ends of pretokens, found by a pattern's scanner, or by `regex` if the pattern has none."""

    def __init__(self, pattern: Pattern):
        self.pattern = pattern
        self._scan = SCANNERS.get(pattern.name)
        if self._scan is not None:
            enable_cache(self._scan)
            self._classes = scanner_classes(pattern.name)
        else:
            _report_slow_pattern(pattern)

    def batches(
        self, data: np.ndarray, begin: int, end: int, spans: np.ndarray, bounds: np.ndarray
    ) -> Iterator[tuple[int, int, int]]:
        """Fills `bounds` (int64) repeatedly with the ends of consecutive pretokens of data[begin:end]; yields
        (start of the first one, end of the last one, their number). The end of a special token is negative."""
        if self._scan is None:
            yield from self._regex_batches(data, begin, end, spans, bounds)
            return
        cursor = np.array([begin, 0])
        while begin < end:
            count = self._scan(data, end, spans, cursor, self._classes, bounds)
            after = int(cursor[0])
            yield begin, after, count
            begin = after

    def _regex_batches(self, data, begin, end, spans, bounds):
        start, count = begin, 0
        for at in self._regex_ends(data, begin, end, spans):
            bounds[count] = at
            count += 1
            if count == len(bounds):
                yield start, abs(at), count
                start, count = abs(at), 0
        if count:
            yield start, abs(int(bounds[count - 1])), count

    def _regex_ends(self, data, begin, end, spans):
        edges = [*spans.tolist(), end, end]
        at = begin
        for special_start, special_end in zip(edges[::2], edges[1::2]):
            for pretoken in split_pretokens(decoded(data[at:special_start].tobytes()), self.pattern):
                at += len(encoded(pretoken))
                yield at
            if special_end > special_start:
                yield -special_end
            at = special_end


@functools.lru_cache
def _report_slow_pattern(pattern: Pattern) -> None:
    """Printed once per pattern."""
    print(
        f"lmfast: the pattern {pattern.regex!r} has no compiled scanner and runs in `regex`, about fifty "
        f"times slower than {', '.join(NAMED)}",
        file=sys.stderr,
    )


def map_in_order(work: Callable, tasks: Iterable, workers: Sequence) -> Iterator:
    """`work(worker, task)` for every task, on one thread per worker; yields the results in the order of the tasks.

    The number of pending results is bounded, so memory does not grow with the number of tasks. With one worker no thread
    is started."""
    if len(workers) == 1:
        for task in tasks:
            yield work(workers[0], task)
        return
    idle = SimpleQueue()
    for worker in workers:
        idle.put(worker)

    def run(task):
        worker = idle.get()
        try:
            return work(worker, task)
        finally:
            idle.put(worker)

    waiting = deque()
    with ThreadPoolExecutor(len(workers)) as pool:
        try:
            for task in tasks:
                waiting.append(pool.submit(run, task))
                if len(waiting) > len(workers) + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
