"""The texts that tasks ask a model to generate, as lm-eval's `hf` backend generates them, but in a continuous batch.

In: contexts as ids, each with its options. Out: texts up to the first stop string, <|endoftext|> or, of a chat model,
<|end|>. Rejects (UserError) options that the decoder does not have.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from lmfast.data.chat import ending_ids
from lmfast.errors import UserError
from lmfast.inference.batching import Batch, Sequence, StopFinder
from lmfast.inference.model_decoder import make_slots
from lmfast.inference.sampling import Sampling
from lmfast.model.memory import kv_cache_bytes_per_token
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.bpe import Tokenizer

DEFAULT_TOKENS = 256  # of lm-eval
MAX_SLOTS = 16
CACHE_BYTES = 1 << 30  # of all slots; larger models get fewer

# Options of transformers' generate that change nothing at these values.
_NEUTRAL = {
    "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "num_return_sequences": 1, "min_length": 0,
    "min_new_tokens": 0, "use_cache": True, "typical_p": 1.0, "length_penalty": 1.0, "early_stopping": False,
    "min_p": None, "penalty_alpha": None,
}  # fmt: skip


@dataclass(frozen=True)
class GenerateOptions:
    """How a text is continued. capped: whether max_tokens is less than the task asks for."""

    max_tokens: int
    sampling: Sampling
    until: tuple[str, ...]
    capped: bool = False


def parse_options(given: dict[str, Any], context_length: int) -> GenerateOptions:
    """The generation_kwargs of a task. A text may be as long as the context allows, but where a task asks for that much or
    more, as by default, at most half of it. Raises UserError for options that the decoder does not have."""
    options: dict[str, Any] = dict(normalize_gen_kwargs(given, DEFAULT_TOKENS))
    wanted, until = options.pop("max_gen_toks"), options.pop("until") or []
    sampled = bool(options.pop("do_sample", False))
    temperature = float(options.pop("temperature", 0.0))
    top_k, top_p = options.pop("top_k", None), options.pop("top_p", None)
    for name, value in options.items():
        if name not in _NEUTRAL or value not in (_NEUTRAL[name], None):
            raise UserError(
                f"a task sets {name}: {value!r} in its generation_kwargs, which the decoder does not have; remove it"
            )
    if wanted < 1:
        raise UserError(f"a task generates {wanted} tokens; it must be at least 1")
    capped = wanted >= context_length
    return GenerateOptions(
        max(1, context_length // 2) if capped else wanted,
        Sampling(temperature, top_k or None, top_p) if sampled else Sampling(0.0),
        tuple(until),
        capped,
    )


@dataclass
class Continuations:
    """Contexts to continue, and their texts."""

    model: TransformerLM
    tokenizer: Tokenizer
    shortened: int = 0
    """contexts whose beginning did not fit"""
    requests: list[tuple[Sequence, GenerateOptions]] = field(default_factory=list)

    def add(self, context: list[int], options: GenerateOptions) -> None:
        space = self.model.config.context_length - options.max_tokens
        self.shortened += len(context) > space
        sequence = Sequence(
            context[-space:],
            options.max_tokens,
            options.sampling,
            row=len(self.requests),
            stop_ids=ending_ids(self.tokenizer),
            stops=StopFinder(self.tokenizer.vocab, options.until),
        )
        self.requests.append((sequence, options))

    def run(self, on_finished: Callable[[int], None]) -> list[str]:
        """The texts, in the order in which they were added; on_finished: called with the number of texts that ended."""
        if not self.requests:
            return []
        config, count = self.model.config, min(MAX_SLOTS, len(self.requests))
        longest = max(len(sequence.prompt) + sequence.max_tokens for sequence, _ in self.requests)
        slot_bytes = kv_cache_bytes_per_token(config, 4) * longest
        count = max(1, min(count, CACHE_BYTES // slot_bytes))
        slots = make_slots(self.model, count, context_length=longest)
        try:
            batch = Batch(slots)
            # Contexts that begin alike follow each other, so that the cached beginning is copied.
            queue = deque(sorted((sequence for sequence, _ in self.requests), key=lambda found: found.prompt))
            while queue or not batch.idle:
                while queue and batch.free:
                    batch.add(queue.popleft())
                ended = sum(sequence.finish is not None for sequence in batch.advance())
                if ended:
                    on_finished(ended)
        finally:
            slots.close()
        return [self._text(sequence, options) for sequence, options in self.requests]

    def _text(self, sequence: Sequence, options: GenerateOptions) -> str:
        special = set(self.tokenizer.special_tokens.values())
        text = self.tokenizer.decode([token for token in sequence.ids if token not in special])
        return postprocess_generated_text(text, list(options.until), None)
