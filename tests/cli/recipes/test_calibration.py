"""The measurements of tiny stages. Their values depend on the machine; their presence and proportions do not."""

import json

import pytest

from lmfast.cli.recipes.calibration import measure_all, measure_tokenizer
from lmfast.cli.recipes.jobs import Job, TokenizerJob, TrainingJob
from lmfast.settings import read_model

MODEL = "--d-model=16 --num-heads=2 --num-layers=2 --d-ff=24 --context-length=16 --batch-size=4".split()


@pytest.fixture
def base(trained_run) -> dict:
    return vars(read_model(trained_run))


def test_training_and_post_training(corpus, base, tmp_path):
    talks = [{"instruction": f"say {i}", "output": f"I say {i}"} for i in range(40)]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    pairs = [{"prompt": f"say {i}", "chosen": f"I say {i}", "rejected": "no"} for i in range(40)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    jobs: dict[str, Job] = {
        "words": TokenizerJob(str(corpus.text), 300, ["<|endoftext|>"]),
        "base": TrainingJob("train", [*MODEL, "--max-iters=7"], {"vocab_size": 300}, eval_tokens=640),
        "chat": TrainingJob("sft", [f"--train-data={tmp_path / 'talks.json'}"], base, "words"),
        "better": TrainingJob(
            "dpo", [f"--train-data={tmp_path / 'pairs.json'}"], base, str(corpus.tokenizer)
        ),
        "broken": TrainingJob("sft", ["--train-data=none.json"], base, "words"),
    }
    found = measure_all(jobs, startup=1.5)
    assert found.keys() == jobs.keys() - {"broken"}
    assert 1 < found["words"]["bytes_per_token"] < 5
    assert (found["base"]["steps"], found["base"]["batches"]) == (7, 10)
    assert found["base"]["startup"] == 1.5 and found["base"]["base"] >= 0
    assert found["chat"]["steps"] > 0 and found["better"]["items"] == 36
    for name in ("base", "chat", "better"):
        assert found[name]["step"] > 0 and found[name]["evaluate"] > 0


def test_a_large_batch_is_extrapolated(monkeypatch):
    monkeypatch.setattr("lmfast.cli.recipes.calibration.STEP_FLOPS", 1.0)
    job = TrainingJob("train", [*MODEL[:-1], "--batch-size=64"], {"vocab_size": 300})
    found = measure_all({"base": job}, 0.0)["base"]
    monkeypatch.undo()
    whole = measure_all({"base": job}, 0.0)["base"]
    assert found["step"] > 0 and found["batches"] == 0
    assert found["peak"] > 64 * 16 * 300  # activations of the rows that were not measured
    assert whole["steps"] == found["steps"] == 100_000


def test_only_the_start_of_a_text_is_read(corpus, monkeypatch, tmp_path):
    text = corpus.text.read_bytes()
    (tmp_path / "a.txt").write_bytes(text + b"\xff" * 1000)
    monkeypatch.setattr("lmfast.cli.recipes.calibration.SAMPLE_BYTES", len(text))
    found, tokenizer = measure_tokenizer(TokenizerJob(str(tmp_path / "a.txt"), 280, []))
    assert tokenizer.vocab_size == 280 and found["first"] > 0
