"""Pages from saved runs only: complete, escaped, offline."""

import json

import pytest

from bench import report
from lmfast.errors import UserError
from tests.bench.results import result, run


@pytest.fixture
def saved() -> dict:
    return run(result("encode[A]", 0.001, {"tiktoken": 2.0, "gigatoken": 0.5})) | {"source": "0001_abc"}


def test_markdown_has_machine_versions_and_ratios(saved):
    text = report.markdown([saved])
    assert (
        "A <CPU>, 2 cores" in text and "commit abc with uncommitted changes" in text and "python 3.11" in text
    )
    assert "| tokenizer encode[A] | 1 ms |" in text
    assert "2.00x tiktoken (1.90-2.10)" in text and "measured ceilings: read 20 GB/s" in text
    assert "change" not in text.split("\n|")[1]


def test_bars_are_speeds_relative_to_ours(saved):
    found = report.bars(saved["benchmarks"][0])
    assert [(who, speed) for who, speed, _ in found] == [
        ("lmfast", 1.0),
        ("gigatoken", 2.0),
        ("tiktoken", 0.5),
    ]
    assert found[1][2] == "500 µs, 500 ktokens/s; ours 0.50x (0.40-0.60)"


def test_the_page_is_escaped_and_loads_nothing(saved):
    page = report.page([saved])
    assert "A &lt;CPU&gt;" in page and "<CPU>" not in page
    assert "http" not in page and "src=" not in page and page.count("<svg") == 1
    assert page.count("<rect") == 3


def test_files_that_are_no_runs_are_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="holds no benchmarks"):
        report.read([path])
    with pytest.raises(UserError, match="cannot be read as JSON"):
        report.read([tmp_path / "absent.json"])
    path.write_text(json.dumps(run()))
    assert report.read([path])[0]["source"] == "x"


def test_the_newest_run_of_each_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FOLDER", tmp_path)
    assert report.newest_runs() == []
    for folder, name in (("a", "0001"), ("a", "0002"), ("b", "0001")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}_x.json").write_text(json.dumps(run()))
    (tmp_path / "corpora").mkdir()
    assert [one["source"] for one in report.newest_runs()] == ["0002_x", "0001_x"]
