"""From logits to ids, on the device: greedy, temperature, top-k, top-p. Nothing here waits for the host.

Sampling takes argmax(p / e) with e drawn from Exp(1), which picks i with probability p_i (the exponential race, as
in gpt-fast) and needs no host-side draw. Nucleus sampling is Holtzman et al. 2020: the smallest set of most likely
ids whose probability reaches top_p; it always holds the most likely one.
"""

import torch
from torch import Tensor

from lmfast.errors import UserError


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Raises UserError for a value outside its range."""
    if not (temperature >= 0 and temperature < float("inf")):
        raise UserError(f"temperature is {temperature}; it must be a number of at least 0 (0 is greedy)")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}; it must be at least 1 (leave it out to keep all ids)")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}; it must be above 0 and at most 1")


def filter_logits(logits: Tensor, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Logits (batch, vocab_size) with everything outside the top k, then outside the nucleus, at −inf."""
    if top_k is not None and top_k < logits.shape[-1]:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        p = ordered.softmax(dim=-1)
        # An id is outside when the ids before it already reach top_p.
        outside = p.cumsum(dim=-1) - p >= top_p
        logits = logits.masked_fill(outside.scatter(-1, order, outside), float("-inf"))
    return logits


def sample(
    logits: Tensor,  # (batch, vocab_size)
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator,
) -> Tensor:
    """Next ids (batch,) int64. Temperature 0 is greedy: the most likely id, the lowest where several are."""
    logits = logits.float()
    if temperature == 0:
        return logits.argmax(dim=-1)
    # The largest becomes 0 first, so that no temperature makes an infinity.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    p = filter_logits(logits, top_k, top_p).softmax(dim=-1)
    return (p / torch.empty_like(p).exponential_(generator=generator)).argmax(dim=-1)
