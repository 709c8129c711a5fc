"""Bytes to ids: a cache from pretokens to their ids, and the merges themselves where it misses.

In: text as bytes (any bytes), a vocabulary, its merges, special tokens, a pattern. Out: ids, uint32, or a
token file (.npy, uint16 or uint32). Refused: a vocabulary without one of the 256 bytes, merges whose parts or
result are not in it, ids of 2^29 or more, missing files.
"""

import io
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from lmfast.errors import UserError
from lmfast.tokenizer.chunks import (
    CHUNK_BYTES,
    ENDS_PER_BATCH,
    NO_SPANS,
    Chunk,
    SpecialTokens,
    Splitter,
    chunks,
    default_workers,
    in_order,
    open_text,
    padded,
)
from lmfast.tokenizer.intrinsics import (
    ALL_ONES,
    LONG_MARK,
    MAX_PACKED,
    PADDING,
    U0,
    U1,
    U32,
    U56,
    aligned_words,
    enable_cache,
    key_hash,
    load_u64,
    long_hash,
    packed_key,
    prefetch,
    same_bytes,
    store_u64,
)
from lmfast.tokenizer.merge_kernels import MAX_ID, MAX_MERGES, SHORT, merge_long, merge_short, merge_tables
from lmfast.tokenizer.patterns import Pattern

# A row of the cache, four uint64: key (low, high), then up to four ids with their number in the top three
# bits of the second; or the number 5, how many ids, and (offset of the ids | offset of the bytes << 32) in the arenas.
# Two rows are a bucket of one cache line: a lookup touches one line, and the bucket's older row makes room.
LOW, HIGH, IDS, MORE = range(4)
_TAG = np.uint64(61)
_UNTAGGED = np.uint64((1 << 61) - 1)
_LOW_HALF = np.uint64(0xFFFFFFFF)
_IN_ARENA = np.uint64(5)
_MAX_CACHED = 512  # bytes of a pretoken worth remembering
_MAX_ROWS = 1 << 18  # 8 MiB a worker
_ID_ARENA = 1 << 21
_BYTE_ARENA = 1 << 23

# counters: (specials so far, ids in the arena, bytes in the arena)
_SPECIALS, _ARENA_IDS, _ARENA_BYTES = range(3)

SMALL = 1 << 14  # bytes of text that are encoded without chunks, finders and fresh buffers
_GROUP = 64  # pretokens whose cache lines are asked for together


# What one thread needs to encode, as a plain tuple (see MergeTables):
#   rows        uint64, four a row
#   shift       uint64, how a hash gives a bucket
#   id_arena    uint32, ids of pretokens with more than four
#   byte_arena  uint8, bytes of pretokens longer than 15
#   counters    int64 (3,)
#   keys        uint64, scratch: low, high, bucket and start of each pretoken of a group
#   values      uint64, scratch of merge_short
Cache = tuple[np.ndarray, np.uint64, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _new_cache(rows: np.ndarray) -> Cache:
    shift = np.uint64(64 - ((len(rows) // 8).bit_length() - 1))
    return (
        rows, shift, np.empty(_ID_ARENA, np.uint32), np.empty(_BYTE_ARENA, np.uint8), np.zeros(3, np.int64),
        aligned_words(4 * _GROUP), aligned_words(2 * SHORT),
    )  # fmt: skip


@njit
def _remember(rows, bucket, low, high, ids, more):
    """Writes a row into a bucket: the row in front moves back, the one at the back is forgotten."""
    for k in range(4):
        rows[bucket + 4 + k] = rows[bucket + k]
    rows[bucket + LOW] = low
    rows[bucket + HIGH] = high
    rows[bucket + IDS] = ids
    rows[bucket + MORE] = more


@njit(inline="always")
def _miss(data, start, length, low, high, bucket, cache, tables, out, at):
    """Merges one pretoken into out[at:], remembers it, returns how many ids it has."""
    rows, _, id_arena, byte_arena, counters, _, values = cache
    if length <= SHORT:
        n = merge_short(data, start, length, tables, values, out, at)
    else:
        n = merge_long(data, start, length, tables, out, at)
        if length > _MAX_CACHED:
            return n
    if n <= 4 and length <= MAX_PACKED:
        for k in range(n, 4):
            out[at + k] = 0
        ids = np.uint64(out[at]) | np.uint64(out[at + 1]) << U32 | np.uint64(n) << _TAG
        more = np.uint64(out[at + 2]) | np.uint64(out[at + 3]) << U32
        _remember(rows, bucket, low, high, ids, more)
        return n
    kept = length if length > MAX_PACKED else 0
    if (
        counters[_ARENA_IDS] + n > id_arena.shape[0]
        or counters[_ARENA_BYTES] + kept + 8 > byte_arena.shape[0]
    ):
        rows[:] = U0  # rows point into the arenas: forget everything, which bounds the memory
        counters[_ARENA_IDS] = 0
        counters[_ARENA_BYTES] = 0
    for k in range(n):
        id_arena[counters[_ARENA_IDS] + k] = out[at + k]
    for k in range(kept):
        byte_arena[counters[_ARENA_BYTES] + k] = data[start + k]
    more = np.uint64(counters[_ARENA_IDS]) | np.uint64(counters[_ARENA_BYTES]) << U32
    counters[_ARENA_IDS] += n
    counters[_ARENA_BYTES] += kept
    _remember(rows, bucket, low, high, np.uint64(n) | _IN_ARENA << _TAG, more)
    return n


@njit(inline="always")
def _emit(rows, row, id_arena, out, n):
    """Writes a row's ids to out[n:], four at a time whatever their number; returns the new n."""
    ids = load_u64(rows, row + IDS)
    tag = ids >> _TAG
    if tag < _IN_ARENA:
        store_u64(out, n, ids & _UNTAGGED)
        store_u64(out, n + 2, load_u64(rows, row + MORE))
        return n + np.int64(tag)
    count = np.int64(ids & _LOW_HALF)
    offset = np.int64(rows[row + MORE] & _LOW_HALF)
    for k in range(count):
        out[n + k] = id_arena[offset + k]
    return n + count


@njit(nogil=True)
def _encode_batch(data, start, bounds, count, special_ids, cache, tables, out):
    """Writes the ids of the pretokens that `bounds[:count]` ends to `out`; returns how many.

    In groups: first all keys, asking for each one's cache line, then the lookups."""
    n = 0
    rows, shift, id_arena, byte_arena, counters, keys, _ = cache
    for group in range(0, count, _GROUP):
        size = min(_GROUP, count - group)
        for k in range(size):
            end = np.int64(load_u64(bounds, group + k))
            length = end - start
            if np.uint64(length) <= np.uint64(MAX_PACKED):  # as unsigned, so that negative ends fail it too
                low, high = packed_key(data, start, length)
            elif end < 0:
                low, high = U0, ALL_ONES
                end = -end
            else:
                low, high = long_hash(data, start, length), LONG_MARK | np.uint64(length)
            bucket = (key_hash(low, high) >> shift) << np.uint64(3)
            prefetch(rows, np.int64(bucket))
            store_u64(keys, 4 * k, low)
            store_u64(keys, 4 * k + 1, high)
            store_u64(keys, 4 * k + 2, bucket)
            store_u64(keys, 4 * k + 3, np.uint64(start))
            start = end
        for k in range(size):
            low = load_u64(keys, 4 * k)
            high = load_u64(keys, 4 * k + 1)
            bucket = np.int64(load_u64(keys, 4 * k + 2))
            # Which of the two rows is not foreseeable, so it is chosen without a branch.
            first = (load_u64(rows, bucket + LOW) == low) & (load_u64(rows, bucket + HIGH) == high)
            row = bucket + 4 - 4 * np.int64(first)
            known = (load_u64(rows, row + LOW) == low) & (load_u64(rows, row + HIGH) == high)
            if high >= LONG_MARK:
                if high == ALL_ONES:
                    out[n] = special_ids[counters[_SPECIALS]]
                    counters[_SPECIALS] += 1
                    n += 1
                    continue
                length = np.int64(high & (LONG_MARK - U1))
                if known:
                    kept = np.int64(rows[row + MORE] >> U32)
                    known = same_bytes(byte_arena, kept, data, np.int64(keys[4 * k + 3]), length)
            if known:
                n = _emit(rows, row, id_arena, out, n)
                continue
            length = np.int64(high & (LONG_MARK - U1) if high >= LONG_MARK else high >> U56)
            n += _miss(data, np.int64(keys[4 * k + 3]), length, low, high, bucket, cache, tables, out, n)
    return n


class _State:
    """What one thread needs to encode: its cache and its buffers."""

    def __init__(self, rows: np.ndarray):
        self.rows = rows
        self.cache = _new_cache(rows)
        self.counters = self.cache[4]
        self.bounds = np.empty(ENDS_PER_BATCH, np.int64)
        self.out = np.empty(0, np.uint32)
        self.text = np.zeros(SMALL + PADDING, np.uint8)
        self.readable = self.text.view()  # compiled code is compiled for text that is not written to
        self.readable.flags.writeable = False
        self.small = np.empty(SMALL + 4, np.uint32)

    def room(self, ids: int) -> np.ndarray:
        """A buffer for that many ids, kept between calls; it has room for the four that a row always writes."""
        if len(self.out) < ids + 4:
            self.out = np.empty(ids + 4, np.uint32)
        return self.out


class Encoder:
    """A vocabulary compiled for encoding.

    vocab: id → bytes, with all 256 single bytes; where two ids have the same bytes the lower one is meant.
    merges: pairs of byte strings in order of rank. special_tokens: text → id; they are searched for as text
    and are no part of the merges. Safe to use from several threads."""

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int],
        pattern: Pattern,
    ):
        enable_cache(_encode_batch)
        special_ids = set(special_tokens.values())
        made = {left + right for left, right in merges}
        # A special token may be an ordinary entry too: searched for as text, and reached by merges as well.
        id_of = {
            text: number
            for number, text in sorted(vocab.items(), reverse=True)
            if number not in special_ids or len(text) == 1 or text in made
        }
        largest = max([*vocab, *special_ids], default=0)
        if largest > MAX_ID:
            raise UserError(f"vocabulary: id {largest} is too large; ids end at {MAX_ID}")
        missing = [byte for byte in range(256) if bytes([byte]) not in id_of]
        if missing:
            raise UserError(
                f"vocabulary: no token for byte 0x{missing[0]:02x} ({len(missing)} missing); a byte-level "
                "vocabulary has all 256"
            )
        byte_ids = np.array([id_of[bytes([byte])] for byte in range(256)], np.uint32)
        if len(merges) > MAX_MERGES:
            raise UserError(f"merges: {len(merges)} are too many; {MAX_MERGES} is the most")
        triples = np.empty((len(merges), 3), np.int64)
        for rank, (left, right) in enumerate(merges):
            try:
                triples[rank] = id_of[left], id_of[right], id_of[left + right]
            except KeyError as error:
                raise UserError(
                    f"merges: merge {rank} ({left!r}, {right!r}) needs {error.args[0]!r}, which is not in the "
                    "vocabulary; do the two files belong together?"
                ) from None
        self._tables = merge_tables(triples, byte_ids)
        self._splitter = Splitter(pattern)
        self._special_ids = {
            text.encode("utf-8", "surrogateescape"): number for text, number in special_tokens.items()
        }
        self._finders: dict[str | frozenset[str], tuple[SpecialTokens, np.ndarray]] = {}
        rows = 1 << (8 * len(id_of) - 1).bit_length()
        self._seeded = aligned_words(4 * min(rows, _MAX_ROWS))
        self._idle: list[_State] = []
        self._seed(list(id_of))

    def _seed(self, tokens: list[bytes]) -> None:
        """Puts every token into the cache by really encoding it: some tokens cannot be reached by merges, and
        none is ever assumed to be its own id. Rare tokens first, so that frequent ones stay in front."""
        short = [token for token in tokens if len(token) <= MAX_PACKED]
        text = padded(b"".join(short))
        ends = np.cumsum([len(token) for token in short], dtype=np.int64)
        state = self._acquire()
        _encode_batch(text, 0, ends, len(ends), NO_SPANS, state.cache, self._tables, state.room(len(text)))
        self._seeded = state.rows

    def _acquire(self) -> _State:
        try:
            return self._idle.pop()
        except IndexError:
            rows = aligned_words(len(self._seeded))
            rows[:] = self._seeded
            return _State(rows)

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

    def _encode_chunk(
        self, state: _State, chunk: Chunk, finder: tuple[SpecialTokens, np.ndarray], dtype: np.dtype | type
    ) -> tuple[np.ndarray, int, int]:
        """(ids, number of special tokens, their bytes).

        Batches go through a small buffer: written straight to the result the ids of a chunk would push the
        cache's rows out of the L2 cache."""
        data, begin, end = chunk.data, chunk.begin, chunk.end
        specials, ids_of_specials = finder
        spans, which = specials.find(data, begin, end)
        special_ids = ids_of_specials[which]
        state.counters[_SPECIALS] = 0
        ids = np.empty(end - begin, dtype)
        n = 0
        for start, after, count in self._splitter.batches(data, begin, end, spans, state.bounds):
            out = state.room(after - start)
            found = _encode_batch(
                data, start, state.bounds, count, special_ids, state.cache, self._tables, out
            )
            ids[n : n + found] = out[:found]
            n += found
        return ids[:n], len(which), int((spans[1::2] - spans[::2]).sum())

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
            ids, _, _ = self._encode_chunk(state, Chunk(padded(data), 0, len(data)), finder, np.uint32)
            ids = ids.copy()  # without the room for one id a byte
        self._idle.append(state)
        return ids

    def _encode_small(self, state: _State, data, finder: tuple[SpecialTokens, np.ndarray]) -> np.ndarray:
        """A short text, with as few steps of Python as can be: what the compiled code needs for a kilobyte is
        less than what one more array costs to make."""
        size = len(data)
        state.text[:size] = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
        specials, special_ids = finder
        spans, which = specials.find(state.readable, 0, size)
        if len(which):
            special_ids = special_ids[which]
            state.counters[_SPECIALS] = 0
        for start, _, count in self._splitter.batches(state.readable, 0, size, spans, state.bounds):
            n = _encode_batch(
                state.readable,
                start,
                state.bounds,
                count,
                special_ids,
                state.cache,
                self._tables,
                state.small,
            )
            return state.small[:n].copy()  # so short a text is one batch
        return np.empty(0, np.uint32)


@dataclass(frozen=True)
class EncodeSummary:
    """What encode_file did: ids written, bytes read, special tokens among them (and their bytes), seconds."""

    tokens: int
    bytes: int
    specials: int
    special_bytes: int
    seconds: float


_HEADER_BYTES = 128


def _npy_header(dtype: np.dtype, length: int) -> bytes:
    """A .npy header of exactly `_HEADER_BYTES`, whatever the length, so that it can be written last."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (length,)}
    )
    header = buffer.getvalue()
    assert len(header) == _HEADER_BYTES
    return header


def encode_file(
    encoder: Encoder,
    src: str | os.PathLike,
    dst: str | os.PathLike,
    dtype: np.dtype | type,
    num_workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EncodeSummary:
    """Encodes a memory-mapped file, special tokens included, into a one-dimensional .npy of `dtype`.

    The file is written under a temporary name and renamed at the end. `progress(bytes_done, bytes_total)` is
    called from the calling thread. The ids do not depend on `num_workers`."""
    began = time.perf_counter()
    dtype = np.dtype(dtype)
    text = open_text(src)
    finder = encoder._finder("all")
    pattern = encoder._splitter.pattern
    num_workers = max(1, min(num_workers or default_workers(), -(-len(text) // CHUNK_BYTES)))

    def work(state, chunk):
        ids, found, special_bytes = encoder._encode_chunk(state, chunk, finder, dtype)
        return ids, chunk.end - chunk.begin, found, special_bytes

    dst = Path(dst)
    beside = dst.with_name(f".{dst.name}.{os.getpid()}.partial")
    tokens = done = num_specials = special_bytes = 0
    states = [encoder._acquire() for _ in range(num_workers)]
    try:
        with beside.open("wb") as file:
            file.write(_npy_header(dtype, 0))
            for ids, size, found, found_bytes in in_order(work, chunks(text, finder[0], pattern), states):
                file.write(ids)
                tokens += len(ids)
                done += size
                num_specials += found
                special_bytes += found_bytes
                if progress is not None:
                    progress(done, len(text))
            file.seek(0)
            file.write(_npy_header(dtype, tokens))
        os.replace(beside, dst)
    finally:
        beside.unlink(missing_ok=True)
        encoder._idle.extend(states)
    return EncodeSummary(tokens, len(text), num_specials, special_bytes, time.perf_counter() - began)
