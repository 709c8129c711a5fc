"""cpu_build.py: the instruction set, and what is compiled where."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmfast_kernels import cpu_build
from tests.kernels.cpu_native import needs_library


@needs_library
def test_built_once(tmp_path):
    path = cpu_build.build(tmp_path, "decoder")
    before = path.stat().st_mtime_ns
    assert cpu_build.build(tmp_path, "decoder") == path and path.stat().st_mtime_ns == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failing_compiler_is_not_an_error(monkeypatch):
    def fail(*_, **__):
        raise subprocess.CalledProcessError(1, "g++", stderr=b"g++: no space left\nmore")

    monkeypatch.setattr(cpu_build, "build", fail)
    monkeypatch.setattr(cpu_build, "compiler", lambda: ["g++"])
    monkeypatch.setattr(cpu_build, "instruction_set", lambda: "AVX2")
    cpu_build.find.cache_clear()
    try:
        assert cpu_build.library("operators") is None
        assert sys.platform != "linux" or cpu_build.why_not("operators") == "g++ failed: g++: no space left"
    finally:
        cpu_build.find.cache_clear()


AVX2, AVX512 = {"avx2", "fma"}, {"avx2", "fma", "avx512f", "avx512vl", "avx512bw", "avx512dq"}


@pytest.mark.parametrize(
    ("machine", "flags", "capability", "want"),
    [
        ("x86_64", AVX512, "", "AVX-512"),
        ("x86_64", AVX512, "avx2", "AVX2"),
        ("x86_64", AVX512, "default", None),
        ("x86_64", AVX512 - {"avx512bw"}, "", "AVX2"),
        ("x86_64", AVX2, "avx512", "AVX2"),
        ("x86_64", AVX2 - {"fma"}, "", None),
        ("aarch64", set(), "", "NEON"),
        ("arm64", set(), "", "NEON"),
        ("ppc64le", set(), "", None),
    ],
)
def test_the_instruction_set_follows_cpu_and_setting(monkeypatch, machine, flags, capability, want):
    monkeypatch.setattr(cpu_build.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu_build, "cpu_flags", lambda: flags)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    assert cpu_build.instruction_set() == want


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/cpuinfo")
def test_the_instruction_set_is_pytorch_s():
    torch_s = {"AVX512": "AVX-512", "AVX2": "AVX2"}.get(torch.backends.cpu.get_cpu_capability())
    assert cpu_build.instruction_set() == (
        torch_s or (cpu_build.instruction_set() == "NEON" and "NEON") or None
    )


@pytest.mark.skipif(sys.platform != "linux" or cpu_build.compiler() is None, reason="needs Linux and g++")
def test_an_unusable_home_falls_back_to_the_temporary_directory(tmp_path, monkeypatch):
    """A home directory that is not writable, or writable by others; the other directory is checked the same way."""
    (tmp_path / "operators.cpp").write_text("int answer() { return 42; }\n")
    monkeypatch.setattr(cpu_build, "SOURCES", tmp_path)
    monkeypatch.setattr(cpu_build, "flags", lambda name: ("-shared",))
    home = tmp_path / "home" / "lmfast"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home.parent))
    monkeypatch.setattr(cpu_build.tempfile, "gettempdir", lambda: str(tmp_path))
    made = cpu_build.build(tmp_path / f"lmfast-{os.getuid()}", "operators")

    def loaded() -> str | None:
        cpu_build.find.cache_clear()
        library = cpu_build.library("operators")
        return library and library._name

    try:
        home.parent.write_text("a file where the folder would be")
        assert loaded() == str(made)
        made.parent.chmod(0o777)
        assert loaded() is None
        made.parent.chmod(0o700)
        home.parent.unlink()
        home.mkdir(parents=True)
        shutil.copy(made, home)
        home.chmod(0o777)
        assert loaded() == str(made)
        home.chmod(0o700)
        assert loaded() == str(home / made.name)
    finally:
        cpu_build.find.cache_clear()


def test_a_damaged_library_is_built_again(tmp_path, monkeypatch):
    """Loading a truncated library would end the process with a bus error."""
    built = []

    def run(command, **_):
        if "-o" in command:
            built.append(command)
            Path(command[-1]).write_bytes(b"\x7fELF and so on")
        return subprocess.CompletedProcess(command, 0, b"g++ 99")

    monkeypatch.setattr(cpu_build, "compiler", lambda: ["g++"])
    monkeypatch.setattr(cpu_build.subprocess, "run", run)
    path = cpu_build.build(tmp_path, "operators")
    whole = path.read_bytes()
    assert whole.startswith(b"\x7fELF")
    for number, damaged in enumerate((b"", whole[:-1], whole[:20], b"\0" + whole[1:], b"\0" * len(whole)), 2):
        path.write_bytes(damaged)
        assert (
            cpu_build.build(tmp_path, "operators") == path
            and path.read_bytes() == whole
            and len(built) == number
        )


@needs_library
def test_other_files_next_to_the_sources_are_ignored(tmp_path, monkeypatch):
    sources = shutil.copytree(cpu_build.SOURCES, tmp_path / "cpp")
    built = cpu_build.build(tmp_path, "operators")
    (sources / ".tiles.h.swp").write_bytes(b"\xff\x00")
    (sources / "__pycache__").mkdir()
    monkeypatch.setattr(cpu_build, "SOURCES", sources)
    assert cpu_build.build(tmp_path, "operators") == built


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("#!/bin/sh\nprintf 'no licence \\377' >&2; exit 1\n", "no licence"),
        ("not a program", "Exec format error"),
        ("#!/bin/sh\nprintf 'g++ \\377'; [ \"$1\" = --version ] || exit 3\n", "exit code 3"),
    ],
)
def test_a_compiler_that_does_not_work_is_a_reason(tmp_path, monkeypatch, script, reason):
    command = tmp_path / "g++"
    command.write_text(script)
    command.chmod(0o755)
    monkeypatch.setenv("CXX", str(command))
    monkeypatch.setenv("LMFAST_KERNELS", "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu_build, "instruction_set", lambda: "AVX2")
    cpu_build.find.cache_clear()
    try:
        assert reason in cpu_build.why_not("decoder")
    finally:
        cpu_build.find.cache_clear()


@pytest.mark.parametrize(
    ("given", "options"), [("sh -m64", ["-m64"]), ("sh", []), ("sh 'x", None), ("none -x", None)]
)
def test_the_compiler_may_have_options(monkeypatch, given, options):
    monkeypatch.setenv("CXX", given)
    assert cpu_build.compiler() == (None if options is None else [shutil.which("sh"), *options])
