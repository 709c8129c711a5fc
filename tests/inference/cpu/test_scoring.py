"""The C++ scorer compared with the log-softmax of the model's logits."""

import numpy as np
import pytest
import torch

from lmfast.inference.cpu import scoring
from lmfast.inference.cpu.scoring import CpuScorer
from lmfast.inference.cpu.torch_weights import weights_of
from lmfast.inference.scoring import Text
from tests.inference.cpu.test_decoder import SHAPES, build
from tests.inference.test_torch_scoring import check, make_texts
from tests.kernels.cpu_native import needs_decoder

pytestmark = needs_decoder


@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_scores_are_those_of_the_logits(changes):
    model = build(**changes)
    texts, counts = make_texts(model.config.vocab_size, 90), []
    check(model, texts, CpuScorer(weights_of(model), 2).score(texts, counts.append))
    assert sum(counts) == len(texts)


@pytest.mark.parametrize("slots", [1, 2, 16])
def test_scores_do_not_depend_on_other_texts(slots, monkeypatch):
    """To the bit, nor on threads, however the texts are spread over slots and passes, and whatever is copied."""
    model = build()
    texts = make_texts(61, 90)
    alone = [CpuScorer(weights_of(model), 1).score([text])[0] for text in texts]
    monkeypatch.setattr(scoring, "MAX_SLOTS", slots)
    for run in (1, 8):
        monkeypatch.setattr(scoring, "RUN", run)
        for found, expected in zip(CpuScorer(weights_of(model), 2).score(texts), alone, strict=True):
            np.testing.assert_array_equal(found.logprobs, expected.logprobs)
            np.testing.assert_array_equal(found.greedy, expected.greedy)


def test_common_beginnings_are_read_once():
    """Of 40 questions with four answers each, after the same 30 ids: only where texts differ, and the id before."""
    model = build()
    generator = np.random.default_rng(0)
    shared = generator.integers(0, 61, 30).tolist()
    texts = []
    for _ in range(40):
        question = shared + generator.integers(0, 61, 40).tolist()
        texts += [Text([*question, answer, 1, 2, 3], 70) for answer in range(4)]
    scorer = CpuScorer(weights_of(model), 2)
    check(model, texts, scorer.score(texts))
    least, all_ids = 30 + 40 * (40 + 4 * 3), 160 * 73
    assert least <= scorer.rows_read <= 1.25 * least + 16 * 30
    assert scorer.rows_read < all_ids / 4


def test_large_logits():
    """Logits that differ by hundreds neither overflow nor underflow."""
    model = build()
    with torch.no_grad():
        model.head.weight.mul_(300)
    texts = make_texts(61, 90, 8)
    found = CpuScorer(weights_of(model), 2).score(texts)
    for text, scores in zip(texts, found, strict=True):
        ids = torch.tensor(text.ids)
        with torch.inference_mode():
            logits = model(ids[None, :-1])[0].double()[text.first - 1 :]
        expected = logits.log_softmax(-1).gather(1, ids[text.first :, None])[:, 0]
        np.testing.assert_allclose(scores.logprobs, expected.numpy(), rtol=1e-5, atol=1e-2)


def test_no_texts():
    assert CpuScorer(weights_of(build()), 1).score([]) == []
