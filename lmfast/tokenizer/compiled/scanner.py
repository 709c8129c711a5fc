"""Finds the ends of pretokens: one compiled scanner for each named pattern.

`scan_<pattern>(data, end, spans, cursor, classes, bounds)` fills `bounds` with the ends of consecutive pretokens and
returns their number. In: text as uint8 with `PADDING` readable bytes after `end`; `spans`, (start, end) of each special
token, whose end is written as a negative number, and across which no pretoken or lookahead extends;
`scanner_classes`. `cursor`, (position, number of special tokens before it), is where to start, and is set to where
the scanner stopped because the text ended or `bounds` was full. All give the results of `next_end_<pattern>`
(next_end.py).
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.intrinsics import (
    ALL_ONES,
    U0,
    U1,
    byte_classes,
    count_ones,
    leading_zeros,
    store_u64,
    trailing_zeros,
)
from lmfast.tokenizer.compiled.next_end import (
    contraction,
    next_end_cl100k,
    next_end_deepseek,
    next_end_gpt2,
    next_end_kimi,
    next_end_o200k,
    next_end_qwen2,
    next_end_starcoder,
)

MAX_ENDS_PER_STEP = 72  # a step of a scanner writes at most this many ends, so it needs this capacity
TOP_BIT = np.uint64(1 << 63)
_BLANK = 0x20


@njit
def _no_space_before_high(data, i, end):
    """Whether the pretoken at i begins with a non-ASCII byte, possibly after a space."""
    return data[i] >= 0x80 or (data[i] == _BLANK and i + 1 < end and data[i + 1] >= 0x80)


@njit(nogil=True)
def scan_gpt2(data, end, spans, cursor, classes, bounds):
    """64 bytes at a time: one bit per byte for each class, and pretoken ends by bit arithmetic.

    A block begins at a pretoken's start, so that no state is carried over. With S the whitespace, a pretoken
    begins at the start of a run of S, at the last character of a run of S, after a character of S other than a
    space, and where one class of non-whitespace follows another. Apostrophes that begin a pretoken are checked
    one by one. Bytes from 0x80 up end the trusted part of the block; they are handled by
    `next_end_gpt2`, as is a pretoken longer than the block."""
    n = 0
    i = cursor[0]
    k = cursor[1]
    capacity = bounds.shape[0] - MAX_ENDS_PER_STEP
    while n <= capacity:
        limit = spans[2 * k] if 2 * k < spans.shape[0] else end
        while i < limit and n <= capacity:
            letters, digits, space, blank, high, quote = byte_classes(data, i)
            trusted = ALL_ONES
            stop = U0
            left = limit - i
            if left < 64:
                # Bytes after the end count as whitespace, so that no space is split off before it.
                trusted = (U1 << np.uint64(left)) - U1
                stop = U1 << np.uint64(left)
                space |= ~trusted
                high &= trusted
            if high:
                trusted = (high & (~high + U1)) - U1
                space |= ~trusted
                stop = U0
            others = trusted & ~(letters | digits | space)
            start = space & ~(space << U1)
            last = space & ~(space >> U1 | TOP_BIT)
            after_space = (space & ~blank) << U1
            change = (
                (letters & ((digits | others) << U1))
                | (digits & ((letters | others) << U1))
                | (others & ((letters | digits) << U1))
            )
            ends = ((start | last | change | (after_space & ~space)) & trusted | stop) & ~U1
            candidates = quote & (ends | U1) & trusted
            while candidates:
                at = trailing_zeros(candidates)
                candidates &= candidates - U1
                length = contraction(data, i + at, limit)
                if length:
                    ends &= ~(U1 << np.uint64(at) << U1)
                    if at + length < 64:
                        ends |= U1 << np.uint64(at + length)
            if ends == U0:
                i = next_end_gpt2(data, i, limit, classes)
                bounds[n] = i
                n += 1
                while i < limit and n <= capacity and _no_space_before_high(data, i, limit):
                    i = next_end_gpt2(data, i, limit, classes)
                    bounds[n] = i
                    n += 1
                continue
            # Eight at a time, needed or not: the loop's exit is then predictable (1.7 ns per pretoken instead of 2.2).
            total = n + count_ones(ends)
            base = i
            i = base + 63 - leading_zeros(ends)
            while ends:
                for _ in range(8):
                    store_u64(bounds, n, np.uint64(base + trailing_zeros(ends)))
                    ends &= ends - U1
                    n += 1
            n = total
        if i < limit or n > capacity:
            break
        if 2 * k >= spans.shape[0]:
            break
        i = spans[2 * k + 1]
        bounds[n] = -i
        n += 1
        k += 1
    cursor[0] = i
    cursor[1] = k
    return n


@njit(inline="always")
def _scan(next_end, data, end, spans, cursor, classes, bounds):
    """One pretoken after another by `next_end`."""
    n = 0
    i = cursor[0]
    k = cursor[1]
    capacity = bounds.shape[0]
    while n < capacity:
        limit = spans[2 * k] if 2 * k < spans.shape[0] else end
        while i < limit and n < capacity:
            i = next_end(data, i, limit, classes)
            bounds[n] = i
            n += 1
        if i < limit or n >= capacity or 2 * k >= spans.shape[0]:
            break
        i = spans[2 * k + 1]
        bounds[n] = -i
        n += 1
        k += 1
    cursor[0] = i
    cursor[1] = k
    return n


@njit(nogil=True)
def scan_cl100k(data, end, spans, cursor, classes, bounds):
    return _scan(next_end_cl100k, data, end, spans, cursor, classes, bounds)


@njit(nogil=True)
def scan_o200k(data, end, spans, cursor, classes, bounds):
    return _scan(next_end_o200k, data, end, spans, cursor, classes, bounds)


@njit(nogil=True)
def scan_qwen2(data, end, spans, cursor, classes, bounds):
    return _scan(next_end_qwen2, data, end, spans, cursor, classes, bounds)


@njit(nogil=True)
def scan_kimi(data, end, spans, cursor, classes, bounds):
    return _scan(next_end_kimi, data, end, spans, cursor, classes, bounds)


@njit(nogil=True)
def scan_starcoder(data, end, spans, cursor, classes, bounds):
    return _scan(next_end_starcoder, data, end, spans, cursor, classes, bounds)


@njit(nogil=True)
def scan_deepseek(data, end, spans, cursor, classes, bounds):
    return _scan(next_end_deepseek, data, end, spans, cursor, classes, bounds)


SCANNERS = {
    "gpt2": scan_gpt2,
    "cl100k": scan_cl100k,
    "o200k": scan_o200k,
    "qwen2": scan_qwen2,
    "kimi": scan_kimi,
    "starcoder": scan_starcoder,
    "deepseek": scan_deepseek,
}
