"""The operators that dominate training and decoding of decoder models, one file each: Triton on CUDA, PyTorch or C++
elsewhere.

Every operator is a plain function of tensors, functional and differentiable, correct for any shape, callable inside
`torch.compile(fullgraph=True)` and under `torch.autocast`. Exceptions: the decoding operators have no gradient, and
rope_append writes to its caches. Bad arguments raise ValueError. This package imports only torch and, if it is
installed, triton, when an operator is first used: what calls the C++ code without torch does not wait for it.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmfast_kernels.attention import attention
    from lmfast_kernels.decode_attention import decode_attention
    from lmfast_kernels.decode_linear import decode_linear, decode_norm_linear, decode_swiglu_linear
    from lmfast_kernels.feed_forward import feed_forward
    from lmfast_kernels.fp8_linear import fp8_linear
    from lmfast_kernels.grouped_linear import grouped_linear
    from lmfast_kernels.linear import linear
    from lmfast_kernels.linear_cross_entropy import linear_cross_entropy
    from lmfast_kernels.rms_norm import rms_norm
    from lmfast_kernels.rope import rope
    from lmfast_kernels.rope_append import rope_append
    from lmfast_kernels.self_attention import self_attention
    from lmfast_kernels.swiglu import swiglu

__all__ = [
    "attention",
    "decode_attention",
    "decode_linear",
    "decode_norm_linear",
    "decode_swiglu_linear",
    "feed_forward",
    "fp8_linear",
    "grouped_linear",
    "linear",
    "linear_cross_entropy",
    "rms_norm",
    "rope",
    "rope_append",
    "self_attention",
    "swiglu",
]

_ELSEWHERE = {"decode_norm_linear": "decode_linear", "decode_swiglu_linear": "decode_linear"}
"""modules of the operators that are not in one of their own name"""


class _Package(ModuleType):
    """Importing a module sets it as an attribute of its package; the operator of the same name takes its place here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in __all__ and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, name)}")
    operator = globals()[name] = getattr(module, name)
    return operator


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
