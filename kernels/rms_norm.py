"""Root mean square norm, with an optional residual added first: y = s / sqrt(mean(s²) + eps) · weight.

In: x (..., N), weight (N,), residual like x in shape or None. N up to 65,536; float32, float16, bfloat16
(float64 in plain PyTorch). Out: y in x's dtype; with a residual also s = x + residual in the residual's
dtype. Cast order: everything from the sum to the product with the weight in float32, one rounding at the
end (as `F.rms_norm` does; Hugging Face's Llama rounds before the weight). The norm is taken of s as rounded
to its dtype, which is what the next layer sees. Under autocast nothing changes: the dtypes of the inputs
decide. Source: Zhang and Sennrich 2019, arXiv:1910.07467.
"""

import torch

from kernels.backend import compute_dtype

MAX_WIDTH = 65536


def rms_norm_reference(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """The same maths in plain PyTorch: the oracle, and the path wherever Triton is not chosen."""
    compute = compute_dtype(x.dtype)
    s = x if residual is None else (x.to(compute) + residual.to(compute)).to(residual.dtype)
    wide = s.to(compute)
    rstd = torch.rsqrt((wide * wide).mean(-1, keepdim=True) + eps)
    y = (wide * rstd * weight.to(compute)).to(x.dtype)
    return y if residual is None else (y, s)


def rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5, residual: torch.Tensor | None = None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """y, or (y, x + residual) when a residual is given. Raises ValueError on shapes that do not fit."""
    if x.dim() < 1 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"rms_norm: weight {tuple(weight.shape)} must be (N,) for x {tuple(x.shape)} = (..., N)"
        )
    if x.shape[-1] > MAX_WIDTH:
        raise ValueError(f"rms_norm: rows of {x.shape[-1]} values are wider than {MAX_WIDTH}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"rms_norm: residual {tuple(residual.shape)} must have x's shape {tuple(x.shape)}")
    return rms_norm_reference(x, weight, eps, residual)
