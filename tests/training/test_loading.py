"""loading.py: models from run folders, and folders that are not runs."""

import shutil

import pytest
import torch

from lmfast import load_run
from lmfast.errors import UserError
from lmfast.settings import read_model
from lmfast.train import train
from lmfast.training.checkpoint import find_checkpoint, save_checkpoint
from lmfast.training.weights import mapped_weights


def test_load_run_gives_model_tokenizer_and_config(trained_run):
    model, tokenizer, config = load_run(trained_run)
    assert not model.training and config.d_model == 16 and tokenizer.vocab_size == config.vocab_size == 300
    logits = model(torch.tensor([tokenizer.encode("Once upon")]))
    assert logits.isfinite().all()
    older, _, _ = load_run(trained_run / "checkpoints/step_00000003")
    assert not torch.equal(older.embedding.weight, model.embedding.weight)


def test_mapped_weights_are_those_of_the_file(trained_run, monkeypatch):
    tensors = find_checkpoint(trained_run).model_tensors()
    monkeypatch.setattr("lmfast.training.checkpoint._load", lambda paths: tensors)
    for mapped in (True, False):
        model, _, _ = load_run(trained_run, mapped=mapped)
        for name, weight in model.named_weights().items():
            assert (
                torch.equal(weight, tensors[name])
                and (weight.data_ptr() == tensors[name].data_ptr()) == mapped
            )


def test_a_folder_that_is_not_a_run_is_rejected(tmp_path, trained_run):
    with pytest.raises(UserError, match="no such run folder"):
        load_run(tmp_path / "no")
    with pytest.raises(UserError, match="contains no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="not a complete checkpoint"):
        (tmp_path / "step_00000001").mkdir()
        find_checkpoint(tmp_path / "step_00000001")


def test_another_model_shape_is_named(corpus, trained_run, tmp_path):
    with pytest.raises(UserError, match=r"another model shape: d_model is 16, not 8"):
        train(
            [
                *corpus.flags(),
                "--init-from",
                str(trained_run),
                "--d-model",
                "8",
                "--out-dir",
                str(tmp_path / "run"),
            ]
        )


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite_are_rejected(trained_run, corpus, tmp_path, value):
    """A run shorter than the guard's patience would end without a message; generate would write id 0."""
    checkpoint = find_checkpoint(trained_run)
    weights = checkpoint.model_tensors()
    weights["embedding.weight"][3, 5] = value
    run = tmp_path / "run"
    save_checkpoint(run / "checkpoints", weights, checkpoint.optimizer_tensors(), checkpoint.state)
    shutil.copy(trained_run / "config.yaml", run)
    with pytest.raises(UserError, match=r"step_00000006: embedding\.weight is not finite"):
        load_run(run)
    with pytest.raises(UserError, match=r"step_00000006: embedding\.weight is not finite"):
        mapped_weights(find_checkpoint(run), read_model(run))
    with pytest.raises(UserError, match="is not finite"):
        train([*corpus.flags(), "--init-from", str(run), "--out-dir", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()
