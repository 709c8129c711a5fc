import os

import pytest

from lmfast.model import compile_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(compile_cache.VARIABLE, "")  # so that it is put back
    del os.environ[compile_cache.VARIABLE]
    return tmp_path / "lmfast" / "torchinductor"


def test_compiled_code_is_kept_in_the_users_cache_for_nobody_else(cache):
    compile_cache.use()
    assert os.environ[compile_cache.VARIABLE] == str(cache)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_without_xdg_it_lies_in_the_home(cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(cache.parent))
    compile_cache.use()
    assert os.environ[compile_cache.VARIABLE] == str(cache.parent / ".cache/lmfast/torchinductor")


def test_the_users_own_choice_counts(cache):
    os.environ[compile_cache.VARIABLE] = "elsewhere"
    compile_cache.use()
    assert os.environ[compile_cache.VARIABLE] == "elsewhere" and not cache.exists()


def test_a_directory_from_which_nothing_may_be_executed_is_not_used(cache, monkeypatch):
    noexec = type("Flags", (), {"f_flag": os.ST_NOEXEC})
    statvfs = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: noexec if path == cache else statvfs(path))
    compile_cache.use()
    temporary = cache.parent.parent / "temporary"
    assert os.environ[compile_cache.VARIABLE] == str(temporary / f"lmfast-{os.getuid()}" / "torchinductor")


def test_empty_libraries_that_nobody_writes_are_removed(cache):
    """A killed linker leaves one, and each later run of the same model failed on it."""
    cache.mkdir(mode=0o700, parents=True)
    cache.parent.chmod(0o700)
    for name, content in (("old.so", b""), ("young.so", b""), ("whole.so", b"ELF"), ("empty.cpp", b"")):
        (cache / name).write_bytes(content)
    os.utime(cache / "old.so", (0, 0))
    os.utime(cache / "whole.so", (0, 0))
    compile_cache.use()
    assert sorted(path.name for path in cache.iterdir()) == ["empty.cpp", "whole.so", "young.so"]
