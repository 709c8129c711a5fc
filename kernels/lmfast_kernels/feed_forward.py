"""The SwiGLU feed-forward, down(silu(gate) · up) with gate and up in one projection; fused on a CPU.

In: x (..., D), up_weight (2F, D), the gate's rows first, down_weight (D, F). Out: (..., D). On a CPU in float32
(cpp/feed_forward.h) the hidden values stay in the L2 cache between the products, and only gate and up, 2F floats per
token, are saved for the backward, which recomputes the hidden values together with their gradient. Otherwise, and for
few rows without a gradient, it consists of three operators. Source: Shazeer 2020, arXiv:2002.05202.
"""

import torch
import torch.nn.functional as F

from lmfast_kernels.autograd import needs_gradient
from lmfast_kernels.cpu_library import call, uses_library
from lmfast_kernels.fp8_feed_forward import fp8_feed_forward
from lmfast_kernels.swiglu import swiglu

# Without a gradient. Processor time of the three operators relative to ours at 256 × 688, AVX2, 1 and 2 threads: 0.69 and
# 0.38 for 8 rows, 0.94 and 1.64 for 64, 1.04 and 1.12 for 2048.
MIN_ROWS = 64


def feed_forward_reference(
    x: torch.Tensor, up_weight: torch.Tensor, down_weight: torch.Tensor
) -> torch.Tensor:
    """The three operators: the oracle, and the implementation where the library is not used."""
    return F.linear(swiglu(*F.linear(x, up_weight).chunk(2, dim=-1)), down_weight)


@torch.library.custom_op("lmfast::cpu_feed_forward", mutates_args=())
def _forward(
    x: torch.Tensor, up_weight: torch.Tensor, down_weight: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(y, gate and up (..., 2F), empty without `with_gradient`)."""
    D, hidden = down_weight.shape
    y, both = _outputs(x, up_weight, with_gradient)
    if not hidden:
        y.zero_()
    elif x.numel():
        weights = (up_weight.contiguous(), down_weight.contiguous())
        saved = both if with_gradient else None
        call("feed_forward_forward", x.numel() // D, D, hidden, x.contiguous(), *weights, saved, y)
    return y, both


@_forward.register_fake
def _(x, up_weight, down_weight, with_gradient):
    return _outputs(x, up_weight, with_gradient)


def _outputs(
    x: torch.Tensor, up_weight: torch.Tensor, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uninitialised outputs of `_forward`."""
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], up_weight.shape[0]) if with_gradient else 0)


@torch.library.custom_op("lmfast::cpu_feed_forward_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    both: torch.Tensor,
    up_weight: torch.Tensor,
    down_weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(dx, dup_weight, ddown_weight)."""
    D, hidden = down_weight.shape
    dx = x.new_empty(x.shape)
    if not x.numel() or not hidden:
        return dx.zero_(), up_weight.new_zeros(up_weight.shape), down_weight.new_zeros(down_weight.shape)
    dup, ddown = up_weight.new_empty(up_weight.shape), down_weight.new_empty(down_weight.shape)
    call(
        "feed_forward_backward", x.numel() // D, D, hidden, dy.contiguous(), x.contiguous(), both,
        up_weight.contiguous(), down_weight.contiguous(), dx, dup, ddown,
    )  # fmt: skip
    return dx, dup, ddown


@_backward.register_fake
def _(dy, x, both, up_weight, down_weight):
    return (
        x.new_empty(x.shape),
        up_weight.new_empty(up_weight.shape),
        down_weight.new_empty(down_weight.shape),
    )


def _setup_context(ctx, inputs, output):
    x, up_weight, down_weight, _ = inputs
    ctx.save_for_backward(x, output[1], up_weight, down_weight)
    ctx.set_materialize_grads(False)


def _autograd(ctx, dy, _dboth):
    return *_backward(dy, *ctx.saved_tensors), None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def feed_forward(
    x: torch.Tensor, up_weight: torch.Tensor, down_weight: torch.Tensor, fp8: bool = False
) -> torch.Tensor:
    """down(silu(gate) · up) for x (..., D), up_weight (2F, D) with the gate's rows first, and down_weight (D, F). fp8:
    products in FP8 (fp8_feed_forward.py). Raises ValueError for inconsistent shapes."""
    D, hidden = down_weight.shape
    if x.shape[-1] != D or up_weight.shape != (2 * hidden, D):
        raise ValueError(
            f"feed_forward: up_weight {tuple(up_weight.shape)} must be (2F, D) and down_weight "
            f"{tuple(down_weight.shape)} (D, F) for x {tuple(x.shape)} = (..., D)"
        )
    if fp8:
        return fp8_feed_forward(x, up_weight, down_weight)
    tensors = x, up_weight, down_weight
    if uses_library(*tensors, min_rows=MIN_ROWS):
        return _forward(*tensors, needs_gradient(*tensors))[0]
    return feed_forward_reference(x, up_weight, down_weight)
