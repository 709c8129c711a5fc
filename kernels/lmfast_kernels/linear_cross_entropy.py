"""The output layer and its loss: cross-entropy of hidden @ weightᵀ without storing tokens × vocabulary logits.

In: hidden (..., D), weight (V, D), targets integers (...); targets equal to ignore_index are not counted, others must be
in [0, V) (checking them here would synchronise host and device; data loading checks ids). Out: (loss, count): the sum
over counted tokens of −log softmax(logits)[target] + z_loss · logsumexp(logits)², float32 (float64 for float64 input),
in nats, and the number of counted tokens, int64. softcap: logits become softcap · tanh(logits / softcap) first.

Each chunk of rows computes its logits and then their gradient, so that the backward only scales: three matrix products,
or one if no gradient is needed. Under autocast the products use its dtype; sums, loss and dweight are float32.
On CUDA one buffer holds a chunk's logits (`rows_per_chunk`): a product fills it, a kernel replaces it by dlogits in
place, and two products read it, of which dweight's accumulates in float32. Nothing synchronises with the host. A fixed
number of programs iterates over the rows, few enough for their rows to fit the L2 cache when they are read again.
Costs and precision: docs/kernels.md. Sources: Wijmans et al. 2024 (arXiv:2411.09009) for the problem, Hsu et al. 2024
(arXiv:2410.10989) for gradients in the forward.
"""

import torch
from torch.autograd.function import once_differentiable

from lmfast_kernels.autograd import needs_gradient, register_loss_backward, scale_gradients
from lmfast_kernels.backend import (
    autocast_dtype,
    compute_dtype,
    jit,
    launch,
    no_autocast,
    num_sms,
    power_of_two,
    register,
    tl,
    triton,
    use_triton,
)
from lmfast_kernels.cpu_cross_entropy import MIN_ROWS, cpu_cross_entropy
from lmfast_kernels.cpu_library import uses_library
from lmfast_kernels.fp8_cross_entropy import fp8_cross_entropy
from lmfast_kernels.fp8_linear import MULTIPLE, fits_fp8
from lmfast_kernels.tuning import tuned

# Without CUDA: bytes of one chunk's float32 logits, and the largest number of chunks (a compiled graph repeats
# the body for each). Measured at 2048 × 256 × 4096 float32, 2 threads, forward and backward compiled: 8 MiB
# 81.8 ms, 16 MiB 82.2, all rows at once 86.6, plain F.cross_entropy 89.2; eager 93.8, 114.3, 130.8, 114.3.
CHUNK_BYTES = 8 * 2**20
MAX_CHUNKS = 8

# On CUDA: the bounds of the buffer of logits, see logits_bytes. dweight is read and written once per chunk, 309 MB or
# 0.1 ms at 50,304 × 768, while the three products of 2,816 rows take about 1 ms.
LOGITS_BYTES = 384 * 2**20
LARGEST_LOGITS_BYTES = 2**30
TILE = 128  # rows and columns of the tile that cuBLAS is assumed to use
RESIDENT_BYTES = 28 * 10**6  # of L2, which has 40 MB on an A100 and 50 MB on an H100

# For a sweep on a device, with `lmfast_kernels.tuning.use_config("loss", **candidate)`; rows per chunk with
# `use_config("loss chunks", ROWS=rows)`.
LOSS_CANDIDATES = (
    {"PER_SM": 2, "BLOCK": 4096, "STAGES": 3, "num_warps": 8},
    {"PER_SM": 2, "BLOCK": 4096, "STAGES": 4, "num_warps": 8},
    {"PER_SM": 1, "BLOCK": 8192, "STAGES": 3, "num_warps": 16},
    {"PER_SM": 1, "BLOCK": 8192, "STAGES": 4, "num_warps": 16},
    {"PER_SM": 2, "BLOCK": 4096, "STAGES": 3, "num_warps": 16},
    {"PER_SM": 3, "BLOCK": 4096, "STAGES": 3, "num_warps": 8},
    {"PER_SM": 4, "BLOCK": 2048, "STAGES": 4, "num_warps": 4},
    {"PER_SM": 2, "BLOCK": 4096, "STAGES": 1, "num_warps": 8},
)
CHUNK_ROWS_CANDIDATES = (2816, 5632, 4096, 8448)


def linear_cross_entropy_reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same computation with all logits in memory and PyTorch's derivatives: the oracle."""
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
    """The loss for hidden (M, D) in PyTorch operations, with gradients computed in the forward; Inductor fuses the body
    of each chunk.
    """

    @staticmethod
    def forward(ctx, hidden, weight, targets, counted, softcap, z_loss, product_dtype, with_gradient):
        compute = compute_dtype(hidden.dtype)
        rows, vocab = hidden.shape[0], weight.shape[0]
        chunk = max(1, -(-rows // MAX_CHUNKS), CHUNK_BYTES // (4 * vocab))
        product_weight = weight.to(product_dtype)
        loss = torch.zeros((), dtype=compute, device=hidden.device)
        dweight = torch.zeros_like(weight, dtype=compute) if with_gradient else None
        dhidden: list[torch.Tensor] = []
        capped = None
        for start in range(0, rows, chunk):
            x = hidden[start : start + chunk].to(product_dtype)
            keep = counted[start : start + chunk]
            target = targets[start : start + chunk].unsqueeze(1)
            logits = (x @ product_weight.t()).to(compute)
            if softcap is not None:
                capped = torch.tanh(logits / softcap)
                logits = softcap * capped
            log_p = torch.log_softmax(logits, -1)
            chosen = log_p.gather(1, target).squeeze(1)
            lse = logits.gather(1, target).squeeze(1) - chosen
            loss = loss + torch.where(keep, z_loss * lse * lse - chosen, 0.0).sum()
            if dweight is None:
                continue
            factor = torch.where(keep, 1.0 + 2.0 * z_loss * lse, 0.0).unsqueeze(1)
            dlogits = torch.exp(log_p) * factor
            dlogits = dlogits.scatter_add(1, target, -keep.to(compute).unsqueeze(1))
            if capped is not None:
                dlogits = dlogits * (1.0 - capped * capped)
            dlogits = dlogits.to(product_dtype)
            dhidden.append((dlogits @ product_weight).to(hidden.dtype))
            if product_dtype == compute:
                dweight = torch.addmm(dweight, dlogits.t(), x)
            else:
                dweight = dweight + (dlogits.t() @ x).to(compute)
        if dweight is not None:
            ctx.save_for_backward(
                torch.cat(dhidden) if dhidden else torch.zeros_like(hidden), dweight.to(weight.dtype)
            )
        return loss

    @staticmethod
    @once_differentiable  # otherwise a second derivative would be wrong: the saved gradients are constants to autograd
    def backward(ctx, grad):
        return *scale_gradients(ctx.saved_tensors, grad), *[None] * 6


@jit
def _loss_kernel(
    logits_ptr, targets_ptr, losses_ptr,  # (rows, row_stride), overwritten by dlogits; (rows,); (rows,)
    rows, programs, V, row_stride, ignore_index,
    SOFTCAP: tl.constexpr, HAS_SOFTCAP: tl.constexpr, Z_LOSS: tl.constexpr, WITH_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    acc = losses_ptr.dtype.element_ty
    for row in range(tl.program_id(0), rows, programs):
        row_ptr = logits_ptr + tl.cast(row, tl.int64) * row_stride
        target = tl.load(targets_ptr + row)
        counted = target != ignore_index
        within = (target >= 0) & (target < V)
        chosen = tl.load(row_ptr + target, mask=within, other=float("nan")).to(acc)  # NaN for an invalid id
        if HAS_SOFTCAP:
            chosen = SOFTCAP * (2.0 * tl.sigmoid(2.0 * chosen / SOFTCAP) - 1.0)
        tops = tl.full((BLOCK,), -1e30, acc)  # finite, because the difference of two infinities is NaN
        totals = tl.zeros((BLOCK,), acc)
        for start in tl.range(0, V, BLOCK, num_stages=STAGES):
            cols = start + tl.arange(0, BLOCK)
            # row_stride is V rounded up to a multiple of 64: masking by it keeps loads 16 bytes wide
            logits = tl.load(row_ptr + cols, mask=cols < row_stride, other=0.0).to(acc)
            if HAS_SOFTCAP:
                logits = SOFTCAP * (2.0 * tl.sigmoid(2.0 * logits / SOFTCAP) - 1.0)
            logits = tl.where(cols < V, logits, float("-inf"))  # from V on the buffer is undefined
            decay = tl.exp(
                -tl.abs(logits - tops)
            )  # scales the sum if the maximum changes; otherwise the new term
            totals = tl.where(logits > tops, totals * decay + 1.0, totals + decay)
            tops = tl.maximum(tops, logits)
        top = tl.max(tops, axis=0)
        total = tl.sum(totals * tl.exp(tops - top), axis=0)
        log_total = tl.log(total)
        lse = top + log_total
        loss = log_total - (chosen - top) + Z_LOSS * lse * lse
        tl.store(losses_ptr + row, tl.where(counted, loss, 0.0))
        if WITH_GRADIENT:
            factor = tl.where(counted, (1.0 + 2.0 * Z_LOSS * lse) / total, 0.0)
            hot = tl.where(counted, target, -1).to(tl.int32)
            for start in tl.range(0, V, BLOCK, num_stages=STAGES):
                cols = start + tl.arange(0, BLOCK)
                logits = tl.load(row_ptr + cols, mask=cols < row_stride, other=0.0).to(acc)
                one_hot = tl.where(cols == hot, 1.0, 0.0).to(acc)
                if HAS_SOFTCAP:
                    tanh = 2.0 * tl.sigmoid(2.0 * logits / SOFTCAP) - 1.0
                    dlogits = (tl.exp(SOFTCAP * tanh - top) * factor - one_hot) * (1.0 - tanh * tanh)
                else:
                    dlogits = tl.exp(logits - top) * factor - one_hot
                # evict_first: this row is finished, other programs will read theirs again
                dlogits = dlogits.to(logits_ptr.dtype.element_ty)
                tl.store(row_ptr + cols, dlogits, mask=cols < row_stride, eviction_policy="evict_first")


def loss_config(vocab: int, row_bytes: int, sms: int) -> dict[str, int]:
    """The kernel's constants, warps, registers, and programs per multiprocessor.

    The number of programs keeps their rows within RESIDENT_BYTES, so that the second read of a row hits the L2 cache:
    2 for a vocabulary of 50,304 in bf16. All are resident at once, which limits the registers, and two blocks of 16 KiB
    are in flight on each multiprocessor, however many programs it has.
    """
    per_sm = min(4, max(1, RESIDENT_BYTES // (sms * row_bytes)))
    block = min(power_of_two(vocab), power_of_two(8192 // per_sm + 1) // 2)
    warps = min(16 if per_sm == 1 else 8, max(1, block // 256))
    config = tuned("loss", {"BLOCK": block, "STAGES": 3, "PER_SM": per_sm, "num_warps": warps})
    threads = 32 * max(4, config["num_warps"]) * config["PER_SM"]
    return config | {"maxnreg": min(255, 65536 // threads // 8 * 8)}


def logits_bytes(rows: int, row_bytes: int) -> int:
    """The size limit of the buffer: an eighth of all logits, but between LOGITS_BYTES and LARGEST_LOGITS_BYTES."""
    return min(LARGEST_LOGITS_BYTES, max(LOGITS_BYTES, rows * row_bytes // 8))


def rows_per_chunk(rows: int, row_bytes: int, width: int, sms: int) -> int:
    """The number of rows per chunk: what fits the buffer, in whole waves of dhidden's product.

    That product writes (chunk rows, width) in tiles of 128 × 128, one per multiprocessor at a time. At width
    768 and 132 multiprocessors a wave is 22 × 6 tiles, 2,816 rows. If no wave fits, a multiple of 128 rows.
    """
    fitting = max(1, logits_bytes(rows, row_bytes) // row_bytes)
    row_tiles, column_tiles = fitting // TILE, triton.cdiv(width, TILE)
    waves = row_tiles * column_tiles // sms
    chunk = (waves * sms // column_tiles or row_tiles) * TILE or fitting
    return min(rows, tuned("loss chunks", {"ROWS": rows if rows <= fitting else chunk})["ROWS"])


@register(
    "linear_cross_entropy", opaque=True
)  # products into one reused buffer: Inductor has nothing to fuse
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
    """(loss sum, count, dhidden, dweight) for hidden (M, D); the gradients are empty without `with_gradient`."""
    (rows, width), vocab = hidden.shape, weight.shape[0]
    compute = compute_dtype(hidden.dtype)
    wanted = rows if with_gradient else 0
    dhidden = hidden.new_empty((wanted, width))
    dweight = torch.empty((vocab if with_gradient else 0, width), dtype=compute, device=hidden.device)
    losses = torch.empty(rows, dtype=compute, device=hidden.device)
    targets = targets.contiguous()
    count = (targets != ignore_index).sum()
    if rows == 0:
        return (
            losses.sum(),
            count,
            dhidden,
            weight.new_zeros((vocab if with_gradient else 0, width)),
        )
    with no_autocast(hidden):
        product_weight = weight.to(product_dtype)
        row_stride, sms = triton.cdiv(vocab, 64) * 64, num_sms(hidden.device)
        row_bytes = row_stride * product_dtype.itemsize
        chunk = rows_per_chunk(rows, row_bytes, width, sms)
        config = loss_config(vocab, row_bytes, sms)
        most_programs = sms * config.pop("PER_SM")
        buffer = torch.empty((chunk, row_stride), dtype=product_dtype, device=hidden.device)
        for start in range(0, rows, chunk):
            stop = min(start + chunk, rows)
            x, logits = hidden[start:stop].to(product_dtype), buffer[: stop - start, :vocab]
            torch.mm(x, product_weight.t(), out=logits)
            programs = min(stop - start, most_programs)
            launch(_loss_kernel)[(programs,)](
                logits, targets[start:stop], losses[start:stop],
                stop - start, programs, vocab, row_stride, ignore_index,
                SOFTCAP=softcap or 1.0, HAS_SOFTCAP=softcap is not None, Z_LOSS=z_loss,
                WITH_GRADIENT=with_gradient, **config,
            )  # fmt: skip
            if not with_gradient:
                continue
            if hidden.dtype == product_dtype:
                torch.mm(logits, product_weight, out=dhidden[start:stop])
            else:
                dhidden[start:stop] = logits @ product_weight
            _accumulate(dweight, logits, x, first=start == 0)
        return losses.sum(), count, dhidden, dweight.to(weight.dtype)


def _accumulate(dweight: torch.Tensor, dlogits: torch.Tensor, x: torch.Tensor, first: bool) -> None:
    """dweight += dlogitsᵀ @ x inside the product; the first chunk ignores the content of dweight.

    Half inputs with a float32 sum: `addmm.dtype_out` exists only for CUDA and accepts a float32 sum that is also the
    output since torch 2.11 (pytorch#167931); a 2-d sum uses cublasGemmEx, whose C is float32 too. With beta = 0 neither
    cuBLAS nor ATen reads the sum, which may be uninitialised.
    """
    beta = 0 if first else 1
    if dlogits.dtype == dweight.dtype:
        dweight.addmm_(dlogits.t(), x, beta=beta)
    elif dweight.device.type == "cuda":
        torch.addmm(dweight, dlogits.t(), x, out_dtype=dweight.dtype, beta=beta, out=dweight)
    else:  # under the interpreter: a CPU has no such product
        dweight.addmm_(dlogits.t().to(dweight.dtype), x.to(dweight.dtype), beta=beta)


@_loss.register_fake
def _(hidden, weight, targets, ignore_index, softcap, z_loss, product_dtype, with_gradient):
    dhidden = hidden.new_empty((hidden.shape[0] if with_gradient else 0, hidden.shape[1]))
    dweight = weight.new_empty((weight.shape[0] if with_gradient else 0, weight.shape[1]))
    loss = hidden.new_empty((), dtype=compute_dtype(hidden.dtype))
    return loss, targets.new_empty((), dtype=torch.int64), dhidden, dweight


register_loss_backward(_loss, num_inputs=8)


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
    """(loss sum in nats, number of counted tokens) for hidden (..., D), weight (V, D) and integer targets (...).

    fp8: products in FP8 (fp8_cross_entropy.py) if gradients are needed; rows, D and V must be multiples of 16. Raises
    ValueError for inconsistent shapes.
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
    with_gradient = needs_gradient(hidden, weight)
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
    if softcap is None and uses_library(hidden, weight, min_rows=MIN_ROWS):
        loss, _, _ = cpu_cross_entropy(
            hidden.flatten(0, -2), weight, flat, ignore_index, z_loss, with_gradient
        )
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
