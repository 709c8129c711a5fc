"""The loss of a model and its gradients, over any number of ranks.

Input: this rank's slice of a forward pass. Output: the gradients of the mean loss of all ranks, accumulated on the weights.
DistributedDataParallel or, if it shards the weights, FSDP2 sums them over the data ranks at the last forward pass of a step.
"""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded import Sharded


class ParallelLoss:
    """loss_fn(model, …) and its gradients, over any number of ranks. sharded: the shards of the model, if it has any."""

    def __init__(
        self,
        ranks: Ranks,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        autocast,
        sharded: Sharded | None = None,
    ):
        self.ranks, self.autocast, self.sharded = ranks, autocast, sharded
        self.module, self.ddp = _Bound(model, loss_fn), None
        if ranks.data_size > 1 and (sharded is None or not sharded.reduces_gradients):
            # Keeps the compiled step one graph; its gradients are reduced together at the end.
            torch._dynamo.config.optimize_ddp = False
            # Buffers do not change during training. torch 2.13 renamed the option.
            names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
            buffers: dict[str, Any] = {name: False}
            on_cuda = next(model.parameters()).device.type == "cuda"
            self.ddp = nn.parallel.DistributedDataParallel(
                self.module,
                device_ids=[torch.cuda.current_device()] if on_cuda else None,
                process_group=ranks.data_group,
                gradient_as_bucket_view=True,
                **buffers,
            )

    def add_gradients(self, tensors: tuple, valid: int, last: bool, scale: Tensor | None = None) -> Tensor:
        """Adds the gradients of (summed loss) / valid, where `valid` counts all ranks; returns this rank's summed loss.

        last: whether this is the last forward pass of the step, after which gradients are reduced over the ranks.
        scale: a factor on the gradients, on the device.
        """
        if self.sharded is not None:
            self.sharded.begin_pass(last)
        with self.ddp.no_sync() if self.ddp is not None and not last else contextlib.nullcontext():
            with self.autocast():
                loss_sum = (self.ddp or self.module)(*tensors)
            loss = loss_sum / valid
            if scale is not None:
                loss = loss * scale
            # DDP averages over the ranks; we need the sum.
            (loss if self.ddp is None else loss * self.ranks.data_size).backward()
        return loss_sum.detach()


class _Bound(nn.Module):
    """A model and its loss function as one module, because DDP wraps modules."""

    def __init__(self, model: nn.Module, loss_fn: Callable[..., Tensor]):
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, *tensors) -> Tensor:
        return self.loss_fn(self.model, *tensors)
