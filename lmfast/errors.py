"""`UserError`: the exception for everything a user can fix, such as bad files, bad values and missing devices.

Its message is one line: subject, problem, remedy. Commands print it on standard error and exit with code 2
(`exit_on_user_error`); any other exception is a bug and keeps its traceback.
"""

import contextlib
import sys


class UserError(ValueError):
    """A problem with the input, described in one line: where, what is wrong, what to do."""


@contextlib.contextmanager
def exit_on_user_error():
    """Turns `UserError` and failed writes into one line on standard error and exit code 2, Ctrl-C into exit code 130.

    A closed pipe (head, less) is not an error."""
    from lmfast import streams
    from lmfast.interrupts import deferred_during_imports

    streams.prepare()
    try:
        with deferred_during_imports(), streams.flushed_output():
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
