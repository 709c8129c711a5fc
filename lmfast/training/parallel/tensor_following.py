"""Lets rank 0 alone use a model that is split over tensor ranks, for samples and tasks: the others compute with it.

In: the model and a function that calls its `hidden` and `logits` any number of times. Out: its result, on rank 0. Before
each call, rank 0 sends the arguments to the other tensor ranks of its group, which make the same call. If `use` fails, rank
0 raises its exception and all others exit silently, as in `Ranks.from_first`.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.following import InterruptedCall
from lmfast.training.parallel.ranks import Ranks

T = TypeVar("T")


def with_tensor_ranks(model: TransformerLM, ranks: Ranks, use: Callable[[], T]) -> T | None:
    """Calls `use` on rank 0, while the rest of its tensor group follows; returns None elsewhere. All ranks must call it."""
    group = ranks.tensor_group
    if not ranks.is_first:
        while not ranks.data_rank and (call := _received(group)) is not None:
            with torch.autocast(*call.autocast), torch.no_grad():
                getattr(model.eval(), call.name)(*_broadcast(_empty(call, model), group))
        ranks.from_first(bool)  # exits if rank 0 failed
        return None
    for name in ("hidden", "logits"):
        setattr(model, name, _leading(getattr(model, name), name, group))
    try:
        result = use()
    except InterruptedCall:
        raise
    except BaseException as error:
        _send(None, group)
        raise ranks.from_first(partial(_raise, error)) from None
    finally:
        for name in ("hidden", "logits"):
            delattr(model, name)  # the method of the class again
    _send(None, group)
    ranks.from_first(bool)
    return result


def _raise(error: BaseException) -> NoReturn:
    raise error


class _Call(NamedTuple):
    name: str
    shapes: list[tuple[torch.Size, torch.dtype]]  # of its arguments
    autocast: tuple[str, torch.dtype, bool]


def _leading(
    method: Callable[..., Tensor], name: str, group: dist.ProcessGroup | None
) -> Callable[..., Tensor]:
    """A method that sends its arguments to the other ranks before each call."""

    @functools.wraps(method)
    def call(*arguments: Tensor) -> Tensor:
        device = arguments[0].device.type
        autocast = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        sent = _Call(name, [(x.shape, x.dtype) for x in arguments], autocast)
        _send(sent, group)
        try:
            _broadcast([x.contiguous() for x in arguments], group)
            return method(*arguments)
        except Exception as error:
            raise InterruptedCall(f"{name} of rank 0 failed: {error}") from error

    return call


def _send(call: _Call | None, group: dist.ProcessGroup | None) -> None:
    dist.broadcast_object_list([call], src=0, group=group)


def _received(group: dist.ProcessGroup | None) -> _Call | None:
    box: list[Any] = [None]
    dist.broadcast_object_list(box, src=0, group=group)
    return box[0]


def _empty(call: _Call, model: TransformerLM) -> list[Tensor]:
    device = model.embedding.weight.device
    return [torch.empty(shape, dtype=dtype, device=device) for shape, dtype in call.shapes]


def _broadcast(tensors: list[Tensor], group: dist.ProcessGroup | None) -> list[Tensor]:
    for tensor in tensors:
        dist.broadcast(tensor, src=0, group=group)
    return tensors
