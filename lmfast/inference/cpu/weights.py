"""What the C++ decoder reads of a model. Does not import torch."""

from dataclasses import dataclass

import numpy as np

from lmfast.model.config import ResolvedConfig


@dataclass(frozen=True)
class DecoderWeights:
    """A model's shape and arrays, all C-contiguous and fp32 but the ids."""

    config: ResolvedConfig
    tensors: dict[str, np.ndarray]
    """by the names of TransformerLM.named_weights(): a tied head has the name of the embedding"""
    rope: tuple[np.ndarray, np.ndarray]
    """cos and sin (context_length, head_dim / 2), as transformer.rope_tables"""
    unused_ids: np.ndarray | None = None
    """(n,) int64: ids that are never chosen"""
