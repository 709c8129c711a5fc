import json

from lmfast.evaluate import EvaluateSettings, evaluate_run
from lmfast.sft import sft


def test_a_run_opens_each_input_once_and_so_does_its_evaluation(trained_run, tmp_path, opened):
    records = tmp_path / "records.json"
    records.write_text(json.dumps([{"instruction": f"a{i}", "output": "b"} for i in range(24)]))
    flags = "--held-out 4 --warmup-iters 1 --max-iters 1 --device cpu --batch-size 4".split()
    flags += ["--init-from", str(trained_run), "--train-data", str(records)]
    assert sft([*flags, "--out-dir", str(tmp_path / "run")])
    assert opened == {"tokenizer tokenizer": 1, "checkpoint step_00000006": 1}
    opened.clear()
    evaluate_run(EvaluateSettings(run=str(tmp_path / "run"), device="cpu"))
    assert opened == {"tokenizer tokenizer": 1, "checkpoint step_00000001": 1}
