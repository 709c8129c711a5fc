"""The bench suite as users run it: runs are saved by host, device and mode, and compared with the last one."""

import os
import types

import pytest

from bench import results
from bench.conftest import chosen_run, selection
from bench.machine import ROOT
from bench.results import Run

SUITE = """
import time
from bench.measuring import Work

def test_sleep(measure):
    measure(lambda: time.sleep(0.001), Work(tokens=250, bytes=1000), {"peer": lambda: time.sleep(0.003)})
"""


@pytest.fixture
def suite(tmp_path, monkeypatch, capsys):
    """A function that runs a suite of one benchmark with the real conftest, in this process, and returns its output.

    Results are saved in tmp_path / "saved".
    """
    (tmp_path / "test_one.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text("from bench.conftest import *\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bench.storage.FOLDER", tmp_path / "saved")
    monkeypatch.setattr("bench.ceilings.measured", lambda device, tries: {"read": 1e9})
    monkeypatch.setattr("bench.conftest.set_threads", lambda number: None)  # lasts for the process
    # The benchmark plugin measures nothing if it believes it is in an xdist worker.
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)

    def run(*flags: str) -> str:
        plugins = [f"-pno:{name}" for name in ("cacheprovider", "faulthandler")]
        pytest.main(
            ["-q", str(tmp_path), f"--rootdir={tmp_path}", "--import-mode=importlib", *plugins, *flags]
        )
        out, err = capsys.readouterr()
        return out + err

    return run


def test_runs_are_saved_and_compared_within_their_mode(suite, tmp_path):
    first = suite("--quick", "--benchmark-compare", "-k", "sleep")
    assert "1 passed" in first and "Nothing to compare with yet" in first
    assert "against peers: " in first and "measured ceilings: read 1 GB/s" in first
    second = suite("--quick", "--benchmark-compare")
    assert (
        "change: how many times as fast as in 0001_" in second and "Peers, whose code is the same" in second
    )
    assert "Nothing to compare with yet" in suite("--benchmark-compare")
    assert max(len(line) for line in second.splitlines()) <= 100
    files = sorted((tmp_path / "saved").rglob("*.json"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 3 and len({path.parent for path in files}) == 2
    run = results.read(files[0])
    assert run.settings == {"mode": "quick", "selection": f"{tmp_path} -k sleep"} and run.ceilings == {
        "read": 1e9
    }
    (row,) = run.rows
    assert row.key == ("one", "sleep") and row.peers[0].ratio.median > 1.5 and len(row.ours) >= 3
    assert row.work == {"tokens": 250, "bytes": 1000}


def test_a_regression_fails_on_request(suite, tmp_path):
    assert "1 passed" in suite("--quick", "--benchmark-compare", "--benchmark-compare-fail=median:1%")
    (path,) = (tmp_path / "saved").rglob("*.json")
    run = results.read(path)
    run.rows[0].times["ours"] = [1e-4] * 3
    results.write(path, run)
    out = suite("--quick", "--benchmark-compare", "--benchmark-compare-fail=median:1%")
    assert "Performance has regressed: one sleep: Field 'median' has failed" in out


def test_a_usage_error_and_collect_only_save_nothing(suite, tmp_path):
    rejected = suite("--quick", "--benchmark-compare=0001")
    assert (
        "--benchmark-compare=0001: no run of this host, device and mode (quick) has this name; none is saved"
        in rejected
    )
    assert "Not saving anything" not in suite("--quick", "--collect-only")
    assert not list((tmp_path / "saved").rglob("*.json"))


def test_a_baseline_is_selected_by_prefix():
    runs = [Run("suite", {}, [], source=name) for name in ("0001_a", "0002_b", "0003_c")]
    assert chosen_run("0002", runs, "quick") is runs[1]
    with pytest.raises(pytest.UsageError, match=r"mode \(quick\) has this name; there are 0001, 0002, 0003"):
        chosen_run("0009", runs, "quick")


@pytest.mark.parametrize(
    ("args", "selected"),
    [([str(ROOT / "bench")], ""), ([str(ROOT)], ""), ([str(ROOT / "bench/test_data.py")], "test_data.py")],
)
def test_the_full_suite_is_not_a_selection(args, selected):
    options = types.SimpleNamespace(deselect=None, keyword="")
    found = selection(types.SimpleNamespace(args=args, option=options))
    assert found.endswith(selected) and bool(found) == bool(selected)


def test_quick_and_full_exclude_each_other(suite):
    assert "--quick and --full contradict each other" in suite("--quick", "--full")
