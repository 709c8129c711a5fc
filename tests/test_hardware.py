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
