"""A page from saved runs only: complete, escaped, offline."""

import re
import sys

import pytest

from bench import readme, report, results, storage
from tests.bench.results import result, row, run, target_table


@pytest.fixture
def suite_run() -> results.Run:
    return run(result("encode[A]", 0.001, {"tiktoken": 2.0, "gigatoken": 0.5}), result("count[A-1]", 0.01))


def cells(page: str) -> list[list[str]]:
    """The first table."""
    lines = re.search("<table>(.*?)</table>", page).group(1).split("</tr>")[:-1]
    return [re.findall(r"<t[hd][^>]*>(.*?)</t", line) for line in lines]


def test_the_page_has_machine_versions_and_ratios(suite_run):
    page = report.page([suite_run])
    assert "commit abc with uncommitted changes" in page and "python 3.11" in page
    assert "measured ceilings: read 20 GB/s" in page
    heads, encode, count = cells(page)
    assert heads == ["benchmark", "median", "±", "tokens/s", "bytes/s", "times as fast as"]
    assert encode == [
        "encode[A]",
        "1 ms",
        "1 %",
        "250 k",
        "1 MB",
        "0.50x (0.50-0.50) gigatoken, 2.00x (2.00-2.00) tiktoken",
    ]
    assert count[:2] == ["count[A-1]", "10 ms"]


def test_tables_of_targets_are_on_the_page_too():
    one = target_table(row("encode <A>", 0.3), row("peak memory, MB", 0, None))
    page = report.page([one])
    assert cells(page) == [
        ["benchmark", "measured", "must", "reached"],
        ["encode &lt;A&gt;", "2.0 x", "≥ 3", "missed"],
        ["peak memory, MB", "2.0 x", "≥ 3", "missed"],
    ]
    assert "<A>" not in page and page.count("<rect") == 1


def test_the_page_is_escaped_and_loads_nothing(suite_run):
    page = report.page([suite_run])
    assert "A &lt;CPU&gt;" in page and "<CPU>" not in page
    assert "http" not in page and "src=" not in page and page.count("<svg") == 1 and page.count("<rect") == 2


def test_charts_stay_within_their_bounds():
    """The longest names and numbers, at 7.2 pixels per letter and anchored as they are."""
    one = result(
        "linear_cross_entropy[forward]", 0.0555, {"matmul + F.cross_entropy": 112.25, "SDPA default": 0.04}
    )
    page = report.page([run(one, result("encode[A]", 1.0, {"gigatoken": 119.9}))])
    places = re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="(\w+)">([^<]*)<', page)
    assert len(places) == 7
    for x, anchor, text in places:
        left = float(x) - {"start": 0, "middle": 0.5, "end": 1}[anchor] * report.LETTER * len(text)
        assert left >= -1 and left + report.LETTER * len(text) <= report.WIDTH + 1, (text, left)


def test_the_page_has_the_newest_complete_run_of_each_folder_and_the_saved_results(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    assert report.newest_runs() == []
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "runs")
    for folder, name in (("a", "0001"), ("a", "0002"), ("a", "0003"), ("b", "0001")):
        (tmp_path / "runs" / folder).mkdir(parents=True, exist_ok=True)
        one = run(selection="-k encode" if name == "0003" else "")
        results.write(tmp_path / "runs" / folder / f"{name}_x.json", one)
    (tmp_path / "runs" / "corpora").mkdir()
    (tmp_path / "results").mkdir()
    results.write(tmp_path / "results" / "kept.json", target_table(row("x", 1.0)))
    assert [one.source for one in report.newest_runs()] == ["0002_x", "0001_x", "kept"]


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


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    results.write(tmp_path / "run.json", run(result("encode[A]", 0.001, {"tiktoken": 2.0})))
    folder = tmp_path / "new/pages"
    assert command(monkeypatch, capsys, str(tmp_path / "run.json"), "--output", str(folder)) == (
        0,
        f"{folder / 'bench.html'}\n",
    )
    assert [path.name for path in folder.iterdir()] == ["bench.html"]


def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "FOLDER", tmp_path / "none")
    monkeypatch.setattr(results, "RESULTS", tmp_path / "none")
    for words, message in (
        ([], "no saved runs yet; run `pytest bench/` first"),
        ([str(tmp_path / "absent.json")], "not a file of results"),
        (["--readme", "x.json"], "--readme reads bench/results"),
    ):
        code, printed = command(monkeypatch, capsys, *words)
        assert code == 2 and message in printed and printed.count("\n") == 1, printed


def test_readme_is_refreshed_by_the_command(tmp_path, monkeypatch, capsys):
    results.write(tmp_path / "t_x.json", target_table(row("encode A", 0.3)))
    (tmp_path / "README.md").write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    code, printed = command(monkeypatch, capsys, "--readme")
    assert (code, printed) == (0, f"{tmp_path / 'README.md'}\n")
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert (
        "| encode A | 300 ms | gigatoken 600 ms | 2.00 (2.00–2.00) | [abc](bench/results/t_x.json) |" in text
    )
