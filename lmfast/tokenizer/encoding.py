"""Encodes bytes to ids with a cache from pretokens to their ids; pretokens that are not cached are merged.

In: text as bytes (any bytes), a vocabulary, its merges, special tokens, a pattern. Out: ids, uint32, or a
token file (.npy, uint16 or uint32). Rejects a vocabulary without one of the 256 bytes, merges whose parts or
result are not in it, ids of 2^29 or more, and missing files.

Time by part, what was tried and what it gained: docs/tokenizer.md.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.sharding.workers import default_workers
from lmfast.tokenizer.chunks import NO_SPANS, PieceReader, SpecialTokens, Splitter, map_in_order, padded
from lmfast.tokenizer.compiled.code_cache import enable_cache
from lmfast.tokenizer.compiled.encode_kernels import ENCODE, SPECIALS, encode_batch, new_scratch
from lmfast.tokenizer.compiled.intrinsics import MAX_PACKED, PADDING
from lmfast.tokenizer.compiled.merge_tables import merge_tables
from lmfast.tokenizer.compiled.pretoken_cache import MAX_ROWS, PretokenCache
from lmfast.tokenizer.encode_summary import EncodeSummary
from lmfast.tokenizer.npy_header import npy_header
from lmfast.tokenizer.parts import checked_ids
from lmfast.tokenizer.patterns import Pattern, code_point_classes
from lmfast.tokenizer.text_file import CHUNK_BYTES, TextFile
from lmfast.tokenizer.text_rules import NO_RULES, TextRules
from lmfast.tokenizer.whole_pretokens import with_whole_pretokens

SMALL = 1 << 14  # texts of up to this many bytes are encoded without chunks and new buffers


class _State:
    """One thread's buffers."""

    def __init__(self, dtype: np.dtype):
        self.scratch = new_scratch()
        self.bounds, _, _, self.cursor = self.scratch
        self.text = np.zeros(SMALL + PADDING, np.uint8)
        self.readable = self.text.view()  # the compiled code takes read-only text
        self.readable.flags.writeable = False
        self.small = np.empty(SMALL + 4, dtype)
        self.reader = PieceReader()


class SpecialFinder:
    """Finds special tokens, and applies the rules to the text between them."""

    def __init__(self, special_tokens: Mapping[str, int], rules: TextRules):
        ids = {text.encode("utf-8", "surrogateescape"): token for text, token in special_tokens.items()}
        self.ruled_text = rules.ruled_text(special_tokens)
        self.specials = SpecialTokens(list(ids), self.ruled_text)
        self.ids = np.array([ids[token] for token in self.specials.tokens], np.int64)

    def find(self, data: np.ndarray, size: int) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """(the text after the rules, readable for `PADDING` bytes after its end; its size; spans of special tokens, as
        `SpecialTokens.find`; their ids) of data[:size]."""
        if self.ruled_text is None or not self.ruled_text.applies(text := data[:size].tobytes()):
            spans, which = self.specials.find(data, 0, size)
            return data, size, spans, self.ids[which]
        pieces, spans, ids, end = [], [], [], 0
        for piece, token in self.ruled_text.split(text):
            pieces.append(piece)
            if token is not None:
                spans += [end, end + len(piece)]
                ids.append(token)
            end += len(piece)
        return padded(b"".join(pieces)), end, np.array(spans, np.int64), np.array(ids, np.int64)


class Encoder:
    """A vocabulary compiled for encoding.

    vocab: id → bytes, with all 256 single bytes; of two ids with the same bytes the lower one is used.
    merges: pairs of byte strings in order of rank. special_tokens: text → id; they are searched for as text
    and are not part of the merges. ignore_merges: a pretoken that is a token gets its id without merging. rules: what is
    done to text before the pattern. Thread-safe."""

    def __init__(
        self,
        vocab: Mapping[int, bytes],
        merges: Sequence[tuple[bytes, bytes]],
        special_tokens: Mapping[str, int],
        pattern: Pattern,
        ignore_merges: bool = False,
        rules: TextRules = NO_RULES,
    ):
        enable_cache(encode_batch, *([ENCODE[pattern.name]] if pattern.name in ENCODE else []))
        ids = checked_ids(vocab, merges, special_tokens.values())
        largest = max([*vocab, *special_tokens.values()], default=0)
        byte_ids = np.array([ids.get(bytes([byte]), 0) for byte in range(256)], np.uint32)
        triples = np.array([(ids[a], ids[b], ids[a + b]) for a, b in merges], np.int64).reshape(-1, 3)
        self._tables = merge_tables(triples, byte_ids)
        if ignore_merges:
            self._tables = with_whole_pretokens(self._tables, ids)
        self._splitter = Splitter(pattern)
        self._loop = ENCODE.get(pattern.name)  # None for a custom expression
        self._special_tokens = special_tokens
        self._rules = rules
        self._finders: dict[str | frozenset[str], SpecialFinder] = {}
        self.dtype = np.dtype(np.uint16 if largest < 1 << 16 else np.uint32)
        self._idle: list[_State] = []
        self._cache_lock = threading.Lock()
        self._tokens = list(ids)
        self._cache = self._seeded()

    @property
    def looks_up_whole(self) -> bool:
        """Whether some tokens are found only by looking up whole pretokens."""
        return len(self._tables) > 5

    def _seeded(self) -> PretokenCache:
        """A table with every token, filled by encoding each one: some tokens cannot be produced by merges, so a token's
        encoding is never assumed to be its own id."""
        cache = PretokenCache(min(1 << (8 * len(self._tokens) - 1).bit_length(), MAX_ROWS))
        short = [token for token in self._tokens if 0 < len(token) <= MAX_PACKED]  # those that fit a key
        text = padded(b"".join(short))
        ends = np.cumsum([len(token) for token in short], dtype=np.int64)
        state = self._acquire()
        out = np.empty(len(text) + 4, self.dtype)
        encode_batch(text, 0, ends, len(ends), NO_SPANS, cache.compiled, state.scratch, self._tables, out, 0)
        self._idle.append(state)
        return cache

    def _renew(self, cache: PretokenCache) -> None:
        """Replaces a full table by a larger or a new one. Other threads continue with the old one and never wait for the
        lock: in a child process forked while it was held, it would never be released."""
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

    def finder(self, allowed_special: set[str] | str = "all") -> "SpecialFinder":
        """What finds these special tokens, and their ids."""
        key = allowed_special if isinstance(allowed_special, str) else frozenset(allowed_special)
        if key in self._finders:
            return self._finders[key]
        if isinstance(key, str):
            allowed = self._special_tokens if key == "all" else {}
        else:
            unknown = sorted(key - self._special_tokens.keys())
            if unknown:
                raise UserError(f"allowed_special: {unknown[0]!r} is not a special token of this tokenizer")
            allowed = {text: self._special_tokens[text] for text in key}
        self._finders[key] = SpecialFinder(allowed, self._rules)
        return self._finders[key]

    def _encode_padded(
        self, state: _State, data: np.ndarray, size: int, finder: "SpecialFinder", ids: np.ndarray
    ) -> tuple[np.ndarray, int, int]:
        """(the ids, in `ids` or a larger buffer; number of special tokens, their bytes) for data[:size], which is readable
        for `PADDING` bytes more. `ids`: of `dtype`, with at least size + 4 elements."""
        data, size, spans, special_ids = finder.find(data, size)
        if len(ids) < size + 4:  # rules may lengthen the text
            ids = np.empty(size + 4, self.dtype)
        n = self._encode_text(state, data, 0, size, spans, special_ids, ids)
        return ids[:n], len(special_ids), int((spans[1::2] - spans[::2]).sum())

    def _encode_text(self, state, data, begin, end, spans, special_ids, out) -> int | np.int64:
        """Writes ids to `out` and returns their number; replaces a full table."""
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
        """The ids (uint32) of a byte string. `allowed_special`: the special tokens to recognise, a set of them, "all" or
        "none"; the others are encoded as plain text."""
        finder = self.finder(allowed_special)
        state = self._acquire()
        if len(data) <= SMALL and finder.ruled_text is None:
            ids = self._encode_small(state, data, finder)
        else:
            buffer = np.empty(len(data) + 4, self.dtype)
            ids, _, _ = self._encode_padded(state, padded(data), len(data), finder, buffer)
            ids = ids.astype(np.uint32)  # a copy that does not keep the buffer
        self._idle.append(state)
        return ids

    def _encode_small(self, state: _State, data, finder: "SpecialFinder") -> np.ndarray:
        """Encodes a short text with as few Python steps as possible: the compiled code takes less time for a kilobyte
        than the allocation of an array."""
        size = len(data)
        state.text[:size] = data if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
        spans, which = finder.specials.find(state.readable, 0, size)
        n = self._encode_text(state, state.readable, 0, size, spans, finder.ids[which], state.small)
        return state.small[:n].astype(np.uint32)


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
    finder = encoder.finder()
    pattern = encoder._splitter.pattern
    num_workers = max(1, min(num_workers or default_workers(), -(-len(text) // CHUNK_BYTES)))

    # Buffers for ids until they are written, reused because new pages cost page faults. As many as `map_in_order` can
    # have in use, so that memory does not depend on the length of the file.
    num_buffers = num_workers + 2 if num_workers > 1 else 0
    spare = deque(np.empty(CHUNK_BYTES + SMALL, encoder.dtype) for _ in range(num_buffers))

    def work(state, span):
        size = span[1] - span[0]
        try:
            buffer = spare.popleft()
        except IndexError:
            buffer = np.empty(size + 4, encoder.dtype)
        if len(buffer) < size + 4:
            buffer = np.empty(size + 4, encoder.dtype)
        data = state.reader.read(text, *span)
        ids, found, special_bytes = encoder._encode_padded(state, data, size, finder, buffer)
        return ids, buffer, size, found, special_bytes

    tokens = done = num_specials = special_bytes = 0
    states = [encoder._acquire() for _ in range(num_workers)]
    try:
        with atomic_write(dst) as temporary, temporary.open("wb") as file:
            file.write(npy_header(dtype, 0))
            pieces = text.spans(finder.specials, pattern)
            for ids, buffer, size, found, found_bytes in map_in_order(work, pieces, states):
                file.write(ids.astype(dtype, copy=False))
                spare.append(buffer)
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
