"""Generation with the KV cache: the time to a first token, and greedy decoding at batch 1 and 16, against Hugging Face's.

The peer has the same weights; before anything is timed, the first id (of a prompt of half a context) and all greedy
ids (decode) must be the same. Decoding must at least read every weight once per step (the embedding's table aside): those
are its bytes, and the fraction is of the read bandwidth measured in this session. Targets: `python -m
bench.generation_table`.
"""

import pytest
import torch

from bench import huggingface
from bench.generation_table import bytes_read, make_prompts
from bench.measuring import Work
from bench.tokenizer_peers import installed
from lmfast.inference.decode import generate
from lmfast.model.accounting import forward_flops
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM

CONFIGS = {
    "quick": ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=4, d_ff=704),
    "default": ModelConfig(10_000, 512, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
    "full": ModelConfig(10_000, 512, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
    "cuda": ModelConfig(50_304, 1024, d_model=768, num_layers=12, num_heads=12, d_ff=2048),
}
NEW = {"quick": 24, "default": 100, "full": 200}


@pytest.fixture(scope="module")
def model(mode, device) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(CONFIGS["cuda" if device.type == "cuda" else mode]).to(device).eval()


@pytest.fixture(scope="module")
def llama(model):
    """The peer, or None where transformers is not installed."""
    return huggingface.llama(model).eval() if installed("transformers") else None


@pytest.mark.parametrize("batch", [1, 16])
@torch.inference_mode()
def test_first_token(model, llama, device, batch, measure):
    """From prompts of half a context to the first new id of each."""
    length = model.config.context_length // 2
    ids = make_prompts(model, batch, length)
    peers = {}
    if llama is not None:
        there = ids.to(device)

        def theirs() -> list[int]:
            return llama(there, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()

        assert [row[0] for row in generate(model, ids.tolist(), 1, temperature=0.0)] == theirs()
        peers["LlamaForCausalLM"] = theirs
    flops = forward_flops(model.config, length, batch)
    flops["head"] //= length  # of the last position only
    measure(
        lambda: generate(model, ids.tolist(), 1, temperature=0.0),
        Work(batch * length, bytes_read(model), sum(flops.values()), ceiling="matmul float32"),
        peers,
    )


@pytest.mark.parametrize("batch", [1, 16])
@torch.inference_mode()
def test_decode(model, llama, mode, batch, measure):
    """New tokens after a short prompt; the prompt's own time is included."""
    new, prompts = NEW[mode], make_prompts(model, batch)

    def ours() -> list[list[int]]:
        return generate(model, prompts.tolist(), new, temperature=0.0)

    peers = {}
    if llama is not None:
        peers["LlamaForCausalLM"] = huggingface.greedy(llama, prompts, new)
        assert peers["LlamaForCausalLM"]() == ours()
    measure(ours, Work(tokens=batch * new, bytes=new * bytes_read(model), ceiling="read"), peers)
