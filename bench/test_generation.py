"""Generation with the KV cache: reading a prompt, and decoding at batch 1 and 16, greedy, beside Hugging Face's.

The peer has the same weights; before anything is timed, the last position's logits (prefill) and all greedy ids
(decode) must be the same. Decoding must at least read every weight once a step: the fraction is of the read bandwidth
measured in this session.
"""

import pytest
import torch

from bench.measuring import Work
from bench.tokenizer_peers import installed
from lmfast.inference.decode import generate
from lmfast.model.accounting import forward_flops, num_parameters
from lmfast.model.config import ModelConfig
from lmfast.model.kv_cache import KVCache
from lmfast.model.transformer import TransformerLM

CONFIGS = {
    "quick": ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=4, d_ff=704),
    "default": ModelConfig(10_000, 512, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
    "full": ModelConfig(10_000, 512, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
    "cuda": ModelConfig(50_304, 1024, d_model=768, num_layers=12, num_heads=12, d_ff=2048),
}
PROMPT, NEW = 16, {"quick": 24, "default": 100, "full": 200}


@pytest.fixture(scope="module")
def model(mode, device) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(CONFIGS["cuda" if device.type == "cuda" else mode]).to(device).eval()


@pytest.fixture(scope="module")
def llama(model):
    """The peer, or None where transformers is not installed."""
    if not installed("transformers"):
        return None
    from bench.huggingface import llama as make

    return make(model).eval()


def ids_of(model, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, shape, generator=generator)


@pytest.mark.parametrize("batch", [1, 16])
@torch.inference_mode()
def test_prefill(model, llama, device, batch, measure):
    """Prompts of half a context into the cache; logits of the last position."""
    length = model.config.context_length // 2
    ids = ids_of(model, batch, length).to(device)
    lengths = torch.full((batch,), length, dtype=torch.int32, device=device)
    cache = KVCache(model.config, batch, model.config.context_length, device, torch.float32)
    peers = {}
    if llama is not None:
        theirs = llama(ids, use_cache=True, logits_to_keep=1).logits[:, -1]
        torch.testing.assert_close(model.prefill(ids, lengths, cache), theirs, rtol=1e-3, atol=1e-3)
        peers["LlamaForCausalLM"] = lambda: llama(ids, use_cache=True, logits_to_keep=1)
    flops = forward_flops(model.config, length, batch)
    flops["head"] //= length  # of the last position only
    measure(
        lambda: model.prefill(ids, lengths, cache),
        Work(tokens=batch * length, flops=sum(flops.values()), ceiling="matmul float32"),
        peers,
    )


@pytest.mark.parametrize("batch", [1, 16])
@torch.inference_mode()
def test_decode(model, llama, device, mode, batch, measure):
    """New tokens after a short prompt; the prompt's own time is in it."""
    new = NEW[mode]
    prompts = ids_of(model, batch, PROMPT)

    def ours() -> list[list[int]]:
        return generate(model, prompts.tolist(), new, temperature=0.0)

    peers = {}
    if llama is not None:
        ids = prompts.to(device)
        mask = torch.ones_like(ids)

        def theirs() -> torch.Tensor:
            return llama.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
            )

        assert theirs()[:, PROMPT:].tolist() == ours()
        peers["LlamaForCausalLM"] = theirs
    embedding = model.config.vocab_size * model.config.d_model
    read = 4 * (num_parameters(model.config) - embedding)
    measure(ours, Work(tokens=batch * new, moved=new * read, ceiling="read"), peers)
