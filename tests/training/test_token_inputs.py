import shutil

import pytest

from lmfast.errors import UserError
from lmfast.settings import TrainSettings
from lmfast.train import train
from lmfast.training.token_inputs import open_inputs


def test_a_run_opens_each_input_once(corpus, tmp_path, opened):
    flags = [*corpus.flags(), "--sample-interval", "6", "--document-mask", "--out-dir", str(tmp_path / "run")]
    assert train(flags)
    assert opened == {"tokenizer tokenizer": 1, "tokens train.npy": 1, "tokens valid.npy": 1}


def test_a_resumed_run_opens_each_input_once(corpus, tmp_path, opened):
    flags = [*corpus.flags(), "--out-dir", str(tmp_path / "run")]
    assert train([*flags, "--max-iters", "3"])
    opened.clear()
    assert train([*flags, "--max-iters", "4"])
    files = {"tokenizer tokenizer": 1, "tokens train.npy": 1, "tokens valid.npy": 1}
    assert opened == {**files, "checkpoint step_00000003": 1}


def test_init_from_verifies_its_checkpoint_once(corpus, trained_run, tmp_path, opened):
    flags = [*corpus.flags(), "--init-from", str(trained_run), "--max-iters", "1"]
    assert train([*flags, "--out-dir", str(tmp_path / "run")])
    assert opened["checkpoint step_00000006"] == 1


def test_the_tokenizer_is_the_named_one_else_the_files_own_else_the_runs_copy(corpus, tmp_path):
    remarks = []

    def tokenizer(named, kept=None, path=corpus.train):
        return open_inputs(TrainSettings(), path, None, named, kept, remarks.append)[1].tokenizer

    own = tokenizer(None)
    assert own.fingerprint() == tokenizer(corpus.tokenizer).fingerprint()
    assert tokenizer(tmp_path / "gone", corpus.tokenizer).fingerprint() == own.fingerprint()
    with pytest.raises(UserError, match="gone: no such tokenizer"):
        tokenizer(tmp_path / "gone")
    bare = tmp_path / "bare.npy"
    shutil.copy(corpus.train, bare)
    assert tokenizer(None, corpus.tokenizer, bare).fingerprint() == own.fingerprint()
    assert remarks == ["val_data_path is not set: training without evaluation"] * 4
