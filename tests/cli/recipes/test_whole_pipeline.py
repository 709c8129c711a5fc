"""A whole recipe with real commands, in processes: killed in the middle and run again, it repeats nothing that is done."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lmfast.cli.recipes.records import read_record
from tests.processes import wait_until

pytestmark = [pytest.mark.ci, pytest.mark.skipif(os.name != "posix", reason="kills a process group")]

RECIPE = """
folder: out
stages:
  corpus: {command: data stories, vocab_size: 300, train_bytes: 20kB, valid_bytes: 3kB, output: out/corpus}
  base:
    {command: train, train_data: $corpus/300/train.npy, val_data: $corpus/300/valid.npy, context_length: 32, d_model: 16,
     num_layers: 2, num_heads: 2, d_ff: 24, batch_size: 4, max_iters: 400, warmup_iters: 2, checkpoint_interval: 20,
     eval_interval: 0, device: cpu}
  chat: {command: sft, init_from: $base, train_data: talks.json, max_iters: 3, batch_size: 2, warmup_iters: 1, device: cpu}
  better: {command: dpo, init_from: $chat, train_data: pairs.json, max_iters: 2, batch_size: 2, warmup_iters: 1, device: cpu}
  score: {command: evaluate, run: $better, device: cpu}
  gguf: {command: export, run: $better, format: gguf}
  hf: {command: export, run: $better, format: hf}
"""
NAMES = ["corpus", "base", "chat", "better", "score", "gguf", "hf"]


@pytest.fixture
def folder(tmp_path) -> Path:
    talks = [{"instruction": f"say {i}", "output": f"I say {i}"} for i in range(20)]
    pairs = [{"prompt": f"say {i}", "chosen": f"I say {i}", "rejected": "no"} for i in range(20)]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def start(folder: Path, log: str) -> "subprocess.Popen[bytes]":
    with (folder / log).open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "lmfast.recipe", "r.yaml"],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def test_killed_and_run_again(folder):
    process = start(folder, "first.log")
    checkpoint = folder / "out/base/checkpoints/step_00000040/COMPLETE"
    wait_until(checkpoint.exists, lambda: process.poll() is None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "out/chat").exists()
    stamp = (folder / "out/corpus/train.txt").stat().st_mtime_ns

    assert start(folder, "second.log").wait() == 0
    log = (folder / "second.log").read_text()
    assert "corpus: reused (same inputs and settings)" in log
    assert "resuming after step" in log or "already finished" in log
    assert (folder / "out/corpus/train.txt").stat().st_mtime_ns == stamp
    records = {name: read_record(folder / "out", name) for name in NAMES}
    assert all(record is not None and record.finished for record in records.values())
    page = (folder / "out/recipe.html").read_text()
    assert "all done" in page and page.count("<td>done</td>") == len(NAMES)
    assert (folder / "out/gguf.gguf").stat().st_size > 1000 and (folder / "out/hf/config.json").is_file()
    base = records["base"]
    assert base is not None and base.predicted_memory is not None and base.predicted_seconds is not None
