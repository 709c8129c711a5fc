"""The cache of compiled code: its folder is keyed by the sources and owned by this user; damaged files are replaced."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import njit

from lmfast.tokenizer.compiled import code_cache, code_folder
from lmfast.tokenizer.compiled.code_cache import enable_cache

ROOT = Path(__file__).resolve().parents[3]


def _double(x):
    return 2 * x


def hits(package: Path) -> int:
    """Calls a function with a code cache as a new process would; returns the number of cache hits."""
    function = njit(_double)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code_folder, "TOKENIZER", package)
        code_folder.code_folder.cache_clear()
        enable_cache(function)
    code_folder.code_folder.cache_clear()
    assert function(21) == 42
    return sum(function.stats.cache_hits.values())


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its last byte": lambda content: content[:-1],
    "one byte changed": lambda content: content[:60] + bytes([content[60] ^ 1]) + content[61:],
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_code_is_compiled_again_and_saved(tmp_path, suffix, damage):
    assert hits(tmp_path) == 0 and hits(tmp_path) == 1
    (file,) = tmp_path.rglob(f"*.{suffix}")
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert hits(tmp_path) == 0 and hits(tmp_path) == 1


def test_an_unreadable_file_counts_as_absent(tmp_path):
    assert hits(tmp_path) == 0
    (file,) = tmp_path.rglob("*.nbi")
    file.unlink()
    file.mkdir()
    assert hits(tmp_path) == 0  # nor can it be written


def test_a_full_disk_only_costs_time(tmp_path, small_files):
    with small_files(100):
        assert hits(tmp_path) == 0
    assert not [path for path in tmp_path.rglob("*.nb?*") if path.is_file()]
    assert hits(tmp_path) == 0 and hits(tmp_path) == 1


def test_compiling_is_reported_if_something_is_compiled(tmp_path, capsys):
    """But not if a function is merely missing from the cache: small files do not need some of them."""
    code_cache._report_compiling.cache_clear()
    enable_cache(njit(_double))
    assert capsys.readouterr().err == ""
    hits(tmp_path)
    assert capsys.readouterr().err.startswith("lmfast: compiling tokenizer code")
    code_cache._report_compiling.cache_clear()
    assert hits(tmp_path) == 1
    assert capsys.readouterr().err == ""


@pytest.fixture
def read_only_package(tmp_path, monkeypatch) -> Path:
    """A package whose cache folder cannot be created, because a file has its name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    package = tmp_path / "package"
    package.mkdir()
    (package / "__pycache__").touch()
    monkeypatch.setattr(code_folder, "TOKENIZER", package)
    code_folder.code_folder.cache_clear()
    yield package
    code_folder.code_folder.cache_clear()


def test_a_temporary_folder_of_another_user_is_not_trusted(read_only_package, tmp_path, monkeypatch):
    (tmp_path / "user").touch()  # no home
    mine = tmp_path / f"lmfast-{os.getuid()}"
    assert code_folder.code_folder().parent == mine
    code_folder.code_folder.cache_clear()
    theirs = mine.rename(tmp_path / "lmfast-4321")
    monkeypatch.setattr("os.getuid", lambda: 4321)  # whom that folder does not belong to
    folder = code_folder.code_folder()
    assert theirs not in folder.parents and folder.parent == tmp_path


def test_without_home_and_known_user_the_temporary_folder_is_used(read_only_package, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    folder = code_folder.code_folder()
    assert folder.parent == tmp_path / f"lmfast-{os.getuid()}" and folder.stat().st_mode & 0o777 == 0o700


def test_the_cache_folder_is_writable_and_depends_on_the_sources():
    folder = code_folder.code_folder()
    assert os.access(folder, os.W_OK)
    assert folder.name.startswith("numba-")


def test_a_read_only_install_uses_the_users_cache(tmp_path):
    """`__pycache__` cannot be created if a file has its name, so the next location is used."""
    package = tmp_path / "lmfast" / "tokenizer"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    for module in ("errors.py", "files.py"):
        (package.parent / module).write_bytes((ROOT / "lmfast" / module).read_bytes())
    shutil.copytree(
        ROOT / "lmfast" / "tokenizer",
        package,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    (package / "__pycache__").touch()
    code = "from lmfast.tokenizer.compiled.code_folder import code_folder; print(code_folder())"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stderr
    first = Path(answer.stdout.strip())
    assert first.parent == tmp_path / "cache" / "lmfast"
    (package / "patterns.py").write_text((package / "patterns.py").read_text() + "# edited\n")
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert Path(answer.stdout.strip()) != first
