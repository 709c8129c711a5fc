import pytest

from lmfast.errors import UserError, exit_on_user_error


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
