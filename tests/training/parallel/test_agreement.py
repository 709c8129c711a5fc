"""Ranks that were started differently end with one line from rank 0, before anything is written."""

import os
import re
import shutil
import sys
from functools import partial

import pytest
import torch

import lmfast.train
from lmfast.data.token_file import TokenFile
from lmfast.errors import UserError
from lmfast.training import token_inputs
from lmfast.training.parallel.agreement import PACKAGE, different_words, source_sha256
from tests.training.forked_runs import finish, start_ranks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")


def test_the_words_that_differ_are_found():
    one = ["--lr", "1e-3", "--bf16", "--seed=3"]
    assert different_words(one, ["--lr", "2e-3", "--bf16"]) == ("--lr 1e-3", "--lr 2e-3")
    assert different_words(one, one[:3]) == ("--bf16 --seed=3", "--bf16")
    assert different_words([], ["a.yaml"]) == ("no more words", "a.yaml")


def test_the_code_is_identified(tmp_path):
    before = source_sha256()
    assert before == source_sha256() and len(before) == 64
    shutil.copytree(PACKAGE, tmp_path / "lmfast", ignore=shutil.ignore_patterns("__pycache__"))
    assert source_sha256(tmp_path / "lmfast") == before
    (tmp_path / "lmfast/errors.py").write_text("")
    assert source_sha256(tmp_path / "lmfast") != before


def on_rank_1(what: str, copy: str = "") -> None:
    """Called first in each rank: changes what rank 1 has."""
    if os.environ["RANK"] != "1":
        return
    if what == "torch":
        torch.__version__ = "2.99.0"
    elif what == "command":
        real = lmfast.train.main
        lmfast.train.main = lambda argv: real([*argv, "--lr", "0.5"])
    elif what == "data":
        real = TokenFile.sample_sha256
        TokenFile.sample_sha256 = lambda file: "other" if file.path.name == copy else real(file)
    else:

        def missing(path, *_):
            raise UserError(f"{path}: no such token file")

        token_inputs.open_tokens = missing


@pytest.mark.parametrize(
    ("what", "copy", "message"),
    [
        ("torch", "", r"the version of torch is .* on rank 0 and 2\.99\.0 on rank 1; install the same one on every"),
        ("command", "", r"ranks 0 and 1 were started with different commands \(no more words and --lr\)"),
        ("data", "train.npy", r"the training data is \{'tokens'.* on rank 0 and \{.* on rank 1; give every process"),
        ("data", "valid.npy", r"the validation data is \w+ on rank 0 and \w+ on rank 1; give every process"),
        ("missing", "train.npy", r"train\.npy: no such token file \(rank 1\)"),
    ],
)  # fmt: skip
def test_what_differs_is_named_once(corpus, tmp_path, what, copy, message):
    argv = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(tmp_path / "run")]
    ranks = start_ranks(argv, tmp_path / "log", setup=partial(on_rank_1, what, copy))
    texts = finish(ranks, tmp_path / "log", (2, 2))
    assert re.search(f"error: .*{message}", texts[0]) and texts[1] == "", texts
    assert not (tmp_path / "run").exists()
