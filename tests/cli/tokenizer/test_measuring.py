"""measuring.py: sums by part, samples of any kind of text (the plain cases: test_main.py)."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from lmfast.cli.tokenizer.measuring import sample_text, split_name, table, token_files
from lmfast.errors import UserError
from lmfast.tokenizer.__main__ import main
from lmfast.tokenizer.bpe import Tokenizer

VOCAB = {i: bytes([i]) for i in range(256)}


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("train.npy", "train"),
        ("a/owt_valid.npy", "valid"),
        ("val-00000-of-00003.npy", "valid"),
        ("x/validation/00012.npy", "valid"),
        ("test_3.bin", "test"),
        ("stories_0001.npy", "stories"),
        ("restrained.npy", "restrained"),
        ("4096.npy", "4096"),
    ],
)
def test_parts(path, part):
    assert split_name(Path(path)) == part


def test_sums_by_part(tmp_path, capsys):
    for name, size in (("train_0", 10), ("train_1", 20), ("valid", 5)):
        np.save(tmp_path / f"{name}.npy", np.zeros(size, np.uint16))
        (tmp_path / f"{name}.npy.json").write_text(json.dumps({"tokens": size, "bytes": 4 * size}))
    (tmp_path / ".shards").mkdir()
    np.save(tmp_path / ".shards" / "x.npy", np.zeros(7, np.uint16))
    main(f"count --input {tmp_path}".split())
    printed = capsys.readouterr().out.splitlines()
    assert printed[-3:] == [
        "train: 30 tokens in 2 files, 4.000 bytes/token",
        "valid: 5 tokens in 1 file, 4.000 bytes/token",
        "total: 35 tokens in 3 files, 4.000 bytes/token",
    ]
    assert len(printed) == 6 and len(token_files([tmp_path, tmp_path / "valid.npy"])) == 3
    main(f"count --input {tmp_path}/valid.npy".split())
    assert capsys.readouterr().out == f"{tmp_path}/valid.npy: 5 tokens (uint16), 4.000 bytes/token\n"


def test_samples_of_records_and_packed_texts(tmp_path):
    texts = [f"text {i}" for i in range(400)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in [*texts, " "]))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress("<|endoftext|>".join(texts).encode()))
    samples = [
        sample_text(f"{tmp_path}/{name}", 20, seed, "body")[0]
        for name, seed in (("a.jsonl", 1), ("a.jsonl", 1), ("a.jsonl", 2), ("b.txt.gz", 1))
    ]
    assert samples[0] == samples[1] == samples[3] != samples[2]
    numbers = [int(text.split()[1]) for text in samples[0]]
    assert numbers == sorted(set(numbers)) and len(numbers) == 20 and max(numbers) > 200
    assert len(sample_text(f"{tmp_path}/a.jsonl", 1000, 0, "body")[0]) == 400
    means = [
        np.mean([int(text.split()[1]) for text in sample_text(f"{tmp_path}/a.jsonl", 20, s, "body")[0]])
        for s in range(30)
    ]
    assert 180 < np.mean(means) < 220  # each document is as likely as another
    (tmp_path / "c.jsonl").write_text('{"text": " "}\n')
    with pytest.raises(UserError, match=r"c.jsonl: contains only whitespace"):
        sample_text(f"{tmp_path}/c.jsonl", 5, 0, "text")


def test_a_table_of_all_pairs(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the the\n\nother")
    (tmp_path / "b.jsonl").write_text('{"text": "xx"}\n')
    Tokenizer(VOCAB, [], []).save(tmp_path / "bytes")
    Tokenizer(VOCAB | {256: b"xx"}, [(b"x", b"x")], []).save(tmp_path / "pairs")
    main(
        f"compression --input {tmp_path}/a.txt {tmp_path}/b.jsonl --tokenizer {tmp_path}/bytes {tmp_path}/pairs".split()
    )
    lines = capsys.readouterr().out.splitlines()[-3:]
    assert lines[0].split() == [f"{tmp_path}/bytes", f"{tmp_path}/pairs"]
    assert lines[1].split()[1:] == ["1.000", "1.000"] and lines[2].split()[1:] == ["1.000", "2.000"]
    main(f"compression --input {tmp_path}/a.txt --tokenizer {tmp_path}/bytes {tmp_path}/pairs".split())
    assert not re.search(r"^bytes/token$", capsys.readouterr().out, re.MULTILINE)


def test_table():
    assert table(["tok", "a_long_name"], ["x", "yy"], [[1, 2], [3.14159, 4]]) == [
        "         tok  a_long_name",
        "x      1.000        2.000",
        "yy     3.142        4.000",
    ]
