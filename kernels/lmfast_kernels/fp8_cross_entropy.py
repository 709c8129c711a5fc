"""The output layer and its loss with FP8 products, for training: `linear_cross_entropy(..., fp8=True)`.

In: hidden (M, D), weight (V, D), targets (M,) int64; M, D and V multiples of 16. Out: the loss sum as
in linear_cross_entropy; gradients are computed in the forward, as there. hidden and weight are e4m3 with
tensorwise dynamic scales (fp8_linear.py), and their product is rounded to the autocast dtype. dlogits are e5m2 with the
fixed scale 2¹⁴, because they are in [−1, 1] (times 1 + 2 · z_loss · logsumexp): this needs no pass for the maximum, and
2⁻³⁰ is the smallest probability represented. dweight is summed in float32.

On CUDA the rows pass through one buffer of 16-bit logits of 64 MiB: a product fills it, one kernel computes each row's
logsumexp and loss, and another writes dlogits twice, for dhidden and transposed for dweight, 1 byte each, because FP8
products need the summed dimension dense. These two buffers, 512 MiB each, hold several chunks, so that their
products fill the device and dweight is accumulated only a few times. Nothing synchronises with the host.
Costs: docs/kernels.md.
"""

import torch
from torch.autograd.function import once_differentiable

from lmfast_kernels.autograd import scale_gradients
from lmfast_kernels.backend import compute_dtype, jit, launch, power_of_two, register, tl, triton, use_triton
from lmfast_kernels.fp8_cast import round_fp8
from lmfast_kernels.fp8_linear import E4M3, E5M2, fp8_mm, fp8_mm_reference, to_fp8, transposed

DLOGITS_SCALE = 2.0**14
DLOGITS_LIMIT = torch.finfo(E5M2).max
LOGITS_BYTES = 64 * 2**20  # the buffer of one chunk's logits
DLOGITS_BYTES = 512 * 2**20  # each of the two buffers of dlogits
TILE = 128  # chunks are multiples of this number of rows, the tile of the products
ROWS, COLS, WARPS = 64, 128, 8  # tile and warps of a program that writes dlogits


def fp8_cross_entropy_reference(
    hidden8: torch.Tensor,
    hidden_inverse: torch.Tensor,
    weight8: torch.Tensor,
    weight_inverse: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    softcap: float | None,
    z_loss: float,
    dtypes: tuple[torch.dtype, torch.dtype, torch.dtype],  # of logits, dhidden, dweight
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss sum, dhidden, dweight) with all logits in memory and products in float64: the oracle, and the emulation on
    other devices than CUDA.
    """
    logits_dtype, hidden_dtype, weight_dtype = dtypes
    logits = fp8_mm_reference(hidden8, hidden_inverse, weight8, weight_inverse, logits_dtype)
    logits = logits.to(compute_dtype(logits_dtype))
    capped = None
    if softcap is not None:
        capped = torch.tanh(logits / softcap)
        logits = softcap * capped
    counted = targets != ignore_index
    target = torch.where(counted, targets, 0).unsqueeze(1)
    lse = logits.logsumexp(-1)
    token_loss = lse - logits.gather(1, target).squeeze(1) + z_loss * lse * lse
    loss = torch.where(counted, token_loss, 0.0).sum()
    factor = torch.where(counted, 1.0 + 2.0 * z_loss * lse, 0.0).unsqueeze(1)
    dlogits = torch.exp(logits - lse.unsqueeze(1)) * factor
    dlogits = dlogits.scatter_add(1, target, -counted.to(dlogits.dtype).unsqueeze(1))
    if capped is not None:
        dlogits = dlogits * (1.0 - capped * capped)
    dlogits8 = (dlogits * DLOGITS_SCALE).clamp(-DLOGITS_LIMIT, DLOGITS_LIMIT).to(E5M2)
    inverse = torch.full((), 1.0 / DLOGITS_SCALE, device=targets.device)
    dhidden = fp8_mm_reference(dlogits8, inverse, transposed(weight8), weight_inverse, hidden_dtype)
    dweight = fp8_mm_reference(
        transposed(dlogits8), inverse, transposed(hidden8), hidden_inverse, weight_dtype
    )
    return loss, dhidden, dweight


@jit
def _row_kernel(
    logits_ptr, targets_ptr, lse_ptr, losses_ptr,  # (rows, V); (rows,) each
    V, ignore_index,
    SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, Z_LOSS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * V
    target = tl.load(targets_ptr + row)
    within = (target >= 0) & (target < V)
    chosen = tl.load(logits_ptr + target, mask=within, other=float("nan")).to(tl.float32)
    if HAS_SOFTCAP:
        chosen = SOFTCAP * (2.0 * tl.sigmoid(2.0 * chosen / SOFTCAP) - 1.0)
    top = tl.full((BLOCK,), -1e30, tl.float32)  # per lane; finite, so that no lane subtracts infinities
    total = tl.zeros((BLOCK,), tl.float32)
    for start in tl.range(0, V, BLOCK, num_stages=3):
        cols = start + tl.arange(0, BLOCK)
        logits = tl.load(logits_ptr + cols, mask=cols < V, other=0.0).to(tl.float32)
        if HAS_SOFTCAP:
            logits = SOFTCAP * (2.0 * tl.sigmoid(2.0 * logits / SOFTCAP) - 1.0)
        logits = tl.where(cols < V, logits, float("-inf"))
        new_top = tl.maximum(top, logits)
        total = total * tl.exp(top - new_top) + tl.exp(logits - new_top)
        top = new_top
    row_top = tl.max(top, axis=0)
    lse = row_top + tl.log(tl.sum(total * tl.exp(top - row_top), axis=0))
    tl.store(lse_ptr + row, lse)
    counted = target != ignore_index
    tl.store(losses_ptr + row, tl.where(counted, lse - chosen + Z_LOSS * lse * lse, 0.0))


@jit
def _dlogits(
    logits, lse, factor, subtracted,
    SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, Z_LOSS: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """(softmax · factor − subtracted) · derivative of the cap, clamped to LIMIT; NaN is preserved."""
    if HAS_SOFTCAP:
        tanh = 2.0 * tl.sigmoid(2.0 * logits / SOFTCAP) - 1.0
        dlogits = (tl.exp(SOFTCAP * tanh - lse) * factor - subtracted) * (1.0 - tanh * tanh)
    else:
        dlogits = tl.exp(logits - lse) * factor - subtracted
    if Z_LOSS > 0:  # otherwise factor is at most SCALE, well within LIMIT
        dlogits = tl.where(dlogits > LIMIT, LIMIT, tl.where(dlogits < -LIMIT, -LIMIT, dlogits))
    return dlogits


@jit
def _dlogits_kernel(
    logits_ptr, targets_ptr, lse_ptr,  # (rows, V), (rows,), (rows,)
    dlogits_ptr, transposed_ptr,  # e5m2 (rows, V) and (V, rows) with rows `transposed_stride` apart
    rows, V, transposed_stride, ignore_index,
    SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, Z_LOSS: tl.constexpr, SCALE: tl.constexpr,
    LIMIT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    first_col = tl.program_id(0) * COLS
    col = first_col + tl.arange(0, COLS)
    mask = (row < rows)[:, None] & (col < V)[None, :]
    offsets = row[:, None] * V + col[None, :]  # the buffers are far smaller than 2³¹
    target = tl.load(targets_ptr + row, mask=row < rows, other=0)
    lse = tl.load(lse_ptr + row, mask=row < rows, other=0.0)
    counted = target != ignore_index
    factor = tl.where(counted, SCALE * (1.0 + 2.0 * Z_LOSS * lse), 0.0)
    logits = tl.load(logits_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    dlogits = _dlogits(logits, lse[:, None], factor[:, None], 0.0, SOFTCAP, HAS_SOFTCAP, Z_LOSS, LIMIT)
    rounded = round_fp8(dlogits, dlogits_ptr.dtype.element_ty)
    tl.store(dlogits_ptr + offsets, rounded, mask=mask)
    across = col[:, None] * transposed_stride + row[None, :]
    tl.store(transposed_ptr + across, tl.trans(rounded), mask=(col < V)[:, None] & (row < rows)[None, :])
    # Rewrites the targets' elements, of which a tile has few: comparing every column with its row's target would take a
    # third of the tile's arithmetic.
    here = counted & (row < rows) & (target >= first_col) & (target < first_col + COLS)
    place = tl.where(here, target, 0).to(tl.int32)
    logits = tl.load(logits_ptr + row * V + place, mask=here, other=0.0).to(tl.float32)
    dlogits = _dlogits(logits, lse, factor, SCALE, SOFTCAP, HAS_SOFTCAP, Z_LOSS, LIMIT)
    rounded = dlogits.to(dlogits_ptr.dtype.element_ty)
    tl.debug_barrier()  # after the stores of the tile
    tl.store(dlogits_ptr + row * V + place, rounded, mask=here)
    tl.store(transposed_ptr + place * transposed_stride + row, rounded, mask=here)


def rows_within(limit: int, rows: int, row_bytes: int) -> int:
    """The number of rows that fit in `limit` bytes: a multiple of TILE, at least one tile, at most all."""
    return min(rows, max(1, limit // (row_bytes * TILE)) * TILE)


@register("fp8_cross_entropy", opaque=True)  # products into reused buffers: Inductor has nothing to fuse
def _loss(
    hidden8: torch.Tensor,  # (M, D)
    hidden8t: torch.Tensor,  # (D, M)
    hidden_inverse: torch.Tensor,
    weight8: torch.Tensor,  # (V, D)
    weight8t: torch.Tensor,  # (D, V)
    weight_inverse: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    softcap: float | None,
    z_loss: float,
    logits_dtype: torch.dtype,
    hidden_dtype: torch.dtype,
    weight_dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss sum, dhidden, dweight)."""
    (rows, width), vocab, device = hidden8.shape, weight8.shape[0], hidden8.device
    chunk = rows_within(LOGITS_BYTES, rows, vocab * logits_dtype.itemsize)
    group = min(rows, max(1, rows_within(DLOGITS_BYTES, rows, vocab) // chunk) * chunk)
    logits = torch.empty((chunk, vocab), dtype=logits_dtype, device=device)
    dlogits = torch.empty((group, vocab), dtype=E5M2, device=device)
    across = torch.empty((vocab, group), dtype=E5M2, device=device)
    losses, lse = (torch.empty(rows, dtype=torch.float32, device=device) for _ in range(2))
    dhidden = torch.empty((rows, width), dtype=hidden_dtype, device=device)
    inverse = torch.full((), 1.0 / DLOGITS_SCALE, device=device)
    cap = {"SOFTCAP": softcap or 1.0, "HAS_SOFTCAP": softcap is not None, "Z_LOSS": z_loss}
    dweight = None
    for first in range(0, rows, group):
        end = min(first + group, rows)
        for start in range(first, end, chunk):
            stop = min(start + chunk, end)
            few, here = stop - start, slice(start, stop)
            inside = slice(start - first, stop - first)
            fp8_mm(
                hidden8[here], hidden_inverse, weight8, weight_inverse, logits_dtype, True, out=logits[:few]
            )
            launch(_row_kernel)[(few,)](
                logits, targets[here], lse[here], losses[here], vocab, ignore_index, **cap,
                BLOCK=min(2048, power_of_two(vocab)), num_warps=8,
            )  # fmt: skip
            launch(_dlogits_kernel)[(triton.cdiv(vocab, COLS), triton.cdiv(few, ROWS))](
                logits, targets[here], lse[here], dlogits[inside], across[:, inside], few, vocab, group,
                ignore_index, **cap, SCALE=DLOGITS_SCALE, LIMIT=DLOGITS_LIMIT, ROWS=ROWS, COLS=COLS, num_warps=WARPS,
            )  # fmt: skip
        many, these = end - first, slice(first, end)
        fp8_mm(dlogits[:many], inverse, weight8t, weight_inverse, hidden_dtype, False, out=dhidden[these])
        part = fp8_mm(across[:, :many], inverse, hidden8t[:, these], hidden_inverse, torch.float32, False)
        dweight = part if dweight is None else dweight.add_(part)
    assert dweight is not None, "no rows"
    return losses.sum(), dhidden, dweight.to(weight_dtype)


@_loss.register_fake
def _(hidden8, hidden8t, hidden_inverse, weight8, weight8t, weight_inverse, targets, ignore_index, softcap,
      z_loss, logits_dtype, hidden_dtype, weight_dtype):  # fmt: skip
    dhidden = hidden8.new_empty(hidden8.shape, dtype=hidden_dtype)
    dweight = weight8.new_empty(weight8.shape, dtype=weight_dtype)
    return hidden_inverse.new_empty(()), dhidden, dweight


class _Fp8Loss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, targets, ignore_index, softcap, z_loss, logits_dtype):
        hidden8, hidden_inverse = to_fp8(hidden, E4M3)
        weight8, weight_inverse = to_fp8(weight, E4M3)
        options = (targets, ignore_index, softcap, z_loss)
        dtypes = (logits_dtype, hidden.dtype, weight.dtype)
        if use_triton("linear_cross_entropy", hidden):
            across = transposed(hidden8), hidden_inverse, weight8, transposed(weight8), weight_inverse
            loss, dhidden, dweight = _loss(hidden8, *across, *options, *dtypes)
        else:
            loss, dhidden, dweight = fp8_cross_entropy_reference(
                hidden8, hidden_inverse, weight8, weight_inverse, *options, dtypes
            )
        ctx.save_for_backward(dhidden, dweight)
        return loss

    @staticmethod
    @once_differentiable  # otherwise a second derivative would be wrong: the saved gradients are constants to autograd
    def backward(ctx, grad):
        return *scale_gradients(ctx.saved_tensors, grad), *[None] * 5


def fp8_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    softcap: float | None,
    z_loss: float,
    logits_dtype: torch.dtype,
) -> torch.Tensor:
    """The loss sum for hidden (M, D), weight (V, D), targets (M,); can be differentiated once."""
    return _Fp8Loss.apply(hidden, weight, targets, ignore_index, softcap, z_loss, logits_dtype)
