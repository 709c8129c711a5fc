"""Which function decodes for `TransformerLM.generate`: one of lmfast.inference, which this package may not import.

lmfast/__init__.py, which runs before any module of lmfast, names it here; it is loaded when a model first generates.
No torch.
"""

from collections.abc import Callable

from lmfast.errors import UserError

Decode = Callable[..., list[list[int]]]
"""(model, prompts, max_tokens, **options) → new ids of each prompt"""

_load: Callable[[], Decode] | None = None


def provide(load: Callable[[], Decode]) -> None:
    """load: imports the function and returns it."""
    global _load
    _load = load


def decode_function() -> Decode:
    """Raises UserError where no function was named."""
    if _load is None:
        raise UserError("the model has no decoder; import TransformerLM or load_run from lmfast")
    return _load()
