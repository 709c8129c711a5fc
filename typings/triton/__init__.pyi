"""What lmfast_kernels uses of Triton, which has annotations in part only and no py.typed."""

from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

class JITFunction(Generic[P, R]):
    __name__: str
    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]: ...
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...  # in other kernels

def jit(fn: Callable[P, R]) -> JITFunction[P, R]: ...
def cdiv(x: int, y: int) -> int: ...
def next_power_of_2(n: int) -> int: ...
def compile(src: Any, target: Any = None, options: dict[str, Any] | None = None) -> Any: ...

__version__: str
__file__: str
knobs: Any
testing: Any
