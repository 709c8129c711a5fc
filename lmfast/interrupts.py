"""Ctrl-C while modules are imported: KeyboardInterrupt waits until the import is done.

Importing torch and what it brings takes seconds. Some of that code catches every exception, or is left half imported by
one: Ctrl-C was lost there, or came out later as a RecursionError. A command's imports stand within functions, anywhere.
"""

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

RETRY_SECONDS = 0.05


@contextlib.contextmanager
def deferred_during_imports() -> Iterator[None]:
    """Within, SIGINT raises KeyboardInterrupt outside of imports only. Changes nothing where SIGINT is ignored or
    handled otherwise, or off the main thread."""
    on_main = threading.current_thread() is threading.main_thread()
    if not on_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _Waiting())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _Waiting:
    """The handler: within an import it reports, and tries again until that is done; a second Ctrl-C ends the process."""

    def __init__(self):
        self.reported = self.by_timer = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not _in_import(frame):
            raise KeyboardInterrupt
        if self.reported and not self.by_timer:
            os._exit(130)
        if not self.reported:
            # Not by print, which may be what was interrupted.
            os.write(2, b"\nstopping when everything is loaded; Ctrl-C again stops at once\n")
        self.reported, self.by_timer = True, False
        again = threading.Timer(RETRY_SECONDS, self._again)
        again.daemon = True
        again.start()

    def _again(self) -> None:
        self.by_timer = True
        _thread.interrupt_main()


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
