"""SIGTERM and Ctrl-C as a request to stop after the step under way."""

import contextlib
import os
import signal


class StopSignals(contextlib.AbstractContextManager):
    """SIGTERM or Ctrl-C asks for a checkpoint and an end; a second one interrupts at once.

    insist: whether a second one does. torchrun passes on to its processes what the terminal has sent them already.
    """

    def __init__(self, insist: bool = True):
        self.seen, self.insist = False, insist

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame):
        if not self.seen:
            again = "; Ctrl-C again stops at once" if self.insist else ""
            # Not by print, which may be what was interrupted.
            os.write(2, f"\nstopping when the step under way is done{again}\n".encode())
        self.seen = True
        if self.insist:
            signal.signal(number, self.before[number])

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
