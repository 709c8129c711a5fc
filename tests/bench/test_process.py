"""Peak memory and seconds of a process tree."""

import os
import subprocess
import sys

import pytest

from bench import process

if not sys.platform.startswith("linux"):
    pytest.skip("memory is read from /proc, which only Linux has", allow_module_level=True)

HOLDS = "import time; x = bytearray({} << 20); time.sleep(0.6)"


def python(code: str, tmp_path) -> process.Finished:
    return process.run([sys.executable, "-c", code], tmp_path, dict(os.environ))


def test_memory_of_children_is_summed(tmp_path):
    child = HOLDS.format(60)
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); {HOLDS.format(60)}; p.wait()"
    done = python(code, tmp_path)
    assert 120e6 < done.peak_bytes < 190e6
    assert done.seconds > 0.6


def test_mapped_files_do_not_count(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * (80 << 20))
    code = (
        f"import mmap, time; f = open({str(path)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
        "n = sum(m[i] for i in range(0, len(m), 4096)); time.sleep(0.3)"
    )
    assert python(code, tmp_path).peak_bytes < 40e6


def test_a_command_that_fails_is_told(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as told:
        python("print('why'); raise SystemExit(3)", tmp_path)
    assert told.value.returncode == 3 and "why" in told.value.output
