"""lmfast: from raw text to your own language model on one machine.

The public names are loaded on first use: `import lmfast` imports neither torch nor numba.
"""

import importlib
from typing import TYPE_CHECKING

from lmfast.model import generation as _generation

__version__ = "0.1.0"

_MODULES = {
    "Tokenizer": "lmfast.tokenizer.bpe",
    "train_bpe": "lmfast.tokenizer.training",
    "ModelConfig": "lmfast.model.config",
    "TransformerLM": "lmfast.model.transformer",
    "load_run": "lmfast.training.loading",
    "export_run": "lmfast.interop.exporting",
    "import_model": "lmfast.interop.importing",
}

__all__ = ["ModelConfig", "Tokenizer", "TransformerLM", "export_run", "import_model", "load_run", "train_bpe"]

if TYPE_CHECKING:
    from lmfast.interop.exporting import export_run
    from lmfast.interop.importing import import_model
    from lmfast.model.config import ModelConfig
    from lmfast.model.transformer import TransformerLM
    from lmfast.tokenizer.bpe import Tokenizer
    from lmfast.tokenizer.training import train_bpe
    from lmfast.training.loading import load_run


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'lmfast' has no attribute '{name}'")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def _decode_function():
    from lmfast.inference.decode import generate

    return generate


_generation.provide(_decode_function)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
