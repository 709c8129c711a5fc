import json
from pathlib import Path

import pytest

from lmfast.sweeps.outcome import GAVE_UP, NOT_FINITE, last_message, outcome, reported
from lmfast.sweeps.study import Outcome


@pytest.fixture
def run(tmp_path):
    def makes(*metrics: dict, log: str = "") -> tuple[Path, Path]:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
        (tmp_path / "log").write_text(log)
        return tmp_path / "log", tmp_path

    return makes


def test_a_finished_run_has_the_metric_of_its_last_step(run):
    made = run({"step": 1, "val_loss": 3.0}, {"step": 2, "train_loss": 1.0}, {"step": 3, "val_loss": 2.0})
    assert outcome(0, *made, "val_loss") == Outcome("complete", 2.0)
    assert reported(made[1], "val_loss", 1) == [(3, 2.0)]


def test_a_metric_that_is_missing_at_the_end_was_not_finite(run):
    made = run({"step": 1, "val_loss": 3.0}, {"step": 2, "grad_norm": 1.0})
    found = outcome(0, *made, "val_loss")
    assert found == Outcome("diverged", message="val_loss is not finite at the end of the run")
    # From the first step on: metrics.jsonl never had it.
    made = run({"step": 1, "skipped_steps": 1}, {"step": 2, "learning_rate": 1.0})
    assert outcome(0, *made, "val_loss").state == "diverged"


def test_a_loss_far_above_that_of_a_uniform_guess_diverged(run):
    lines = [{"step": 1, "train_loss": 5.6}, {"step": 2, "train_loss": 11.3}, {"step": 3, "val_loss": 4.0}]
    made = run(*lines)
    assert outcome(0, *made, "val_loss") == Outcome("complete", 4.0)  # of an unknown vocabulary
    (made[1] / "config.yaml").write_text("vocab_size: 300\n")
    assert outcome(0, *made, "val_loss") == Outcome("complete", 4.0)  # 2 ln 300 is 11.4
    made = run(lines[0], {"step": 2, "train_loss": 11.5}, lines[2])
    message = "the loss rose to 11.5 at step 2; a uniform guess has 5.704"
    assert outcome(0, *made, "val_loss") == Outcome("diverged", message=message)
    assert outcome(0, *made, "seconds").state == "failed"  # for other metrics it does not matter


def test_an_unknown_metric_is_a_failure(run):
    found = outcome(0, *run({"step": 1, "val_loss": 3.0}), "accuracy")
    assert found == Outcome("failed", message="the run has no metric accuracy; it has val_loss")


def test_a_run_that_gave_up_diverged(run):
    message = "loss not finite for 10 steps in a row, up to step 12; restart with a lower learning_rate"
    assert outcome(2, *run(log=f"step 1\nerror: {message}\n"), "val_loss") == Outcome(
        "diverged", message=message
    )


def test_the_messages_are_those_of_training():
    training = Path(__file__).parents[2] / "lmfast/training"
    assert GAVE_UP.search((training / "intervals.py").read_text().replace("{PATIENCE}", "10"))
    assert NOT_FINITE in (training / "weights.py").read_text()


def test_own_weights_that_are_not_finite_are_divergence(run):
    message = "/checkpoints/step_00000005: embedding.weight is not finite; use an older checkpoint"
    log, folder = run(log=f"error: {run()[1]}{message}\n")
    assert outcome(2, log, folder, "val_loss").state == "diverged"
    log, folder = run(log=f"error: runs/given_as_init_from{message}\n")
    assert outcome(2, log, folder, "val_loss").state == "failed"


def test_other_ends_are_failures_with_their_last_line(run):
    log, folder = run(log="Traceback\n  File\nRuntimeError: out of memory\n\n")
    assert outcome(1, log, folder, "val_loss") == Outcome("failed", message="RuntimeError: out of memory")
    log, folder = run()
    assert "exit code 1 without a message" in outcome(1, log, folder, "val_loss").message
    assert last_message(folder / "none") == ""
