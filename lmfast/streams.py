"""Standard input, output and error of a command, which may be closed, full, or not text.

Python sets `sys.stdin`, `sys.stdout` or `sys.stderr` to None if the shell closed it (`<&-`). The functions here raise a
`UserError` instead of failing with a traceback.
"""

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Iterator
from typing import TextIO

from lmfast.errors import UserError

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))


def prepare() -> None:
    """Replaces characters that the console cannot encode, and opens closed descriptors on /dev/null.

    Otherwise the next file opened would get the descriptor, and error messages would be written into that file.
    `print(file=None)` would mix errors into the results.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="replace")


@contextlib.contextmanager
def standard_input() -> Iterator[TextIO]:
    """Standard input. Only read from it inside the block: OSError and UnicodeDecodeError raised there become UserError.

    Raises UserError if standard input is closed."""
    if sys.stdin is None:
        raise UserError("standard input is closed; pipe text into it, or give a file")
    try:
        yield sys.stdin
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 text ({error.reason}); convert it first") from None
    except OSError as error:
        raise UserError(
            f"standard input: cannot be read ({error.strerror or error}); pipe text into it, or give a file"
        ) from None


def input_is_piped() -> bool:
    """Whether standard input is a pipe or a file."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or without a descriptor, as in a notebook
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def standard_output() -> TextIO:
    """Standard output, for a command that writes its result there. Raises UserError if it is closed."""
    if sys.stdout is None:
        raise UserError("standard output is closed, so the result cannot be printed; redirect it to a file")
    return sys.stdout


@contextlib.contextmanager
def flushed_output() -> Iterator[None]:
    """Flushes what was printed inside the block, on success and on SystemExit (--help).

    Raises UserError if standard output cannot be written, and BrokenPipeError if its reader is gone; then discards the
    rest, so that Python does not fail at exit."""
    try:
        try:
            yield
        except SystemExit:
            print(end="", flush=True)
            raise
        print(end="", flush=True)
    except OSError as error:
        # An error on a file that we opened has its name; one on standard output does not.
        if error.filename is not None or error.errno not in (*_FULL, errno.EPIPE, errno.EBADF):
            raise
        with contextlib.suppress(AttributeError, OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if error.errno == errno.EPIPE:
            raise
        raise UserError(
            f"standard output cannot be written ({error.strerror}); free some space, or redirect it elsewhere"
        ) from None
