"""linear_cross_entropy for training in float32 on a CPU: three products in C++ whose logits stay in the caches.

In: hidden (M, D), weight (V, D), targets (M,) int64. Out: (loss sum, dhidden, dweight) as in linear_cross_entropy.py;
no softcap. Processes 512 rows of logits at a time (cpp/cross_entropy.h) and replaces them by their gradient 28 rows at a
time in the L2 cache. A target outside the vocabulary gives a NaN loss.
"""

import torch

from lmfast_kernels.autograd import register_loss_backward
from lmfast_kernels.cpu_library import call


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


register_loss_backward(cpu_cross_entropy, num_inputs=5)
