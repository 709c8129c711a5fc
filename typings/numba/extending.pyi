"""Numba's own stub keeps the typing context among an intrinsic's arguments, and says that a call never returns."""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

from numba.core.extending import overload as overload

P = ParamSpec("P")

def intrinsic(func: Callable[Concatenate[Any, P], Any], /) -> Callable[P, Any]: ...
