"""What several operators share about gradients: whether one is needed, attention's backward, and that of losses which
compute gradients in the forward.

`register_attention_backward` and `register_loss_backward` take a registered operator (`torch.library`) and register its
autograd formula. A loss operator saves the gradients of its inputs for an upstream gradient of 1; its backward only
scales them, so it can be differentiated once.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

ONCE = "linear_cross_entropy can be differentiated only once; use F.cross_entropy of logits for higher derivatives"


def needs_gradient(*tensors: torch.Tensor) -> bool:
    """Whether autograd records an operator on these tensors."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


class Differentiable(Protocol):
    """A registered operator without an autograd formula."""

    def register_autograd(
        self, backward: Callable[..., Any], /, *, setup_context: Callable[..., Any]
    ) -> None: ...


def register_attention_backward(
    forward: Differentiable, backward: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
) -> None:
    """forward: (q, k, v, document_ids, causal, scale, window) → (out, lse), of which lse carries no gradient; backward:
    (dout, q, k, v, out, lse, document_ids, causal, scale, window) → (dq, dk, dv)."""

    def setup_context(ctx, inputs, output):
        q, k, v, document_ids, ctx.causal, ctx.scale, ctx.window = inputs
        ctx.save_for_backward(q, k, v, *output, document_ids)
        ctx.set_materialize_grads(False)

    def autograd(ctx, dout, _dlse):
        if dout is None:
            return (None,) * 7
        grads = backward(dout, *ctx.saved_tensors, ctx.causal, ctx.scale, ctx.window)
        return *grads, None, None, None, None

    forward.register_autograd(autograd, setup_context=setup_context)


def register_loss_backward(operator: Differentiable, num_inputs: int) -> None:
    """operator: `num_inputs` inputs, the first two differentiable; outputs begin with the loss and end with the gradients
    of those two."""

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*output[-2:])
        ctx.set_materialize_grads(False)

    def autograd(ctx, grad, *other_grads):
        if any(other is not None for other in other_grads[-2:]):
            raise RuntimeError(ONCE)
        if grad is None:
            return (None,) * num_inputs
        return *scale_gradients(ctx.saved_tensors, grad), *[None] * (num_inputs - 2)

    operator.register_autograd(autograd, setup_context=setup_context)


def scale_gradients(gradients: tuple[torch.Tensor, ...], grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Saved gradients times the upstream gradient (a scalar), in their own dtypes."""
    return tuple((saved * grad).to(saved.dtype) for saved in gradients)
