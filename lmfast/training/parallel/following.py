"""Lets rank 0 alone use a sharded model, for samples and tasks: the other ranks gather the weights with it, block by block.

In: a ShardedModel and a function that calls `model.hidden` any number of times. Out: its result, on rank 0. Before each call
rank 0 tells the others, which then take part in the same all-gathers, without computing. No rank holds more than one block
at a time. If `use` fails, rank 0 raises its exception and the others exit silently, as in `Ranks.from_first`.
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

_DONE, _MORE, _FAILED = range(3)


class InterruptedCall(BaseException):
    """A forward pass of rank 0 failed while the other ranks were gathering weights for it."""


def with_followers(sharded: Sharded, ranks: Ranks, use: Callable[[], T]) -> T | None:
    """Calls `use` on rank 0, while the other ranks follow; returns None there. All ranks must call it."""
    assert isinstance(sharded, ShardedModel)
    model = sharded.model
    sharded.free()  # so that all ranks begin alike
    if not ranks.is_first:
        while (next_call := _announced()) == _MORE:
            sharded.gather_in_order()
        if next_call == _FAILED:
            raise SystemExit(2)
        sharded.free()
        return None
    real = model.hidden

    @functools.wraps(real)
    def hidden(*arguments: Any, **options: Any) -> torch.Tensor:
        _announced(_MORE)
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
        _announced(_FAILED)
        raise
    finally:
        model.hidden = real
    _announced(_DONE)
    sharded.free()
    return result


def _announced(what: int = _DONE) -> int:
    """Rank 0 says whether another forward pass follows, and the others return what it says."""
    flag = torch.tensor([what])
    dist.broadcast(flag, src=0)
    return int(flag)
