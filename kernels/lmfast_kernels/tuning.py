"""Replaces a kernel's launch parameters within a block, so that a sweep on a device can try its candidates.

    for candidate in BACKWARD_CANDIDATES:  # of lmfast_kernels/rms_norm.py
        with use_config("rms_norm_backward", **candidate):
            ...  # time it

Eager code reads the parameters at every call, compiled code when it is traced. Not thread-safe.
"""

import contextlib
from collections.abc import Iterator

_replaced: dict[str, dict[str, int]] = {}


def tuned(name: str, config: dict[str, int]) -> dict[str, int]:
    """`config`, with the parameters that an enclosing `use_config(name, …)` gives. An unknown one is an error."""
    replaced = _replaced.get(name, {})
    unknown = sorted(replaced.keys() - config.keys())
    if unknown:
        raise ValueError(
            f"use_config: {name} has no parameter {unknown[0]}; it has {', '.join(sorted(config))}"
        )
    return {**config, **replaced}


@contextlib.contextmanager
def use_config(name: str, **parameters: int) -> Iterator[None]:
    """Within, the launches that ask for `tuned(name, …)` use these parameters."""
    before = _replaced.get(name)
    _replaced[name] = {**(before or {}), **parameters}
    try:
        yield
    finally:
        if before is None:
            del _replaced[name]
        else:
            _replaced[name] = before
