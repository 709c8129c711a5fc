"""--document-mask in training and evaluation, and what it needs."""

import shutil

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.settings import TrainSettings, read_yaml
from lmfast.train import train
from tests.complete_runs import run
from tests.conftest import TINY_MODEL


def test_a_document_mask_is_used_in_evaluation_and_recorded(corpus, tmp_path, capsys):
    from lmfast.evaluate import EvaluateSettings, evaluate_run

    shape = ["--document-mask", "--context-length", "64", "--max-iters", "4", "--eval-interval", "4"]
    metrics, _ = run(corpus, tmp_path / "run", *shape)
    assert read_yaml(tmp_path / "run/config.yaml", TrainSettings)["document_mask"] is True
    assert "document_mask: MFU counts attention over full rows" in capsys.readouterr().out
    found = evaluate_run(EvaluateSettings(run=str(tmp_path / "run"), device="cpu"))
    assert found["loss"] == pytest.approx(metrics[-1]["val_loss"], rel=1e-6)
    assert "attention within documents, as in training" in capsys.readouterr().out
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace("document_mask: true", "document_mask: false"))
    without = evaluate_run(EvaluateSettings(run=str(tmp_path / "run"), device="cpu"))
    assert without["loss"] != pytest.approx(found["loss"], rel=1e-6)


def test_evaluating_a_document_mask_without_its_tokenizer_is_rejected(corpus, tmp_path):
    from lmfast.evaluate import EvaluateSettings, evaluate_run

    folder = tmp_path / "run"
    run(corpus, folder, "--document-mask", "--max-iters", "1")
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(UserError, match=r"run/tokenizer: is missing or has no <\|endoftext\|>"):
        evaluate_run(EvaluateSettings(run=str(folder), device="cpu"))


def test_a_document_mask_without_a_separator_is_rejected(corpus, tmp_path):
    from lmfast.tokenizer.training import train_bpe

    folder = tmp_path / "run"
    np.save(tmp_path / "bare.npy", np.load(corpus.train))
    flags = [
        *TINY_MODEL,
        "--train-data",
        str(tmp_path / "bare.npy"),
        "--document-mask",
        "--out-dir",
        str(folder),
    ]
    with pytest.raises(UserError, match=r"document_mask needs the id of <\|endoftext\|>.*give --tokenizer"):
        train([*flags, "--vocab-size", "300"])
    plain = train_bpe(corpus.text, 300, special_tokens=[], num_workers=1)
    plain.save(tmp_path / "plain")
    with pytest.raises(UserError, match=r"plain: has no <\|endoftext\|>"):
        train([*flags, "--tokenizer", str(tmp_path / "plain")])
    assert not folder.exists()


def test_a_document_mask_that_finds_no_separator_is_reported(corpus, tmp_path, capsys):
    ids = np.load(corpus.train)
    np.save(tmp_path / "one.npy", ids[ids != 299])
    flags = [*TINY_MODEL, "--train-data", str(tmp_path / "one.npy"), "--tokenizer", str(corpus.tokenizer)]
    assert train([*flags, "--document-mask", "--max-iters", "1", "--out-dir", str(tmp_path / "run")])
    assert "document_mask: no <|endoftext|> in the first" in capsys.readouterr().out
