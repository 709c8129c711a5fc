"""Standard input, output and error of a command, which may be closed, full, or no text.

Python leaves `sys.stdin`, `sys.stdout` or `sys.stderr` None where the shell closed it (`<&-`). A command that needs one asks
here and gets one line instead of a traceback.
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
    """Characters that a console cannot show do not end the command; what is closed is nobody's file.

    A closed descriptor would be given to the next file that is opened, and whatever writes to standard error would write
    into that. `print(file=None)` would write errors among the results.
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
    """Standard input, to read from inside the block and to do nothing else there; raises UserError where it is closed,
    cannot be read, or is not UTF-8."""
    if sys.stdin is None:
        raise UserError("standard input is closed; pipe text into it, or name a file")
    try:
        yield sys.stdin
    except UnicodeDecodeError as error:
        raise UserError(f"standard input: not UTF-8 text ({error.reason}); convert it first") from None
    except OSError as error:
        raise UserError(
            f"standard input: cannot be read ({error.strerror or error}); pipe text into it, or name a file"
        ) from None


def input_is_piped() -> bool:
    """Whether standard input is a pipe or a file: something that was meant to be read."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no descriptor as in a notebook
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def standard_output() -> TextIO:
    """Standard output, for a command whose result goes there; raises UserError where it is closed."""
    if sys.stdout is None:
        raise UserError("standard output is closed, and the result goes there; redirect it to a file")
    return sys.stdout


@contextlib.contextmanager
def flushed_output() -> Iterator[None]:
    """Writes out what was printed inside the block, if that ends well or by SystemExit (--help). Raises UserError where
    output cannot be written, and BrokenPipeError where its reader went away; then what is left of it is forgotten, so that
    Python does not fail at exit."""
    try:
        try:
            yield
        except SystemExit:
            print(end="", flush=True)
            raise
        print(end="", flush=True)
    except OSError as error:
        # Files of ours come with their names.
        if error.filename is not None or error.errno not in (*_FULL, errno.EPIPE, errno.EBADF):
            raise
        with contextlib.suppress(AttributeError, OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        if error.errno == errno.EPIPE:
            raise
        raise UserError(
            f"output cannot be written ({error.strerror}); free space, or choose another place"
        ) from None
