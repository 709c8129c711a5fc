import json

from lmfast.training.run_metrics import RunMetrics


def test_series_last_and_median_of_the_numbers(tmp_path):
    lines = [{"step": s, "x": float(s), **({"val": 9 - s} if s % 2 else {})} for s in range(1, 6)]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '[1]\n{"step": "six", "x": null}\n{"step": 7'
    (tmp_path / "metrics.jsonl").write_text(text)
    (tmp_path / "run.json").write_text('{"parameters": 12}')
    run = RunMetrics(tmp_path)
    assert run.facts == {"parameters": 12} and run.name == tmp_path.name
    assert run.series("step", "val") == ([1, 3, 5], [8, 6, 4])
    assert run.last("x") == 5.0 and run.last("absent") is None
    assert run.median("x") == 3.0 and run.median("absent") is None


def test_a_folder_without_files_has_no_metrics(tmp_path):
    run = RunMetrics(tmp_path / "absent")
    assert run.metrics == [] and run.facts == {}
