"""How commands end: exit code 2 and one line for what the user can fix, 130 when interrupted, 143 on SIGTERM."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence

from lmfast import streams
from lmfast.errors import UserError
from lmfast.interrupts import exceptions_after_imports


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Turns `UserError` and failed writes into one line on standard error and exit code 2, Ctrl-C into exit code 130 and
    SIGTERM into 143.

    A closed pipe (head, less) is not an error."""
    streams.prepare()
    try:
        with exceptions_after_imports(), streams.flushed_output():
            yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
    except OSError as error:
        # The user can fix these: no permission, a full disk, a directory in place of a file.
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def run_training(train: Callable[[Sequence[str]], bool], argv: Sequence[str] | None) -> None:
    """The `main` of a command that trains; train: (command line) → whether the run was not interrupted."""
    with exit_on_user_error():
        if not train(sys.argv[1:] if argv is None else list(argv)):
            sys.exit(130)
