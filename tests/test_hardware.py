"""The processor's name."""

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
