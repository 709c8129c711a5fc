"""Runs a stage as a process of its own, so that it behaves like its command, and measures time and memory.

The process gets the signals that this one gets, once each, and stops when this one dies. Its memory is the anonymous and
shared memory of it and its children without file pages, read a hundred times per second where /proc exists. With
`capture`, standard output is also written to that file, which gets its name when the stage succeeds.
"""

import codecs
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lmfast.cli.progress import PeakMemory, memory_in_use

INTERRUPTED = 130
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Outcome:
    """code: exit code, negative for a signal. memory: peak in bytes. device_memory: of the GPU. interrupted: Ctrl-C was
    pressed, although the stage may have finished."""

    code: int
    seconds: float
    memory: int | None = None
    device_memory: int | None = None
    interrupted: bool = False


Launch = Callable[[Sequence[str], Path | None], Outcome]
"""(words after `lmfast`, file for standard output or None) → outcome"""


def launch(words: Sequence[str], capture: Path | None) -> Outcome:
    """Runs `lmfast WORDS` and waits for it."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        facts = Path(folder) / "facts.json"
        command = [sys.executable, "-m", "lmfast.cli.recipes.stage", str(facts), *words]
        posix = os.name == "posix"
        sys.stdout.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=None if capture is None else subprocess.PIPE,
            process_group=0 if posix else None,
            preexec_fn=_stop_with_parent() if posix else None,
        )
        with PeakMemory(lambda: tree_memory(process.pid), seconds=0.01) as memory:
            code, interrupted = _wait(process, capture)
        if code == -signal.SIGINT:  # before the command could handle it
            code = INTERRUPTED
        return Outcome(code, time.perf_counter() - start, memory.peak, _device_memory(facts), interrupted)


def tree_memory(pid: int) -> int | None:
    """Bytes of anonymous and shared memory of a process and its descendants; None if unknown."""
    total = memory_in_use(pid)
    if total is None:
        return None
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                total += sum(tree_memory(int(child)) or 0 for child in children.read().split())
        return total
    except (OSError, ValueError):
        return None


def _wait(process: "subprocess.Popen[bytes]", capture: Path | None) -> tuple[int, bool]:
    """(exit code, whether Ctrl-C was pressed). Passes signals on to the process and its children, and waits for its end."""
    temporary = None if capture is None else capture.with_name(f".{capture.name}.partial")
    interrupted = False
    with contextlib.ExitStack() as files:
        copy: IO[bytes] | None = None
        while True:
            try:
                if temporary is not None:
                    if copy is None:
                        files.callback(temporary.unlink, missing_ok=True)
                        copy = files.enter_context(temporary.open("wb"))
                    _copy_output(process, copy)
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
                _send(process, signal.SIGINT)
            except BaseException:
                _send(process, signal.SIGTERM)
                process.wait()
                raise
        if copy is not None and temporary is not None and capture is not None and code == 0:
            copy.close()
            os.replace(temporary, capture)
    return code, interrupted


def _copy_output(process: "subprocess.Popen[bytes]", copy: IO[bytes]) -> None:
    """Shows what the process prints, as it comes, and copies it."""
    assert process.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while piece := os.read(process.stdout.fileno(), 1 << 16):
        copy.write(piece)
        print(decoder.decode(piece), end="", flush=True)


def _send(process: "subprocess.Popen[bytes]", number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)


def _stop_with_parent() -> Callable[[], None] | None:
    """Called in the child before it starts: on Linux it gets SIGTERM when this process dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _device_memory(facts: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return json.loads(facts.read_text(encoding="utf-8")).get("device_memory")
    return None
