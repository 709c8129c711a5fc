import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmfast.errors import UserError
from lmfast.training.run_folder import (
    claim_new_folder,
    lock_run,
    newest_run,
    read_metrics,
    truncate_metrics,
)


def test_two_processes_cannot_write_one_run(corpus, tmp_path):
    folder = tmp_path / "run"
    with lock_run(folder):
        words = [sys.executable, "-m", "lmfast.train", *corpus.flags(), "--out-dir", str(folder)]
        second = subprocess.run(words, capture_output=True, text=True)
    assert second.returncode == 2
    assert (
        second.stderr.strip()
        .splitlines()[-1]
        .startswith(f"error: {folder}: another process is writing this run")
    )
    with lock_run(folder):
        pass


def test_newest_run_and_next_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(claim_new_folder()) == os.path.join("runs", "train-1")
    with pytest.raises(UserError, match="no run with a checkpoint"):
        newest_run()
    for i, name in enumerate(["train-2", "mine", "train-10"]):
        step = tmp_path / "runs" / name / "checkpoints/step_00000001"
        step.mkdir(parents=True)
        (step / "COMPLETE").write_text("{}")
        config = tmp_path / "runs" / name / "config.yaml"
        config.write_text("")
        for path in (step, config):
            os.utime(path, (1000 + (i == 1), 1000 + (i == 1)))
    assert newest_run().name == "mine"
    (tmp_path / "runs/train-10/run.json").write_text('{"stage": "sft"}')
    (tmp_path / "runs/mine/run.json").write_text('{"stage": "dpo"}')
    assert [newest_run(stage=stage).name for stage in ("train", "sft", "dpo")] == [
        "train-2",
        "train-10",
        "mine",
    ]
    assert claim_new_folder().name == "train-11"


def test_no_two_claims_get_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: claim_new_folder("sft").name, range(24)))
    assert sorted(names) == sorted(f"sft-{i}" for i in range(1, 25))
    # A folder that another process creates between check and creation is skipped.
    found = tmp_path / "runs/dpo-1"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [] if not found.exists() else [found])
    monkeypatch.setattr(Path, "mkdir", _taken_once(found, Path.mkdir))
    assert claim_new_folder("dpo").name == "dpo-2"


def _taken_once(path, mkdir):
    def made(self, *arguments, **options):
        if self.name == path.name and not path.exists():
            mkdir(path)
        return mkdir(self, *arguments, **options)

    return made


def test_metrics_cut_short_by_a_crash(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert [m["step"] for m in read_metrics(tmp_path)] == [1, 2, 3]
    truncate_metrics(tmp_path, 2)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
    ]
