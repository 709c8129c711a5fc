"""`UserError`: the exception for everything a user can fix, such as bad files, bad values and missing devices.

Its message is one line: subject, problem, remedy. Commands print it on standard error and exit with code 2
(cli/exit_codes.py); any other exception is a bug and keeps its traceback.
"""


class UserError(ValueError):
    """A problem with the input, described in one line: where, what is wrong, what to do."""
