"""The loss of a model on held-out tokens, per token and in bits per byte.

Bits per byte includes the loss of special tokens but not their bytes, so it is comparable between tokenizers and with the
entropy of the built-in corpus.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from lmfast.data.batches import Windows
from lmfast.model.device import autocast
from lmfast.model.transformer import TransformerLM
from lmfast.settings import Precision, TrainSettings, selected_precision
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.training.interfaces import Evaluate, MakeEvaluate, Objective
from lmfast.training.objectives import IGNORE
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks


def make_evaluate(tokens: np.ndarray, tokenizer: Tokenizer | None, objective: Objective) -> MakeEvaluate:
    """Prepares evaluations on the tokens (n,) of a validation file; with a tokenizer, also in bits per byte."""

    def prepare(
        model: TransformerLM, settings: TrainSettings, device: torch.device, ranks: Ranks = SINGLE_PROCESS
    ) -> Evaluate:
        opt, log = settings.optimizer, settings.logging
        # In optimizer steps, so that the evaluated text does not depend on grad_accumulation.
        limit = log.eval_batches * opt.grad_accumulation
        windows = Windows(tokens, opt.batch_size, settings.model.context_length, IGNORE, limit)
        num_bytes = None if tokenizer is None else count_bytes(windows.targets(), tokenizer)
        precision = selected_precision(settings.run)
        return lambda: evaluate(model, objective, windows, device, precision, num_bytes, ranks)

    return prepare


@torch.no_grad()
def evaluate(
    model: TransformerLM,
    objective: Objective,
    windows: Windows | Sequence[np.ndarray],
    device: torch.device,
    precision: Precision,
    num_bytes: int | None,
    ranks: Ranks = SINGLE_PROCESS,
) -> dict[str, float]:
    """{val_loss: nats per token, bits_per_byte} over `windows`; leaves the model in eval mode.

    Each of N data ranks evaluates every N-th batch; all ranks return the result for all batches.
    """
    model.eval()
    count = 0
    total = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
    for batch, counts in ranks.deal(windows):
        with autocast(device, precision):
            loss_sum = objective.loss(model, *objective.tensors(batch, device))
        if not counts:
            continue
        total += loss_sum  # fp64: summing a whole file in fp32 would lose precision
        count += objective.valid_tokens(batch)
    total, count = float(ranks.sum(total)), int(ranks.sum(torch.tensor(count)))
    metrics = {"val_loss": total / count}
    if num_bytes:
        metrics["bits_per_byte"] = total / math.log(2) / num_bytes
    return metrics


def count_bytes(ids: np.ndarray, tokenizer: Tokenizer) -> int:
    """Number of bytes that `ids` decode to, without special tokens."""
    lengths = tokenizer.token_lengths()
    lengths[list(tokenizer.special_tokens.values())] = 0
    chunk = 1 << 22
    return sum(int(lengths[ids[i : i + chunk]].sum()) for i in range(0, len(ids), chunk))
