"""The weights of a TransformerLM for the C++ decoder, without copying them."""

import torch

from lmfast.inference.cpu.weights import DecoderWeights, model_blocker
from lmfast.model.transformer import TransformerLM


def unsupported_reason(model: TransformerLM) -> str | None:
    """Why the decoder does not support this model in its present state; None if it does."""
    if model.sharded:
        return "its weights are sharded over several processes"
    if model.embedding.weight.device.type != "cpu":
        return "it is not on the CPU"
    if torch.is_autocast_enabled("cpu") or any(p.dtype != torch.float32 for p in model.parameters()):
        return "it does not compute in float32"
    if model.training and model.config.dropout:
        return "it is in training mode, with dropout"
    return model_blocker(model.config)


def weights_of(model: TransformerLM) -> DecoderWeights:
    """The arrays of a model on the CPU in fp32, which share its memory where that is contiguous."""
    sinusoids, unused = model.sinusoids, model.unused_ids
    return DecoderWeights(
        model.config,
        {name: weight.detach().contiguous().numpy() for name, weight in model.named_weights().items()},
        (model.rope_cos.numpy(), model.rope_sin.numpy()),
        None if sinusoids is None else sinusoids.numpy(),
        None if unused is None else unused.numpy(),
    )
