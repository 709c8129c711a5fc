"""Sequences in the slots of the C++ decoder get the ids that `generate` gives them alone, to the bit."""

import numpy as np
import pytest

from lmfast.inference.batching import Sequence
from lmfast.inference.cpu.slots import CpuSlots
from lmfast.inference.cpu.torch_weights import weights_of
from lmfast.inference.decode import continue_prompts
from lmfast.inference.sampling import Sampling
from tests.inference.cpu.test_decoder import build
from tests.inference.test_batching import decode_all
from tests.kernels.cpu_native import needs_decoder

pytestmark = needs_decoder

SHAPES = [
    {},
    {"position": "learned"},
    {"position": "sinusoidal"},
    {"num_kv_heads": 2, "head_dim": 20, "qkv_bias": True},
    {"value_embeddings": True, "num_layers": 3},
    {"sliding_window": 5, "num_layers": 3, "window_pattern": "SL"},
    {"d_model": 36, "num_heads": 6, "d_ff": 27, "vocab_size": 17},
]
SAMPLINGS = [Sampling(0.0), Sampling(1.0, seed=3), Sampling(0.8, top_k=5, seed=4), Sampling(1.2, top_p=0.7)]


def requests(vocab_size: int, count: int = 14) -> list[Sequence]:
    generator = np.random.default_rng(1)
    system = generator.integers(0, vocab_size, 40).tolist()
    found = []
    for i in range(count):
        prompt = generator.integers(0, vocab_size, generator.integers(1, 40)).tolist()
        prompt = system + prompt if i % 3 == 0 else prompt
        space = 90 - len(prompt)
        sampling = SAMPLINGS[i % len(SAMPLINGS)]
        found.append(Sequence(prompt, int(generator.integers(1, space + 1)), sampling, row=i % 3))
    return found


def alone(model, sequence: Sequence, **options) -> list[int]:
    """The ids of the same row of a batch of `generate`, without a stop."""
    rows = continue_prompts(
        model, [sequence.prompt] * (sequence.row + 1), sequence.max_tokens, sequence.sampling, **options
    )
    return rows[sequence.row]


@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_ids_are_those_of_generate(changes, quantize):
    model = build(**changes)
    sequences = requests(model.config.vocab_size)
    decoder = CpuSlots(weights_of(model), 4, threads=2, quantize=quantize)
    batch = decode_all(decoder, sequences)
    assert batch.cached_tokens > 0
    for sequence in sequences:
        assert sequence.ids == alone(model, sequence, quantize=quantize)


def test_logits_are_of_the_last_step():
    model = build()
    decoder = CpuSlots(weights_of(model), 3, threads=1)
    for slot, ids in ((2, [5, 6, 7]), (0, [1, 2])):
        decoder.fill([(slot, ids[:-1], 0)])
        decoder.start(slot, len(ids) - 1, ids[-1], Sampling(0.0), 0)
    chosen = decoder.step([0, 2])()
    assert [int(decoder.logits(slot).argmax()) for slot in (0, 2)] == chosen
    assert decoder.logits(0).shape == (61,)
    decoder.close()


def test_copies_longer_than_the_cache_are_rejected():
    decoder = CpuSlots(weights_of(build()), 2, threads=1)
    with pytest.raises(ValueError, match="exceed"):
        decoder.copy(0, 1, 91)
    decoder.close()
