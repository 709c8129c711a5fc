"""Loading data: training batches from a memory-mapped token file, and the built-in stories.

A batch must cost far less than the step that uses it. Bytes are those of the token file that were read.
"""

import numpy as np
import pytest

from bench.measuring import Work
from lmfast.data.batches import Batches
from lmfast.data.stories import generate_stories

TOKENS = {"quick": 4_000_000, "default": 50_000_000, "full": 500_000_000}
SHAPES = {"64x256": (64, 256), "16x1024": (16, 1024)}
STORIES = 300


@pytest.fixture(scope="module")
def tokens(mode, scratch):
    """A token file of random ids, mapped."""
    path = scratch / "tokens.npy"
    mapped = np.lib.format.open_memmap(path, "w+", np.uint16, (TOKENS[mode],))
    rng = np.random.default_rng(0)
    for begin in range(0, len(mapped), 1 << 24):
        piece = mapped[begin : begin + (1 << 24)]
        piece[:] = rng.integers(0, 50_000, len(piece), np.uint16)
    mapped.flush()
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("shape", SHAPES)
def test_batches(tokens, shape, measure):
    """Twenty batches, each of other windows."""
    rows, context_length = SHAPES[shape]
    batches = Batches(tokens, rows, context_length, seed=0)
    first = batches.step(0)
    assert first.shape == (rows, context_length + 1) and np.array_equal(first, batches.step(0))
    number, step = 20, iter(range(10**9))
    count = number * rows * context_length
    measure(lambda: [batches.step(next(step)) for _ in range(number)], Work(tokens=count, bytes=2 * count))


def test_stories(measure):
    """The built-in corpus, a story after another, in one thread."""

    def write() -> int:
        source = generate_stories(seed=3)
        return sum(len(next(source).text) for _ in range(STORIES))

    measure(write, Work(bytes=write()))
