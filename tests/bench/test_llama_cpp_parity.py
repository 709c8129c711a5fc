"""Rows of the table, with our own model in the place of llama.cpp."""

import re

import pytest
import torch

from bench import llama_cpp_parity as parity
from lmfast.model.config import ModelConfig

pytest.importorskip("gguf")


class Ours:
    """Answers what llama.cpp should answer."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer

    def greedy(self, prompt, new):
        return self.model.generate(prompt, min(new, 5), temperature=0.0)

    def log_probabilities(self, prompt, vocab_size):
        return parity.log_probabilities(self.model, prompt, vocab_size)[-1].tolist()

    def tokenize(self, text):
        return self.tokenizer.encode(text)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(parity, "NEW", 8)
    torch.manual_seed(0)
    return parity.random_model(ModelConfig(270, 32, d_model=16, num_layers=1, num_heads=2, d_ff=24))


def test_equal_ids_and_different_ones(model):
    tokenizer = parity.bytes_tokenizer()
    peer = Ours(model, tokenizer)
    assert parity.same_ids("x", model, tokenizer, peer, ["the", "a"]).verdict == "must"
    peer.greedy = lambda prompt, new: [7] * new
    row = parity.same_ids("x", model, tokenizer, peer, ["the"])
    assert row.verdict == "WRONG" and "after 'the' is 7, not" in row.wrong


def test_code_points_that_are_split_differently_are_found(monkeypatch):
    class Other(Ours):
        def tokenize(self, text):  # splits before and after é and ê
            return [i for part in re.split("([éê])", text) for i in self.tokenizer.encode(part)]

    monkeypatch.setattr(parity, "peer_of", lambda folder, tokenizer: Other(None, tokenizer))
    monkeypatch.setattr(parity, "POINTS", range(0x80, 0x200))
    row = parity.code_points(None, "gpt2")
    assert (row.value, row.data) == (2, {"spans": [[0xE9, 0xEA]]})
