"""Run folders of random models for the measurements of the server: `write_run(folder, config)`.

A random model chooses any id, and most bytes are no text. So that texts are as long and as cheap to send as real ones, ids
that are not printable ASCII are never the most likely one: their logits are zero, below the largest of thousands.
"""

from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from random import Random

import torch

from lmfast import ModelConfig, Tokenizer, TransformerLM
from lmfast.data.chat import add_chat_tokens
from lmfast.settings import TrainSettings, write_yaml
from lmfast.training.checkpoint import save_checkpoint
from lmfast.training.run_folder import save_tokenizer

PRINTABLE = range(32, 127)


@cache
def text_tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, pairs of printable characters, triples of them, and special tokens, among them the chat tokens."""
    special = 5
    single = [bytes([i]) for i in PRINTABLE]
    pairs = list(product(single, single))[: vocab_size - 256 - special]
    longer = [(a + b, c) for (a, b), c in product(pairs, single)][: vocab_size - 256 - special - len(pairs)]
    merges = [*pairs, *longer]
    vocab = dict(enumerate([*(bytes([i]) for i in range(256)), *(a + b for a, b in merges)]))
    return add_chat_tokens(Tokenizer(vocab, merges, ["<|endoftext|>"]))


def text_ids(tokenizer: Tokenizer) -> list[int]:
    """The ids that are printable text."""
    return [*PRINTABLE, *range(256, 256 + len(tokenizer.merges))]


@torch.no_grad()
def text_model(config: ModelConfig) -> TransformerLM:
    """A random model, with a head of its own, that never chooses an id that is not text when it is greedy."""
    if config.tie_embeddings:
        raise ValueError("the head must not be the embedding; use a shape with tie_embeddings False")
    torch.manual_seed(0)
    model = TransformerLM(config).eval()
    kept = torch.zeros(config.vocab_size, dtype=torch.bool)
    kept[text_ids(text_tokenizer(config.vocab_size))] = True
    model.head.weight[~kept] = 0
    return model


def write_run(folder: Path, config: ModelConfig) -> Path:
    """A run folder of `text_model`, with its tokenizer."""
    model = text_model(config)
    folder.mkdir(parents=True)
    write_yaml(folder / "config.yaml", replace(TrainSettings(), model=model.config))
    save_tokenizer(text_tokenizer(config.vocab_size), folder)
    state = {"step": 0, "tokens": 0, "seconds": 0.0, "best_val_loss": None, "best_step": None}
    weights = {name: weight.detach() for name, weight in model.named_weights().items()}
    save_checkpoint(folder / "checkpoints", weights, {}, state)
    return folder


def random_prompts(tokenizer: Tokenizer, count: int, length: int, seed: int) -> list[list[int]]:
    """Different prompts of text ids, a function of the seed."""
    rng, ids = Random(seed), text_ids(tokenizer)
    return [rng.choices(ids, k=length) for _ in range(count)]
