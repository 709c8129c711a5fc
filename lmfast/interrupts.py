"""Ctrl-C and SIGTERM as exceptions, so that files under temporary names are removed; deferred until imports are complete.

Importing torch takes seconds, and some of that code catches every exception or stays half imported after one: Ctrl-C was
lost, or surfaced later as a RecursionError. Commands import inside functions, so an import can be running at any time.
"""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

RETRY_SECONDS = 0.05


TERMINATED = 128 + signal.SIGTERM
"""exit code of a command that SIGTERM ended, as in shells"""
_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextlib.contextmanager
def exceptions_after_imports() -> Iterator[None]:
    """Inside the block, SIGINT raises KeyboardInterrupt and SIGTERM SystemExit, but only when no import is running.

    Leaves signals alone that are ignored or have another handler, and does nothing in threads other than the main one."""
    on_main = threading.current_thread() is threading.main_thread()
    taken = [number for number, usual in _USUAL.items() if on_main and signal.getsignal(number) == usual]
    for number in taken:
        signal.signal(number, _Waiting())
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, _USUAL[number])


class _Waiting:
    """The handler. During an import it reports once and retries until the import is done; a second signal exits."""

    def __init__(self):
        self.reported = self.by_timer = False
        self.process = os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process and number == signal.SIGTERM:  # a forked worker ends at once
            os._exit(TERMINATED)
        if not _in_import(frame):
            if number == signal.SIGTERM:
                sys.exit(TERMINATED)
            raise KeyboardInterrupt
        if self.reported and not self.by_timer:
            os._exit(128 + number)
        if not self.reported:
            again = "; press Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            # os.write, because print may be what was interrupted.
            os.write(2, f"\nstopping when all modules are loaded{again}\n".encode())
        self.reported, self.by_timer = True, False
        timer = threading.Timer(RETRY_SECONDS, self._again, [number])
        timer.daemon = True
        timer.start()

    def _again(self, number: int) -> None:
        self.by_timer = True
        _thread.interrupt_main(signal.Signals(number))


def _in_import(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
