"""Lets rank 0 alone use a sharded model, for samples and tasks: the other ranks gather the weights with it, block by block.

In: a ShardedModel and a function that calls `model.hidden` any number of times. Out: its result, on rank 0. Before each call
rank 0 tells the others, which then take part in the same all-gathers, without computing. No rank holds more than one block
at a time. An exception between two calls is raised on rank 0 and leaves all ranks in step; one within a call ends the run.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lmfast.training.parallel.fsdp import ShardedModel
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.sharded import Sharded

T = TypeVar("T")


class InterruptedCall(BaseException):
    """A forward pass of rank 0 failed while the other ranks were gathering weights for it."""


def with_followers(sharded: Sharded, ranks: Ranks, use: Callable[[], T]) -> T | None:
    """Calls `use` on rank 0, while the other ranks follow; returns None there. All ranks must call it."""
    assert isinstance(sharded, ShardedModel)
    model = sharded.model
    sharded.free()  # so that all ranks begin alike
    if not ranks.is_first:
        while _announced():
            sharded.gather_in_order()
        sharded.free()
        return None
    real = model.hidden

    @functools.wraps(real)
    def hidden(*arguments: Any, **options: Any) -> torch.Tensor:
        _announced(True)
        try:
            return real(*arguments, **options)
        except Exception as error:
            raise InterruptedCall(f"a forward pass of rank 0 failed: {error}") from error

    model.hidden = hidden
    try:
        result = use()
    except InterruptedCall:
        raise
    except BaseException:
        _announced(False)
        raise
    finally:
        model.hidden = real
    _announced(False)
    sharded.free()
    return result


def _announced(more: bool | None = None) -> bool:
    """Rank 0 says whether another forward pass follows, and the others return what it says."""
    flag = torch.tensor([int(bool(more))])
    dist.broadcast(flag, src=0)
    return bool(flag)
