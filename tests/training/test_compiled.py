"""The step is one graph, compiled once, and gives the same bits again. (Compiling takes most of the time.)"""

import numpy as np
import pytest
import torch

from lmfast.data.batch_ramp import BatchRamp
from lmfast.data.batches import Batches
from lmfast.model.config import ModelConfig
from lmfast.model.device import compile_blocker, make_deterministic
from lmfast.model.transformer import TransformerLM
from lmfast.training.compiled import CompiledLoss
from lmfast.training.objectives import NextToken

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 50,
    "context_length": 8,
    "d_model": 16,
    "num_layers": 1,
    "num_heads": 2,
    "dropout": 0.1,
}


@pytest.fixture(autouse=True)
def compiler():
    if reason := compile_blocker(CPU):
        pytest.skip(reason)
    make_deterministic(CPU)
    torch._dynamo.reset()


@pytest.mark.parametrize(("position", "separator"), [("rope", None), ("learned", 0), ("sinusoidal", 0)])
def test_a_step_with_every_option_is_one_graph_and_the_same_bits_twice(position, separator):
    """With evaluations between the steps, which switch the model's mode back and forth, and state set by sampling."""
    options = {"qk_norm": True, "value_embeddings": True, "logit_softcap": 15.0, "position": position}
    objective = NextToken(z_loss=1e-4, separator=separator)
    compiled = CompiledLoss(objective.loss)
    batch = np.random.default_rng(0).integers(0, 50, (4, 9))
    batch[:, 4] = 0  # with a separator, documents begin here

    def gradients():
        torch.manual_seed(1)
        model = TransformerLM(ModelConfig(**SHAPE, **options))
        for _ in range(3):
            with torch.no_grad():
                objective.loss(model.eval(), *objective.tensors(batch, CPU))
            model.restrict_to(range(40))
            loss = compiled(model.train(), *objective.tensors(batch, CPU))
            loss.backward()
        return [loss.detach(), *(p.grad for p in model.parameters())]

    first, second = gradients(), gradients()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(grad.abs().max() > 0 for grad in first if grad.ndim > 1)
    assert (compiled.graphs, compiled.recompiles) == (1, 0)


def test_a_batch_ramp_compiles_once():
    """1, 1, 2, 2, 3, 3 forward passes of 4 rows, taken from the loop's own batches."""
    objective = NextToken()
    compiled = CompiledLoss(objective.loss)
    model = TransformerLM(ModelConfig(**SHAPE))
    ramp = BatchRamp(rows=4, passes=3, start=1, steps=4)
    batches = Batches(np.arange(2000) % 50, ramp, context_length=8, seed=0)
    for step in range(6):
        passes = np.split(batches.step(step), ramp.passes_in(step))
        for rows in passes:
            compiled(model, *objective.tensors(rows, CPU)).backward()
    assert len(passes) == 3 and (compiled.graphs, compiled.recompiles) == (1, 0)


def test_another_shape_is_counted_and_a_graph_break_is_rejected():
    compiled = CompiledLoss(lambda x: (x * 2).sum())
    for length in (3, 3, 3, 5, 5, 3):
        assert compiled(torch.ones(length)) == 2 * length
    assert (compiled.graphs, compiled.recompiles) == (2, 1)
    broken = CompiledLoss(lambda x: x * 2 if x.sum() > 0 else x)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        broken(torch.ones(3))
