import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.int8_perplexity import loss
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from tests.kernels.cpu_native import needs_decoder

pytestmark = needs_decoder


@torch.inference_mode()
def test_the_loss_is_the_models():
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(50, 16, d_model=64, num_layers=1, num_heads=2, d_ff=96)).eval()
    ids = torch.randint(0, 50, (3, 16))
    exact = F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    assert loss(model, ids.numpy(), None) == pytest.approx(exact, abs=1e-6)
    assert 0 < abs(loss(model, np.asarray(ids), "int8") - exact) < 1e-2
