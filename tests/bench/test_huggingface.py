"""The peer of training and generation computes what our model computes."""

import dataclasses

import pytest
import torch

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM

pytest.importorskip("transformers")
from bench.huggingface import llama

CONFIG = ModelConfig(64, 16, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48)


@pytest.mark.parametrize("tied", [False, True])
def test_equal_weights_give_equal_logits(tied):
    torch.manual_seed(0)
    model = TransformerLM(dataclasses.replace(CONFIG, tie_embeddings=tied))
    ids = torch.randint(0, 64, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(llama(model)(ids).logits, model(ids), rtol=1e-4, atol=1e-5)


def test_weights_are_copied():
    model = TransformerLM(CONFIG)
    theirs = llama(model)
    with torch.no_grad():
        theirs.lm_head.weight.zero_()
    assert model.head.weight.abs().sum() > 0


def test_different_shapes_are_rejected():
    with pytest.raises(ValueError, match="only the plain Llama shape"):
        llama(TransformerLM(dataclasses.replace(CONFIG, qk_norm=True)))
