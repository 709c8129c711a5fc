"""Ctrl-C in the first seconds of a command, during imports."""

import importlib
import signal
import sys
import time

import pytest

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.interrupts import deferred_during_imports

# Like torch: catches any exception of its own imports and continues half initialised.
GREEDY = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
    whole = True
except BaseException:
    whole = False
"""


def test_an_interrupted_import_is_finished_first(tmp_path, monkeypatch, capfd):
    (tmp_path / "greedy_module.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemExit) as ended, exit_on_user_error():
        module = importlib.import_module("greedy_module")
        try:
            for _ in range(
                2000
            ):  # short: the signal may reach another thread and then does not interrupt the sleep
                time.sleep(0.01)
        finally:
            assert module.whole
    assert ended.value.code == 130 and capfd.readouterr().err.split("\n")[1:] == [
        "stopping when all modules are loaded; press Ctrl-C again to stop at once",
        "interrupted",
        "",
    ]
    sys.modules.pop("greedy_module")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_outside_imports_an_interrupt_is_immediate():
    with pytest.raises(KeyboardInterrupt), deferred_during_imports():
        signal.raise_signal(signal.SIGINT)


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_during_imports():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
