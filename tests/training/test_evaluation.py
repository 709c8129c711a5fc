import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lmfast.data.batches import Windows
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.evaluation import count_bytes, evaluate
from lmfast.training.objectives import IGNORE, NextToken

CPU = torch.device("cpu")


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_every_token_counts_once_whatever_the_batch(rows):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 30,
        "context_length": 8,
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 2,
        "dropout": 0.5,
    }
    model = TransformerLM(ModelConfig(**shape)).train()
    tokens = np.random.default_rng(0).integers(0, 30, 45)
    got = evaluate(model, NextToken(), Windows(tokens, rows, 8, IGNORE), CPU, precision="fp32", num_bytes=100)
    losses = []
    for start in range(0, 44, 8):
        piece = torch.from_numpy(tokens[start : start + 9])
        with torch.no_grad():
            losses.append(F.cross_entropy(model(piece[None, :-1])[0], piece[1:], reduction="sum"))
    total = sum(losses).item()
    assert got["val_loss"] == pytest.approx(total / 44, rel=1e-5)
    assert got["bits_per_byte"] == pytest.approx(total / math.log(2) / 100, rel=1e-5)
    assert not model.training


def test_special_tokens_have_no_bytes(corpus):
    from lmfast.tokenizer.bpe import Tokenizer

    tokenizer = Tokenizer.load(corpus.tokenizer)
    text = "Once upon a time.<|endoftext|>Änd"
    ids = tokenizer.encode_array(text)
    assert count_bytes(ids, tokenizer) == len("Once upon a time.Änd".encode())
