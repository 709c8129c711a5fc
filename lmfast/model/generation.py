"""Which function decodes for `TransformerLM.generate`: one of lmfast.inference, which this package may not import.

lmfast/__init__.py, which runs before any module of lmfast, names it here; it is loaded when a model first generates.
No torch.
"""

from collections.abc import Callable

Decode = Callable[..., list[list[int]]]
"""(model, prompts, max_tokens, **options) → new ids of each prompt"""

_load: Callable[[], Decode]


def provide(load: Callable[[], Decode]) -> None:
    """load: imports the function and returns it."""
    global _load
    _load = load


def decode_function() -> Decode:
    return _load()
