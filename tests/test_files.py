"""files.py: a file under its final name is complete, whatever happens while it is written."""

import os

import pytest

from lmfast.errors import UserError
from lmfast.files import check_writable, written_beside


def test_appears_when_complete(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with written_beside(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.txt"]


def test_failure_keeps_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), written_beside(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out.txt"]


def test_an_input_that_is_missing_is_not_blamed_on_the_output(tmp_path):
    with pytest.raises(FileNotFoundError), written_beside(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"out.txt: cannot be written \(No space left"):  # noqa: SIM117
        with written_beside(tmp_path / "out.txt"):
            raise OSError(28, "No space left on device")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="is not writable"):
        check_writable(tmp_path / "out.txt")


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        check_writable(tmp_path / "no" / "out.txt")
