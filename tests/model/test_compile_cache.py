import os
import time

import pytest
import torch

from lmfast.model import compile_cache
from lmfast.model.inductor import inductor


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv(compile_cache.VARIABLE, "")  # so that it is restored
    del os.environ[compile_cache.VARIABLE]
    monkeypatch.setattr(compile_cache, "_own", None)
    return tmp_path / "lmfast" / "torchinductor"


def test_compiled_code_is_in_the_users_private_cache(cache):
    compile_cache.set_directory()
    assert os.environ[compile_cache.VARIABLE] == str(cache)
    assert cache.stat().st_mode & 0o777 == 0o700


def test_without_xdg_the_cache_is_in_the_home_directory(cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(cache.parent))
    compile_cache.set_directory()
    assert os.environ[compile_cache.VARIABLE] == str(cache.parent / ".cache/lmfast/torchinductor")


def test_the_users_choice_is_respected(cache, tmp_path):
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    (chosen / "old.so").touch()
    os.utime(chosen / "old.so", (0, 0))
    os.environ[compile_cache.VARIABLE] = str(chosen)
    compile_cache.set_directory()
    compile_cache.remove_empty_libraries()
    assert os.environ[compile_cache.VARIABLE] == str(chosen) and not cache.exists()
    assert (chosen / "old.so").exists()


def test_a_noexec_directory_is_not_used(cache, monkeypatch):
    noexec = type("Flags", (), {"f_flag": os.ST_NOEXEC})
    statvfs = os.statvfs
    monkeypatch.setattr(os, "statvfs", lambda path: noexec if path == cache else statvfs(path))
    compile_cache.set_directory()
    temporary = cache.parent.parent / "temporary"
    assert os.environ[compile_cache.VARIABLE] == str(temporary / f"lmfast-{os.getuid()}" / "torchinductor")


def test_empty_libraries_are_removed_before_compiling(cache, monkeypatch):
    """A killed linker leaves one, which made every later run of the same model fail."""
    cache.mkdir(mode=0o700, parents=True)
    cache.parent.chmod(0o700)
    for name, content in (("old.so", b""), ("young.so", b""), ("whole.so", b"ELF"), ("empty.cpp", b"")):
        (cache / name).write_bytes(content)
    os.utime(cache / "old.so", (0, 0))
    os.utime(cache / "whole.so", (0, 0))
    in_an_hour = time.time() + 3600  # however long this test takes
    os.utime(cache / "young.so", (in_an_hour, in_an_hour))
    compile_cache.set_directory()
    assert (cache / "old.so").exists(), "searched before anything is compiled"
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: lambda graph, inputs: graph)
    inductor(None, [])
    assert sorted(path.name for path in cache.iterdir()) == ["empty.cpp", "whole.so", "young.so"]
