"""Log-probabilities of texts, compared with the log-softmax of the model's logits."""

import numpy as np
import pytest
import torch

from lmfast.inference import torch_scoring
from lmfast.inference.cpu.scoring import CpuScorer
from lmfast.inference.scoring import Scores, Text
from lmfast.inference.torch_scoring import TorchScorer, make_scorer
from tests.inference.cpu.test_decoder import build
from tests.kernels.cpu_native import needs_decoder


def make_texts(vocab_size: int, context: int, count: int = 40) -> list[Text]:
    """Texts of many lengths, some with common beginnings, some equal."""
    generator = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return generator.integers(0, vocab_size, generator.integers(low, high)).tolist()

    texts = [Text([*ids(context, context + 1), 1], 1), Text([1, 2], 1)]
    for _ in range(count // 4):
        question = ids(1, context // 2)
        answers = [ids(1, context // 3) for _ in range(4)]
        texts += [Text(question + answer, len(question)) for answer in answers]
    texts += [Text(text.ids, max(1, text.first // 2)) for text in texts[::5]]  # scored from an earlier id
    return [texts[i] for i in generator.permutation(len(texts))]


@torch.inference_mode()
def reference(model, text: Text) -> Scores:
    ids = torch.tensor(text.ids)
    logits = model(ids[None, :-1])[0].double()[text.first - 1 :]
    targets = ids[text.first :]
    logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return Scores(logprobs.numpy(), (logits.argmax(-1) == targets).numpy())


def check(model, texts: list[Text], found: list[Scores]) -> None:
    assert len(found) == len(texts)
    for text, scores in zip(texts, found, strict=True):
        expected = reference(model, text)
        np.testing.assert_allclose(scores.logprobs, expected.logprobs, atol=2e-5)
        assert scores.greedy.tolist() == expected.greedy.tolist()


def test_scores_are_those_of_the_logits(monkeypatch):
    monkeypatch.setattr(torch_scoring, "CHUNK", 7)
    monkeypatch.setitem(torch_scoring.BATCH_IDS, "cpu", 300)
    model = build(logit_softcap=3.0)
    texts, counts = make_texts(61, 90), []
    check(model, texts, TorchScorer(model).score(texts, counts.append))
    assert sum(counts) == len(texts) and len(counts) > 3


def test_ties_go_to_the_lowest_id():
    model = build()
    with torch.no_grad():
        model.head.weight.zero_()
    texts = [Text([5, 0], 1), Text([5, 1], 1)]
    for scorer in (TorchScorer(model), make_scorer(model)):
        assert [bool(scores.greedy[0]) for scores in scorer.score(texts)] == [True, False]


@pytest.mark.parametrize("text", [Text([1] * 92, 91), Text([1, 2], 2), Text([1, 2], 0), Text([1], 1)])
def test_texts_that_do_not_fit_are_rejected(text):
    model = build()
    for scorer in (TorchScorer(model), make_scorer(model)):
        with pytest.raises(ValueError, match="do not fit"):
            scorer.score([text])


@needs_decoder
def test_the_c_decoder_is_used_where_it_can_be():
    model = build()
    assert isinstance(make_scorer(model), CpuScorer)
    with torch.autocast("cpu", torch.bfloat16):
        assert isinstance(make_scorer(model), TorchScorer)


def test_models_with_experts_are_scored_with_torch():
    model = build(num_experts=4)
    scorer = make_scorer(model)
    assert isinstance(scorer, TorchScorer)
    texts = make_texts(61, 90, 12)
    check(model, texts, scorer.score(texts))
