"""Input that a run cannot start or resume with is rejected before anything is written."""

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch

from lmfast.settings import TrainSettings, read_yaml
from lmfast.train import main, train
from lmfast.training.run_folder import read_metrics
from tests.complete_runs import run
from tests.conftest import TINY_MODEL


def rejected(argv, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in argv])
    out, err = capsys.readouterr()
    assert stop.value.code == 2, out + err
    assert re.fullmatch(r"error: [^\n]+\n", err)
    return err


def test_bad_input_is_rejected_before_anything_is_written(corpus, tmp_path, capsys):
    folder = tmp_path / "run"
    base = [*corpus.flags(), "--out-dir", folder]
    (tmp_path / "empty.npy").write_bytes(b"")
    cases = [
        (["--train-data", tmp_path / "none.npy"], "none.npy: no such token file"),
        (["--train-data", tmp_path / "empty.npy"], "empty.npy: is empty"),
        (["--vocab-size", "280"], "is outside the vocabulary of 280"),
        (
            ["--vocab-size", "280", "--tokenizer", corpus.tokenizer],
            "vocab_size is 280, but the tokenizer has 300",
        ),
        (["--context-length", "100000"], "train.npy"),
        (["--num-heads", "3"], "d_model 16 is not divisible by num_heads 3"),
        (["--max-iters", "3", "--total-tokens", "9"], "max_iters and total_tokens"),
        (["--total-tokens", "-5"], "total_tokens is -5; it must be at least 1"),
        (["--lr", "-1"], "learning_rate is -1"),
        (["--min-lr", "5"], "min_lr is 5"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--log-interval", "0"], "log_interval is 0"),
        (["--tokenizer", tmp_path / "no"], "no such tokenizer"),
        (["--init-from", tmp_path / "no"], "no: "),
        (["--resume"], "no checkpoint to resume from"),
        (["--out-dir", ""], "out_dir is empty; give a folder"),
        (["--d-modell", "3"], "did you mean --d-model?"),
    ]
    if not torch.cuda.is_available():
        cases.append((["--device", "cuda"], "device cuda is not available"))
    for flags, message in cases:
        assert message in rejected([*base, *flags], capsys), flags
        assert not folder.exists(), flags


def test_val_data_alone_is_rejected(corpus, tmp_path, capsys):
    assert "val_data_path is given without" in rejected(["--val-data", corpus.valid], capsys)


def test_ids_outside_the_vocabulary_are_named(corpus, tmp_path, capsys):
    import numpy as np

    np.save(tmp_path / "t.npy", np.array([1, 2, 299, 7] * 20, np.uint16))
    flags = [
        *corpus.flags(),
        "--train-data",
        tmp_path / "t.npy",
        "--vocab-size",
        "200",
        "--out-dir",
        tmp_path / "run",
    ]
    assert "t.npy: id 299 at position 2 is outside the vocabulary of 200" in rejected(flags, capsys)


def test_main_needs_no_arguments_from_the_caller(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lmfast train", "--bogus"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown option '--bogus'" in capsys.readouterr().err


def test_data_of_another_tokenizer_is_rejected(corpus, tmp_path, capsys):
    """The ids would be in range, and every figure wrong."""
    from lmfast.tokenizer.training import train_bpe

    other = train_bpe(corpus.folder / "valid.txt", 300, special_tokens=["<|endoftext|>"], num_workers=1)
    other.save(tmp_path / "other")
    other.encode_file(corpus.folder / "valid.txt", tmp_path / "valid.npy", num_workers=1)
    flags = [*corpus.flags(), "--out-dir", tmp_path / "run"]
    assert "was encoded with a different tokenizer than" in rejected(
        [*flags, "--tokenizer", tmp_path / "other"], capsys
    )
    assert "was encoded with a different tokenizer than" in rejected(
        [*flags, "--val-data", tmp_path / "valid.npy"], capsys
    )


def test_a_folder_that_is_no_run_is_not_overwritten(corpus, tmp_path, capsys):
    (tmp_path / "mine/tokenizer").mkdir(parents=True)
    (tmp_path / "mine/tokenizer/precious.txt").write_text("mine")
    err = rejected([*corpus.flags(), "--out-dir", tmp_path / "mine"], capsys)
    assert "not a run folder, but it contains tokenizer" in err
    assert (tmp_path / "mine/tokenizer/precious.txt").read_text() == "mine"


def test_an_extended_run_remembers_its_new_end(corpus, tmp_path, capsys):
    folder = tmp_path / "run"
    run(corpus, folder)
    assert train(["--resume", "--out-dir", str(folder), "--max-iters", "8"])
    capsys.readouterr()
    assert train(["--resume", "--out-dir", str(folder)])
    assert "already finished at step 8 of 8" in capsys.readouterr().out


def test_resume_from_another_folder_and_without_the_original_tokenizer(corpus, tmp_path, monkeypatch):
    import os
    import shutil

    for name in ("train.npy", "valid.npy"):
        shutil.copy(corpus.folder / name, tmp_path)
    shutil.copytree(corpus.tokenizer, tmp_path / "tok")
    monkeypatch.chdir(tmp_path)
    names = {str(corpus.folder / "train.npy"): "train.npy", str(corpus.folder / "valid.npy"): "./valid.npy"}
    flags = [names.get(word, word) for word in corpus.flags()]
    assert train([*flags, "--tokenizer", "tok", "--out-dir", "run"])
    shutil.rmtree(tmp_path / "tok")
    os.chdir(corpus.folder)
    assert train(["--out-dir", str(tmp_path / "run"), "--max-iters", "7"])
    assert "bits_per_byte" in read_metrics(tmp_path / "run")[-1]


def test_moved_data_resumes_and_other_data_does_not(corpus, tmp_path, capsys):
    data, moved = tmp_path / "data", tmp_path / "moved"
    shutil.copytree(corpus.folder, data)
    flags = [word.replace(str(corpus.folder), str(data)) for word in corpus.flags()]
    folder = tmp_path / "run"
    assert train([*flags, "--tokenizer", str(data / "tokenizer"), "--out-dir", str(folder)])
    data.rename(moved)
    again = ["--resume", "--out-dir", folder, "--max-iters", "7"]
    err = rejected(again, capsys)
    assert f"{data}/train.npy does not exist; if it was moved, give its new path with --train-data" in err
    again += ["--train-data", moved / "train.npy", "--val-data", moved / "valid.npy"]
    ids = np.load(moved / "train.npy")
    np.save(moved / "other.npy", np.roll(ids, 1))  # as many tokens, and no summary
    (moved / "other.npy.json").write_text((moved / "train.npy.json").read_text())
    assert "the training data of the run has changed (sample_sha256" in rejected(
        [*again, "--train-data", moved / "other.npy"], capsys
    )
    # Where it trained, and what it started from, may change, too: begun on another device, from a run that is gone.
    text = (folder / "config.yaml").read_text()
    text = text.replace("device: cpu", "device: cuda").replace("init_from: null", "init_from: /gone")
    (folder / "config.yaml").write_text(text)
    assert train([*map(str, again), "--device", "cpu"])
    assert "resuming on cpu what began on cuda" in capsys.readouterr().out
    assert read_metrics(folder)[-1]["step"] == 7
    assert read_yaml(folder / "config.yaml", TrainSettings)["train_data_path"] == str(moved / "train.npy")


def test_losing_the_tokenizer_is_an_error_that_can_be_waived(corpus, tmp_path, capsys):
    for name in ("train.npy", "train.npy.json"):
        shutil.copy(corpus.folder / name, tmp_path)
    side = json.loads((tmp_path / "train.npy.json").read_text())
    side |= {"tokenizer": "/gone/tok", "tokenizer_relative": "gone"}
    (tmp_path / "train.npy.json").write_text(json.dumps(side))
    flags = ["--train-data", str(tmp_path / "train.npy"), *TINY_MODEL, "--out-dir", str(tmp_path / "run")]
    err = rejected(flags, capsys)
    assert "its tokenizer /gone/tok no longer exists" in err and "--tokenizer none" in err
    assert not (tmp_path / "run").exists()
    assert train([*flags, "--tokenizer", "none"])
    assert not (tmp_path / "run/tokenizer").exists()
    assert read_yaml(tmp_path / "run/config.yaml", TrainSettings)["vocab_size"] == 300
    assert "tokenizer is given without train_data_path" in rejected(["--tokenizer", corpus.tokenizer], capsys)


def test_init_from_another_function_of_the_same_shape_is_rejected(corpus, trained_run, tmp_path, capsys):
    flags = [*corpus.flags(), "--init-from", trained_run, "--rope-theta", "5", "--out-dir", tmp_path / "run"]
    assert "has another model shape: rope_theta is 10000.0, not 5.0" in rejected(flags, capsys)
    assert not (tmp_path / "run").exists()


def test_what_cannot_start_leaves_nothing_behind(corpus, trained_run, tmp_path, capsys, monkeypatch):
    """A missing package is found out when the folder is begun already; weights that do not fit, after the lock."""
    flags = [*corpus.flags(), "--out-dir", tmp_path / "run"]
    assert "another model shape" in rejected(
        [*flags, "--init-from", trained_run / "checkpoints/step_00000003", "--d-ff", "8"], capsys
    )
    assert not (tmp_path / "run").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "needs the package wandb" in rejected([*flags, "--wandb"], capsys)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()  # a folder that was there stays, and another try may use it
    assert "needs the package wandb" in rejected([*flags, "--wandb"], capsys)
    assert train([*map(str, flags), "--max-iters", "1"])


def test_a_run_killed_while_its_folder_is_created_starts_again(corpus, tmp_path, monkeypatch):
    """Whatever had been written by then, the same command begins again."""
    from lmfast.training import run_opening

    real, written = run_opening.write_yaml, []

    def killed(path, settings):
        real(path, settings)
        written.extend(sorted(p.name for p in path.parent.iterdir()))
        raise MemoryError

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(run_opening, "write_yaml", killed)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path / "run")
    assert "run.json" in written and "config.yaml" in written and "tokenizer" not in written
    monkeypatch.setattr(run_opening, "write_yaml", real)
    metrics, _ = run(corpus, tmp_path / "run")
    assert metrics[-1]["step"] == 6
