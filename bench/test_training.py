"""Training steps, compiled, at three sizes, against Hugging Face's LlamaForCausalLM with AdamW, compiled too.

Both as bench/training_step.py has them. The peer starts from the same weights and sees the same batches; before anything
is timed its loss on a batch must be ours. FLOPs by the convention of lmfast/model/accounting.py; the fraction is of the
matrix rate measured in this session, so it is MFU against what the device really reaches. `mfu` is what a run logs: on
CUDA against the vendor's dense rate. Bytes are those of the token file that were read.
"""

import numpy as np
import pytest
import torch

from bench.huggingface import llama
from bench.measuring import Work
from bench.tokenizer_peers import installed
from bench.training_step import OurSteps, TheirSteps, check_losses
from lmfast.data.batches import Batches
from lmfast.model.accounting import device_peak, training_flops_per_token
from lmfast.model.config import ModelConfig
from lmfast.model.device import compile_blocker, make_deterministic
from lmfast.model.transformer import TransformerLM

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


@pytest.fixture
def deterministic(device):
    """Configures the CPU as `train` does, and restores it afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    make_deterministic(device)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("size", NAMES)
def test_step(size, mode, device, deterministic, measure):
    """quick takes the smallest size only, and no size is compiled if torch.compile is unavailable."""
    if mode == "quick" and size != "small":
        pytest.skip("--quick: only the smallest size")
    configs = CUDA_CONFIGS if device.type == "cuda" else CONFIGS
    config, batch_size = list(configs.values())[NAMES.index(size)]
    torch.manual_seed(0)
    model = TransformerLM(config).to(device)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 1_000_000, np.int64).astype(np.uint16)
    batches = Batches(tokens, batch_size, config.context_length, seed=0)
    compiled, steps = compile_blocker(device) is None, STEPS[mode]
    peers = {}
    if installed("transformers") and (mode == "full" or size != "large"):
        theirs = llama(model).train()
        check_losses(model, theirs, batches, device)
        take = TheirSteps(theirs, batches, device, compiled)
        peers["LlamaForCausalLM"] = lambda: take(steps)
    count = steps * batch_size * config.context_length
    matrix = "bfloat16" if device.type == "cuda" else "float32"
    work = Work(
        tokens=count,
        bytes=count * tokens.itemsize,
        flops=count * training_flops_per_token(config, config.context_length),
        ceiling=f"matmul {matrix}",
    )
    for peer in peers.values():
        peer()  # it compiles, too
    ours = OurSteps(model, batches, device, batch_size, compiled)
    row = measure(lambda: ours(steps), work, peers)
    if row is not None:
        peak = device_peak(device, bf16=True)[0] if device.type == "cuda" else None
        row.data["mfu"] = row.per_second("flops") / peak if peak else row.data["fraction"]["value"]
