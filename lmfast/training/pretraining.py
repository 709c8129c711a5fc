"""The task of `lmfast train`: next-token prediction on token files, with samples from two fixed prompts."""

import functools
from typing import Any

import numpy as np

from lmfast.data.batches import Batches
from lmfast.data.chat import ending_ids
from lmfast.data.text_statistics import text_statistics, token_words
from lmfast.data.token_file import TokenFile
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.evaluation import make_evaluate
from lmfast.training.interfaces import Generate, Sample
from lmfast.training.objectives import NextToken
from lmfast.training.resolve import batch_ramp
from lmfast.training.task import Task
from lmfast.training.token_inputs import TokenInputs

PROMPTS = ("Once upon a time", "One day")
"""prompts of the samples generated during training"""
WORDS_TOKENS = 50_000_000
"""number of tokens at the start of the training file whose words count as known; counting them takes seconds"""


def pretraining_task(
    settings: TrainSettings, inputs: TokenInputs, generate: Generate, facts: dict[str, Any] | None = None
) -> Task:
    """The task for resolved `settings` and open files; facts: further entries of run.json."""
    train, valid, tokenizer = inputs.train, inputs.valid, inputs.tokenizer
    objective = NextToken(settings.optimizer.z_loss, inputs.separator)
    data = {
        "tokens": len(train),
        "tokenizer": train.tokenizer_sha256,
        "sample_sha256": train.sample_sha256(),
    }
    return Task(
        objective=objective,
        batches=Batches(
            train.tokens, batch_ramp(settings.optimizer), settings.model.context_length, settings.run.seed
        ),
        make_evaluate=make_evaluate(valid.tokens, tokenizer, objective) if valid is not None else None,
        sample=_sampler(tokenizer, train.tokens, generate) if tokenizer is not None else None,
        tokenizer=tokenizer,
        evaluation_tokens=_evaluation_tokens(settings, valid),
        evaluation_sha256=valid.sample_sha256() if valid is not None else None,
        facts={"train_data": data, **(facts or {})},
    )


def _evaluation_tokens(settings: TrainSettings, valid: TokenFile | None) -> int:
    """Number of tokens in one evaluation."""
    if valid is None:
        return 0
    opt, limit = settings.optimizer, settings.logging.eval_batches
    most = limit * opt.grad_accumulation * opt.batch_size * settings.model.context_length
    return min(len(valid), most) if limit else len(valid)


def _sampler(tokenizer: Tokenizer, train_tokens: np.ndarray, generate: Generate) -> Sample:
    """Continues PROMPTS, always with the same seed; returns the text and its word statistics."""
    stops = ending_ids(tokenizer)

    @functools.cache
    def known_words() -> set[str]:
        return token_words(train_tokens, tokenizer, limit=WORDS_TOKENS)

    def sample(model: TransformerLM, step: int) -> tuple[str, dict[str, float]]:
        model.eval()
        model.restrict_to(tokenizer.vocab)
        prompts = [tokenizer.encode(prompt) for prompt in PROMPTS]
        length = min(200, model.config.context_length)
        new = generate(model, prompts, length, temperature=0.8, top_p=0.95, seed=0, stop_ids=stops)
        texts = [tokenizer.decode(p + n) for p, n in zip(prompts, new, strict=True)]
        return "\n\n".join(texts), text_statistics(texts, known_words())

    return sample
