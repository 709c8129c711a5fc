"""Projections of groups of rows, each with its own weight: y = x weight[g]ᵀ for the rows of group g (mixtures of experts).

In: x (M, K), rows sorted by group; weight (G, N, K); ends (G,) int32, the end of each group in x, so that ends[-1] = M and
a group may be empty. Out: (M, N). The sizes of the groups are data, on the device, and change without recompiling.

- On CUDA in bfloat16, where PyTorch has a kernel for it (compute capability 9.x and 10.x; K and N multiples of 8, because it
  needs strides of 16 bytes): `torch._grouped_mm`, without waiting for the device.
- Elsewhere a loop over the groups, each product as in linear.py. On CUDA the host then waits for the sizes of the groups,
  except while a CUDA graph is captured, when every weight multiplies all rows.

Under autocast x and weight are cast as by F.linear. Source of the arrangement: Gale et al. 2022, arXiv:2211.15841.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from lmfast_kernels.autograd import needs_gradient
from lmfast_kernels.backend import autocast_dtype, constant_in_compiled_code
from lmfast_kernels.cpu_library import call, uses_library
from lmfast_kernels.linear import MIN_ROWS

ALIGNMENT = 8
"""elements of bfloat16 in the 16 bytes to which torch._grouped_mm aligns rows"""


def grouped_linear_reference(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The same computation in plain PyTorch: the oracle."""
    return torch.cat([F.linear(x[begin:end], weight[g]) for g, begin, end in _groups(ends)])


def _groups(ends: torch.Tensor) -> Iterator[tuple[int, int, int]]:
    """(number, begin, end) of each group, empty ones too."""
    begin = 0
    for number, end in enumerate(ends.tolist()):
        yield number, begin, end
        begin = end


def masked_products(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """The products of all rows with every weight, of which each row keeps its own: sizes stay on the device."""
    rows = torch.arange(len(x), device=x.device)
    group = (rows[:, None] >= ends).sum(1)
    y = F.linear(x, weight[0])
    for g in range(1, len(weight)):
        y = torch.where((group == g)[:, None], F.linear(x, weight[g]), y)
    return y


@torch.library.custom_op("lmfast::grouped_linear", mutates_args=())
def _forward(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, with_gradient: bool) -> torch.Tensor:
    (M, K), N = x.shape, weight.shape[1]
    y = x.new_empty((M, N))
    if not K:
        return y.zero_()
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return masked_products(x, weight, ends)
    x, weight = x.contiguous(), weight.contiguous()
    ours = N > 0 and uses_library(x, weight, min_rows=0)
    for g, begin, end in _groups(ends):
        if end == begin:
            continue
        if ours and (with_gradient or end - begin >= MIN_ROWS):
            call("linear_forward", end - begin, N, K, x[begin:end], weight[g], y[begin:end])
        else:
            torch.mm(x[begin:end], weight[g].t(), out=y[begin:end])
    return y


@_forward.register_fake
def _(x, weight, ends, with_gradient):
    return x.new_empty((x.shape[0], weight.shape[1]))


@torch.library.custom_op("lmfast::grouped_linear_backward", mutates_args=())
def _backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    ends: torch.Tensor,
    need_dx: bool,
    need_dweight: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(dx, dweight), empty if not needed."""
    K, N = x.shape[1], weight.shape[1]
    dx = x.new_empty(x.shape if need_dx else 0)
    dweight = weight.new_empty(weight.shape if need_dweight else 0)
    if not K or not N:
        return dx.zero_(), dweight.zero_()
    dy, x, weight = dy.contiguous(), x.contiguous(), weight.contiguous()
    ours = uses_library(x, weight, min_rows=0)
    for g, begin, end in _groups(ends):
        if end == begin:
            if need_dweight:
                dweight[g].zero_()
        elif ours:
            call(
                "linear_backward", end - begin, N, K, dy[begin:end], x[begin:end], weight[g],
                dx[begin:end] if need_dx else None, dweight[g] if need_dweight else None,
            )  # fmt: skip
        else:
            if need_dx:
                torch.mm(dy[begin:end], weight[g], out=dx[begin:end])
            if need_dweight:
                torch.mm(dy[begin:end].t(), x[begin:end], out=dweight[g])
    return dx, dweight


@_backward.register_fake
def _(dy, x, weight, ends, need_dx, need_dweight):
    return x.new_empty(x.shape if need_dx else 0), weight.new_empty(weight.shape if need_dweight else 0)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])


def _autograd(ctx, dy):
    need_dx, need_dweight = ctx.needs_input_grad[:2]
    dx, dweight = _backward(dy, *ctx.saved_tensors, need_dx, need_dweight)
    return dx if need_dx else None, dweight if need_dweight else None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


@constant_in_compiled_code
def _has_kernel() -> bool:
    """Whether torch._grouped_mm has a kernel for the current CUDA device, which needs no sizes on the host."""
    return torch.cuda.get_device_capability()[0] in (9, 10)


def uses_grouped_mm(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the product of x (M, K) and weight (G, N, K) is left to torch._grouped_mm."""
    aligned = not any(size % ALIGNMENT for size in weight.shape[1:])
    return x.is_cuda and x.dtype == weight.dtype == torch.bfloat16 and aligned and _has_kernel()


def grouped_linear(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """x weight[g]ᵀ for the rows of each group g. Raises ValueError for inconsistent shapes and other ends."""
    if weight.dim() != 3 or x.dim() != 2 or x.shape[1] != weight.shape[2]:
        raise ValueError(
            f"grouped_linear: weight {tuple(weight.shape)} must be (G, N, K) for x {tuple(x.shape)} = (M, K)"
        )
    if ends.shape != weight.shape[:1] or ends.dtype != torch.int32:
        raise ValueError(
            f"grouped_linear: ends {tuple(ends.shape)} of {ends.dtype} must be ({len(weight)},) of torch.int32"
        )
    if (dtype := autocast_dtype(x)) is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    if uses_grouped_mm(x, weight):
        return torch._grouped_mm(x, weight.transpose(1, 2), offs=ends)
    return _forward(x, weight, ends, needs_gradient(x, weight))
