"""FP8 training: which layers of a model use FP8 products, and which devices support them.

Applies to feed-forward and head; for the projections of attention, casting costs more than FP8 saves at these widths.
Weights stay fp32, checkpoints do not change, and a model in eval mode (evaluation, generation) computes in bf16. Layers
whose sizes are not multiples of 16 stay in bf16.
"""

import os

import torch

from lmfast.errors import UserError
from lmfast.model.layers import FeedForward
from lmfast.model.transformer import TransformerLM
from lmfast_kernels.fp8_linear import CAPABILITY, MULTIPLE, fits_fp8

EMULATE = "LMFAST_FP8_EMULATE"
"""environment variable; 1 emulates FP8 on other devices with rounded values and fp64 products, for tests"""


def fp8_blocker(device: torch.device) -> str | None:
    """Why FP8 products do not work on a device, or None."""
    needed = "{}.{} or higher".format(*CAPABILITY)
    if device.type != "cuda":
        if os.environ.get(EMULATE) == "1":
            return None
        return f"fp8 needs a GPU of compute capability {needed}, not {device.type}; remove --fp8"
    found = torch.cuda.get_device_capability(device)
    if found >= CAPABILITY:
        return None
    name = torch.cuda.get_device_name(device)
    return (
        f"fp8 needs a GPU of compute capability {needed}, but {name} has {found[0]}.{found[1]}; remove --fp8"
    )


def use_fp8(model: TransformerLM, tokens: int) -> list[str]:
    """Switches a model to FP8 training; returns one line for each kind of layer that stays in bf16.

    tokens: tokens per forward pass. Raises UserError if no layer can use FP8.
    """
    config = model.config
    if not fits_fp8(tokens):
        raise UserError(
            f"fp8: the {tokens} tokens of a forward pass are not a multiple of {MULTIPLE}; change batch_size or "
            "context_length"
        )
    sizes = {"feed-forward": config.ffn_hidden, "head": config.vocab_size}
    fits = {name: fits_fp8(config.d_model, size) for name, size in sizes.items()}
    if not any(fits.values()):
        raise UserError(
            f"fp8: neither the feed-forward ({config.d_model} × {config.ffn_hidden}) nor the head "
            f"({config.d_model} × {config.vocab_size}) has sizes that are multiples of {MULTIPLE}; remove --fp8"
        )
    for block in model.blocks:
        if isinstance(block.feed_forward, FeedForward):  # experts are rejected with the settings
            block.feed_forward.use_fp8(fits["feed-forward"])
    model.head.fp8 = fits["head"]
    return [
        f"fp8: the {name} stays in bf16, because {config.d_model} × {sizes[name]} are not multiples of {MULTIPLE}"
        for name in sizes
        if not fits[name]
    ]
