"""Which saved runs exist, and which one is the baseline."""

from bench.results import write
from bench.storage import FOLDER, last_rows, last_whole, run_folder, saved_runs
from tests.bench.results import result, run


def test_runs_of_another_mode_device_or_size_are_stored_separately():
    folders = {
        run_folder("vm", device, cores, mode)
        for device in ("AMD EPYC", "H100")
        for cores in (2, 16)
        for mode in ("quick", "full")
    }
    assert len(folders) == 8 and {folder.parent for folder in folders} == {FOLDER}


def test_a_run_of_a_selection_does_not_replace_the_suite():
    whole, part = run(), run(selection="-k encode")
    assert last_whole([whole, part]) is whole
    assert last_whole([part]) is part


def test_the_last_run_that_has_a_benchmark_is_its_baseline(tmp_path):
    inner = tmp_path / "Linux"
    inner.mkdir()
    write(inner / "0002_b.json", run(result("encode", 2.0)))
    write(inner / "0001_a.json", run(result("encode", 1.0), result("decode", 3.0)))
    (inner / "0003_broken.json").write_text("{")
    (inner / "0004_other.json").write_text('{"bytes": 3}')
    (inner / "0005_binary.json").write_bytes(b"\xff")
    runs = saved_runs(tmp_path)
    assert [one.source for one in runs] == ["0001_a", "0002_b"] and last_whole(runs) is runs[1]
    last = {name: (row.median, of.source) for (_, name), (row, of) in last_rows(runs).items()}
    assert last == {"encode": (2.0, "0002_b"), "decode": (3.0, "0001_a")}


def test_no_folder_means_no_runs(tmp_path):
    assert saved_runs(tmp_path / "none") == [] and last_rows([]) == {}
