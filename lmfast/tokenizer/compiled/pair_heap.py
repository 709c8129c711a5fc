"""The heap of candidate pairs for learning merges: greatest count first, then greater pair of byte strings.

In: `heap` (n, 2) int64, rows of (count, pair number), a binary heap in place; `pairs` (n, 4) int64, whose
first column is the pair's key, left id << 32 | right id; `tokens`, the bytes of all ids as (text uint8,
start of each token in it, its length, its first eight bytes as a big-endian uint64 padded with zeros).
Bytes are compared only if counts are equal. Nothing here allocates or checks bounds: the caller provides the capacity.
"""

from numba import njit

LOW = 0xFFFFFFFF


@njit
def _compare_tokens(x, y, text, token_at, token_length, token_prefix):
    """1, 0 or -1 if the bytes of token x are greater than, equal to or less than those of y."""
    if x == y:
        return 0
    if token_prefix[x] != token_prefix[y]:
        return 1 if token_prefix[x] > token_prefix[y] else -1
    # The prefix is padded with zeros, so b"a" and b"a\0" share it: compare further bytes, then lengths.
    shorter = min(token_length[x], token_length[y])
    at_x = token_at[x]
    at_y = token_at[y]
    for i in range(8, shorter):
        if text[at_x + i] != text[at_y + i]:
            return 1 if text[at_x + i] > text[at_y + i] else -1
    if token_length[x] == token_length[y]:
        return 0
    return 1 if token_length[x] > token_length[y] else -1


@njit
def _before(x, y, pairs, tokens):
    """Whether pair x leaves the heap before pair y when their counts are equal."""
    text, token_at, token_length, token_prefix = tokens
    key_x = pairs[x, 0]
    key_y = pairs[y, 0]
    order = _compare_tokens(key_x >> 32, key_y >> 32, text, token_at, token_length, token_prefix)
    if order == 0:
        order = _compare_tokens(key_x & LOW, key_y & LOW, text, token_at, token_length, token_prefix)
    return order > 0


@njit
def sift_up(heap, i, pairs, tokens):
    count = heap[i, 0]
    pair = heap[i, 1]
    while i > 0:
        parent = (i - 1) >> 1
        above = heap[parent, 0]
        if above > count or (above == count and not _before(pair, heap[parent, 1], pairs, tokens)):
            break
        heap[i, 0] = above
        heap[i, 1] = heap[parent, 1]
        i = parent
    heap[i, 0] = count
    heap[i, 1] = pair


@njit
def sift_down(heap, size, pairs, tokens):
    """Moves the root down to its position."""
    count = heap[0, 0]
    pair = heap[0, 1]
    i = 0
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size:
            left = heap[child, 0]
            right = heap[child + 1, 0]
            if right > left or (right == left and _before(heap[child + 1, 1], heap[child, 1], pairs, tokens)):
                child += 1
        below = heap[child, 0]
        if count > below or (count == below and _before(pair, heap[child, 1], pairs, tokens)):
            break
        heap[i, 0] = below
        heap[i, 1] = heap[child, 1]
        i = child
    heap[i, 0] = count
    heap[i, 1] = pair
