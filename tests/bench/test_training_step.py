"""Both sides of a training bench do the same work."""

import numpy as np
import pytest
import torch

from bench.training_step import OurSteps, TheirSteps, zipf_ids
from lmfast.data.batches import Batches
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM

CPU = torch.device("cpu")
SHAPE = ModelConfig(64, 8, d_model=16, num_layers=2, num_heads=2, d_ff=24, tie_embeddings=True)


def test_frequencies_of_ids_resemble_those_of_words():
    ids = zipf_ids(100, 50_000)
    counts = np.bincount(ids, minlength=100)
    assert ids.dtype == np.uint16 and ids.max() < 100 and counts.min() > 0
    assert counts[0] / counts[99] == pytest.approx(109 / 10, rel=0.3)
    assert np.array_equal(ids, zipf_ids(100, 50_000))


def test_the_peer_takes_the_same_steps():
    """Same weights, batches, clipping and AdamW: after some steps the weights are still the same, to rounding."""
    pytest.importorskip("transformers")
    from bench.huggingface import llama
    from lmfast.interop.hugging_face import split_weights

    torch.manual_seed(0)
    model = TransformerLM(SHAPE)
    begin = model.embedding.weight.detach().clone()
    theirs = llama(model).train()
    batches = Batches(zipf_ids(64, 1000), 4, 8, seed=0)
    ours, peer = OurSteps(model, batches, CPU, 4, False), TheirSteps(theirs, batches, CPU, False)
    for steps in (1, 3):
        ours(steps)
        peer(steps)
    assert ours.progress.step == 4 and ours.last["train_loss"] > 0
    assert (model.embedding.weight - begin).abs().max() > 1e-5
    # AdamW moves a weight by the sign of a gradient near zero, so that rounding may show; only the peer decays norms.
    matrices = {name: weight for name, weight in split_weights(model).items() if weight.ndim == 2}
    for name, weight in matrices.items():
        close = (weight - theirs.state_dict()[name]).abs() < 2e-6
        assert close.float().mean() > 0.99, name


def test_steps_in_fp8():
    torch.manual_seed(0)
    shape = ModelConfig(vocab_size=64, context_length=8, d_model=16, num_layers=1, num_heads=2, d_ff=32)
    losses = []
    for fp8 in (False, True):
        torch.manual_seed(0)
        batches = Batches(zipf_ids(64, 1000), 4, 8, seed=0)
        take = OurSteps(TransformerLM(shape), batches, CPU, 4, False, fp8=fp8)
        take(1)
        losses.append(take.last["train_loss"])
    assert losses[0] != losses[1] and abs(losses[0] - losses[1]) < 0.1
