"""Scaling rows on a small text: the same ids for any number of workers, and a difference is detected."""

import sys

import numpy as np
import pytest

from bench import corpora, results, tokenizer_scaling
from bench.tokenizer_scaling import Subject, main, parts, rows, worker_counts
from lmfast.tokenizer.special_tokens import DOCUMENT_END


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"Story {i} of the cat.{DOCUMENT_END}" for i in range(500)))
    return path


def test_counts_of_workers():
    assert (
        worker_counts(1) == [1]
        and worker_counts(6) == [1, 2, 4, 6]
        and worker_counts(20) == [1, 2, 4, 8, 16, 20]
    )


def test_parts_are_the_text_cut_at_documents(text, tmp_path):
    paths = parts(text, 3, tmp_path)
    pieces = [path.read_text() for path in paths]
    assert "".join(pieces) == text.read_text() and len(pieces) == 3
    assert all(piece.endswith(DOCUMENT_END) for piece in pieces)


def test_rows(text, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_scaling, "VOCABULARY", 280)
    subject = Subject(text, tmp_path, [1, 2], rounds=1)  # one shard, so --engine processes starts none
    found = list(rows(subject))
    assert [row.name.removesuffix(", MB/s by workers") for row in found] == [
        "encode A to a file, threads",
        "train 10k on A, threads",
        "encode A to a file, processes",
        "train 10k on A, processes",
        "encode A to files, warm processes",
    ]
    assert all(set(row.data["times"]) == {1, 2} and row.value > 0 and not row.wrong for row in found)


def test_different_ids_are_wrong(text, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_scaling, "VOCABULARY", 280)
    subject = Subject(text, tmp_path, [1, 2], rounds=1)
    real = subject.encode

    def encode(workers, engine):
        real(workers, engine)
        if workers == 2:
            np.save(tmp_path / "ids.npy", np.load(tmp_path / "ids.npy")[::-1])

    monkeypatch.setattr(subject, "encode", encode)
    assert (
        tokenizer_scaling.encode_row("threads", subject).wrong == "2 threads give other ids than one worker"
    )


def test_command_line(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(corpora, "corpus", lambda name, size: text)
    monkeypatch.setattr(tokenizer_scaling, "VOCABULARY", 280)
    output = tmp_path / "s.json"
    monkeypatch.setattr(sys, "argv", ["x", "--rehearse", "--only", "train", "--output", str(output)])
    assert main() == 0 and len(results.read(output).rows) == 1
    monkeypatch.setattr(sys, "argv", ["x", "--prepare"])
    assert main() == 0
    capsys.readouterr()
