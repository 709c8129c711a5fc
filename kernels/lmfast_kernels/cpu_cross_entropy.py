"""linear_cross_entropy where a CPU trains in float32: three products of our own, logits that stay in the caches.

In: hidden (M, D), weight (V, D), targets (M,) int64. Out: (loss sum, dhidden, dweight) as linear_cross_entropy.py has
them; no softcap. 512 rows of logits at a time (cpp/cross_entropy.h), turned into their own gradient 28 rows at a time
in the L2 cache. A target outside the vocabulary gives a NaN loss.
"""

import torch

from lmfast_kernels.cpu_library import call

ONCE = "linear_cross_entropy can be differentiated once only; take F.cross_entropy of logits for more"


@torch.library.custom_op("lmfast::cpu_linear_cross_entropy", mutates_args=())
def cpu_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, ignore_index: int, z_loss: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss sum, its gradients of hidden and of weight)."""
    (rows, width), vocab = hidden.shape, weight.shape[0]
    losses, dhidden = hidden.new_empty(rows), hidden.new_empty(hidden.shape)
    if not rows:
        return losses.sum(), dhidden, torch.zeros_like(weight)
    dweight = weight.new_empty(weight.shape)
    call(
        "cross_entropy", rows, width, vocab, hidden.contiguous(), weight.contiguous(), targets.contiguous(),
        ignore_index, float(z_loss), losses, dhidden, dweight,
    )  # fmt: skip
    return losses.sum(), dhidden, dweight


@cpu_cross_entropy.register_fake
def _(hidden, weight, targets, ignore_index, z_loss):
    return hidden.new_empty(()), hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad, dhidden_grad, dweight_grad):
    if dhidden_grad is not None or dweight_grad is not None:
        raise RuntimeError(ONCE)
    if grad is None:
        return None, None, None, None, None
    dhidden, dweight = ctx.saved_tensors
    return dhidden * grad, dweight * grad, None, None, None


cpu_cross_entropy.register_autograd(_autograd, setup_context=_setup_context)
