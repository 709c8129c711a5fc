"""Where Numba's compiled code is kept between processes, and what makes it safe to load.

In: compiled functions of a package (this one, or another's folder). Out: the same functions, which load their code from a
folder and save it there. The files hold pickles and machine code: the folder belongs to this user alone, and each file
ends in a hash of its content. A file that is empty, truncated or changed counts as absent, so its function is compiled
again and the file replaced; a disk that is full or read-only costs time and ends nothing.
"""

import contextlib
import functools
import hashlib
import io
import os
import sys
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile

from lmfast.files import private_cache

_TOKENIZER = Path(__file__).resolve().parent.parent
_HASH = hashlib.sha256
_NUMBA: Any = config  # the module's settings are made at run time


def enable_cache(*functions, package: Path = _TOKENIZER) -> None:
    """Turns on Numba's file cache for compiled functions, in `cache_folder(package)`; a line on stderr says so when one
    of them must be compiled.

    Called before first use rather than by `njit(cache=True)`, which would touch the disk at import."""
    for function in functions:
        if not isinstance(function._cache, _CodeCache):
            function._cache = _CodeCache(function.py_func, package)


@functools.cache
def cache_folder(package: Path = _TOKENIZER) -> Path:
    """Where this version's compiled code of a package is kept: a folder named by a hash of all of its sources, since Numba
    itself does not notice that a callee in another file was edited.

    Next to the sources where that can be written, by whoever may change those anyway; else in the user's cache, else in the
    folder for temporary files."""
    digest = hashlib.sha256()
    for source in sorted(package.rglob("*.py")):
        digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes())
    name = f"numba-{digest.hexdigest()[:16]}"
    own = package / "__pycache__" / name
    with contextlib.suppress(OSError):
        own.mkdir(parents=True, exist_ok=True)
        if os.access(own, os.W_OK):
            return own
    return private_cache(name)


class _CodeCache(FunctionCache):
    """Numba's cache of one function, in a folder of ours and with files that are checked."""

    def __init__(self, py_func, package: Path):
        before = _NUMBA.CACHE_DIR
        try:
            _NUMBA.CACHE_DIR = str(cache_folder(package))
            super().__init__(py_func)
        finally:
            _NUMBA.CACHE_DIR = before
        self._package = package
        self._cache_file = _HashedFiles(
            self.cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp()
        )

    def load_overload(self, sig, target_context):
        found = super().load_overload(sig, target_context)
        if found is None:
            _report_compiling(self._package)
        return found

    def save_overload(self, sig, data) -> None:
        with contextlib.suppress(OSError):
            super().save_overload(sig, data)


class _HashedFiles(IndexDataCacheFile):
    """Index and data files that end in the hash of what precedes it; one that does not is as good as absent."""

    @contextlib.contextmanager
    def _open_for_write(self, filepath):
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue() + _HASH(content.getvalue()).digest())

    def _load_index(self):
        return super()._load_index() if _is_whole(self._index_path) else {}

    def _load_data(self, name):
        if not _is_whole(self._data_path(name)):
            raise OSError(f"{name}: damaged")  # which Numba takes for a file that is gone
        return super()._load_data(name)


def _is_whole(path: str) -> bool:
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    size = _HASH().digest_size
    return len(content) > size and _HASH(content[:-size]).digest() == content[-size:]


@functools.cache
def _report_compiling(package: Path) -> None:
    print(f"lmfast: compiling {package.name} code for this machine (once, some seconds)", file=sys.stderr)
