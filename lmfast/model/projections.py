"""Matrices as layers: a projection, several of the same input as one product, and the activation between two of them."""

import torch.nn.functional as F
from torch import Tensor, nn

import lmfast_kernels


class Linear(nn.Linear):
    """A projection: `lmfast_kernels.linear`, or with `fp8` in training `fp8_linear`, plus a bias if it has one."""

    fp8 = False

    def __init__(self, in_features: int, out_features: int, bias: bool = False):
        super().__init__(in_features, out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        product = lmfast_kernels.fp8_linear if self.fp8 and self.training else lmfast_kernels.linear
        return self.add_bias(product(x, self.weight))

    def add_bias(self, product: Tensor) -> Tensor:
        """product + bias, in the dtype of the product."""
        bias: Tensor | None = self.bias
        return product if bias is None else product + bias.to(product.dtype)


class FusedLinear(Linear):
    """Several projections of the same input as one product. widths: numbers of rows of their matrices, in order."""

    def __init__(self, in_features: int, widths: list[int], bias: bool = False):
        self.widths = widths
        super().__init__(in_features, sum(widths), bias)


def activate(kind: str, up: Tensor) -> Tensor:
    """The activation (…, F) of a feed-forward, from the product of its first projection (…, 2F with swiglu, otherwise F)."""
    if kind == "swiglu":
        return lmfast_kernels.swiglu(*up.chunk(2, dim=-1))
    return F.silu(up) if kind == "silu" else F.relu(up).square()
