"""The storage: who gets a trial, and what counts as the same one. Whole sweeps are in tests/test_sweep.py."""

import dataclasses
import math

import pytest
import yaml

from lmfast.sweeps.specification import read_specification
from lmfast.sweeps.study import Outcome, SweepStudy, saved_largest

pytest.importorskip("optuna", reason="the extra `sweep` is not installed")


@pytest.fixture
def open_study(tmp_path):
    def opens(name="a", url=None, **content):
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump({"space": {"seed": [0, 1, 2]}} | content, sort_keys=False))
        study = SweepStudy(read_specification(path), tmp_path / name, url)
        with study.claiming():
            study.enqueue()
        return study

    return opens


def test_points_are_taken_in_order_by_one_process_each(open_study):
    one = open_study()
    two = open_study()
    first = one.next_waiting()
    assert first is not None and first.point == {"seed": 0}
    assert one.start(first, tokens=5) is not None
    assert two.start(first, tokens=5) is None  # too late
    second = two.next_waiting()
    assert second is not None and second.point == {"seed": 1}
    (record,) = (record for record in two.records() if not record.waiting)
    assert (record.number, record.state, record.tokens) == (0, "running", 5)
    assert record.folder.endswith("/a/trials/0000")


def test_points_that_two_machines_add_run_once(open_study, tmp_path):
    """Both machines add the points before either sees those of the other."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    one = open_study(url=url)
    for point in one.specification.points():
        one._add_waiting(point)
    taken = []
    while (record := one.next_waiting()) is not None:
        if (started := one.start(record, None)) is not None:
            taken.append(started)
    assert [(record.number, record.point["seed"]) for record in taken] == [(0, 0), (1, 1), (2, 2)]


def test_outcomes_and_their_values(open_study):
    study = open_study(space={"seed": [0, 1, 2, 3]}, pruner="median")
    outcomes = [
        Outcome("complete", 2.5),
        Outcome("diverged", message="not finite"),
        Outcome("pruned", 4.0),
        Outcome("failed", message="no"),
    ]
    for wanted in outcomes:
        waiting = study.next_waiting()
        assert waiting is not None
        record = study.start(waiting, None)
        assert record is not None
        if wanted.state == "pruned":
            study.report(record, 3, 5.0)
            study.report(record, 7, 4.0)
            assert study.reported_step(record) == 7
        study.finish(record, wanted)
    assert [(t.state, t.value, t.message) for t in study.results().trials] == [
        ("complete", 2.5, ""),
        ("diverged", None, "not finite"),
        ("pruned", 4.0, ""),
        ("failed", None, "no"),
    ]
    assert study.study.trials[1].value == math.inf
    best = study.results().best()
    assert best is not None and best.number == 0


def test_a_failed_trial_keeps_its_number_when_it_is_tried_again(open_study):
    study = open_study(space={"seed": [0, 1]})
    for state in ("failed", "complete"):
        waiting = study.next_waiting()
        assert waiting is not None
        record = study.start(waiting, None)
        assert record is not None
        study.finish(record, Outcome(state, 1.0))
    again = open_study(space={"seed": [0, 1]})
    (record,) = (record for record in again.records() if record.waiting)
    assert (record.number, record.point) == (0, {"seed": 0})
    record = again.start(record, None)
    assert record is not None and record.folder.endswith("/0000")
    again.finish(record, Outcome("complete", 1.0))
    assert [trial.state for trial in again.results().trials] == ["complete", "complete"]


def test_a_restarted_search_does_not_repeat_its_values(open_study):
    content = {"search": "random", "space": {"lr": {"low": 0.1, "high": 1}}, "budget": {"trials": 9}}
    seen = []
    for _ in range(4):
        suggested = open_study(**content).suggest()
        assert suggested is not None
        study = open_study(**content)
        seen.append(suggested[1]["learning_rate"])
    assert len(set(seen)) == 4
    assert study.records() == []  # all were left before they had started


def test_the_running_time_adds_up_over_starts(open_study):
    study = open_study()
    study.add_seconds("a", 5.0)
    study.add_seconds("b", 2.0)
    study.add_seconds("a", 7.0)
    assert open_study().seconds() == 9.0


def test_the_largest_batch_is_remembered(open_study, tmp_path):
    assert saved_largest(tmp_path / "a", None) is None
    study = open_study()
    wanted = dataclasses.replace(
        study.specification, largest=12, budget=dataclasses.replace(study.specification.budget, trials=1)
    )
    SweepStudy(wanted, tmp_path / "a", None)
    assert saved_largest(tmp_path / "a", None) == 12
    assert saved_largest(tmp_path / "a", f"sqlite:///{tmp_path / 'new.db'}") is None


def test_machines_resume_their_own_trials_only(open_study, tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    one = open_study(url=url)
    waiting = one.next_waiting()
    assert waiting is not None and one.start(waiting, None) is not None
    assert [record.number for record in one.abandoned()] == [0]
    monkeypatch.setattr("lmfast.sweeps.study.platform.node", lambda: "another")
    two = open_study(url=url)
    assert two.abandoned() == []
    assert two.start(waiting, None) is None  # taken
    assert two.abandoned() == []  # although its name was written for a moment
