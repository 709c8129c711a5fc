import json
import math
import re
import shutil

import numpy as np
import pytest
import yaml

from lmfast.errors import UserError
from lmfast.evaluate import EvaluateSettings, evaluate_run, main
from lmfast.train import train
from lmfast.training.run_folder import read_metrics


def test_the_whole_file_reproduces_the_logged_loss(corpus, trained_run, capsys):
    """The run's own validation file is the default, and the batch size does not matter."""
    last = read_metrics(trained_run)[-1]
    for batch_size in (4, 7):
        metrics = evaluate_run(EvaluateSettings(run=str(trained_run), batch_size=batch_size, device="cpu"))
        assert metrics["loss"] == pytest.approx(last["val_loss"], rel=1e-6)
        assert metrics["bits_per_byte"] == pytest.approx(last["bits_per_byte"], rel=1e-6)
        assert metrics["perplexity"] == pytest.approx(math.exp(last["val_loss"]), rel=1e-5)
    out = capsys.readouterr().out
    tokens = len(np.load(corpus.valid)) - 1
    assert f"step_00000006 on all {tokens:,} tokens of {corpus.valid}" in out
    assert re.search(r"loss \d\.\d{4} nats per token, perplexity \d+\.?\d*, \d\.\d{4} bits per byte\n", out)


def test_a_run_on_the_built_in_stories_knows_its_validation_file(corpus, trained_run, tmp_path, monkeypatch):
    """Such a run names no files in its config.yaml, so that it can be repeated elsewhere."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config |= {"train_data_path": None, "val_data_path": None, "tokenizer": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(facts | {"floor_bits_per_byte": 0.5}))
    monkeypatch.setattr("lmfast.cli.evaluating.prepare", lambda **options: corpus)
    metrics = evaluate_run(EvaluateSettings(run=str(run), device="cpu"))
    assert metrics["loss"] == pytest.approx(read_metrics(trained_run)[-1]["val_loss"], rel=1e-6)


def test_a_stated_number_of_batches_and_an_older_checkpoint(corpus, trained_run, capsys):
    options = {"data": str(corpus.train), "batch_size": 2, "device": "cpu"}
    some = evaluate_run(EvaluateSettings(run=str(trained_run), eval_batches=3, **options))
    assert "on the first 96 tokens of" in capsys.readouterr().out
    again = evaluate_run(EvaluateSettings(run=str(trained_run), eval_batches=3, **options))
    assert some == again
    older = evaluate_run(
        EvaluateSettings(run=str(trained_run / "checkpoints/step_00000003"), eval_batches=3, **options)
    )
    assert older["loss"] > some["loss"]


def test_texts_are_written_and_measured(corpus, trained_run, tmp_path, capsys):
    run = {"run": str(trained_run), "device": "cpu", "samples": 3, "max_tokens": 60}
    metrics = evaluate_run(EvaluateSettings(**run))
    assert {"loss", "distinct_1", "distinct_2", "distinct_3", "repetition", "known_words"} <= metrics.keys()
    assert 0 <= metrics["known_words"] < 1 and 0 < metrics["distinct_1"] <= 1
    assert re.search(
        r"3 texts of \d+ tokens: distinct-1 0\.\d{3}, .* of the words occur in", capsys.readouterr().out
    )
    assert evaluate_run(EvaluateSettings(**run)) == metrics
    assert evaluate_run(EvaluateSettings(**run, seed=1)) != metrics
    assert evaluate_run(EvaluateSettings(**run, temperature=0.0)) != metrics
    assert evaluate_run(EvaluateSettings(**run, top_p=0.1)) != metrics
    from_text = evaluate_run(EvaluateSettings(**run, train_text=str(corpus.text)))
    assert from_text == metrics  # the tokens are that text
    (tmp_path / "other.txt").write_text("Qqq")
    other = evaluate_run(EvaluateSettings(**run, train_text=str(tmp_path / "other.txt")))
    assert other["known_words"] == 0.0


@pytest.mark.parametrize(("name", "distance"), [("bf16", 1e-2), ("fp16", 1e-3)])
def test_16_bits_are_near(trained_run, name, distance):
    run = {"run": str(trained_run), "device": "cpu"}
    exact, near = (evaluate_run(EvaluateSettings(**run, **{name: on}))["loss"] for on in (False, True))
    assert exact != near and exact == pytest.approx(near, rel=distance)


def test_both_16_bit_types_are_rejected(trained_run):
    with pytest.raises(UserError, match="bf16 and fp16 are both set"):
        evaluate_run(EvaluateSettings(run=str(trained_run), device="cpu", bf16=True, fp16=True))


def test_training_logs_the_figures_of_its_samples(trained_run):
    lines = {m["step"]: m for m in read_metrics(trained_run)}
    assert {"distinct_1", "distinct_2", "distinct_3", "repetition", "known_words"} <= lines[6].keys()
    assert "distinct_1" not in lines[3]


def test_without_training_data(corpus, tmp_path, capsys):
    import shutil

    for name in ("train.npy", "train.npy.json"):
        shutil.copy(corpus.folder / name, tmp_path)
    flags = [*corpus.flags(), "--train-data", str(tmp_path / "train.npy"), "--max-iters", "1"]
    assert train([*flags, "--out-dir", str(tmp_path / "run")])
    (tmp_path / "train.npy").unlink()
    metrics = evaluate_run(
        EvaluateSettings(run=str(tmp_path / "run"), samples=1, max_tokens=30, device="cpu")
    )
    assert "known_words" not in metrics and "distinct_1" in metrics
    assert "no training text found" in capsys.readouterr().out


def rejected(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and re.fullmatch(r"error: [^\n]+\n", err), err
    return err


def test_bad_input_is_one_line(corpus, trained_run, tmp_path, capsys):
    other = tmp_path / "other.npy"
    np.save(other, np.array([1, 2, 3] * 20, np.uint16))
    facts = {"tokens": 60, "bytes": 60, "tokenizer_sha256": "0" * 64}
    (tmp_path / "other.npy.json").write_text(json.dumps(facts))
    large = tmp_path / "large.npy"
    np.save(large, np.array([1, 2, 300] * 20, np.uint16))
    for words, message in (
        ([tmp_path / "none"], "none: no such run folder"),
        ([trained_run, "--data", tmp_path / "none.npy"], "none.npy: no such token file"),
        ([trained_run, "--data", other], "was encoded with a different tokenizer than the run's"),
        ([trained_run, "--data", large], "id 300 at position 2 is outside the vocabulary of 300"),
        ([trained_run, "--batch-size", 0], "batch_size is 0"),
        ([trained_run, "--eval-batches", -1], "eval_batches is -1"),
        ([trained_run, "--samples", -1], "samples is -1"),
        ([trained_run, "--samples", 1, "--max-tokens", 0], "max_tokens is 0"),
        ([trained_run, "--samples", 1, "--temperature", -1], "temperature is -1"),
        ([trained_run, "--samples", 1, "--train-text", tmp_path / "no.txt"], "no.txt"),
        ([trained_run, "--dta", "x"], "did you mean --data?"),
    ):
        assert message in rejected(words, capsys), words


def test_a_run_without_validation_data_needs_some(corpus, tmp_path, capsys):
    flags = ["--train-data", str(corpus.train), *corpus.flags()[4:], "--max-iters", "1"]
    assert train([*flags, "--out-dir", str(tmp_path / "run")])
    assert "give --data FILE, or --samples N" in rejected([tmp_path / "run", "--device", "cpu"], capsys)
    assert main([str(tmp_path / "run"), "--val-data", str(corpus.valid), "--device", "cpu"]) is None


def test_a_token_file_of_the_base_model_serves_its_chat_model(corpus, trained_run, tmp_path, capsys):
    """Ids keep their meaning when chat tokens are added, so the earlier measurement is reproduced."""
    from lmfast.sft import sft

    records = tmp_path / "talk.json"
    records.write_text(json.dumps([{"instruction": f"a{i}", "output": "b"} for i in range(8)]))
    flags = [
        "--init-from",
        str(trained_run),
        "--train-data",
        str(records),
        "--out-dir",
        str(tmp_path / "sft"),
    ]
    assert sft([*flags, "--held-out", "1", "--max-iters", "1", "--lr", "1e-6", "--device", "cpu"])
    before = evaluate_run(EvaluateSettings(run=str(trained_run), device="cpu"))
    capsys.readouterr()
    held_out = evaluate_run(
        EvaluateSettings(run=str(tmp_path / "sft"), device="cpu", samples=1, max_tokens=3)
    )
    printed = capsys.readouterr().out
    logged = [line["val_loss"] for line in read_metrics(tmp_path / "sft") if "val_loss" in line][-1]
    assert held_out["loss"] == pytest.approx(logged, rel=1e-5) and held_out["perplexity"] == math.exp(
        held_out["loss"]
    )
    assert f"on the records of {records} that were held out\nloss {logged:.4f} nats per token" in printed
    text = records.read_text()
    records.write_text(text.replace('"b"', '"c"'))
    assert "talk.json: differs from the records the run was trained on" in rejected(
        [tmp_path / "sft"], capsys
    )
    records.write_text(text)
    after = evaluate_run(EvaluateSettings(run=str(tmp_path / "sft"), data=str(corpus.valid), device="cpu"))
    printed = capsys.readouterr().out
    assert f"{corpus.valid}: was encoded without the chat tokens; its ids are valid" in printed
    # Four more ids share the probability, so the loss is a little higher.
    assert before["loss"] < after["loss"] < before["loss"] + 0.1
    assert after["bits_per_byte"] / after["loss"] == pytest.approx(before["bits_per_byte"] / before["loss"])
