"""Compiled CPU sampling: `sampling.sample` for one row, without sorting all ids.

Input: the logits (vocab_size,) fp32 of a row. Output: an id. Uses the same random numbers as sampling.py. The top-p set may
differ in an id at its boundary, due to rounding.
"""

import numpy as np

from lmfast.inference.cpu.vectors import LOG2_E, compiled, compiled_sums, exp2, largest

U27, U30, U31, U41 = (np.uint64(n) for n in (27, 30, 31, 41))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_FIRST, _MIX_SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@compiled
def mix(state):
    """The output function of SplitMix64 for a uint64."""
    state = (state ^ (state >> U30)) * _MIX_FIRST
    state = (state ^ (state >> U27)) * _MIX_SECOND
    return state ^ (state >> U31)


@compiled
def row_key(key, step, row):
    return mix(mix(np.uint64(key) + np.uint64(step) * _GOLDEN) + np.uint64(row))


@compiled
def exponential(key, token):
    """An Exp(1) random number for a token of the row with this key."""
    bits = mix(key + np.uint64(token) * _GOLDEN) >> U41
    return -np.log((np.float32(np.int64(bits)) + np.float32(0.5)) * np.float32(2.0**-23))


@compiled_sums
def exp_weights(logits, top, inverse_temperature, weights):
    """weights = exp((logits − top) / temperature); returns their sum."""
    for i in range(logits.shape[0]):
        weights[i] = exp2((logits[i] - top) * inverse_temperature * LOG2_E)
    return sum_values(weights)


@compiled_sums
def sum_values(values):
    total = np.float32(0)
    for i in range(values.shape[0]):
        total += values[i]
    return total


@compiled
def sift_down(weights, heap, count, place):
    """Restores the heap heap[:count] after a change at `place`: larger weights first, lower ids first on ties."""
    moving = heap[place]
    while 2 * place + 1 < count:
        child = 2 * place + 1
        if child + 1 < count and ranks_above(weights, heap[child + 1], heap[child]):
            child += 1
        if not ranks_above(weights, heap[child], moving):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = moving


@compiled
def ranks_above(weights, i, j):
    return weights[i] > weights[j] or (weights[i] == weights[j] and i < j)


@compiled
def keep_largest(weights, floor, at_most, wanted):
    """Keeps the fewest largest weights (n,) that sum to `wanted`, at most `at_most` plus ties; sets the others to 0.

    Ignores weights below `floor`. A heap yields the largest one by one, so only the kept ones are sorted, which are few
    for a trained model."""
    heap = np.empty(weights.shape[0], np.int64)
    count = 0
    for i in range(weights.shape[0]):
        if weights[i] >= floor and weights[i] > 0:
            heap[count] = i
            count += 1
        else:
            weights[i] = np.float32(0)
    for place in range(count // 2 - 1, -1, -1):
        sift_down(weights, heap, count, place)
    total, taken = 0.0, 0
    last = np.float32(0)
    while count > 0 and total < wanted and (taken < at_most or weights[heap[0]] == last):
        top = heap[0]
        last = weights[top]
        total += last
        taken += 1
        count -= 1
        heap[0] = heap[count]
        sift_down(weights, heap, count, 0)
    for place in range(count):
        weights[heap[place]] = np.float32(0)


@compiled
def pick(logits, temperature, top_k, top_p, key, step, row, weights):
    """The next id of sequence `row` at `step`. top_k 0 and top_p 1 keep all; weights (vocab_size,): scratch memory."""
    top = largest(logits.ctypes.data, logits.shape[0])
    if temperature == 0.0:
        for i in range(logits.shape[0]):
            if logits[i] == top:
                return i
        return 0
    size = logits.shape[0]
    total = exp_weights(logits, top, np.float32(1.0 / temperature), weights)
    if 0 < top_k < size:
        keep_largest(weights, np.float32(0), top_k, np.inf)
        total = sum_values(weights)
    if top_p < 1.0:
        # Weights below this sum to less than the probability that top-p removes.
        floor = np.float32((1.0 - top_p) * total / size)
        keep_largest(weights, floor, size, top_p * total)
    chosen, best = 0, np.float32(-1)
    own = row_key(key, step, row)
    for i in range(size):
        if weights[i] > 0:
            value = weights[i] / exponential(own, i)
            if value > best:
                chosen, best = i, value
    return chosen
