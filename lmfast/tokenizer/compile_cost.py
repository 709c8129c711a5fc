"""How much work plain Python may do before loading compiled code takes less time.

Importing Numba and loading compiled code takes about a second, compiling it at the first call ever ten. `Allowance` is
the work, in bytes or ids, that plain Python does in less; what exceeds it is left to compiled code, from then on.
"""

from pathlib import Path

from lmfast.tokenizer.compiled.code_folder import code_folder


class Allowance:
    """Work that is still done in plain Python.

    function: "module.function" of the compiled code that does it otherwise. first, later: the amount of work if that
    code must still be compiled on this machine, and if it has been saved."""

    def __init__(self, function: str, first: int, later: int):
        self._function, self._first, self._later = function, first, later
        self._left: int | None = None

    def covers(self, amount: int) -> bool:
        """Whether plain Python does this much more work. Once it does not, it never does again."""
        if self._left is None:
            self._left = self._later if is_compiled(self._function) else self._first
        self._left = self._left - amount if amount <= self._left else -1
        return self._left >= 0

    def end(self) -> None:
        """From now on, nothing is done in plain Python."""
        self._left = -1


def is_compiled(function: str) -> bool:
    """Whether code of this function has been saved (for some types of arguments)."""
    return any(Path(code_folder()).glob(f"*/{function}-*.nbi"))
