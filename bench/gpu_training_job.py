"""What bench/gpu_training.py trains: the configs' shapes, one change each, and the uncompiled step as reference."""

import contextlib
import functools
import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from bench import machine
from bench.training_step import OurSteps, zipf_ids
from lmfast.data.batches import Batches
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, find_config, read_yaml, replace_flat
from lmfast.training.objectives import NextToken
from lmfast_kernels import backend

CONFIG = "owt_124m"
IDS = 4_000_000
ROWS_AT_ONCE = 8  # of the uncompiled step that others are compared with
TINY = {
    "d_model": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16, "d_ff": 48, "vocab_size": 128,
    "context_length": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One change to the step: implementations (backend.CHOICES, in compiled code), the shape, the batch, FP8."""

    what: str
    choices: Mapping[str, str] = field(default_factory=dict)
    shape: Mapping[str, object] = field(default_factory=dict)
    batch: float = 1.0
    options: Mapping[str, object] = field(default_factory=dict)  # of OurSteps
    must: float | None = None
    aim: float | None = None
    predicted: str = ""


# On an H100; the predictions are those made before the first run on one.
FASTER = {"attention": "cudnn"}
VARIANTS: dict[str, Variant] = {
    "ours": Variant("our attention", {"attention": "triton"}, predicted="38-43 %"),
    "faster": Variant("cuDNN attention", FASTER, must=0.45, aim=0.50, predicted="42-48 %"),
    "sdpa": Variant("PyTorch's attention", {"attention": "torch"}),
    "fp8": Variant(
        "cuDNN attention, FP8", FASTER, options={"fp8": True}, aim=0.55, predicted="46-55 % of the bf16 peak"
    ),
    "window": Variant("windows of 256 in three of four layers", FASTER, shape={"sliding_window": 256}),
    "double": Variant("cuDNN attention, twice the batch", FASTER, batch=2.0),
    "loss-torch": Variant("chunked loss through Inductor", FASTER | {"linear_cross_entropy": "torch"}),
    "norm-torch": Variant("RMSNorm by Inductor", FASTER | {"rms_norm": "torch"}),
    "rope-triton": Variant("our RoPE", FASTER | {"rope": "triton"}),
    "swiglu-triton": Variant("our SwiGLU", FASTER | {"swiglu": "triton"}),
}


@dataclass(frozen=True)
class Job:
    """What is measured, where, and for how long."""

    name: str
    shape: ModelConfig
    batch_size: int
    device: torch.device
    compiled: bool = True
    steps: int = 20  # per time; each begins with an idle device and ends with the host waiting for it
    rounds: int = 3
    profiled: bool = False

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * self.shape.context_length

    @property
    def bf16(self) -> bool:
        return self.device.type == "cuda"

    @functools.cached_property
    def batches(self) -> Batches:
        ids = _ids(self.shape.vocab_size, max(IDS, 4 * self.tokens))
        return Batches(ids, self.batch_size, self.shape.context_length, seed=0)

    def make_model(self) -> TransformerLM:
        torch.manual_seed(0)
        return TransformerLM(self.shape).to(self.device)

    def changed_by(self, variant: Variant) -> "Job":
        shape = replace(self.shape, **variant.shape).resolved()
        return replace(self, shape=shape, batch_size=max(1, int(self.batch_size * variant.batch)))

    def our_steps(self, model: TransformerLM, batches, variant: Variant) -> OurSteps:
        return OurSteps(model, batches, self.device, self.batch_size, self.compiled, **variant.options)


_ids = functools.cache(zipf_ids)  # a second at 4M ids; every row has the same


def read_config(name: str) -> TrainSettings:
    """The settings of a file of configs/."""
    return replace_flat(TrainSettings(), read_yaml(find_config(name), TrainSettings))


def on_h100() -> bool:
    """Whether targets and predictions, which are for an H100, apply here."""
    return "H100" in (machine.gpu_name() or "")


@contextlib.contextmanager
def choosing(choices: Mapping[str, str]) -> Iterator[None]:
    """Within, these operators have these implementations, eagerly and in compiled code."""
    with contextlib.ExitStack() as stack:
        for operator, what in choices.items():
            stack.enter_context(backend.use_choice(operator, what))
        yield


def loss_and_gradients(
    model, rows: np.ndarray, device: torch.device, bf16: bool
) -> tuple[float, list[torch.Tensor]]:
    """(mean loss, its gradient of each parameter) of rows of ids, uncompiled, a few rows at a time."""
    objective, total = NextToken(), 0.0
    for few in np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE)):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss_sum = objective.loss(model.train(), *objective.tensors(few, device))
        loss = loss_sum / objective.valid_tokens(rows)
        loss.backward()
        total += loss.item()
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return total, gradients


def clean() -> None:
    """Frees the last row's compiled code and memory."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
