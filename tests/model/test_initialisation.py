"""Weights drawn piece by piece equal those of a model built in memory, which have not changed."""

import pytest
import torch

from lmfast.model import initialisation
from lmfast.model.config import ModelConfig
from lmfast.model.initialisation import initialise, skip_construction
from lmfast.model.transformer import TransformerLM

SHAPE = {"vocab_size": 301, "context_length": 8, "d_model": 12, "num_layers": 2, "num_heads": 2, "d_ff": 20}
KINDS = [
    {},
    {"tie_embeddings": True, "zero_init": True},
    {"qkv_bias": True, "qk_norm": True, "position": "learned", "num_kv_heads": 1},
    {"num_experts": 3},
    {"value_embeddings": True, "ffn": "relu2", "norm": "none"},
]


def drawn(config: ModelConfig) -> dict[str, torch.Tensor]:
    """The weights of a model that was never in memory, put together from their pieces."""
    torch.manual_seed(3)
    model = TransformerLM.without_memory(config)
    whole = {name: torch.full(weight.shape, float("nan")) for name, weight in model.named_weights().items()}

    def place(name: str, begin: int, rows: torch.Tensor) -> None:
        whole[name][begin : begin + len(rows)] = rows

    skip_construction(model)
    initialise(model, model.config, place)
    return whole


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("chunk", [2**24, 50])
def test_pieces_equal_a_model_in_memory(changes, chunk, monkeypatch):
    monkeypatch.setattr(initialisation, "CHUNK", chunk)
    config = ModelConfig(**SHAPE | changes)
    pieces = drawn(config)
    after = torch.rand(1)
    torch.manual_seed(3)
    model = TransformerLM(config)
    assert torch.equal(torch.rand(1), after)  # the generator has advanced equally far
    torch.testing.assert_close(
        pieces, {k: v.detach() for k, v in model.named_weights().items()}, rtol=0, atol=0
    )


def test_no_piece_is_larger_than_a_chunk(monkeypatch):
    monkeypatch.setattr(initialisation, "CHUNK", 100)
    model = TransformerLM.without_memory(ModelConfig(**SHAPE))
    sizes: list[int] = []
    initialise(model, model.config, lambda _, __, rows: sizes.append(rows.numel()))
    assert max(sizes) <= 100 and sum(sizes) == sum(w.numel() for w in model.named_weights().values())
