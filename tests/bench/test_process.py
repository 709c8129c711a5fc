"""Peak memory and seconds of a process tree."""

import os
import subprocess
import sys

import pytest

from bench import process

if not sys.platform.startswith("linux"):
    pytest.skip("memory is read from /proc, which only Linux has", allow_module_level=True)

# Holds memory until a file exists.
HOLD = "import os, time; x = bytearray({} << 20); [time.sleep(0.005) for _ in iter(lambda: os.path.exists({!r}), True)]"


def python(code: str, tmp_path) -> process.Finished:
    return process.run([sys.executable, "-c", code], tmp_path, dict(os.environ))


def test_memory_of_children_is_summed(tmp_path, monkeypatch):
    """Both processes hold their memory until the sum was measured."""
    seen, real = tmp_path / "seen", process.held

    def held(watched):
        total = real(watched)
        if total > 120e6:
            seen.touch()
        return total

    monkeypatch.setattr(process, "held", held)
    hold = HOLD.format(60, str(seen))
    code = f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {hold!r}]); {hold}; p.wait()"
    assert 120e6 < python(code, tmp_path).peak_bytes < 190e6


def test_seconds_cover_the_whole_process(tmp_path):
    code = "import time; began = time.perf_counter(); time.sleep(0.1); print(time.perf_counter() - began)"
    done = python(code, tmp_path)
    assert done.seconds > float(done.output) >= 0.1


def test_mapped_files_do_not_count(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"x" * (80 << 20))
    code = (
        f"import mmap, time; f = open({str(path)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
        "n = sum(m[i] for i in range(0, len(m), 4096)); time.sleep(0.3)"
    )
    assert python(code, tmp_path).peak_bytes < 40e6


def test_a_command_that_fails_raises_with_its_output(tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        python("print('why'); raise SystemExit(3)", tmp_path)
    assert caught.value.returncode == 3 and "why" in caught.value.output
