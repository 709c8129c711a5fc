"""Stages in this process, which starts no other, and a recipe of a tiny model."""

import contextlib
import importlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lmfast.__main__ import COMMANDS
from lmfast.cli.recipes.processes import Outcome


def run_here(words: Sequence[str], capture: Path | None) -> Outcome:
    """`lmfast WORDS` in this process."""
    start, printed = time.perf_counter(), io.StringIO()
    module = importlib.import_module(COMMANDS[words[0]][0])
    code, before = 0, sys.argv
    sys.argv = [f"lmfast {words[0]}", *words[1:]]
    try:
        with contextlib.redirect_stdout(printed) if capture is not None else contextlib.nullcontext():
            module.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.argv = before
    if capture is not None and code == 0:
        capture.write_text(printed.getvalue())
        print(printed.getvalue(), end="")
    return Outcome(code, time.perf_counter() - start, 1_000_000)
