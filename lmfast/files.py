"""Output files that are complete or absent.

In: the final path. Out: a path beside it to write to; it takes the final name when all went well, and is
removed when not. Refuses folders that are missing or not writable, in one line.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lmfast.errors import UserError


@contextlib.contextmanager
def written_beside(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`; on success it replaces `path` in one step."""
    path = Path(path)
    check_writable(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(beside), str(path)):
            raise
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
    finally:
        beside.unlink(missing_ok=True)


def check_writable(path: str | Path) -> None:
    """Raises UserError where a file cannot be written at `path`, so that no work is done in vain."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file to write")
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"{path}: the folder {folder} does not exist; make it, or choose another --output")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{path}: the folder {folder} is not writable; choose another --output")
