"""Defers Ctrl-C until imports are complete.

Importing torch takes seconds, and some of that code catches every exception or stays half imported after one: Ctrl-C was
lost, or surfaced later as a RecursionError. Commands import inside functions, so an import can be running at any time.
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
    """Inside the block, SIGINT raises KeyboardInterrupt only when no import is running.

    Does nothing if SIGINT is ignored or has another handler, and in threads other than the main one."""
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
    """The handler. During an import it reports once and retries until the import is done; a second Ctrl-C exits."""

    def __init__(self):
        self.reported = self.by_timer = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not _in_import(frame):
            raise KeyboardInterrupt
        if self.reported and not self.by_timer:
            os._exit(130)
        if not self.reported:
            # os.write, because print may be what was interrupted.
            os.write(2, b"\nstopping when all modules are loaded; press Ctrl-C again to stop at once\n")
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
