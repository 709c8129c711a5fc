import numpy as np
import torch
import torch.nn.functional as F

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.objectives import IGNORE, NextToken

CPU = torch.device("cpu")


def test_next_token_loss_is_the_sum_over_valid_targets():
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(vocab_size=20, context_length=6, d_model=16, num_layers=1, num_heads=2))
    batch = np.random.default_rng(0).integers(0, 20, (3, 7))
    batch[2, 4:] = IGNORE
    objective = NextToken()
    inputs, targets = objective.tensors(batch, CPU)
    assert inputs.shape == targets.shape == (3, 6) and inputs.min() >= 0
    expected = F.cross_entropy(
        model(inputs).flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=IGNORE
    )
    torch.testing.assert_close(objective.loss(model, inputs, targets), expected)
    assert objective.valid_tokens(batch) == 15


def test_z_loss_and_softcap_reach_the_kernel_and_z_loss_only_in_training():
    torch.manual_seed(0)
    shape = {"vocab_size": 20, "context_length": 6, "d_model": 16, "num_layers": 1, "num_heads": 2}
    model = TransformerLM(ModelConfig(**shape, logit_softcap=1.5))
    batch = np.random.default_rng(0).integers(0, 20, (3, 7))
    inputs, targets = NextToken().tensors(batch, CPU)
    logits = model(inputs)
    plain = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    objective = NextToken(z_loss=0.1)
    torch.testing.assert_close(
        objective.loss(model, inputs, targets), plain + 0.1 * logits.logsumexp(-1).square().sum()
    )
    torch.testing.assert_close(objective.loss(model.eval(), inputs, targets), plain)
