"""A model split over tensor ranks has the loss and the gradients of the whole model, for every option of its shape."""

import sys
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.objectives import IGNORE, NextToken, sequence_log_probs
from lmfast.training.parallel.gradients import Gradients
from lmfast.training.parallel.pieces import cut, fused_widths, tensor_piece
from lmfast.training.parallel.tensor_model import allocate, split_model
from lmfast.training.parallel.tensor_parts import in_whole, tensor_parts
from tests.training.forked_runs import on_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")

SHAPE = {"vocab_size": 64, "context_length": 16, "d_model": 16, "num_layers": 2, "num_heads": 4, "d_ff": 24}
CASES = [
    {},
    {"tie_embeddings": True, "logit_softcap": 5.0, "dropout": 0.2},
    {"qk_norm": True, "qkv_bias": True, "num_kv_heads": 2, "value_embeddings": True, "parallel_block": True},
    {"norm": "post", "ffn": "relu2", "position": "learned"},
    {"norm": "none", "ffn": "silu", "position": "sinusoidal", "head_dim": 6, "sliding_window": 4},
]


class Collectives(TorchDispatchMode):
    """Counts collectives."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if "c10d" in name and "wait_tensor" not in name:
            self.seen[name.rpartition("::")[2]] += 1
        return func(*args, **(kwargs or {}))


def whole_model(case) -> TransformerLM:
    """With norms and biases that are not all equal."""
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(**SHAPE, **case))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1 or p.shape[1] == 1:
                p.add_(0.3 * torch.randn(p.shape))
    return model


def parts_of(tensors, model, ranks):
    """{name of a piece: (part of the whole tensor, this rank's part)}; tensors: (whole, own) by the name of a weight."""
    whole = TransformerLM.without_memory(model.config)
    widths, own_widths = fused_widths(whole), fused_widths(model)
    parts = tensor_parts(whole, ranks.tensor_rank, ranks.tensor_size)
    found = {}
    for name, (theirs, own) in tensors.items():
        matrices = dict(enumerate(theirs.split(widths.get(name, [len(theirs)]))))
        for piece in in_whole(cut(tensor_piece(name, own), own_widths.get(name, ())), parts):
            matrix = matrices[int(piece.name.rpartition("/")[2]) if "/" in piece.name else 0]
            assert matrix.shape == piece.shape
            rectangle = tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.tensor.shape, strict=True))
            found[piece.name] = matrix[rectangle], piece.tensor
    return found


def own_model(whole, ranks) -> TransformerLM:
    """This rank's part of a model."""
    model = split_model(whole.config, ranks)
    allocate(model, "cpu")
    own = model.named_weights()
    pairs = {name: (weight.detach(), own[name].detach()) for name, weight in whole.named_weights().items()}
    for theirs, ours in parts_of(pairs, model, ranks).values():
        ours.copy_(theirs)
    return model


def batch():
    torch.manual_seed(1)
    ids = torch.randint(64, (3, 17))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[0, :3] = IGNORE
    return inputs, targets


def loss_and_gradients(model, document_ids=None):
    inputs, targets = batch()
    torch.manual_seed(2)  # dropout
    loss = NextToken(z_loss=0.01).loss(model.train(), inputs, targets, None, document_ids)
    loss.backward()
    return loss.detach()


def compare(ranks, case, packed):
    ranks = ranks.in_tensor_groups(ranks.world_size)
    whole = whole_model(case)
    model = own_model(whole, ranks)
    assert model.blocks[0].attention.qkv.widths == [
        n // ranks.tensor_size for n in whole.blocks[0].attention.qkv.widths
    ]
    documents = (batch()[0] % 5 == 0).cumsum(1) if packed else None
    loss = loss_and_gradients(whole, documents)
    with Collectives() as collectives:
        own_loss = loss_and_gradients(model, documents)
    torch.testing.assert_close(own_loss, loss, rtol=1e-6, atol=0)
    total = torch.nn.utils.get_total_norm([p.grad for p in whole.parameters()])
    norm, agreed = Gradients(dict(model.named_parameters()), ranks).norm(own_loss)
    torch.testing.assert_close(norm, total, rtol=1e-5, atol=0)
    torch.testing.assert_close(agreed, loss, rtol=1e-6, atol=0)
    own = dict(model.named_parameters())
    grads = {name: (p.grad, own[name].grad) for name, p in whole.named_parameters()}
    for theirs, ours in parts_of(grads, model, ranks).values():
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6 * float(theirs.abs().max()))
    inputs, targets = batch()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(inputs), whole.eval()(inputs), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            sequence_log_probs(model, inputs, targets), sequence_log_probs(whole, inputs, targets)
        )
    sizes = [sum(p.numel() for p in m.parameters()) for m in (model, whole)]
    return collectives.seen, sizes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2])
def test_loss_and_gradients_equal_those_of_the_whole_model(tmp_path, case, size):
    results = on_ranks(compare, tmp_path, size, case, case.get("position", "rope") in ("rope", "learned"))
    sublayers = SHAPE["num_layers"] * (1 if case.get("parallel_block") else 2)
    # Forward: embedding and sublayers; backward: sublayers and head; one exchange in the loss.
    assert results[0][0] == {"all_reduce": 2 * sublayers + 2, "all_gather_into_tensor": 1}
