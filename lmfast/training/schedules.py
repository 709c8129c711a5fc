"""Learning rate as a pure function of the step."""

import math


def cosine_with_warmup(step: int, peak: float, floor: float, warmup_iters: int, decay_iters: int) -> float:
    """Learning rate of optimizer step `step`, the first being 1: linear from 0 to `peak` over `warmup_iters`, a half
    cosine to `floor` at `decay_iters`, `floor` afterwards. (Loshchilov & Hutter 2017; CS336 handout, section 4.)
    """
    if step < warmup_iters:
        return peak * step / warmup_iters
    if step >= decay_iters:
        return floor
    progress = (step - warmup_iters) / (decay_iters - warmup_iters)
    return floor + 0.5 * (1 + math.cos(math.pi * progress)) * (peak - floor)
