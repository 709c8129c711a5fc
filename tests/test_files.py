"""files.py: a file under its final name is complete, whatever happens while it is written."""

import os
import threading

import pytest

from lmfast.errors import UserError
from lmfast.files import (
    atomic_folder,
    atomic_write,
    check_not_input,
    check_writable,
    clear_folder,
    file_sha256,
    folder_lock,
    new_file,
    new_folder,
    private_cache,
    read_json,
    read_text,
    remove_new_folders_on_error,
    try_lock,
)


def test_appears_when_complete(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic_write(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.txt"]


def test_a_new_folder_appears_when_complete(tmp_path):
    with new_folder(tmp_path / "a/b", tmp_path / "in") as partial:
        (partial / "file").write_text("x")
        assert not (tmp_path / "a/b").exists()
    assert os.listdir(tmp_path / "a") == ["b"] and (tmp_path / "a/b/file").read_text() == "x"
    with (
        pytest.raises(UserError, match="b: already exists; remove it"),
        new_folder(tmp_path / "a/b", tmp_path / "in"),
    ):
        pass


def test_a_new_folder_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a/b", tmp_path / "in") as partial:
        (partial / "file").write_text("x")
        raise KeyboardInterrupt
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("new", [new_file, new_folder])
def test_a_new_output_is_not_in_the_input(new, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for path in ("in", "in/a", "link/a/b", "in/../in"):
        with (
            pytest.raises(UserError, match=r": is in the input, .*/in; choose"),
            new(tmp_path / path, tmp_path / "in"),
        ):
            pass
    with new(tmp_path / "inner/a", tmp_path / "in") as partial:
        partial.write_text("x") if new is new_file else None
    assert sorted(os.listdir(tmp_path)) == ["in", "inner", "link"] and not os.listdir(tmp_path / "in")


def test_failure_keeps_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out.txt"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "tokenizer"
    for content in ("old", "new"):
        with pytest.raises(KeyboardInterrupt), atomic_folder(path) as temporary:
            temporary.mkdir()
            (temporary / "half").touch()
            raise KeyboardInterrupt
        assert not path.exists() or [file.name for file in path.iterdir()] == ["old"]
        with atomic_folder(path) as temporary:
            temporary.mkdir()
            (temporary / content).touch()
        assert [file.name for file in path.iterdir()] == [content]
    assert os.listdir(tmp_path) == ["tokenizer"]


def test_a_durable_file_is_synced_before_it_takes_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("lmfast.files.sync", lambda path: done.append(("sync", path.name)))
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: done.append(("replace", b.name)) or real(a, b))
    with atomic_write(tmp_path / "out.txt", durable=True) as partial:
        partial.write_text("new")
    assert done == [("sync", partial.name), ("replace", "out.txt"), ("sync", tmp_path.name)]


def test_a_folder_is_locked_by_one_process(tmp_path):
    with folder_lock(tmp_path / "new"):
        with pytest.raises(UserError, match="taken"), folder_lock(tmp_path / "new", refusal="taken"):
            pass
        order, waits = [], threading.Event()

        def second():
            with folder_lock(tmp_path / "new", waiting=waits.set):
                order.append("second")

        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_file_is_locked_until_its_handle_is_closed(tmp_path):
    handle = try_lock(tmp_path / "lock")
    assert handle is not None and try_lock(tmp_path / "lock") is None
    handle.close()
    again = try_lock(tmp_path / "lock")
    assert again is not None
    again.close()


def test_an_emptied_folder_keeps_its_lock(tmp_path):
    with folder_lock(tmp_path / "a"):
        (tmp_path / "a/b").mkdir()
        (tmp_path / "a/b/c").write_text("x")
        (tmp_path / "a/link").symlink_to(tmp_path)
        clear_folder(tmp_path / "a")
        assert os.listdir(tmp_path / "a") == [".lock"]
    clear_folder(tmp_path / "no")


def test_a_missing_input_is_not_reported_as_an_output_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()


def test_on_failure_created_folders_are_removed_and_others_kept(tmp_path):
    (tmp_path / "there").mkdir()
    for inside, left in ((False, ["there"]), (True, ["new", "there"])):
        with pytest.raises(KeyboardInterrupt), remove_new_folders_on_error(tmp_path / "new" / "a" / "b"):
            (tmp_path / "new" / "a" / "b").mkdir(parents=True)
            if inside:
                (tmp_path / "new" / "kept").touch()
            raise KeyboardInterrupt
        assert sorted(path.name for path in tmp_path.iterdir()) == left
    with pytest.raises(KeyboardInterrupt), remove_new_folders_on_error(tmp_path / "there"):
        raise KeyboardInterrupt
    assert (tmp_path / "there").is_dir()
    with remove_new_folders_on_error(tmp_path / "kept"):
        (tmp_path / "kept").mkdir()
    assert (tmp_path / "kept").is_dir()


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"out.txt: cannot be written \(No space left"):  # noqa: SIM117
        with atomic_write(tmp_path / "out.txt"):
            raise OSError(28, "No space left on device")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="is not writable"):
        check_writable(tmp_path / "out.txt")


def test_unwritable_paths(tmp_path):
    with pytest.raises(UserError, match="is a directory"):
        check_writable(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        check_writable(tmp_path / "no" / "out.txt")


def test_an_output_that_is_the_input(tmp_path):
    (tmp_path / "in.txt").write_text("in")
    (tmp_path / "other.txt").write_text("in")
    (tmp_path / "name.txt").symlink_to(tmp_path / "in.txt")
    check_not_input(tmp_path / "other.txt", tmp_path / "in.txt")
    check_not_input(tmp_path / "new.txt", tmp_path / "in.txt")
    check_not_input(tmp_path / "in.txt", tmp_path / "none.txt")
    for path in (tmp_path / "in.txt", tmp_path / "name.txt"):
        with pytest.raises(UserError, match=f"{path.name}: is also the input"):
            check_not_input(path, tmp_path / "in.txt")


def test_text_that_is_not_utf8_is_reported_with_its_byte(tmp_path):
    (tmp_path / "good.txt").write_text("żółw", encoding="utf-8")
    (tmp_path / "bad.txt").write_bytes(b"ab\xff")
    assert read_text(tmp_path / "good.txt") == "żółw"
    with pytest.raises(UserError, match=r"bad\.txt: not UTF-8 text \(byte 2\)"):
        read_text(tmp_path / "bad.txt")


def test_the_sha256_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """(the user's cache, the cache in the temporary directory)"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "user" / "lmfast", tmp_path / "temporary" / f"lmfast-{os.getuid()}"


@pytest.mark.skipif(os.name != "posix", reason="on Windows both locations belong to the user")
def test_a_cache_is_a_folder_that_only_its_user_can_write_to(caches):
    user, temporary = caches
    old = os.umask(0)
    try:
        folder = private_cache("x")
    finally:
        os.umask(old)
    assert folder == user / "x"
    assert [path.stat().st_mode & 0o777 for path in (user, folder)] == [0o700, 0o700]
    folder.chmod(0o702)
    assert private_cache("x") == temporary / "x"
    folder.chmod(0o700)
    user.chmod(0o777)  # as with umask 0; the directory above is private, but the cache is checked itself
    assert private_cache("x") == folder and user.stat().st_mode & 0o777 == 0o700
    assert private_cache("x", lambda path: path != folder) == temporary / "x"
    temporary.joinpath("x").rmdir()
    temporary.rmdir()
    temporary.symlink_to(user)  # a link of the same user is accepted
    assert private_cache("y", lambda path: user not in path.parents) == temporary / "y"


@pytest.mark.skipif(os.name != "posix", reason="on Windows both locations belong to the user")
def test_a_cache_of_another_user_is_not_used(caches, monkeypatch):
    user, temporary = caches
    assert private_cache("x") == user / "x"
    monkeypatch.setattr(os, "getuid", lambda: 4321)
    new = private_cache("x")
    assert new.parent == temporary.parent and new.name.startswith("lmfast-") and new != temporary
    (user.parent / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(user.parent / "file"))
    with pytest.raises(UserError, match="set TMPDIR or XDG_CACHE_HOME"):
        private_cache("x")


def test_json_of_a_missing_or_damaged_file(tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path) is None
    path.write_text("{")
    assert read_json(path) is None
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
