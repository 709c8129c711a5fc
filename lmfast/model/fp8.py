"""FP8 products while a model trains: which of its layers use them, and what a device needs for them.

In: a model, and the tokens of one forward pass. The feed-forward and the head are switched over; attention's
projections gain less than their casts cost at these widths. Weights stay fp32, checkpoints are the same, and a model in
eval mode (evaluation, generation) computes in bf16. A layer whose sizes are no multiples of 16 stays in bf16.
"""

import os

import torch

from lmfast.errors import UserError
from lmfast.model.transformer import TransformerLM
from lmfast_kernels.fp8_linear import CAPABILITY, MULTIPLE, fits_fp8

EMULATE = "LMFAST_FP8_EMULATE"
"""an environment variable: 1 lets other devices train with the same rounded values and products in fp64, for tests"""


def fp8_blocker(device: torch.device) -> str | None:
    """The reason why FP8 products cannot run on a device, or None."""
    needed = "{}.{} or higher".format(*CAPABILITY)
    if device.type != "cuda":
        if os.environ.get(EMULATE) == "1":
            return None
        return f"fp8 needs a GPU of compute capability {needed}, not {device.type}; leave --fp8 out"
    found = torch.cuda.get_device_capability(device)
    if found >= CAPABILITY:
        return None
    name = torch.cuda.get_device_name(device)
    return (
        f"fp8 needs a GPU of compute capability {needed}; {name} has {found[0]}.{found[1]}: leave --fp8 out"
    )


def use_fp8(model: TransformerLM, tokens: int) -> list[str]:
    """Switches a model's training to FP8; returns a line for each kind of layer that stays in bf16.

    tokens: of one forward pass. Raises UserError where nothing could use FP8.
    """
    config = model.config
    if not fits_fp8(tokens):
        raise UserError(
            f"fp8: a forward pass has {tokens} tokens, which is not a multiple of {MULTIPLE}; change batch_size or "
            "context_length"
        )
    sizes = {"feed-forward": config.ffn_hidden, "head": config.vocab_size}
    fits = {name: fits_fp8(config.d_model, size) for name, size in sizes.items()}
    if not any(fits.values()):
        raise UserError(
            f"fp8: neither the feed-forward ({config.d_model} × {config.ffn_hidden}) nor the head "
            f"({config.d_model} × {config.vocab_size}) has sizes that are multiples of {MULTIPLE}; leave --fp8 out"
        )
    for block in model.blocks:
        block.feed_forward.use_fp8(fits["feed-forward"])
    model.fp8_head = fits["head"]
    return [
        f"fp8: the {name} stays in bf16: {config.d_model} × {sizes[name]} are not multiples of {MULTIPLE}"
        for name in sizes
        if not fits[name]
    ]
