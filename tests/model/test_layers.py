import torch

from lmfast.model.config import ModelConfig
from lmfast.model.layers import Attention, Block, NoNorm, RMSNorm
from lmfast.model.rope import rope_tables

CONFIG = ModelConfig(
    vocab_size=9, context_length=8, d_model=16, num_layers=1, num_heads=4, d_ff=24
).resolved()
ROPE = tuple(map(torch.from_numpy, rope_tables(CONFIG)))


def test_rms_norm_with_residual_normalises_the_sum():
    norm = RMSNorm(16, 1e-5)
    x, residual = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    y, stream = norm(x, residual)
    torch.testing.assert_close(stream, x + residual)
    torch.testing.assert_close(y, norm(x + residual))
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 3), atol=1e-3, rtol=1e-3)


def test_no_norm_has_the_same_interface():
    x, residual = torch.randn(2, 16), torch.randn(2, 16)
    assert NoNorm()(x) is x
    assert torch.equal(NoNorm()(x, residual)[0], x + residual)


def test_grouped_heads_share_keys():
    from dataclasses import replace

    grouped = Attention(replace(CONFIG, num_kv_heads=2))
    full = Attention(CONFIG)
    q, k, v = grouped.qkv.weight.detach().split([16, 8, 8])

    def repeat(w):
        return w.view(2, 1, 4, 16).expand(2, 2, 4, 16).reshape(16, 16)

    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat([q, repeat(k), repeat(v)]))
        full.out.weight.copy_(grouped.out.weight)
    x, rope = torch.randn(2, 5, 16), ROPE
    torch.testing.assert_close(grouped(x, rope), full(x, rope))


def test_a_block_adds_to_the_stream():
    block = Block(CONFIG)
    x = torch.randn(1, 4, 16)
    with torch.no_grad():
        block.attention.out.weight.zero_()
        block.feed_forward.down.weight.zero_()
    delta, residual, load = block(x, None, lambda attention, h: attention(h, ROPE))
    assert load is None
    torch.testing.assert_close(delta + residual, x)
