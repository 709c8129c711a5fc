"""Loading data: training batches from a memory-mapped token file, and the built-in stories.

A batch must cost far less than the step that uses it: at least fifty times the tokens per second of a step at an MFU that
no step here reaches (the full rate of a matrix product on a CPU, 55 % of it on a GPU): `times_a_step`.
Bytes are those of the token file that were read; of stories, of their text, whose tokens are GPT-2's pretokens.
"""

import numpy as np
import pytest
import regex

from bench.measuring import Work
from lmfast.data.batches import Batches
from lmfast.data.stories.corpus import generate_stories
from lmfast.model.accounting import training_flops_per_token
from lmfast.settings import TrainSettings, find_config, read_yaml, replace_flat
from lmfast.tokenizer.patterns import get_pattern
from lmfast.training.prefetch import Prefetched

TOKENS = {"quick": 4_000_000, "default": 50_000_000, "full": 500_000_000}
RUNS = ("quickstart", "tinystories_17m", "owt_124m")
AT_LEAST = 50  # times the step's tokens per second
MOST_MFU = {"cpu": 1.0, "cuda": 0.55}
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


@pytest.mark.parametrize("name", RUNS)
def test_batches(tokens, name, measure, device, ceilings):
    """The batches of a run, through its prefetching thread: 64 steps, each with different windows."""
    settings = replace_flat(TrainSettings(), read_yaml(find_config(name), TrainSettings))
    config, rows = (
        settings.model.resolved(),
        settings.optimizer.batch_size * settings.optimizer.grad_accumulation,
    )
    number, step = 64, iter(range(10**9))
    count = number * rows * config.context_length
    with Prefetched(Batches(tokens, rows, config.context_length, seed=0), device) as batches:
        assert np.array_equal(batches.step(7), batches.batches.step(7))
        row = measure(
            lambda: [batches.step(next(step)) for _ in range(number)], Work(tokens=count, bytes=2 * count)
        )
    matrix = f"matmul {'bfloat16' if device.type == 'cuda' else 'float32'}"
    if row is not None:
        flops = training_flops_per_token(config, config.context_length)
        step_rate = MOST_MFU[device.type] * ceilings[matrix] / flops
        row.data["times_a_step"] = row.per_second("tokens") / step_rate
        assert row.data["times_a_step"] > AT_LEAST


def test_stories(measure):
    """The built-in corpus, one story after another, in one thread."""

    def write() -> list[str]:
        source = generate_stories(seed=3)
        return [next(source).text for _ in range(STORIES)]

    pretoken = regex.compile(get_pattern("gpt2").regex)
    texts = write()
    tokens = sum(len(pretoken.findall(text)) for text in texts)
    measure(write, Work(tokens=tokens, bytes=sum(len(text.encode()) for text in texts)))
