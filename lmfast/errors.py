"""One class for everything a user can mend: bad files, bad values, missing devices.

Library code raises `UserError` with one line that names the file, the value and the way out. Commands
print that line on stderr and exit with code 2 (`exit_on_user_error`); anything else is a bug and keeps its
traceback.
"""

import contextlib
import sys


class UserError(ValueError):
    """A problem in the input, told in one line: what, where, and what to do instead."""


@contextlib.contextmanager
def exit_on_user_error():
    """Turns a `UserError` into one line on stderr and exit code 2, as also output that cannot be written; Ctrl-C into exit
    code 130. A reader that went away (head, less) is no error."""
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
        # The machine's refusals (a folder that is a file, no permission, a full disk) are the user's to mend.
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
