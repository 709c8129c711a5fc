"""Replaces a kernel's launch parameters within a context, so that a sweep on a device can time its candidates.

    for candidate in BACKWARD_CANDIDATES:  # of lmfast_kernels/rms_norm.py
        with use_config("rms_norm_backward", **candidate):
            ...  # time it

Eager code reads the parameters at every call, compiled code while it is traced. Not thread-safe.
"""

import contextlib
from collections.abc import Generator

_replaced: dict[str, dict[str, int]] = {}


def tuned(name: str, config: dict[str, int]) -> dict[str, int]:
    """`config`, updated with the parameters of an enclosing `use_config(name, …)`. Raises ValueError for unknown ones."""
    replaced = _replaced.get(name, {})
    unknown = sorted(replaced.keys() - config.keys())
    if unknown:
        raise ValueError(
            f"use_config: {name} has no parameter {unknown[0]}; use one of {', '.join(sorted(config))}"
        )
    return {**config, **replaced}


@contextlib.contextmanager
def use_config(name: str, **parameters: int) -> Generator[None, None, None]:
    """In this context, launches configured with `tuned(name, …)` use these parameters."""
    before = _replaced.get(name)
    _replaced[name] = {**(before or {}), **parameters}
    try:
        yield
    finally:
        if before is None:
            del _replaced[name]
        else:
            _replaced[name] = before
