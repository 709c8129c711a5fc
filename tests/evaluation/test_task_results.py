import json

import numpy as np

from lmfast.evaluation.task_results import LONGEST_NAME, metrics_of, result_path, table, write_results

FOUND = {
    "results": {
        "piqa": {"name": "piqa", "alias": "piqa", "sample_len": 4, "acc,none": np.float64(0.5), "acc_stderr,none": 0.25},
        "gsm": {"alias": "gsm", "exact_match,strict": 0.0, "exact_match_stderr,strict": "N/A", "sample_len": 3},
    },
    "groups": {"all": {"acc,none": 0.5, "acc_stderr,none": 0.25}},
    "higher_is_better": {"piqa": {"acc": True}, "gsm": {"exact_match": False}},
    "n-shot": {"piqa": 0, "gsm": 5},
    "n-samples": {"piqa": {"original": 9, "effective": 4}},
}  # fmt: skip
CHOSEN = {"tasks": ["a", "b"], "num_fewshot": None, "limit": None, "apply_chat_template": False}


def test_metrics():
    assert [tuple(metric) for metric in metrics_of(FOUND)] == [
        ("piqa", "acc", 0.5, 0.25, 0, 4, True),
        ("gsm", "exact_match (strict)", 0.0, None, 5, 3, False),
        ("all", "acc", 0.5, 0.25, None, None, None),
    ]


def test_table():
    assert table(metrics_of(FOUND)).splitlines() == [
        "task  metric                   value  ± stderr  shots  examples",
        "piqa  acc ↑                   0.5000    0.2500      0         4",
        "gsm   exact_match (strict) ↓  0.0000                5         3",
        "all   acc                     0.5000    0.2500",
    ]


def test_without_standard_errors_their_column_is_left_out():
    """Of one example lm-eval estimates none."""
    metrics = [metric._replace(stderr=None) for metric in metrics_of(FOUND)]
    assert table(metrics[:1]).splitlines() == [
        "task  metric   value  shots  examples",
        "piqa  acc ↑   0.5000      0         4",
    ]


def test_each_evaluation_has_its_file(tmp_path):
    def name(**changes) -> str:
        return result_path(tmp_path, "step_00000007", CHOSEN | changes).name

    assert result_path(tmp_path, "x", CHOSEN).parent == tmp_path / "evaluations"
    assert name() == "step_00000007_a+b.json"
    assert (
        name(num_fewshot=0, limit=100.0, apply_chat_template=True)
        == "step_00000007_a+b_0shot_first_100_chat.json"
    )
    assert name(limit=0.5) == "step_00000007_a+b_first_0.5.json"
    assert "/" not in name(tasks=["x/y"])
    assert len(name(tasks=["long"] * 99)) < LONGEST_NAME + 30


def test_write(tmp_path):
    path = tmp_path / "evaluations/a.json"
    write_results(path, {"value": np.float32(0.5), "function": test_write})
    content = json.loads(path.read_text())
    assert content["value"] == 0.5 and "test_write" in content["function"]
