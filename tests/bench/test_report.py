"""Pages from saved runs only: complete, escaped, offline."""

import json
import re
import sys

import pytest

from bench import readme, report, saved, storage
from tests.bench.results import result, row, run, target_table


@pytest.fixture
def suite_run() -> dict:
    return run(
        result("encode[A]", 0.001, {"tiktoken": 2.0, "gigatoken": 0.5}), result("count[A-1]", 0.01)
    ) | {"source": "0001_abc"}


@pytest.fixture
def targets() -> dict:
    return target_table(row("encode <A>", 0.3), row("peak memory, MB", 0, None)) | {"source": "tokenizer_x"}


def test_markdown_has_machine_versions_and_ratios(suite_run):
    text = report.markdown([suite_run])
    assert (
        "A <CPU>, 2 cores" in text and "commit abc with uncommitted changes" in text and "python 3.11" in text
    )
    assert "| encode[A] | 1 ms |" in text and "| count[A-1] | 10 ms |" in text
    assert "tiktoken 2.00x (1.90-2.10)" in text and "measured ceilings: read 20 GB/s" in text


def test_tables_of_targets_stand_on_the_page_too(targets):
    text = report.markdown([targets])
    assert "| encode <A> | 2.0 x | ≥ 3 | missed |" in text and "| peak memory, MB | 2.0 x |" in text
    page = report.page([targets])
    assert "encode &lt;A&gt;" in page and "<A>" not in page and "300 ms" in page and "peak memory" in page


def test_bars_are_speeds_relative_to_ours(suite_run):
    found = report.bars(saved.entries(suite_run)[0])
    assert [(who, speed) for who, speed, _ in found] == [
        ("lmfast", 1.0),
        ("gigatoken", 2.0),
        ("tiktoken", 0.5),
    ]
    assert found[0][2] == "1 ms, 250 k tokens/s, 1 MB/s"
    assert found[1][2] == "500 µs; ours 0.50x (0.40-0.60)"


def test_the_page_is_escaped_and_loads_nothing(suite_run):
    page = report.page([suite_run])
    assert "A &lt;CPU&gt;" in page and "<CPU>" not in page
    assert "http" not in page and "src=" not in page and page.count("<svg") == 2  # the overview and encode[A]
    assert page.count("<rect") == 1 + 3


def test_nothing_on_a_chart_leaves_its_picture(suite_run):
    """The longest names and numbers, at 7.2 pixels a letter and anchored as they are."""
    one = result(
        "linear_cross_entropy[forward]", 0.0555, {"matmul + F.cross_entropy": 112.25, "SDPA default": 0.04}
    )
    one["extra_info"]["fraction"] = {"of": "matmul bfloat16", "value": 1.13}
    page = report.page([run(one, result("encode[A]", 1.0, {"gigatoken": 119.9})) | {"source": "x"}])
    places = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]*)<', page)
    assert len(places) > 8
    for x, anchor, text in places:
        left = float(x) - {"start": 0, "middle": 0.5, "end": 1}[anchor] * report.LETTER * len(text)
        assert left >= -1 and left + report.LETTER * len(text) <= report.WIDTH + 1, (text, left)


def test_the_newest_whole_run_of_each_folder_and_the_kept_results(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(saved, "RESULTS", tmp_path / "results")
    assert report.newest_runs() == []
    monkeypatch.setattr(storage, "FOLDER", tmp_path)
    for folder, name in (("a", "0001"), ("a", "0002"), ("a", "0003"), ("b", "0001")):
        (tmp_path / folder).mkdir(exist_ok=True)
        one = run()
        one["machine_info"]["selection"] = "-k encode" if name == "0003" else ""
        (tmp_path / folder / f"{name}_x.json").write_text(json.dumps(one))
    (tmp_path / "corpora").mkdir()
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "kept.json").write_text(json.dumps(target_table(row("x", 1.0))))
    assert [one["source"] for one in report.newest_runs()] == ["0002_x", "0001_x", "kept"]


def command(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """(exit code, what was printed)"""
    monkeypatch.setattr(sys, "argv", ["report", *words])
    try:
        report.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out + err


def test_the_command_writes_both_pages(tmp_path, monkeypatch, capsys):
    (tmp_path / "run.json").write_text(json.dumps(run(result("encode[A]", 0.001, {"tiktoken": 2.0}))))
    code, told = command(
        monkeypatch, capsys, str(tmp_path / "run.json"), "--output", str(tmp_path / "new/pages")
    )
    assert code == 0 and told.count("\n") == 2
    assert sorted(path.name for path in (tmp_path / "new/pages").iterdir()) == ["bench.html", "bench.md"]


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(saved, "RESULTS", tmp_path / "none")
    for words, message in (
        ([], "no saved runs yet; run `pytest bench/` first"),
        ([str(tmp_path / "absent.json")], "cannot be read as JSON"),
        (["--readme", "x.json"], "--readme takes what is in bench/results"),
    ):
        code, told = command(monkeypatch, capsys, *words)
        assert code == 2 and message in told and told.count("\n") == 1, told


def test_readme_is_refreshed_by_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "t_x.json").write_text(json.dumps(target_table(row("encode A", 0.3))))
    (tmp_path / "README.md").write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    monkeypatch.setattr(saved, "RESULTS", tmp_path)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    code, told = command(monkeypatch, capsys, "--readme")
    assert (code, told) == (0, f"{tmp_path / 'README.md'}\n")
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert (
        "| encode A | 300 ms | gigatoken 600 ms | 2.00 (1.90–2.10) | [abc](bench/results/t_x.json) |" in text
    )
