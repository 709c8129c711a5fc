"""Checks the requests of tasks before a long run: reads them as `TaskModel` does, and computes nothing.

In: the shape of a model and its tokenizer. Out: the number of ids that an evaluation reads. Rejects (UserError) what
`TaskModel` rejects: texts to score that exceed the context, and options of generation that the decoder does not have.
"""

from collections.abc import Callable, Sequence

import numpy as np
from lm_eval.api.instance import Instance

from lmfast.evaluation.task_model import TaskModel
from lmfast.inference.scoring import Scores, Text
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.bpe import Tokenizer


class TaskCheck(TaskModel):
    """Counts in `tokens` the ids that a model of this shape would read. Its answers mean nothing."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer):
        super().__init__(TransformerLM.without_memory(config), tokenizer)
        self.scorer = self
        self.tokens = 0

    def score(self, texts: Sequence[Text], on_scored: Callable[[int], None] | None = None) -> list[Scores]:
        self.tokens += sum(len(text.ids) for text in texts)
        counts = [len(text.ids) - text.first for text in texts]
        return [Scores(np.zeros(count), np.zeros(count, bool)) for count in counts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        found = self.continuations(requests).requests
        self.tokens += sum(len(sequence.prompt) + sequence.max_tokens for sequence, _ in found)
        return [""] * len(requests)
