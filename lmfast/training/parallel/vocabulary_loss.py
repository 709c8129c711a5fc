"""Cross-entropy of a head that is split over the vocabulary. No rank ever has the logits of all ids.

In: hidden (tokens, D), the same on all ranks of a group; weight (V / ranks, D), the ids from `begin` on; targets (tokens,)
integers in [0, V) or ignore_index. Out: the summed loss of `lmfast_kernels.linear_cross_entropy`, the same on all ranks.
Differentiating it gives dweight of this rank's rows, and this rank's term of dhidden, which the caller sums
(TensorShards.enter).

Tokens are processed in chunks. A rank computes a chunk's logits of its own ids, and their logsumexp and the target's logit
if it has it; the ranks exchange these two numbers per token, one collective per chunk, and so know the logsumexp over all
ids, from which the gradients follow as in linear_cross_entropy.py. Products are in the autocast dtype, sums in float32.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lmfast.training.parallel.functional import gathered
from lmfast_kernels.autograd import needs_gradient, scale_gradients
from lmfast_kernels.backend import autocast_dtype, compute_dtype

CHUNK_BYTES = {"cpu": 8 * 2**20}
"""bytes of one chunk's logits in float32 by device type; linear_cross_entropy.py measured them for CPUs"""
GPU_CHUNK_BYTES = 256 * 2**20
"""large enough that a product fills a GPU and an exchange, of latency only, is a small part of the time of a chunk"""
MAX_COMPILED_CHUNKS = 8
"""the largest number of chunks in compiled code, which repeats the body for each"""


def chunk_rows(tokens: int, columns: int, device: torch.device) -> int:
    """Number of tokens in a chunk, for a rank with `columns` ids."""
    rows = max(1, CHUNK_BYTES.get(device.type, GPU_CHUNK_BYTES) // (4 * columns))
    if torch.compiler.is_compiling():
        rows = max(rows, -(-tokens // MAX_COMPILED_CHUNKS))
    return rows


def vocabulary_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    begin: int,
    size: int,
    group: str,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """Summed loss in nats of hidden (tokens, D), weight (V / size, D) and targets (tokens,); group: the name of a
    process group of `size` ranks."""
    counted = targets != ignore_index
    return _VocabularyLoss.apply(
        hidden,
        weight,
        torch.where(counted, targets, 0) - begin,
        counted,
        size,
        group,
        softcap,
        z_loss,
        autocast_dtype(hidden) or hidden.dtype,
        needs_gradient(hidden, weight),
    )


class _VocabularyLoss(torch.autograd.Function):
    """targets: relative to this rank's first id. Computes gradients in the forward; the backward only scales them."""

    @staticmethod
    def forward(
        ctx, hidden, weight, targets, counted, size, group, softcap, z_loss, product_dtype, with_gradient
    ):
        compute = compute_dtype(hidden.dtype)
        tokens, columns = hidden.shape[0], weight.shape[0]
        rows = chunk_rows(tokens, columns, hidden.device)
        product_weight = weight.to(product_dtype)
        loss = torch.zeros((), dtype=compute, device=hidden.device)
        dweight = torch.zeros_like(weight, dtype=compute) if with_gradient else None
        dhidden: list[Tensor] = []
        capped = None
        for start in range(0, tokens, rows):
            x = hidden[start : start + rows].to(product_dtype)
            keep = counted[start : start + rows]
            target = targets[start : start + rows]
            mine = (target >= 0) & (target < columns)
            at = torch.where(mine, target, 0).unsqueeze(1)
            logits = (x @ product_weight.t()).to(compute)
            if softcap is not None:
                capped = torch.tanh(logits / softcap)
                logits = softcap * capped
            chosen = torch.where(mine, logits.gather(1, at).squeeze(1), 0.0)
            both = gathered(torch.stack([logits.logsumexp(-1), chosen]), size, group)
            lse, chosen = both[:, 0].logsumexp(0), both[:, 1].sum(0)
            loss = loss + torch.where(keep, lse - chosen + z_loss * lse * lse, 0.0).sum()
            if dweight is None:
                continue
            factor = torch.where(keep, 1.0 + 2.0 * z_loss * lse, 0.0).unsqueeze(1)
            dlogits = torch.exp(logits - lse.unsqueeze(1)) * factor
            dlogits = dlogits.scatter_add(1, at, -(keep & mine).to(compute).unsqueeze(1))
            if capped is not None:
                dlogits = dlogits * (1.0 - capped * capped)
            dlogits = dlogits.to(product_dtype)
            dhidden.append((dlogits @ product_weight).to(hidden.dtype))
            if product_dtype == compute:
                dweight = torch.addmm(dweight, dlogits.t(), x)
            else:
                dweight = dweight + (dlogits.t() @ x).to(compute)
        if dweight is not None:
            whole = torch.cat(dhidden) if dhidden else torch.zeros_like(hidden)
            ctx.save_for_backward(whole, dweight.to(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable  # otherwise a second derivative would be wrong: the saved gradients are constants to autograd
    def backward(ctx, grad):
        return *scale_gradients(ctx.saved_tensors, grad), *[None] * 8
