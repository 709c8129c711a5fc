"""Finds out which ranks a run has lost, so that it ends soon and says which.

Ranks that wait for a lost one in a collective fail; others may wait for those and notice nothing. So a rank that notices
sets a key in the store of the process group, for which a thread of every rank looks, and all survivors check in there.
Ranks that have not checked in after PATIENCE seconds are lost, and the lowest survivor reports them. A survivor whose main
thread is still blocked GRACE seconds later ends itself.

Under torchrun the store belongs to torchrun. Otherwise it belongs to rank 0: if that is lost, every other rank reports it.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import torch.distributed as dist

PATIENCE, GRACE = 8.0, 8.0
"""seconds"""
LOOK = 0.5
"""seconds between looks into the store"""


class LostRanks(contextlib.AbstractContextManager["LostRanks"]):
    """One rank's watch for lost ranks, within a block."""

    def __init__(self, store: dist.Store, rank: int, world_size: int):
        self.store = dist.PrefixStore("survivors", store)
        self.rank, self.world_size = rank, world_size
        self.ended, self.noticed, self.known = threading.Event(), threading.Event(), threading.Event()
        self.error: str | None = None

    def __enter__(self) -> "LostRanks":
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops watching: a rank that leaves the block, normally or with an error of its own, is no survivor."""
        self.ended.set()

    def message(self) -> str | None:
        """For a rank that has noticed the loss of another one: the error, on the lowest survivor; otherwise None.

        Ignores SIGTERM from here on: torchrun sends it when a rank is lost, and SIGKILL 30 s later."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with contextlib.suppress(RuntimeError):
            self.store.set("lost", "")
        self.noticed.set()
        self.known.wait()
        return self.error

    def _watch(self) -> None:
        while not self._is_one_lost():
            if self.ended.wait(LOOK):
                return
        self.error = self._agree()
        self.known.set()
        # The main thread should fail in its next collective.
        if not self.noticed.wait(GRACE) and not self.ended.is_set() and self.error is not None:
            print(f"error: {self.error}", file=sys.stderr, flush=True)
            report_to_torchrun(self.error)
        if not self.ended.wait(GRACE if self.noticed.is_set() else 0):
            os._exit(2)  # ends a main thread that is still blocked, for example by the device

    def _is_one_lost(self) -> bool:
        try:
            return self.noticed.is_set() or self.store.check(["lost"])
        except RuntimeError:  # the store is gone
            return True

    def _agree(self) -> str | None:
        """Checks in; returns the error on the lowest survivor, as soon as all survivors are known."""
        seen: set[int] = set()
        with contextlib.suppress(RuntimeError):
            self.store.set(str(self.rank), "")
            end = time.monotonic() + PATIENCE
            while len(seen) < self.world_size and time.monotonic() < end:
                time.sleep(0.1)
                seen |= {r for r in range(self.world_size) if r not in seen and self.store.check([str(r)])}
                if min(seen) < self.rank:
                    return None
        lost = sorted(set(range(self.world_size)) - seen) if seen else [0]  # which had the store
        return describe_lost(lost, self.world_size)


def describe_lost(ranks: list[int], world_size: int) -> str:
    """The error of a run that has lost these ranks."""
    rest = "rerun the same command to go on from the newest complete checkpoint, if the run has one"
    if not ranks:
        return f"a connection between the {world_size} processes of this run was lost; {rest}"
    numbers = _listed([rank + 1 for rank in ranks])
    one = len(ranks) == 1
    return (
        f"process{'' if one else 'es'} {numbers} of {world_size} (rank{'' if one else 's'} {_listed(ranks)}) exited early; "
        + rest
    )


def _listed(numbers: list[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def report_to_torchrun(message: str) -> None:
    """Writes an error to the file that torchrun reads, so that torchrun's report ends with it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):
            Path(path).write_text(json.dumps({"message": f"error: {message}", "timestamp": int(time.time())}))
