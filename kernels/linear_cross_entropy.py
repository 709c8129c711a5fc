"""The output layer and its loss in one: cross-entropy of hidden @ weightᵀ, never holding tokens ×
vocabulary logits.

In: hidden (..., D), weight (V, D), targets integers (...); targets equal to ignore_index count for nothing,
others must lie in [0, V) (the data room checks ids; checking here would make the host wait for the device).
Out: (loss, count): the sum over counted tokens of −log softmax(logits)[target] + z_loss ·
logsumexp(logits)², float32 (float64 for float64 input), in nats, and the number of counted tokens, int64.
Mean loss is loss / count. softcap: logits become softcap · tanh(logits / softcap) first.

Rows are taken in chunks; each chunk's logits are turned into their own gradient while they are at hand, so
the backward only scales: three matrix products in all, none of them twice. Without a gradient to compute,
one product. Under autocast hidden and weight are cast to its dtype for the products; sums, loss and dweight
stay float32. Source: Wijmans et al. 2024 (arXiv:2411.09009) for the problem, Hsu et al. 2024
(arXiv:2410.10989) for gradients in the forward.

On CUDA one buffer of at most 256 MiB holds a chunk's logits in the products' dtype (a multiple of 256 rows:
2,560 at 50,304 words in bf16), a matrix product fills it, one kernel turns it in place into dlogits, two
more products read it; dweight accumulates in float32 inside its product. Nothing waits for the host. On
paper, 16,384 × 768 × 50,304 bf16: three products of 1.27 TFLOP, 3.8 ms at 989 TFLOP/s; the kernel reads and
writes every logit once more, 3.3 GB, 1.0 ms at 3.35 TB/s (its second reading of a row comes from cache);
dweight is read and written 7 times, 2.2 GB, 0.6 ms, within its product. 4.8 to 5.4 ms; 0.4 GB beside the
inputs.
"""

import torch
from torch.autograd.function import once_differentiable

from kernels.backend import (
    autocast_dtype,
    compute_dtype,
    jit,
    launch,
    no_autocast,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
)
from kernels.cpu_cross_entropy import ONCE, cpu_cross_entropy
from kernels.cpu_library import trains_here
from kernels.fp8_cross_entropy import fp8_cross_entropy
from kernels.fp8_linear import MULTIPLE, fits_fp8

# Off CUDA, bytes of one chunk's float32 logits, and the largest number of chunks (a compiled graph repeats
# the body for each). Measured at 2048 × 256 × 4096 float32, 2 threads, forward and backward compiled: 8 MiB
# 81.8 ms, 16 MiB 82.2, all rows at once 86.6, plain F.cross_entropy 89.2; eager 93.8, 114.3, 130.8, 114.3.
CHUNK_BYTES = 8 * 2**20
MAX_CHUNKS = 8

LOGITS_BYTES = 256 * 2**20  # on CUDA, the size of the one buffer of logits


def linear_cross_entropy_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same maths with all logits in memory and PyTorch's own derivatives: the oracle."""
    compute = compute_dtype(hidden.dtype)
    logits = (hidden.flatten(0, -2) @ weight.t()).to(compute)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    flat = targets.flatten()
    counted = flat != ignore_index
    lse = logits.logsumexp(-1)
    chosen = logits.gather(1, torch.where(counted, flat, 0).unsqueeze(1)).squeeze(1)
    loss = torch.where(counted, lse - chosen + z_loss * lse * lse, 0.0).sum()
    return loss, counted.sum()


class _ChunkedLoss(torch.autograd.Function):
    """Loss of hidden (M, D) in plain operations, gradients computed on the way; Inductor fuses each chunk's
    body.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, counted, softcap, z_loss, product_dtype, with_gradient):
        compute = compute_dtype(hidden.dtype)
        rows, vocab = hidden.shape[0], weight.shape[0]
        chunk = max(1, -(-rows // MAX_CHUNKS), CHUNK_BYTES // (4 * vocab))
        product_weight = weight.to(product_dtype)
        loss = torch.zeros((), dtype=compute, device=hidden.device)
        dweight = torch.zeros_like(weight, dtype=compute) if with_gradient else None
        dhidden = []
        for start in range(0, rows, chunk):
            x = hidden[start : start + chunk].to(product_dtype)
            keep = counted[start : start + chunk]
            target = targets[start : start + chunk].unsqueeze(1)
            logits = (x @ product_weight.t()).to(compute)
            if softcap is not None:
                capped = torch.tanh(logits / softcap)
                logits = softcap * capped
            lse = logits.logsumexp(-1)
            token_loss = lse - logits.gather(1, target).squeeze(1) + z_loss * lse * lse
            loss = loss + torch.where(keep, token_loss, 0.0).sum()
            if not with_gradient:
                continue
            factor = torch.where(keep, 1.0 + 2.0 * z_loss * lse, 0.0).unsqueeze(1)
            dlogits = torch.exp(logits - lse.unsqueeze(1)) * factor
            dlogits = dlogits.scatter_add(1, target, -keep.to(compute).unsqueeze(1))
            if softcap is not None:
                dlogits = dlogits * (1.0 - capped * capped)
            dlogits = dlogits.to(product_dtype)
            dhidden.append((dlogits @ product_weight).to(hidden.dtype))
            if product_dtype == compute:
                dweight = torch.addmm(dweight, dlogits.t(), x)
            else:
                dweight = dweight + (dlogits.t() @ x).to(compute)
        if with_gradient:
            ctx.save_for_backward(
                torch.cat(dhidden) if dhidden else torch.zeros_like(hidden), dweight.to(weight.dtype)
            )
        return loss

    @staticmethod
    @once_differentiable  # else twice would be silently wrong: the saved gradients are constants to autograd
    def backward(ctx, grad):
        dhidden, dweight = ctx.saved_tensors
        return (dhidden * grad).to(dhidden.dtype), (dweight * grad).to(dweight.dtype), *[None] * 6


@jit
def _loss_kernel(
    logits_ptr, targets_ptr, losses_ptr,  # (rows, row_stride), overwritten by dlogits; (rows,); (rows,)
    V, row_stride, ignore_index,
    SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, Z_LOSS: tl.constexpr, WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    acc = losses_ptr.dtype.element_ty
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * row_stride  # a multiple of 64 from V on: masked by it, loads stay 16 bytes wide
    target = tl.load(targets_ptr + row)
    within = (target >= 0) & (target < V)
    chosen = tl.load(logits_ptr + target, mask=within, other=float("nan")).to(acc)  # a wrong id shows as NaN
    if HAS_SOFTCAP:
        chosen = SOFTCAP * (2.0 * tl.sigmoid(2.0 * chosen / SOFTCAP) - 1.0)
    top = tl.full((), float("-inf"), acc)
    total = tl.zeros((), acc)
    for start in range(0, V, BLOCK):
        cols = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + cols, mask=cols < row_stride, other=0.0).to(acc)
        logits = tl.where(cols < V, logits, 0.0)  # beyond V the buffer holds anything
        if HAS_SOFTCAP:
            logits = SOFTCAP * (2.0 * tl.sigmoid(2.0 * logits / SOFTCAP) - 1.0)
        logits = tl.where(cols < V, logits, float("-inf"))
        new_top = tl.maximum(top, tl.max(logits, axis=0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(logits - new_top), axis=0)
        top = new_top
    lse = top + tl.log(total)
    counted = target != ignore_index
    tl.store(losses_ptr + row, tl.where(counted, lse - chosen + Z_LOSS * lse * lse, 0.0))
    if WITH_GRADIENT:
        factor = tl.where(counted, 1.0 + 2.0 * Z_LOSS * lse, 0.0)
        for start in range(0, V, BLOCK):
            cols = start + tl.arange(0, BLOCK)
            logits = tl.load(logits_ptr + cols, mask=cols < row_stride, other=0.0).to(acc)
            logits = tl.where(cols < V, logits, 0.0)
            if HAS_SOFTCAP:
                tanh = 2.0 * tl.sigmoid(2.0 * logits / SOFTCAP) - 1.0
                logits = SOFTCAP * tanh
            dlogits = tl.exp(logits - lse) * factor
            dlogits -= tl.where(counted & (cols == target), 1.0, 0.0).to(acc)
            if HAS_SOFTCAP:
                dlogits *= 1.0 - tanh * tanh
            tl.store(logits_ptr + cols, dlogits.to(logits_ptr.dtype.element_ty), mask=cols < row_stride)


def rows_per_chunk(rows: int, row_stride: int, itemsize: int) -> int:
    """How many rows of logits fit the buffer: a multiple of 256 where that many fit, at least one."""
    fitting = max(1, LOGITS_BYTES // (row_stride * itemsize))
    return min(rows, fitting if fitting < 256 else fitting // 256 * 256)


@register("linear_cross_entropy", opaque=True)  # products into one reused buffer: nothing for Inductor to see
def _loss(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    softcap: float | None,
    z_loss: float,
    product_dtype: torch.dtype,
    with_gradient: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss sum, count, dhidden, dweight) of hidden (M, D); the gradients are empty unless asked for."""
    (rows, width), vocab = hidden.shape, weight.shape[0]
    compute = compute_dtype(hidden.dtype)
    wanted = rows if with_gradient else 0
    dhidden = hidden.new_empty((wanted, width))
    dweight = torch.zeros((vocab if with_gradient else 0, width), dtype=compute, device=hidden.device)
    losses = torch.empty(rows, dtype=compute, device=hidden.device)
    targets = targets.contiguous()
    count = (targets != ignore_index).sum()
    if rows == 0:
        return losses.sum(), count, dhidden, dweight.to(weight.dtype)
    with no_autocast(hidden):
        product_weight = weight.to(product_dtype)
        row_stride = triton.cdiv(vocab, 64) * 64
        chunk = rows_per_chunk(rows, row_stride, product_dtype.itemsize)
        buffer = torch.empty((chunk, row_stride), dtype=product_dtype, device=hidden.device)
        for start in range(0, rows, chunk):
            stop = min(start + chunk, rows)
            x, logits = hidden[start:stop].to(product_dtype), buffer[: stop - start, :vocab]
            torch.mm(x, product_weight.t(), out=logits)
            launch(_loss_kernel)[(stop - start,)](
                logits, targets[start:stop], losses[start:stop], vocab, row_stride, ignore_index,
                SOFTCAP=softcap or 1.0, HAS_SOFTCAP=softcap is not None, Z_LOSS=z_loss,
                WITH_GRADIENT=with_gradient, BLOCK=min(4096, power_of_two(vocab)), num_warps=8,
            )  # fmt: skip
            if not with_gradient:
                continue
            if hidden.dtype == product_dtype:
                torch.mm(logits, product_weight, out=dhidden[start:stop])
            else:
                dhidden[start:stop] = logits @ product_weight
            if product_dtype == compute:
                dweight.addmm_(logits.t(), x)
            elif hidden.device.type == "cuda":
                torch.addmm(dweight, logits.t(), x, out_dtype=compute, out=dweight)
            else:  # the interpreter's CPU has no product that takes half and adds to float
                dweight.addmm_(logits.t().to(compute), x.to(compute))
        return losses.sum(), count, dhidden, dweight.to(weight.dtype)


@_loss.register_fake
def _(hidden, weight, targets, ignore_index, softcap, z_loss, product_dtype, with_gradient):
    dhidden = torch.empty_like(hidden) if with_gradient else hidden.new_empty((0, hidden.shape[1]))
    dweight = torch.empty_like(weight) if with_gradient else weight.new_empty((0, weight.shape[1]))
    loss = hidden.new_empty((), dtype=compute_dtype(hidden.dtype))
    return loss, targets.new_empty((), dtype=torch.int64), dhidden, dweight


def _setup_context(ctx, inputs, output):
    _, _, dhidden, dweight = output
    ctx.save_for_backward(dhidden, dweight)
    ctx.set_materialize_grads(False)


def _autograd(ctx, grad, _count, dhidden_grad, dweight_grad):
    if dhidden_grad is not None or dweight_grad is not None:
        raise RuntimeError(ONCE)
    dhidden, dweight = ctx.saved_tensors
    if grad is None:
        return (None,) * 8
    return (dhidden * grad).to(dhidden.dtype), (dweight * grad).to(dweight.dtype), *[None] * 6


_loss.register_autograd(_autograd, setup_context=_setup_context)


def _validate(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float | None
) -> None:
    if hidden.dim() < 2 or weight.dim() != 2 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy: hidden {tuple(hidden.shape)} must be (..., D) and "
            f"weight {tuple(weight.shape)} (V, D)"
        )
    if targets.shape != hidden.shape[:-1] or targets.is_floating_point():
        raise ValueError(
            f"linear_cross_entropy: targets {tuple(targets.shape)} {targets.dtype} must be integers of shape "
            f"{tuple(hidden.shape[:-1])}"
        )
    if softcap is not None and softcap <= 0:
        raise ValueError(f"linear_cross_entropy: softcap {softcap} must be positive, or None for no cap")


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
    fp8: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss sum, count of tokens). Raises ValueError on shapes that do not fit.

    fp8: products in FP8 (fp8_cross_entropy.py) where there are gradients to compute; rows, D and V must be multiples
    of 16.
    """
    _validate(hidden, weight, targets, softcap)
    product_dtype = autocast_dtype(hidden)
    if product_dtype is None:
        if hidden.dtype != weight.dtype:
            raise ValueError(
                f"linear_cross_entropy: hidden is {hidden.dtype}, weight {weight.dtype}; give both one dtype"
            )
        product_dtype = hidden.dtype
    flat = targets.flatten().long()
    with_gradient = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    if fp8 and with_gradient and hidden.numel():
        if not fits_fp8(flat.shape[0], *weight.shape):
            raise ValueError(
                f"linear_cross_entropy: fp8 needs multiples of {MULTIPLE}, not {flat.shape[0]} rows and weight "
                f"{tuple(weight.shape)}; use fp8=False"
            )
        loss = fp8_cross_entropy(
            hidden.flatten(0, -2), weight, flat, ignore_index, softcap, z_loss, product_dtype
        )
        return loss, (flat != ignore_index).sum()
    if use_triton("linear_cross_entropy", hidden):
        loss, count, _, _ = _loss(
            hidden.flatten(0, -2), weight, flat, ignore_index, softcap, z_loss, product_dtype, with_gradient
        )
        return loss, count
    counted = flat != ignore_index
    if softcap is None and trains_here(hidden, weight):
        loss, _, _ = cpu_cross_entropy(hidden.flatten(0, -2), weight, flat, ignore_index, z_loss)
        return loss, counted.sum()
    loss = _ChunkedLoss.apply(
        hidden.flatten(0, -2),
        weight,
        torch.where(counted, flat, 0),
        counted,
        softcap,
        z_loss,
        product_dtype,
        with_gradient,
    )
    return loss, counted.sum()
