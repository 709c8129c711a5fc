"""Ctrl-C and SIGTERM in a command: during imports, and while it writes."""

import importlib
import signal
import sys
import time

import pytest

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.files import new_file, new_folder
from lmfast.interrupts import exceptions_after_imports

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


def test_outside_imports_a_signal_is_an_exception():
    with pytest.raises(KeyboardInterrupt), exceptions_after_imports():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(SystemExit), exceptions_after_imports():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_sigterm_leaves_no_partial_output(new, tmp_path):
    with (
        pytest.raises(SystemExit) as ended,
        exit_on_user_error(),
        new(tmp_path / "a/b", tmp_path / "in") as partial,
    ):
        (partial if new is new_file else partial / "file").write_text("half")
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 143 and not list(tmp_path.iterdir())


def test_an_ignored_interrupt_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with exceptions_after_imports():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
