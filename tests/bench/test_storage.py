"""Which saved runs there are, and which one is a baseline."""

import json

from bench.storage import FOLDER, last_results, last_whole, run_folder, saved_runs
from tests.bench.results import result, run


def test_runs_of_another_mode_device_or_size_are_elsewhere():
    folders = {
        run_folder("vm", device, cores, mode)
        for device in ("AMD EPYC", "H100")
        for cores in (2, 16)
        for mode in ("quick", "full")
    }
    assert len(folders) == 8 and {folder.parent for folder in folders} == {FOLDER}


def test_a_run_of_a_selection_does_not_stand_for_the_suite():
    whole, part = run(), run()
    part["machine_info"] = part["machine_info"] | {"selection": "-k encode"}
    assert last_whole([whole, part]) is whole
    assert last_whole([part]) is part


def test_the_last_run_that_has_a_benchmark_is_its_baseline(tmp_path):
    inner = tmp_path / "Linux"
    inner.mkdir()
    (inner / "0002_b.json").write_text(json.dumps(run(result("encode", 2.0))))
    (inner / "0001_a.json").write_text(json.dumps(run(result("encode", 1.0), result("decode", 3.0))))
    (inner / "0003_broken.json").write_text("{")
    (inner / "facts.json").write_text('{"bytes": 3}')
    runs = saved_runs(tmp_path)
    assert [one["source"] for one in runs] == ["0001_a", "0002_b"]
    last = last_results(runs)
    encode, decode = (last[f"bench/test_tokenizer.py::test_{name}"] for name in ("encode", "decode"))
    assert (encode["stats"]["median"], encode["source"]) == (2.0, "0002_b")
    assert (decode["stats"]["median"], decode["source"]) == (3.0, "0001_a")


def test_no_folder_means_no_runs(tmp_path):
    assert saved_runs(tmp_path / "none") == [] and last_results([]) == {}


def test_a_foreign_file_among_the_runs_is_passed_over(tmp_path):
    (tmp_path / "0001_a.json").write_text(json.dumps(run(result("encode", 1.0))))
    (tmp_path / "0002_b.json").write_text(json.dumps({"benchmarks": []}))
    (tmp_path / "0003_c.json").write_text("{")
    (tmp_path / "0004_d.json").write_bytes(b"\xff")
    runs = saved_runs(tmp_path)
    assert [one["source"] for one in runs] == ["0001_a"] and last_whole(runs) is runs[0]
