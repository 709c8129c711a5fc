"""The prepare and stats commands (download: test_corpora.py): every option has an effect, bad input is one line."""

import json
import os
import re

import numpy as np
import pytest

from lmfast.data.__main__ import main
from lmfast.tokenizer.bpe import Tokenizer


@pytest.fixture
def printed(corpus, tmp_path, capsys):
    """What a command line prints; {c} is the tiny corpus, {t} a fresh folder."""

    def run(line: str) -> str:
        main([word.format(c=corpus.folder, t=tmp_path) for word in line.split()])
        return capsys.readouterr().out

    return run


def test_prepare_with_stats(printed, tmp_path):
    out = printed(
        "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/out --val_fraction 0.3 --seed 4 --num-proc 1 "
        "--create-stats"
    )
    counts = json.loads((tmp_path / "out" / "token_counts.json").read_text())["parts"]
    for part in ("train", "valid"):
        tokens = np.load(tmp_path / "out" / f"{part}.npy", mmap_mode="r")
        assert (
            f"out/{part}.npy: {len(tokens):,} tokens (uint16), {counts[part]['documents']:,} documents" in out
        )
        figures = re.findall(rf"out/{part}.npy: .*?([\d.]+) bytes/token", out)
        assert len(figures) == 2 and figures[0] == figures[1]  # prepare and its statistics agree
    for name in ("stats.txt", "stats.json", "stats.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100 and name in out
    again = printed(
        "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/out --val-fraction 0.3 --seed 4"
    )
    assert "reused" in again


def test_stories(printed, tmp_path):
    out = printed("stories --output {t}/stories --vocab-size 300 --train-bytes 20kB --valid-bytes 3kB")
    assert "300 tokens trained" in out
    assert 20_000 <= (tmp_path / "stories/train.txt").stat().st_size < 30_000
    assert 3_000 <= (tmp_path / "stories/valid.txt").stat().st_size < 6_000
    assert (tmp_path / "stories/300/valid.npy").is_file()


def test_prepare_options(printed, tmp_path, corpus):
    texts = [f"text {i}" for i in range(60)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in texts))
    (tmp_path / "b.txt").write_text("##".join(texts))
    common = "--tokenizer {c}/tokenizer --num-workers 1 --val-fraction 0"
    printed("prepare --input {t}/a.jsonl --output {t}/a --text-field body " + common)
    printed("prepare --input {t}/b.txt --output {t}/b --separator ## " + common)
    assert (tmp_path / "a" / "train.npy").read_bytes() == (tmp_path / "b" / "train.npy").read_bytes()
    printed(
        "prepare --input {t}/a.jsonl --val-input {t}/b.txt --output {t}/c --text-field body --num-proc 1 "
        "--tokenizer {c}/tokenizer"
    )
    tokens = np.load(tmp_path / "c" / "valid.npy")
    assert (
        Tokenizer.load(corpus.tokenizer).decode(tokens) == (tmp_path / "b.txt").read_text() + "<|endoftext|>"
    )
    (tmp_path / "d.txt").write_text("\n\n".join(texts))
    printed(r"prepare --input {t}/d.txt --output {t}/d --separator \n\n " + common)
    assert (tmp_path / "a" / "train.npy").read_bytes() == (tmp_path / "d" / "train.npy").read_bytes()


def test_stats(printed, tmp_path, corpus):
    out = printed("stats --input {c}/train.npy {c}/valid.npy")  # the tokenizer is known from the summary
    assert f"{corpus.train}: " in out and "bytes/token" in out and "█" in out
    (tmp_path / "bare").mkdir()
    np.save(tmp_path / "bare" / "x.npy", np.load(corpus.valid))
    out = printed("stats --input {t}/bare --tokenizer {c}/tokenizer --output {t}")
    assert out.splitlines()[1].split(": ", 1)[1] in printed("stats --input {c}/valid.npy")
    assert sorted(os.listdir(tmp_path)) == ["bare", "stats.json", "stats.png", "stats.txt"]


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --val-tokens 9 --val-fraction 0.1",
            "--val-fraction and --val-tokens exclude each other",
        ),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --val-tokens 9 --val-input {c}/v.txt",
            "--val-input and --val-tokens exclude each other",
        ),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --val-tokens 0",
            "--val-tokens",
        ),
        ("prepare --input {c}/no --tokenizer {c}/tokenizer --output {t}/o", "no: no such file"),
        ("prepare --input {c}/train.txt --output {t}/o", "--tokenizer PATH or --vocab"),
        ("prepare --input {c}/train.txt --tokenizer {c}/none --output {t}/o", "none: no such file"),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --val-fraction 2",
            "'2' is not a fraction",
        ),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --val-fraction .1 --val-input x",
            "--val-fraction and --val-input exclude each other",
        ),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --scheduler tcp://x",
            "--scheduler requires --engine dask",
        ),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --separator=",
            "is empty; remove it",
        ),
        (
            "prepare --input {c}/train.txt --tokenizer {c}/tokenizer --output {t}/o --sead 3",
            "did you mean --seed",
        ),
        ("stats --input {c}/no.npy", "no.npy: no such token file"),
        ("stats --input {t}", "no token files"),
        ("stats --input {c}/train.npy --output {t}/no", "no: is not a directory"),
        ("stats --input {c}/bare.npy", "there is no bare.npy.json"),
        ("stat", "invalid choice: 'stat'"),
    ],
)
def test_bad_input_is_one_line(corpus, tmp_path, capsys, line, match):
    np.save(corpus.folder / "bare.npy", np.zeros(5, np.uint16))
    with pytest.raises(SystemExit) as caught:
        main(line.format(c=corpus.folder, t=tmp_path).split())
    printed = capsys.readouterr().err
    (corpus.folder / "bare.npy").unlink()
    assert caught.value.code == 2 and printed.count("\n") == 1 and match in printed, printed
    assert not os.listdir(tmp_path)
