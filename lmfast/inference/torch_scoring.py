"""Scores texts with torch (see lmfast.inference.scoring), and selects the scorer of a model.

On the devices and in the precisions that the C++ decoder does not support: batches of texts of similar length, padded on the
right, without a cache. Only scored positions are multiplied with the head, CHUNK at a time, so that no logits of whole texts
are held.
"""

from collections.abc import Callable, Sequence

import torch

from lmfast.inference.cpu.scoring import CpuScorer
from lmfast.inference.cpu.torch_weights import unsupported_reason, weights_of
from lmfast.inference.scoring import Scorer, Scores, Text, check_texts
from lmfast.model.transformer import TransformerLM

BATCH_IDS = {"cpu": 2048, "cuda": 32_768, "mps": 8192}  # most ids of a batch, with padding
CHUNK = 512  # scored positions whose logits are held together


@torch.inference_mode()
def make_scorer(model: TransformerLM) -> Scorer:
    """The C++ scorer where it supports the model in its present state, otherwise torch's, under the current autocast."""
    if unsupported_reason(model) is None:
        return CpuScorer(weights_of(model), torch.get_num_threads())
    return TorchScorer(model)


class TorchScorer:
    """Scores texts with a TransformerLM on its device, under the current autocast."""

    def __init__(self, model: TransformerLM):
        self.model = model

    @torch.inference_mode()
    def score(self, texts: Sequence[Text], on_scored: Callable[[int], None] | None = None) -> list[Scores]:
        check_texts(texts, self.model.config.context_length)
        found: dict[int, Scores] = {}
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i].ids))
        most = BATCH_IDS[self.model.embedding.weight.device.type]
        while order:
            size = max(1, most // len(texts[order[0]].ids))
            batch, order = order[:size], order[size:]
            found.update(zip(batch, self._batch([texts[i] for i in batch])))
            if on_scored is not None:
                on_scored(len(batch))
        return [found[i] for i in range(len(texts))]

    def _batch(self, texts: list[Text]) -> list[Scores]:
        device = self.model.embedding.weight.device
        ids = torch.zeros(len(texts), max(len(text.ids) for text in texts), dtype=torch.int64)
        scored = torch.zeros(ids.shape, dtype=torch.bool)
        for row, (text, first) in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            scored[row, first : len(text)] = True
        targets = ids[scored].to(device)
        hidden = self.model.hidden(ids[:, :-1].to(device))[scored[:, 1:].to(device)]
        logprobs, greedy = [], []
        for states, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            logits = self.model.logits(states).float()
            logprobs.append(logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(1))
            greedy.append(logits.argmax(1) == wanted)
        lengths = [len(text) - first for text, first in texts]
        parts = zip(
            torch.cat(logprobs).cpu().double().split(lengths),
            torch.cat(greedy).cpu().split(lengths),
            strict=True,
        )
        return [Scores(values.numpy(), flags.numpy()) for values, flags in parts]
