"""A model whose layers are split over tensor ranks.

In: the shape of the whole model and the ranks. Out: a TransformerLM whose weights are this rank's parts (tensor_parts.py)
and whose sublayers communicate (tensor_shards.py). Its `config` stays that of the whole model.
"""

import torch
from torch import nn

from lmfast.model.config import ModelConfig
from lmfast.model.layers import FusedLinear, named_modules
from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.tensor_parts import own_shape, tensor_parts
from lmfast.training.parallel.tensor_shards import TensorShards, VocabularyEmbedding, VocabularyHead


def split_model(config: ModelConfig, ranks: Ranks) -> TransformerLM:
    """This rank's part of a model, on the meta device."""
    assert ranks.tensor_group is not None
    model = TransformerLM.without_memory(config)
    parts, size = tensor_parts(model, ranks.tensor_rank, ranks.tensor_size), ranks.tensor_size
    for name in parts:
        owner, _, own = name.rpartition(".")
        setattr(
            model.get_submodule(owner),
            own,
            nn.Parameter(torch.empty(own_shape(parts[name]), device="meta")),
        )
    for _, module in named_modules(model):
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Embedding):
            module.num_embeddings, module.embedding_dim = module.weight.shape
        if isinstance(module, FusedLinear):
            module.widths = [width // size for width in module.widths]
    shards = TensorShards(ranks.tensor_group.group_name, size)
    for block in model.blocks:
        block.shards = shards
        block.attention.num_heads //= size
        block.attention.num_kv_heads //= size
    begin = ranks.tensor_rank * (model.config.vocab_size // size)
    model.embedding = VocabularyEmbedding(model.embedding.weight, begin, shards)
    model.head = VocabularyHead(model.head.weight, begin, shards)
    if model.config.tie_embeddings:
        model.head.weight = model.embedding.weight
    return model


def allocate(model: TransformerLM, device: torch.device | str) -> None:
    """Allocates the weights of a model on the meta device, uninitialised, and fills its tables."""
    model.to_empty(device=device)
    if model.config.tie_embeddings:
        model.head.weight = model.embedding.weight  # to_empty has allocated both
    model.reset_tables()
