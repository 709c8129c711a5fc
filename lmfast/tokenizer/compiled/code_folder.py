"""The directory of the tokenizer's compiled code. Does not import Numba."""

import contextlib
import functools
import hashlib
import os
from pathlib import Path

from lmfast.files import private_cache

TOKENIZER = Path(__file__).resolve().parent.parent
COMPILING = "lmfast: compiling tokenizer code for this machine (once, a few seconds)"
"""printed on standard error by a process that finds functions not compiled yet"""


@functools.cache
def code_folder() -> Path:
    """The directory of this version's compiled code, named by a hash of all of its sources, because Numba
    does not detect changes of a callee in another file.

    It is next to the sources if that is writable, else in the user's cache directory, else among temporary files."""
    digest = hashlib.sha256()
    for source in sorted(TOKENIZER.rglob("*.py")):
        digest.update(source.relative_to(TOKENIZER).as_posix().encode() + b"\0" + source.read_bytes())
    name = f"numba-{digest.hexdigest()[:16]}"
    own = TOKENIZER / "__pycache__" / name
    with contextlib.suppress(OSError):
        own.mkdir(parents=True, exist_ok=True)
        if os.access(own, os.W_OK):
            return own
    return private_cache(name)
