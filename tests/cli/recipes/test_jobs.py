"""What is known of stages that have not run: vocabulary, model, tokenizer, number of tokens."""

import json

import pytest

from lmfast.cli.recipes.graph import steps_in_order
from lmfast.cli.recipes.jobs import DataJob, Known, TokenizerJob, TrainingJob, _without, read_jobs, write_jobs
from lmfast.cli.recipes.specification import read_recipe

RECIPE = """
folder: out
stages:
  words: {command: tokenizer train, input: a.txt, vocab_size: 300}
  tokens: {command: data prepare, input: a.txt, val_input: b.txt, tokenizer: $words}
  base: {command: train, train_data: $tokens/train.npy, val_data: $tokens/valid.npy, d_model: 16, num_heads: 2,
         num_layers: 2, d_ff: 24, context_length: 32}
  chat: {command: sft, init_from: $base, train_data: a.txt, context_length: 16}
  better: {command: dpo, init_from: $chat, train_data: a.txt}
  gguf: {command: export, run: $base, format: gguf}
"""


@pytest.fixture
def known(tmp_path, monkeypatch) -> Known:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("x" * 4000)
    (tmp_path / "b.txt").write_text("x" * 400)
    (tmp_path / "r.yaml").write_text(RECIPE)
    return Known(steps_in_order(read_recipe("r.yaml")))


def test_a_tokenizer_is_trained_on_its_text(known):
    assert known.job(known.steps["words"]) == TokenizerJob("a.txt", 300, ["<|endoftext|>"])


def test_training_knows_its_vocabulary_and_its_validation_tokens(known):
    job = known.job(known.steps["base"])
    assert isinstance(job, TrainingJob)
    assert (job.stage, job.model, job.eval_tokens) == ("train", {"vocab_size": 300}, 100)


def test_post_training_knows_the_model_before_it_and_its_tokenizer(known):
    chat, better = known.job(known.steps["chat"]), known.job(known.steps["better"])
    assert isinstance(chat, TrainingJob) and isinstance(better, TrainingJob)
    assert (chat.model["vocab_size"], chat.model["d_model"], chat.tokenizer) == (300, 16, "words")
    assert (better.model["vocab_size"], better.model["context_length"]) == (304, 16)
    assert better.tokenizer == "words"


def test_what_exists_is_read(known, corpus, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/words").symlink_to(corpus.tokenizer)
    assert known.tokenizer(known.steps["base"]) == "out/words"
    (tmp_path / "out/tokens").mkdir()
    (tmp_path / "out/tokens/valid.npy").write_bytes(b"x" * 200)
    job = known.job(known.steps["base"])
    assert isinstance(job, TrainingJob) and job.eval_tokens == 100


def test_stages_without_measurements(known):
    assert known.job(known.steps["gguf"]) is None


def test_data_stages_run_on_pieces_of_their_text(known):
    assert known.job(known.steps["tokens"]) == DataJob(["data", "prepare"], "a.txt", "words")


def test_options_are_removed_with_their_values():
    line = ["data", "prepare", "--input", "a", "b", "--val-input=c", "--dtype=uint32", "--output=d"]
    assert _without(line, "input", "val_input", "output") == ["data", "prepare", "--dtype=uint32"]


def test_jobs_survive_json(known):
    jobs = {name: job for name, step in known.steps.items() if (job := known.job(step)) is not None}
    spawned, read = read_jobs(write_jobs(jobs))
    assert read == jobs and spawned > 0 and json.loads(write_jobs(jobs))["jobs"].keys() == jobs.keys()
