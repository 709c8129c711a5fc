import os
import sys

import pytest

from lmfast.cli.exit_codes import exit_on_user_error
from lmfast.errors import UserError


def test_a_user_error_is_one_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise UserError("tokens.npy: empty; encode a text first")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: tokens.npy: empty; encode a text first\n"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_user_error():
        _ = 1 / 0


def test_ctrl_c_is_code_130(capsys):
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


@full
@pytest.mark.parametrize("text", ["short", "x" * 100_000], ids=["found at the end", "found at once"])
@pytest.mark.parametrize("ending", [None, SystemExit(0)], ids=["a result", "help"])
def test_a_full_device_is_one_line(monkeypatch, capsys, text, ending):
    output = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        print(text)
        if ending is not None:
            raise ending
    output.close()  # like Python at exit: unwritten data is lost
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: standard output cannot be written (No space left on device); free some space, or redirect it elsewhere\n"
    )


def test_a_closed_pipe_is_not_an_error(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    output = open(writer, "w")  # noqa: SIM115
    monkeypatch.setattr(sys, "stdout", output)
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        print("one line")
    output.close()
    assert stop.value.code == 0 and capsys.readouterr().err == ""


def test_with_standard_error_closed_no_message_is_mixed_with_the_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    with pytest.raises(SystemExit) as stop, exit_on_user_error():
        print("summary", file=sys.stderr)
        raise UserError("a problem")
    assert stop.value.code == 2 and capsys.readouterr().out == ""
