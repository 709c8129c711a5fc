"""Collectives that torch.compile traces, with results that may be used at once. They have no derivatives.

In: a tensor and the name of a process group; every rank of the group calls with the same shape. The public functions of
torch.distributed do not compile into one graph; the functions around these operators changed their names in torch 2.13.
"""

import torch
from torch import Tensor

_OPERATORS = torch.ops._c10d_functional


def summed(x: Tensor, group: str) -> Tensor:
    """Sum over the ranks."""
    return _OPERATORS.wait_tensor(_OPERATORS.all_reduce(x, "sum", group))


def gathered(x: Tensor, size: int, group: str) -> Tensor:
    """(size, *x.shape): the tensors of the `size` ranks of the group."""
    whole = _OPERATORS.wait_tensor(_OPERATORS.all_gather_into_tensor(x.contiguous(), size, group))
    return whole.view(size, *x.shape)
