"""stats.py: figures against plain Python's, text and picture."""

import json
import statistics

import numpy as np
import pytest

from lmfast.data import stats as module
from lmfast.data.stats import histogram, stats_text, token_stats, write_stats
from lmfast.tokenizer.bpe import Tokenizer

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
TEXTS = ["the the", "t", "x" * 100, "żółw the", "the <\n"]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(VOCAB, MERGES, ["<|endoftext|>"])


@pytest.mark.parametrize("piece", [1, 3, 1 << 20])
@pytest.mark.parametrize("closed", [True, False])
def test_figures(tokenizer, monkeypatch, piece, closed):
    monkeypatch.setattr(module, "PIECE", piece)
    text = "".join(f"{text}<|endoftext|>" for text in TEXTS)
    text = text if closed else text.removesuffix("<|endoftext|>")
    ids = np.array(tokenizer.encode(text), np.uint16)
    found = token_stats("x.npy", ids, tokenizer)
    lengths = [len(tokenizer.encode(text)) + 1 for text in TEXTS]
    lengths[-1] -= not closed
    assert found.tokens == len(ids) and found.documents == 5 and found.bytes == len(text.encode())
    assert found.lengths.tolist() == lengths
    assert found.longest == (2, 101, 100 + len("<|endoftext|>"))
    assert found.quantiles["0.5"] == statistics.median_low(lengths)
    assert found.used == len(set(ids.tolist())) and found.vocab_size == 260
    assert found.common[0] == ("x", 100)
    assert sum(count for _, _, count in found.histogram) == 5
    assert found.bytes_per_token == len(text.encode()) / len(ids)


def test_one_document_without_marks(tokenizer):
    found = token_stats("x", np.array([116, 104], np.uint16), tokenizer)
    assert found.documents == 1 and found.longest == (0, 2, 2)


def test_histogram():
    assert histogram(np.array([1])) == [(1, 1, 1)]
    assert histogram(np.array([2, 3, 4, 7, 8, 31])) == [(2, 3, 2), (4, 7, 2), (8, 15, 1), (16, 31, 1)]
    big = (1 << 40) + 1
    assert histogram(np.array([1, big]))[-1] == (1 << 40, (2 << 40) - 1, 1)


def test_text_and_files(tokenizer, tmp_path):
    ids = np.array(tokenizer.encode("<|endoftext|>".join(TEXTS * 3)), np.uint16)
    figures = [token_stats(f"{name}.npy", ids, tokenizer) for name in ("train", "valid")]
    printed = stats_text(figures)
    assert "train.npy: 15 documents" in printed and "valid.npy: 15 documents" in printed
    assert "          64-127 tokens  " in printed and "20.0%" in printed
    paths = write_stats(tmp_path, figures)
    assert [path.name for path in paths] == ["stats.txt", "stats.json", "stats.png"]
    assert paths[0].read_text() == printed + "\n"
    assert [each["documents"] for each in json.loads(paths[1].read_text())] == [15, 15]
    from matplotlib.image import imread

    picture = imread(paths[2])
    assert picture.shape[0] > 300 and picture[..., :3].std() > 0.05  # not an empty sheet


@pytest.mark.parametrize("lengths", [[1], [5], [1, 2], [8, 8], [3, 100_000]])
def test_a_picture_for_any_lengths(tokenizer, tmp_path, lengths):
    text = "<|endoftext|>".join("x" * (length - 1) for length in lengths) + "<|endoftext|>"
    figures = token_stats("x", np.array(tokenizer.encode(text), np.uint16), tokenizer)
    module.draw(tmp_path / "x.png", [figures])
    assert (tmp_path / "x.png").stat().st_size > 5000
