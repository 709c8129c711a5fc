"""Which models can be split over N tensor ranks (`--tensor-parallel N`), and with which settings. Does not import torch.

In: resolved settings. Out: None, or one line naming the setting that prevents it, with a remedy.
"""

from lmfast.model.config import ModelConfig, ResolvedConfig
from lmfast.settings import TrainSettings


def tensor_parallel_blocker(settings: TrainSettings) -> str | None:
    """Why a run cannot be split over `tensor_parallel` ranks; None if it can."""
    size, model = settings.run.tensor_parallel, settings.model.resolved()
    if size == 1:
        return None
    if reason := model_blocker(model, size):
        return reason
    name = f"tensor_parallel {size}"
    if settings.run.parallel == "hsdp":
        return f"parallel hsdp does not work with {name}; use --parallel fsdp or ddp"
    if settings.run.parallel == "fsdp":
        both = f"parallel fsdp with {name}"
        if settings.optimizer.optimizer == "muon":
            return (
                f"optimizer muon does not work with {both}, which splits rows and columns; use --parallel ddp"
            )
        if settings.logging.sample_interval:
            return (
                f"sample_interval {settings.logging.sample_interval} does not work with {both}; set it to 0"
            )
        if settings.logging.eval_tasks not in (None, "none"):
            return f"eval_tasks does not work with {both}; use lmfast evaluate after training"
    if settings.run.fp8:
        return f"fp8 does not work with {name}; remove --fp8, or use --tensor-parallel 1"
    return None


def model_blocker(model: ResolvedConfig, size: int) -> str | None:
    """Why a model cannot be split over `size` > 1 tensor ranks; None if it can."""
    name = f"tensor_parallel {size}"
    if model.num_experts:
        return f"num_experts {model.num_experts} does not work with {name}; use --tensor-parallel 1"
    # num_heads is a multiple of num_kv_heads.
    heads, setting = (
        model.num_kv_heads,
        "num_heads" if model.num_heads == model.num_kv_heads else "num_kv_heads",
    )
    if size > heads:
        return (
            f"{name} is more than {setting} {heads}, and a rank needs at least one head; use at most {heads}"
        )
    if heads % size:
        divisors = ", ".join(str(n) for n in range(1, min(heads, 4096) + 1) if heads % n == 0)
        return f"{name} does not divide {setting} {heads}; use one of {divisors}"
    if model.ffn_hidden % size:
        better = next(d for d in range(model.d_ff, 3 * size * model.d_ff) if _hidden(model, d) % size == 0)
        return f"{name} does not divide the hidden width {model.ffn_hidden} (d_ff {model.d_ff}); use --d-ff {better}"
    if model.vocab_size % size:
        better = -(-model.vocab_size // size) * size
        return f"{name} does not divide vocab_size {model.vocab_size}; use --vocab-size {better}"
    return None


def _hidden(model: ModelConfig, d_ff: int) -> int:
    return d_ff if model.ffn == "swiglu" else 3 * d_ff // 2
