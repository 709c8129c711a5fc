"""The decoding function behind `TransformerLM.generate`. It is in lmfast.inference, which this package may not import.

lmfast/__init__.py, which runs before any other module of lmfast, registers it; it is imported when a model first
generates. Does not import torch.
"""

from collections.abc import Callable

from lmfast.errors import UserError

Decode = Callable[..., list[list[int]]]
"""(model, prompts, max_tokens, **options) → the new ids of each prompt"""

_load: Callable[[], Decode] | None = None


def provide(load: Callable[[], Decode]) -> None:
    """Registers `load`, which imports and returns the decoding function."""
    global _load
    _load = load


def decode_function() -> Decode:
    """The registered decoding function. Raises UserError if there is none."""
    if _load is None:
        raise UserError("the model has no decoder; import TransformerLM or load_run from lmfast")
    return _load()
