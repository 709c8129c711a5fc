"""Continuing token ids with a model: batched, streamed, with a KV cache or without, and with the same result.

When a sequence fills the model's context, generation goes on from its last half: the window is cut there and read
anew. Both modes cut at the same places, so greedy text does not depend on the cache.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lmfast.data.batches import derive_seed
from lmfast.errors import UserError
from lmfast.inference.sampling import check_sampling, sample
from lmfast.model.kv_cache import KVCache

CACHE_STEP = 128
"""the cache is read in multiples of so many positions: few shapes, and little read in vain"""


def generate(
    model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    stop_id: int | None = None,
    kv_cache: bool = True,
    on_tokens: Callable[[list[int | None]], None] | None = None,
) -> list[list[int]]:
    """New ids for each prompt (the prompt itself and a final stop_id left out), at most max_tokens of them.

    on_tokens is told each step's new ids, None for sequences that have ended. Deterministic for a seed.
    """
    new: list[list[int]] = [[] for _ in prompts]
    for ids in stream(
        model, prompts, max_tokens,
        temperature=temperature, top_k=top_k, top_p=top_p, seed=seed, stop_id=stop_id, kv_cache=kv_cache,
    ):  # fmt: skip
        for row, token in zip(new, ids, strict=True):
            if token is not None:
                row.append(token)
        if on_tokens is not None:
            on_tokens(ids)
    return new


@torch.inference_mode()
def stream(
    model,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    stop_id: int | None,
    kv_cache: bool,
) -> Iterator[list[int | None]]:
    """Yields each step's new ids, one a prompt, None where that sequence has ended before."""
    check_sampling(temperature, top_k, top_p)
    _check_prompts(model, prompts)
    device = model.embedding.weight.device
    generator = torch.Generator(device=device)
    step_of = (_CachedSteps if kv_cache else _PlainSteps)(model)
    sequences = [list(prompt) for prompt in prompts]
    alive = [True] * len(sequences)
    next_ids = None
    for step in range(max_tokens):
        logits = step_of(sequences, next_ids)
        generator.manual_seed(derive_seed(seed, step))
        next_ids = sample(logits, temperature, top_k, top_p, generator)
        out: list[int | None] = []
        for row, token in enumerate(next_ids.tolist()):
            alive[row] = alive[row] and token != stop_id
            sequences[row].append(token)
            out.append(token if alive[row] else None)
        if not any(alive):
            return
        yield out


def _check_prompts(model, prompts: Sequence[Sequence[int]]) -> None:
    vocab_size = model.config.vocab_size
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {number} is empty; give at least one token, such as <|endoftext|>")
        for token in prompt:
            if not 0 <= token < vocab_size:
                raise UserError(
                    f"prompt {number}: id {token} is outside the model's vocabulary of {vocab_size}"
                )


def window_start(length: int, context_length: int) -> int:
    """Where the window of a sequence of `length` tokens begins: it is cut by half a context each time it is full.

    >>> [window_start(n, 8) for n in (1, 8, 9, 12, 13)]
    [0, 0, 4, 4, 8]
    """
    half = max(1, context_length // 2)
    return -(-max(0, length - context_length) // half) * half


def _windows(sequences: list[list[int]], context_length: int, device) -> tuple[Tensor, Tensor]:
    """The sequences' windows, right-padded with zeros: ids (batch, longest) and lengths (batch,) int32."""
    windows = [s[window_start(len(s), context_length) :] for s in sequences]
    lengths = torch.tensor([len(w) for w in windows], dtype=torch.int32)
    ids = torch.zeros(len(windows), int(lengths.max()), dtype=torch.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window)] = torch.tensor(window)
    return ids.to(device), lengths.to(device)


class _PlainSteps:
    """Logits of the next token from the whole window each time: the slow twin of `_CachedSteps`."""

    def __init__(self, model):
        self.model = model

    def __call__(self, sequences: list[list[int]], next_ids: Tensor | None) -> Tensor:
        device = self.model.embedding.weight.device
        ids, lengths = _windows(sequences, self.model.config.context_length, device)
        hidden = self.model.hidden(ids)
        return self.model.logits(hidden[torch.arange(len(sequences), device=device), lengths.long() - 1])


class _CachedSteps:
    """Logits of the next token from the last one and the cache; reads the window anew where one was cut."""

    def __init__(self, model):
        self.model, self.cache, self.longest = model, None, 0

    def __call__(self, sequences: list[list[int]], next_ids: Tensor | None) -> Tensor:
        context = self.model.config.context_length
        starts = [window_start(len(s), context) for s in sequences]
        if self.cache is None or starts != self.starts:
            self.starts = starts
            return self._prefill(sequences)
        self.longest += 1
        bound = min(self.cache.max_length, -(-self.longest // CACHE_STEP) * CACHE_STEP)
        return self.model.decode(next_ids, self.cache, bound)

    def _prefill(self, sequences: list[list[int]]) -> Tensor:
        weight = self.model.embedding.weight
        ids, lengths = _windows(sequences, self.model.config.context_length, weight.device)
        if self.cache is None:
            kind = weight.device.type
            dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
            context = self.model.config.context_length
            self.cache = KVCache(self.model.config, len(sequences), context, weight.device, dtype)
        self.longest = ids.shape[1]
        return self.model.prefill(ids, lengths, self.cache)
