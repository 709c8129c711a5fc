"""SIGTERM and Ctrl-C stop a run after the current step."""

import contextlib
import os
import signal


class StopSignals(contextlib.AbstractContextManager):
    """Records SIGTERM or Ctrl-C as a request to save a checkpoint and stop.

    second_interrupts: whether a second signal interrupts at once. Not under torchrun, which forwards signals that its
    processes have already received from the terminal.
    """

    def __init__(self, second_interrupts: bool = True):
        self.seen, self.second_interrupts = False, second_interrupts

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, frame):
        if not self.seen:
            again = "; press Ctrl-C again to stop at once" if self.second_interrupts else ""
            # Not print: the signal may have interrupted one.
            os.write(2, f"\nstopping after the current step{again}\n".encode())
        self.seen = True
        if self.second_interrupts:
            signal.signal(number, self.before[number])

    def __exit__(self, kind, *_):
        if kind is not None and not self.second_interrupts:
            # If a rank is lost, torchrun sends SIGTERM to the others at once, which still have to report that.
            self.seen = True
            return
        for number, handler in self.before.items():
            signal.signal(number, handler)
