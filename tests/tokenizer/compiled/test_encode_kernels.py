"""The compiled loops: whole texts and batches of ends give the same ids, with 16 and with 32 bits."""

import ctypes
import mmap
import random
import sys

import numpy as np
import pytest

from lmfast.tokenizer.chunks import padded
from lmfast.tokenizer.compiled.encode_kernels import ENCODE, encode_batch
from lmfast.tokenizer.compiled.intrinsics import PADDING
from lmfast.tokenizer.encoding import Encoder
from lmfast.tokenizer.patterns import code_point_classes, get_pattern
from tests.tokenizer.compiled.test_pretoken_cache import hard_text
from tests.tokenizer.test_encoding import END, LESSON, lesson

TEXT = hard_text(1, 20_000) + END.encode() + LESSON + b"<|end" + b"a" * 70 + b" " * 9000 + b"ab" * 5000


def make_encoder(name: str, largest: int) -> Encoder:
    """An encoder of the lesson; `largest`, if given, is the id of one more special token."""
    vocab, merges, specials = lesson(name)
    if largest:
        specials = {**specials, "<|far|>": largest}
    return Encoder(vocab, merges, specials, get_pattern(name))


@pytest.mark.parametrize("largest", [0, 70_000])
@pytest.mark.parametrize("name", sorted(ENCODE))
def test_whole_texts_and_batches_of_ends_give_the_same(name, largest):
    encoder = make_encoder(name, largest)
    assert encoder.dtype == (np.uint32 if largest else np.uint16)
    finder, ids = encoder.finder().specials, encoder.finder().ids
    data = padded(TEXT)
    spans, which = finder.find(data, 0, len(TEXT))
    assert len(which) >= 2
    state = encoder._acquire()
    more = ids[which], encoder._cache.compiled, state.scratch, encoder._tables
    whole, batched = (np.zeros(len(TEXT) + 4, encoder.dtype) for _ in range(2))
    n = ENCODE[name](data, 0, len(TEXT), spans, code_point_classes(), *more, whole)
    state.cursor[:] = 0
    m = batches = 0
    for start, _, count in encoder._splitter.batches(data, 0, len(TEXT), spans, state.bounds):
        m = encode_batch(data, start, state.bounds, count, *more, batched, m)
        batches += 1
    assert batches > 2
    assert n == m and np.array_equal(whole[:n], batched[:m])


def before_a_wall(num_bytes: int) -> np.ndarray:
    """uint8 that ends at the end of a page, followed by an inaccessible page."""
    whole = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    pages = np.frombuffer(mmap.mmap(-1, whole + mmap.PAGESIZE), np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(pages.ctypes.data + whole, mmap.PAGESIZE, 0) == 0
    return pages[whole - num_bytes : whole]


@pytest.mark.skipif(sys.platform != "linux", reason="mprotect is called as on Linux")
@pytest.mark.parametrize("largest", [0, 70_000])
@pytest.mark.parametrize("name", sorted(ENCODE))
def test_no_access_beyond_padding_and_capacity(name, largest):
    """Accessing one byte too many would end the process."""
    encoder = make_encoder(name, largest)
    finder, ids = encoder.finder().specials, encoder.finder().ids
    rng = random.Random(largest)
    tails = (
        b"",
        b"x" * 70,
        b" " * 65,
        b"'",
        b"\xf0\x9f",
        "日".encode() * 30,
        END.encode(),
        b"\0" * 17,
        b"ab" * 3000,
    )
    for tail in tails:
        text = hard_text(rng.randrange(100), 5) + tail
        data = before_a_wall(len(text) + PADDING)
        data[:] = rng.choice((0, 32, 97, 255))
        data[: len(text)] = np.frombuffer(text, np.uint8)
        data.flags.writeable = False
        out = before_a_wall((len(text) + 4) * encoder.dtype.itemsize).view(encoder.dtype)
        spans, which = finder.find(data, 0, len(text))
        state = encoder._acquire()
        n = encoder._encode_text(state, data, 0, len(text), spans, ids[which], out)
        assert np.array_equal(out[:n], encoder.encode(text))
