"""Training steps, compiled, at three sizes, beside Hugging Face's LlamaForCausalLM with AdamW, compiled too.

Ours is `train_loop` itself, with everything that a step does there (batch, forward, backward, clipping, guard, AdamW).
The peer starts from the same weights, sees the same batches, clips and uses the same fused AdamW; before anything is
timed its loss on a batch must be ours. FLOPs by the convention of lmfast/model/accounting.py; the fraction is of the
matrix rate measured in this session, so it is MFU against what the device really reaches.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bench.measuring import Work
from bench.tokenizer_peers import installed
from lmfast.data.batches import Batches
from lmfast.model.accounting import training_flops_per_token
from lmfast.model.config import ModelConfig
from lmfast.model.device import make_deterministic, why_not_compile
from lmfast.model.transformer import TransformerLM
from lmfast.training.compiled import CompiledLoss
from lmfast.training.loop import Hooks, Plan, Progress, train_loop
from lmfast.training.objectives import NextToken
from lmfast.training.optimizers import make_optimizer
from lmfast.training.sinks import Sinks

CONFIGS = {
    "1M": (ModelConfig(2048, 128, d_model=128, num_layers=2, num_heads=2, d_ff=352), 8),
    "5M": (ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=4, d_ff=704), 8),
    "23M": (ModelConfig(10_000, 256, d_model=512, num_layers=4, num_heads=8, d_ff=1344), 8),
}
CUDA_CONFIGS = {
    "23M": (ModelConfig(10_000, 256, d_model=512, num_layers=4, num_heads=8, d_ff=1344), 128),
    "124M": (ModelConfig(50_304, 1024, d_model=768, num_layers=12, num_heads=12, d_ff=2048), 32),
    "350M": (ModelConfig(50_304, 1024, d_model=1024, num_layers=24, num_heads=16, d_ff=2730), 16),
}
NAMES = ("small", "middle", "large")
STEPS = {"quick": 1, "default": 2, "full": 4}  # a call
LEARNING_RATE, BETAS, DECAY, CLIP = 1e-4, (0.9, 0.95), 0.1, 1.0


class Silent:
    """Takes what the loop logs and shows nothing."""

    def log(self, metrics: dict) -> None:
        self.last = metrics

    def text(self, step: int, title: str, body: str) -> None: ...

    def message(self, line: str) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def deterministic(device):
    """As `train` sets a CPU up; as it was afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    make_deterministic(device)
    yield
    torch.use_deterministic_algorithms(before)


def our_steps(model, batches, device, steps: int, batch_size: int, compiled: bool):
    """A function that takes `steps` more steps of the real loop each time it is called."""
    objective = NextToken()
    optimizer = make_optimizer(model, "adamw", LEARNING_RATE, BETAS, DECAY)
    loss_fn = CompiledLoss(objective.loss) if compiled else objective.loss
    progress, sinks = Progress(), Sinks(Silent())
    plan = Plan(
        max_iters=0,
        max_seconds=None,
        batch_size=batch_size,
        grad_accumulation=1,
        learning_rate=lambda step, share: LEARNING_RATE,
        grad_clip=CLIP,
        seed=0,
        bf16=device.type == "cuda",
        log_interval=10**9,
        eval_interval=0,
        checkpoint_interval=0,
        sample_interval=0,
        flops_per_token=1.0,
        peak_flops=1.0,
    )

    def take() -> None:
        more = dataclasses.replace(plan, max_iters=progress.step + steps)
        train_loop(model, optimizer, objective, loss_fn, batches, more, progress, sinks, Hooks())

    return take


def their_steps(theirs, batches, device, steps: int, compiled: bool):
    """The same number of steps of LlamaForCausalLM with the same optimizer, in a loop as short as can be.

    Deterministic algorithms are off while it runs: they are our choice, not a part of the peer."""
    weights = [p for p in theirs.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, betas=BETAS, weight_decay=DECAY, fused=True)
    loss_fn = torch.compile(their_loss, dynamic=False) if compiled else their_loss
    step = iter(range(10**9))
    bf16 = device.type == "cuda"

    def take() -> None:
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        try:
            for _ in range(steps):
                inputs, targets = NextToken().tensors(batches.step(next(step)), device)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    loss = loss_fn(theirs, inputs, targets)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, CLIP)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        finally:
            torch.use_deterministic_algorithms(before)

    return take


def their_loss(model, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    logits = model(input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


@pytest.mark.parametrize("size", NAMES)
def test_step(size, mode, device, deterministic, measure):
    """quick takes the smallest size only, and no size is compiled where torch.compile cannot work."""
    if mode == "quick" and size != "small":
        pytest.skip("--quick: only the smallest size")
    configs = CUDA_CONFIGS if device.type == "cuda" else CONFIGS
    config, batch_size = list(configs.values())[NAMES.index(size)]
    torch.manual_seed(0)
    model = TransformerLM(config).to(device)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 1_000_000, np.int64).astype(np.uint16)
    batches = Batches(tokens, batch_size, config.context_length, seed=0)
    compiled, steps = why_not_compile(device) is None, STEPS[mode]
    peers = {}
    if installed("transformers") and (mode == "full" or size != "large"):
        from bench.huggingface import llama

        theirs = llama(model).train()
        with torch.no_grad():
            inputs, targets = NextToken().tensors(batches.step(0), device)
            ours = NextToken().loss(model, inputs, targets) / targets.numel()
            torch.testing.assert_close(ours, their_loss(theirs, inputs, targets), rtol=1e-4, atol=1e-4)
        peers["LlamaForCausalLM"] = their_steps(theirs, batches, device, steps, compiled)
    count = steps * batch_size * config.context_length
    matrix = "bfloat16" if device.type == "cuda" else "float32"
    work = Work(
        tokens=count,
        flops=count * training_flops_per_token(config, config.context_length),
        ceiling=f"matmul {matrix}",
    )
    for peer in peers.values():
        peer()  # it compiles, too
    measure(our_steps(model, batches, device, steps, batch_size, compiled), work, peers)
