"""Training steps as in a run, and the same number with LlamaForCausalLM, for the benches of training.

In: a model, batches, a device. Out: functions that take N more steps each time they are called with N. Ours is
`train_loop` itself, with everything that a step does there (batch, forward, backward, clipping, guard, AdamW); the peer
sees the same batches, clips, and uses the same fused AdamW in the shortest loop. On CUDA both are bf16 by
autocast, elsewhere float32. Nothing is timed here.
"""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from lmfast.data.batch_ramp import BatchRamp
from lmfast.data.batches import Batches
from lmfast.model.fp8 import use_fp8
from lmfast.model.transformer import TransformerLM
from lmfast.training.compiled import CompiledLoss
from lmfast.training.loop import train_loop
from lmfast.training.objectives import NextToken
from lmfast.training.optimizers import make_optimizer
from lmfast.training.run_plan import Hooks, Plan, Progress
from lmfast.training.sinks import Sinks

LEARNING_RATE, BETAS, DECAY, CLIP = 1e-4, (0.9, 0.95), 0.1, 1.0


def zipf_ids(vocab_size: int, count: int) -> np.ndarray:
    """(count,) uint16 ids distributed like a text's: the gradient of an embedding depends on it."""
    weights = 1 / (np.arange(vocab_size) + 10.0)
    return np.random.default_rng(0).choice(vocab_size, count, p=weights / weights.sum()).astype(np.uint16)


class Silent:
    """Takes what the loop logs and shows nothing."""

    def log(self, metrics: dict) -> None:
        self.last = metrics

    def text(self, step: int, title: str, body: str) -> None: ...

    def message(self, line: str) -> None: ...

    def close(self) -> None: ...


class OurSteps:
    """Call it with a number of steps: it takes that many more of the real loop and waits for them."""

    def __init__(
        self, model, batches, device: torch.device, batch_size: int, compiled: bool, fp8: bool = False
    ):
        self.model, self.batches = model, batches
        if fp8:
            use_fp8(model, batch_size * model.config.context_length)
        self.objective = NextToken()
        self.optimizer = make_optimizer(model, "adamw", LEARNING_RATE, BETAS, DECAY)
        self.loss_fn = CompiledLoss(self.objective.loss) if compiled else self.objective.loss
        self.progress, self.console = Progress(), Silent()
        self.plan = Plan(
            max_iters=0, max_seconds=None, batch=BatchRamp(batch_size), learning_rate=lambda step, share: LEARNING_RATE,
            grad_clip=CLIP, seed=0, bf16=device.type == "cuda", log_interval=10**9, eval_interval=0,
            checkpoint_interval=0, sample_interval=0, flops_per_token=1.0, peak_flops=1.0,
        )  # fmt: skip

    def __call__(self, steps: int) -> None:
        plan = dataclasses.replace(self.plan, max_iters=self.progress.step + steps)
        train_loop(
            self.model, self.optimizer, self.objective, self.loss_fn, self.batches, plan, self.progress,
            Sinks(self.console), Hooks(),
        )  # fmt: skip

    @property
    def last(self) -> dict:
        """The last step's metrics."""
        return self.console.last


class TheirSteps:
    """The same for a LlamaForCausalLM.

    Deterministic algorithms are off while it runs: they are our choice, not a part of the peer."""

    def __init__(self, theirs, batches, device: torch.device, compiled: bool):
        self.theirs, self.batches, self.device = theirs, batches, device
        self.weights = [p for p in theirs.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=LEARNING_RATE, betas=BETAS, weight_decay=DECAY, fused=True
        )
        self.loss_fn = torch.compile(their_loss, dynamic=False) if compiled else their_loss
        self.step = 0

    def __call__(self, steps: int) -> None:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        try:
            for _ in range(steps):
                inputs, targets = NextToken().tensors(self.batches.step(self.step), self.device)
                self.step += 1
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
                    loss = self.loss_fn(self.theirs, inputs, targets)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        finally:
            torch.use_deterministic_algorithms(before)


def check_losses(model: TransformerLM, theirs, batches: Batches, device: torch.device) -> None:
    """Raises AssertionError if the losses of a batch differ: a comparison of times would then mean nothing."""
    inputs, targets = NextToken().tensors(batches.step(0), device)
    with torch.no_grad():
        ours = NextToken().loss(model, inputs, targets) / targets.numel()
        torch.testing.assert_close(ours, their_loss(theirs, inputs, targets), rtol=1e-4, atol=1e-4)


def their_loss(model, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean loss of a LlamaForCausalLM, its logits in float32."""
    logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
