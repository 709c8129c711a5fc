"""A stage as a process: exit codes, signals, output, memory. Needs no torch."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from lmfast.cli.recipes import processes
from lmfast.cli.recipes.processes import launch, tree_memory
from tests.processes import wait_until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="process groups and signals of POSIX")


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Stages run this Python code instead of a command."""

    def script(code: str) -> None:
        path = tmp_path / "stage.py"
        path.write_text(code)
        real = subprocess.Popen
        monkeypatch.setattr(
            processes.subprocess, "Popen", lambda command, **rest: real([sys.executable, path], **rest)
        )

    return script


def test_output_is_shown_and_kept_if_the_stage_succeeds(script, tmp_path, capsys):
    script("print('a text with ä')")
    outcome = launch([], tmp_path / "out.txt")
    assert outcome.code == 0 and outcome.seconds > 0
    assert (tmp_path / "out.txt").read_text() == "a text with ä\n" == capsys.readouterr().out


def test_nothing_is_kept_of_a_stage_that_fails(script, tmp_path):
    script("print('half'); raise SystemExit(2)")
    assert launch([], tmp_path / "out.txt").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["stage.py"]


def test_a_signal_is_the_negative_code(script):
    script("import os; os.kill(os.getpid(), 9)")
    assert launch([], None).code == -9


def test_ctrl_c_reaches_the_stage_once_and_its_end_is_awaited(script, tmp_path):
    script(
        "import time, pathlib, os\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n"
        "    (folder / 'ready').touch()\n"
        "    time.sleep(60)\n"
        "except KeyboardInterrupt:\n"
        "    (folder / 'saved').touch()\n"
        "    os._exit(130)\n"
    )
    ready = tmp_path / "ready"
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        wait_until(ready.exists)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcome = launch([], None)
    thread.join()
    assert outcome.code == 130 and (tmp_path / "saved").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_counts_the_stage_and_its_children(script):
    block = "x = bytearray(60_000_000); import time; time.sleep(0.4)"
    script(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {block!r}], check=True)")
    memory = launch([], None).memory
    assert memory is not None and 60e6 < memory < 150e6
    assert tree_memory(2**22 + 1) is None
