import os

import pytest

from lmfast.model import compile_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
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


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_directory_that_others_may_write_to_is_not_used(cache, mode):
    cache.mkdir(parents=True)
    cache.chmod(mode)
    compile_cache.use()
    assert compile_cache.VARIABLE not in os.environ


def test_a_directory_of_another_user_is_not_used(cache, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 123456)
    compile_cache.use()
    assert compile_cache.VARIABLE not in os.environ


def test_a_home_that_cannot_be_written_or_executed_from_is_not_used(cache, monkeypatch):
    flags = type("Flags", (), {"f_flag": os.ST_NOEXEC})
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: flags)
        assert compile_cache.cache_folder() is None
    assert compile_cache.cache_folder() == cache
    cache.rmdir()
    cache.parent.rmdir()
    cache.parent.write_text("a file where the directory would be")
    assert compile_cache.cache_folder() is None
