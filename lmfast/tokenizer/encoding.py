"""Bytes to ids: a cache from pretokens to their ids, and the merges themselves where it misses.

In: text as bytes (any bytes), a vocabulary, its merges, special tokens, a pattern. Out: ids, uint32, or a
token file (.npy, uint16 or uint32). Refused: a vocabulary without one of the 256 bytes, merges whose parts or
result are not in it, ids of 2^29 or more, missing files.

What it costs (2-core Zen 4 with AVX-512, one thread, ns a pretoken, see docs/LOG.md), for stories (8,000 distinct
pretokens in 300 MB) and with a heavy tail (770,000 in 200 MB): reading the file 0.7, special
tokens 0.2, the scanner 1.3 and 1.7, the lookups 4.1 and 5.5, writing 0.4. A pretoken that is new costs 200 to 300 more.

What made the difference:

- One table for all threads, which grows, instead of a bounded one for each: nothing that was met is forgotten, a new
  pretoken is merged once and not once a thread, and all of it takes 64 MiB (11.3 to 5.8 with the heavy tail).
- A bucket is two rows in one cache line; which of them holds the key is computed and not branched on (8.0 to 6.4).
  Four ids are stored whatever their number.
- The sixteen bytes of a key are compared as one vector (4.5 to 4.1).
- Both words of a key are masked whatever its length: the branch that spared one was guessed wrong for one pretoken
  in ten (5.9 to 5.4).
- Ids of 16 bits where all fit: a row's four are one word, and the file's bytes are what the loop writes.
- A chunk is scanned and encoded in one compiled call: the ends stay in the L2 cache, and no thread waits for another's
  Python. Numba counts references to the arrays in each call of the inner function, in memory that threads share: with
  1,024 ends a call two threads lost 15 % by that, with 8,192 nothing.
- Cache lines are asked for 64 pretokens ahead: without that the heavy tail takes a third more (memory answers in
  110 ns here), while stories pay one nanosecond for it. 32 ahead: 5.8 instead of 5.4 with the heavy tail; 128: 4.4
  instead of 4.1 for stories.
- A miss is compiled into the loop: Numba hands an array over as seven words, and the calls from the loop to the
  merge and from there to the lookups cost as much as the merge itself (18.5 to 14.8 with the heavy tail).
- Compiled functions take plain tuples of arrays. With named ones Numba counted references inside the loop (20
  instead of 7) and took 10 us to recognise the arguments, which is what a whole kilobyte costs now.

What lost: rows that move to the front when they are hit (the copying cost more than the 10 % fewer misses brought); a
loop of its own for plain hits, inside the group (5.4 to 5.5, and 13 to 15 with the heavy tail); a small direct-mapped
cache for pretokens up to 7 bytes in front (5.8 to 5.4 for stories, 14 to 16 with the heavy tail); everything but the
plain hit in a function of its own (6.1 and 17 to 22); keys masked and stored as vectors (4.10 to 4.14); starts looked up
on a miss instead of stored (4.5 to 4.6); huge pages by hand (NumPy asks for them already). `read` costs more than
a map (56 ms for 300 MB against 41), and is used all the same: see text_file.py. Threads or processes: docs/LOG.md.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lmfast.errors import UserError
from lmfast.files import written_beside
from lmfast.sharding.workers import default_workers
from lmfast.tokenizer.chunks import NO_SPANS, SpecialTokens, Splitter, in_order, padded
from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.encode_kernels import ENCODE, SPECIALS, encode_batch, new_scratch
from lmfast.tokenizer.compiled.intrinsics import MAX_PACKED, PADDING
from lmfast.tokenizer.compiled.merge_kernels import MAX_ID, MAX_MERGES, merge_tables
from lmfast.tokenizer.compiled.pretoken_cache import MAX_ROWS, PretokenCache
from lmfast.tokenizer.npy_header import npy_header
from lmfast.tokenizer.parts import checked_ids
from lmfast.tokenizer.patterns import Pattern, code_point_classes
from lmfast.tokenizer.text_file import CHUNK_BYTES, PieceReader, TextFile
from lmfast.tokenizer.whole_pretokens import with_whole_pretokens

SMALL = 1 << 14  # bytes of text that are encoded without chunks and fresh buffers


class _State:
    """What one thread has for itself."""

    def __init__(self, dtype: np.dtype):
        self.scratch = new_scratch()
        self.bounds, _, _, self.cursor = self.scratch
        self.text = np.zeros(SMALL + PADDING, np.uint8)
        self.readable = self.text.view()  # compiled code is compiled for text that is not written to
        self.readable.flags.writeable = False
        self.small = np.empty(SMALL + 4, dtype)
        self.reader = PieceReader()


class Encoder:
    """A vocabulary compiled for encoding.

    vocab: id → bytes, with all 256 single bytes; where two ids have the same bytes the lower one is meant.
    merges: pairs of byte strings in order of rank. special_tokens: text → id; they are searched for as text
    and are no part of the merges. ignore_merges: a pretoken that is a token gets its id without merging. Safe to use from
    several threads."""

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int],
        pattern: Pattern,
        ignore_merges: bool = False,
    ):
        enable_cache(encode_batch, *([ENCODE[pattern.name]] if pattern.name in ENCODE else []))
        id_of = checked_ids(vocab, merges, special_tokens.values())
        largest = max([*vocab, *special_tokens.values()], default=0)
        if largest > MAX_ID:
            raise UserError(f"vocabulary: id {largest} is too large; ids end at {MAX_ID}")
        byte_ids = np.array([id_of[bytes([byte])] for byte in range(256)], np.uint32)
        if len(merges) > MAX_MERGES:
            raise UserError(f"merges: {len(merges)} are too many; {MAX_MERGES} is the most")
        triples = np.array([(id_of[a], id_of[b], id_of[a + b]) for a, b in merges], np.int64).reshape(-1, 3)
        self._tables = merge_tables(triples, byte_ids)
        if ignore_merges:
            self._tables = with_whole_pretokens(self._tables, id_of)
        self._splitter = Splitter(pattern)
        self._loop = ENCODE.get(pattern.name)  # an expression of the user's has none
        self._special_ids = {
            text.encode("utf-8", "surrogateescape"): number for text, number in special_tokens.items()
        }
        self._finders: dict[str | frozenset[str], tuple[SpecialTokens, np.ndarray]] = {}
        self.dtype = np.dtype(np.uint16 if largest < 1 << 16 else np.uint32)
        self._idle: list[_State] = []
        self._cache_lock = threading.Lock()
        self._tokens = list(id_of)
        self._cache = self._seeded()

    @property
    def looks_up_whole(self) -> bool:
        """Whether some tokens are found only by looking pretokens up as a whole."""
        return len(self._tables) > 5

    def _seeded(self) -> PretokenCache:
        """A table that has every token, by really encoding it: some tokens cannot be reached by merges, and none is
        ever assumed to be its own id."""
        cache = PretokenCache(min(1 << (8 * len(self._tokens) - 1).bit_length(), MAX_ROWS))
        short = [token for token in self._tokens if 0 < len(token) <= MAX_PACKED]  # a key has no fewer
        text = padded(b"".join(short))
        ends = np.cumsum([len(token) for token in short], dtype=np.int64)
        state = self._acquire()
        out = np.empty(len(text) + 4, self.dtype)
        encode_batch(text, 0, ends, len(ends), NO_SPANS, cache.compiled, state.scratch, self._tables, out, 0)
        self._idle.append(state)
        return cache

    def _renew(self, cache: PretokenCache) -> None:
        """A larger table in the place of a full one, or a fresh one. Other threads go on with the old one meanwhile; they
        never wait, for in a child process that was forked just now nobody would ever release the lock."""
        if self._cache_lock.acquire(blocking=False):
            try:
                if cache is self._cache:
                    self._cache = cache.larger() or self._seeded()
            finally:
                self._cache_lock.release()

    def _acquire(self) -> _State:
        try:
            return self._idle.pop()
        except IndexError:
            return _State(self.dtype)

    def _finder(self, allowed_special: set[str] | str) -> tuple[SpecialTokens, np.ndarray]:
        """(the special tokens to look for, their ids)."""
        key = allowed_special if isinstance(allowed_special, str) else frozenset(allowed_special)
        if key in self._finders:
            return self._finders[key]
        if key == "all":
            allowed = list(self._special_ids)
        elif key == "none":
            allowed = []
        else:
            allowed = [text.encode("utf-8", "surrogateescape") for text in key]
            unknown = sorted(set(allowed) - self._special_ids.keys())
            if unknown:
                raise UserError(f"allowed_special: {unknown[0]!r} is no special token of this tokenizer")
        specials = SpecialTokens(allowed)
        ids = np.array([self._special_ids[token] for token in specials.tokens], np.int64)
        self._finders[key] = specials, ids
        return specials, ids

    def _encode_padded(
        self,
        state: _State,
        data: np.ndarray,
        size: int,
        finder: tuple[SpecialTokens, np.ndarray],
        ids: np.ndarray,
    ) -> tuple[np.ndarray, int, int]:
        """(the part of `ids` that was written, number of special tokens, their bytes) of data[:size], readable for `PADDING`
        bytes beyond. `ids`: of `dtype`, room for one a byte and four more."""
        specials, ids_of_specials = finder
        spans, which = specials.find(data, 0, size)
        n = self._encode_text(state, data, 0, size, spans, ids_of_specials[which], ids)
        return ids[:n], len(which), int((spans[1::2] - spans[::2]).sum())

    def _encode_text(self, state, data, begin, end, spans, special_ids, out) -> int | np.int64:
        """Writes ids to `out`, returns how many; a full table is left for a larger one."""
        cache = self._cache
        more = special_ids, cache.compiled, state.scratch, self._tables, out
        if self._loop is not None:
            n = self._loop(data, begin, end, spans, code_point_classes(), *more)
        else:
            n = 0
            state.cursor[SPECIALS] = 0
            for start, _, count in self._splitter.batches(data, begin, end, spans, state.bounds):
                n = encode_batch(data, start, state.bounds, count, *more, n)
        if cache.is_full():
            self._renew(cache)
        return n

    def encode(
        self, data: bytes | bytearray | memoryview | np.ndarray, allowed_special: set[str] | str = "all"
    ) -> np.ndarray:
        """Ids (uint32) of a byte string. `allowed_special`: which special tokens in the text count as such, a
        set of them, "all" or "none"; the others are text like any other."""
        finder = self._finder(allowed_special)
        state = self._acquire()
        if len(data) <= SMALL:
            ids = self._encode_small(state, data, finder)
        else:
            room = np.empty(len(data) + 4, self.dtype)
            ids, _, _ = self._encode_padded(state, padded(data), len(data), finder, room)
            ids = ids.astype(np.uint32)  # without the room for one id a byte
        self._idle.append(state)
        return ids

    def _encode_small(self, state: _State, data, finder: tuple[SpecialTokens, np.ndarray]) -> np.ndarray:
        """A short text, with as few steps of Python as can be: what the compiled code needs for a kilobyte is
        less than what one more array costs to make."""
        size = len(data)
        state.text[:size] = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
        specials, special_ids = finder
        spans, which = specials.find(state.readable, 0, size)
        n = self._encode_text(state, state.readable, 0, size, spans, special_ids[which], state.small)
        return state.small[:n].astype(np.uint32)


@dataclass(frozen=True)
class EncodeSummary:
    """What encode_file did: ids written, bytes read, special tokens among them (and their bytes), seconds."""

    tokens: int
    bytes: int
    specials: int
    special_bytes: int
    seconds: float


def encode_file(
    encoder: Encoder,
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    dtype: np.dtype | type,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EncodeSummary:
    """Encodes a plain text file, special tokens included, into a one-dimensional .npy of `dtype`.

    The file is written under a temporary name and renamed at the end. `progress(bytes_done, bytes_total)` is
    called from the calling thread. The ids do not depend on `num_workers`."""
    began = time.perf_counter()
    dtype = np.dtype(dtype)
    text = TextFile(src)
    finder = encoder._finder("all")
    pattern = encoder._splitter.pattern
    num_workers = max(1, min(num_workers or default_workers(), -(-len(text) // CHUNK_BYTES)))

    # Where ids are put until they are written, used again: pages that were touched before cost nothing. All in turn from
    # the beginning, as many as `in_order` can ask for, so that a long file takes no more memory than a short one.
    rooms = num_workers + 2 if num_workers > 1 else 0
    spare = deque(np.empty(CHUNK_BYTES + SMALL, encoder.dtype) for _ in range(rooms))

    def work(state, span):
        size = span[1] - span[0]
        try:
            room = spare.popleft()
        except IndexError:
            room = np.empty(size + 4, encoder.dtype)
        if len(room) < size + 4:
            room = np.empty(size + 4, encoder.dtype)
        data = state.reader.read(text, *span)
        ids, found, special_bytes = encoder._encode_padded(state, data, size, finder, room)
        return ids, room, size, found, special_bytes

    tokens = done = num_specials = special_bytes = 0
    states = [encoder._acquire() for _ in range(num_workers)]
    try:
        with written_beside(dst) as beside, beside.open("wb") as file:
            file.write(npy_header(dtype, 0))
            for ids, room, size, found, found_bytes in in_order(work, text.spans(finder[0], pattern), states):
                file.write(ids.astype(dtype, copy=False))
                spare.append(room)
                tokens += len(ids)
                done += size
                num_specials += found
                special_bytes += found_bytes
                if progress is not None:
                    progress(done, len(text))
            file.seek(0)
            file.write(npy_header(dtype, tokens))
    finally:
        encoder._idle.extend(states)
    return EncodeSummary(tokens, len(text), num_specials, special_bytes, time.perf_counter() - began)
