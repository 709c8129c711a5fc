"""The processor's name, and whether there may be a GPU."""

import ctypes
from types import SimpleNamespace

import pytest

from lmfast import hardware


def test_the_name_is_the_first_model_name_or_the_platforms(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "Path", lambda _: info)
    monkeypatch.setattr(hardware.platform, "processor", lambda: "")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "arm64")
    assert hardware.cpu_name() == "arm64"
    info.write_text("processor\t: 0\nmodel name\t: AMD EPYC: one\nmodel name\t: other\n")
    assert hardware.cpu_name() == "AMD EPYC: one"


def test_the_identity_distinguishes_generations_with_one_name(tmp_path, monkeypatch):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "Path", lambda _: info)
    core = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\nstepping\t: 1\n"
    info.write_text(core.format(0, 17) + core.format(1, 17))
    assert hardware.cpu_id() == "AMD EPYC, cpu family 25, model 17, stepping 1"
    info.write_text(core.format(0, 1))
    assert hardware.cpu_id() == "AMD EPYC, cpu family 25, model 1, stepping 1"
    info.unlink()
    assert hardware.cpu_id() == hardware.cpu_name()


@pytest.mark.parametrize(
    ("initialised", "count", "expected"),
    [(100, 0, False), (0, 0, False), (0, 2, True), (999, 0, True), (None, 0, False)],
    ids=["no device", "none visible", "two", "a failing driver", "no driver"],
)
def test_the_driver_is_asked_for_gpus(monkeypatch, tmp_path, initialised, count, expected):
    def driver(name):
        if initialised is None:
            raise OSError(f"{name}: cannot open shared object file")

        def count_devices(pointer):
            pointer._obj.value = count
            return 0

        return SimpleNamespace(cuInit=lambda flags: initialised, cuDeviceGetCount=count_devices)

    monkeypatch.setattr(hardware, "Path", lambda _: tmp_path / "absent")
    monkeypatch.setattr(hardware.sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert hardware.may_have_gpu() is expected
    assert hardware.num_gpus() == (0 if initialised else count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not hardware.may_have_gpu()
    monkeypatch.setattr(hardware.sys, "platform", "darwin")
    assert hardware.may_have_gpu()


def test_two_threads_of_a_core_count_once(monkeypatch, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1, 4}, raising=False)
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / path.split("/")[5])
    for cpu, siblings in {"cpu0": "0,4", "cpu1": "1,5", "cpu4": "0,4"}.items():
        (tmp_path / cpu).write_text(siblings)
    assert hardware.num_cores() == 2
    (tmp_path / "cpu4").unlink()
    assert hardware.num_cores() == 3  # where the system does not say


def test_the_machines_memory():
    assert (hardware.machine_memory() or 1 << 40) > 1 << 28
