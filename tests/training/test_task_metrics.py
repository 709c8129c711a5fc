from lmfast.training.task_metrics import TaskValue, from_metrics, task_line, task_names, to_metrics

VALUES = [
    TaskValue("arc_easy", "acc", 0.25, 0.03125),
    TaskValue("arc_easy", "acc_norm", 0.5, None),
    TaskValue("gsm8k", "exact_match (strict-match)", 0.0, 0.0),
]


def test_values_have_names_in_a_line_of_metrics_and_are_found_there():
    metrics = to_metrics(VALUES)
    assert metrics["arc_easy/acc"] == 0.25 and metrics["arc_easy/acc_stderr"] == 0.03125
    line = {"step": 3, "rewards/margins": 1.0, "val_logps/chosen": 2.0, "bits_per_byte": 1.0} | metrics
    assert from_metrics(line) == VALUES
    assert task_names(line) == ["arc_easy/acc", "arc_easy/acc_norm", "gsm8k/exact_match (strict-match)"]
    assert task_line(line) == (
        "arc_easy acc 0.2500 ± 0.0312, acc_norm 0.5000; gsm8k exact_match (strict-match) 0.0000 ± 0.0000"
    )
    assert task_line({"step": 3}) == ""
