import json

from lmfast.dpo import dpo
from lmfast.evaluate import EvaluateSettings, evaluate_run
from lmfast.sft import sft


def test_a_run_opens_each_input_once_and_so_does_its_evaluation(trained_run, tmp_path, opened):
    talks, pairs = tmp_path / "talks.json", tmp_path / "pairs.json"
    talks.write_text(json.dumps([{"instruction": f"a{i}", "output": "b"} for i in range(24)]))
    pairs.write_text(json.dumps([{"prompt": f"a{i}", "chosen": "b", "rejected": "c"} for i in range(24)]))
    flags = "--held-out 4 --warmup-iters 1 --max-iters 1 --device cpu --batch-size 4".split()
    talker = ["--init-from", str(trained_run), "--train-data", str(talks), "--out-dir", str(tmp_path / "sft")]
    assert sft([*flags, *talker])
    opened.clear()
    start = ["--init-from", str(tmp_path / "sft"), "--train-data", str(pairs)]
    assert dpo([*flags, *start, "--out-dir", str(tmp_path / "dpo")])
    assert opened == {"tokenizer tokenizer": 1, "checkpoint step_00000001": 1}
    opened.clear()
    evaluate_run(EvaluateSettings(run=str(tmp_path / "dpo"), device="cpu"))
    assert opened == {"tokenizer tokenizer": 1, "checkpoint step_00000001": 1}
