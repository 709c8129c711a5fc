"""A cache of Numba's compiled code between processes that is safe to load.

In: compiled functions of the tokenizer. Out: the same functions, which load their code from a
directory and save it there. The files contain pickles and machine code, so the directory belongs to this user alone,
and each file ends in a hash of its content. A file that is empty, truncated or changed counts as absent: its function is
compiled again and the file replaced. If the disk is full or read-only, functions are compiled in every process.
"""

import contextlib
import functools
import hashlib
import io
import sys
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile

from lmfast.tokenizer.compiled.code_folder import COMPILING, code_folder

_HASH = hashlib.sha256
_NUMBA: Any = config  # the module's settings are made at run time


def enable_cache(*functions) -> None:
    """Enables Numba's file cache for compiled functions, in `code_folder()`; prints a line on stderr if one
    of them must be compiled.

    Called before first use instead of `njit(cache=True)`, which would access the disk at import."""
    for function in functions:
        if not isinstance(function._cache, _CodeCache):
            function._cache = _CodeCache(function.py_func)


class _CodeCache(FunctionCache):
    """Numba's cache of one function, in our own directory and with verified files."""

    def __init__(self, py_func):
        before = _NUMBA.CACHE_DIR
        try:
            _NUMBA.CACHE_DIR = str(code_folder())
            super().__init__(py_func)
        finally:
            _NUMBA.CACHE_DIR = before
        self._cache_file = _HashedFiles(
            self.cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def load_overload(self, sig, target_context):
        found = super().load_overload(sig, target_context)
        if found is None:
            _report_compiling()
        return found

    def save_overload(self, sig, data) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _HashedFiles(IndexDataCacheFile):
    """Index and data files that end in the hash of their content; others count as absent."""

    @contextlib.contextmanager
    def _open_for_write(self, filepath):
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + _HASH(content.getvalue()).digest())

    def _load_index(self):
        return super()._load_index() if _has_valid_hash(self._index_path) else {}

    def _load_data(self, name):
        if not _has_valid_hash(self._data_path(name)):
            raise OSError(f"{name}: damaged")  # which Numba treats as a missing file
        return super()._load_data(name)


def _has_valid_hash(path: str) -> bool:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    size = _HASH().digest_size
    return len(content) > size and _HASH(content[:-size]).digest() == content[-size:]


@functools.cache
def _report_compiling() -> None:
    print(COMPILING, file=sys.stderr)
