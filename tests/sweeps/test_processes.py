import signal
import sys

import pytest

from lmfast.files import try_lock
from lmfast.sweeps import processes
from lmfast.sweeps.processes import Process, train_command, visible_gpus, worker_environment
from tests.processes import wait_until


def test_gpus_are_those_of_the_driver_or_of_the_environment(monkeypatch):
    monkeypatch.setattr(processes, "num_gpus", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-8f")
    assert visible_gpus() == ["2", "GPU-8f"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_each_worker_gets_its_gpu_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(processes, "num_cores", lambda: 8)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = [worker_environment(i, 3, ["4", "6"]) for i in range(3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["4", "6", "4"]
    assert {each["OMP_NUM_THREADS"] for each in found} == {each["MKL_NUM_THREADS"] for each in found} == {"2"}
    assert "WORLD_SIZE" not in found[0]
    assert "OMP_NUM_THREADS" not in worker_environment(0, 1, [])
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert worker_environment(0, 3, [])["OMP_NUM_THREADS"] == "5"


def test_the_command_is_that_of_train(tmp_path):
    words = train_command(tmp_path / "a.yaml", tmp_path / "run")
    assert words[1:] == [
        "-m",
        "lmfast.train",
        "--config",
        f"{tmp_path}/a.yaml",
        "--out-dir",
        f"{tmp_path}/run",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="locks are not inherited on Windows")
def test_a_process_keeps_the_lock_of_its_trial_and_its_output(tmp_path):
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    code = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(7)); print('ready'); time.sleep(60)"
    environment = worker_environment(0, 1, [])
    process = Process([sys.executable, "-c", code], environment, tmp_path / "log", lock)
    lock.close()
    try:
        wait_until(lambda: "ready" in (tmp_path / "log").read_text())
        assert try_lock(tmp_path / "lock") is None
        assert process.code() is None
        process.stop()
        process.stop()  # once only
        wait_until(lambda: process.code() is not None)
        assert process.code() == 7
        again = try_lock(tmp_path / "lock")
        assert again is not None
        with again:
            process = Process([sys.executable, "-c", code], environment, tmp_path / "log", again)
    finally:
        process.kill()
    assert process.code() == -signal.SIGKILL
