"""Numbers worked out by hand."""

import pytest

from lmfast.errors import UserError
from lmfast.model.communication import Links, bytes_sent, parse_rate, recomputation_flops, step_time
from lmfast.model.config import ModelConfig
from lmfast.model.parallel_memory import Layout

# 512 · 64 for each of embedding and head; blocks of 43,136 parameters (test_parallel_memory.py)
SHAPE = ModelConfig(
    vocab_size=512, context_length=64, d_model=64, num_layers=4, num_heads=8, num_kv_heads=4, d_ff=160
)
BLOCK, ROOT = 43_136, 65_600
COUNT = 4 * BLOCK + ROOT


@pytest.mark.parametrize(
    ("text", "bytes_per_second"),
    [("900GB/s", 900e9), ("400Gb/s", 50e9), ("400 Gbit/s", 50e9), ("25Gbps", 3.125e9), ("1.8TB/s", 1.8e12),
     ("500MB/s", 5e8)],
)  # fmt: skip
def test_rates(text, bytes_per_second):
    assert parse_rate(text, "link") == pytest.approx(bytes_per_second)


@pytest.mark.parametrize(
    "text", ["", "900", "GB/s", "900GB", "900gB/s", "-1GB/s", "0Gb/s", "1e3GB/s", "nanGB/s", "9999999GB/s"]
)
def test_what_is_not_a_rate(text):
    with pytest.raises(UserError, match=r"link is .*; give a rate such as"):
        parse_rate(text, "link")


def test_ddp_sends_each_gradient_almost_twice():
    sent = bytes_sent(SHAPE, 128, "bf16", Layout("ddp", 4))
    assert vars(sent) == {"gathered": 0, "reduced": 2 * 4 * COUNT * 3 / 4, "replicas": 0, "tensor": 0}
    assert bytes_sent(SHAPE, 128, "bf16", Layout("ddp", 4), passes=3) == sent  # once per step
    assert bytes_sent(SHAPE, 128, "bf16", Layout()).total == 0


@pytest.mark.parametrize(("dtype", "element"), [("bf16", 2), ("fp32", 4)])
def test_fsdp_gathers_in_the_dtype_of_the_products_and_reduces_in_fp32(dtype, element):
    sent = bytes_sent(SHAPE, 128, dtype, Layout("fsdp", 8), passes=3)
    assert sent.gathered == element * (ROOT + 2 * 3 * 4 * BLOCK) * 7 / 8
    assert sent.reduced == 4 * COUNT * 7 / 8


def test_gradients_may_be_reduced_after_each_pass():
    layout = Layout("fsdp", 8)
    once, each = (
        bytes_sent(SHAPE, 128, "bf16", layout, passes=3, reductions=reductions) for reductions in (1, 3)
    )
    assert each.reduced == 3 * once.reduced and each.gathered == once.gathered
    # fast links expose the reductions of root and last block in every pass
    fast = [step_time(SHAPE, 1, "bf16", layout, Links(1e12), 1e9, 3, "none", n).exposed for n in (1, 3)]
    assert fast[1] - fast[0] == pytest.approx(2 * 4 * (BLOCK + ROOT) * 7 / 8 / 1e12)
    # slow ones what the other blocks' backwards do not hide
    slow = [step_time(SHAPE, 1, "bf16", layout, Links(1e9), 1e15, 3, "none", n).exposed for n in (1, 3)]
    assert slow[1] - slow[0] == pytest.approx(2 * 4 * COUNT * 7 / 8 / 1e9, rel=1e-3)


def test_hsdp_reduces_shards_between_machines():
    sent = bytes_sent(SHAPE, 128, "bf16", Layout("hsdp", 32, ranks_per_machine=8))
    one = bytes_sent(SHAPE, 128, "bf16", Layout("fsdp", 8))
    assert (sent.gathered, sent.reduced) == (one.gathered, one.reduced)
    assert sent.replicas == 2 * 4 * COUNT / 8 * 3 / 4


@pytest.mark.parametrize(
    ("changes", "checkpointing", "sums"),
    [({}, "none", 18), ({}, "selective", 18), ({}, "block", 22), ({"parallel_block": True}, "none", 10),
     ({"parallel_block": True}, "block", 10), ({"norm": "post"}, "block", 26)],
)  # fmt: skip
def test_tensor_parallelism_sums_activations(changes, checkpointing, sums):
    """4 layers: 4 · 4 + 2 sums of (tokens, d_model), as lmfast/training/parallel/tensor_shards.py counts them."""
    config = ModelConfig(**(vars(SHAPE) | changes))
    sent = bytes_sent(config, 128, "bf16", Layout("ddp", 2, 2), 1, checkpointing)
    assert sent.tensor == sums * 2 * (128 * 64 * 2) / 2
    assert sent.reduced == 0


def test_recomputation_repeats_all_but_the_head_and_the_last_product():
    # per token and layer 2 · (2 · 64 · 96 + 2 · 64 · 160) and 4 · 64 · 64 for attention
    assert recomputation_flops(SHAPE, 64, "block") == 64 * 4 * (2 * (12_288 + 20_480) + 16_384)
    post = ModelConfig(**(vars(SHAPE) | {"norm": "post"}))
    assert recomputation_flops(post, 64, "block") == 64 * 4 * (2 * (12_288 + 30_720) + 16_384)
    assert recomputation_flops(SHAPE, 64, "selective") == recomputation_flops(SHAPE, 64, "none") == 0


# per pass of one row: forward FLOPs 64 · (4 · (2 · 43,008 + 16,384) + 2 · 512 · 64); a block a fourth of the first term
BLOCK_FLOPS, HEAD_FLOPS = 64 * (2 * 43_008 + 16_384), 64 * 2 * 512 * 64


def test_fast_links_expose_only_the_ends_of_a_step():
    rate, within = 1e9, 1e12
    time = step_time(SHAPE, 1, "bf16", Layout("fsdp", 8), Links(within), rate, passes=2)
    assert time.computation == pytest.approx(2 * 3 * (4 * BLOCK_FLOPS + HEAD_FLOPS) / rate)
    # gathers of the root and of the first block of two forwards and two backwards, reductions of a block and the root
    ends = 2 * (ROOT + 4 * BLOCK) + 4 * (BLOCK + ROOT)
    assert time.exposed == pytest.approx(ends * 7 / 8 / within)
    assert time.communication == pytest.approx(
        bytes_sent(SHAPE, 64, "bf16", Layout("fsdp", 8), passes=2).total / within
    )


def test_slow_links_expose_what_a_block_does_not_hide():
    rate, within = 1e12, 1e9
    time = step_time(SHAPE, 1, "bf16", Layout("fsdp", 8), Links(within), rate)
    gather, reduce = 2 * BLOCK * 7 / 8 / within, 4 * BLOCK * 7 / 8 / within
    block = BLOCK_FLOPS / rate
    hidden = 3 * block + 3 * 2 * block  # three forwards, three backwards
    assert time.exposed == pytest.approx(time.communication - hidden)
    assert gather > block and gather + reduce > 2 * block
    again = step_time(SHAPE, 1, "bf16", Layout("fsdp", 8), Links(within), rate, checkpointing="block")
    more = recomputation_flops(SHAPE, 64, "block") / rate
    assert again.computation == pytest.approx(time.computation + more)
    assert again.exposed == pytest.approx(time.exposed - 3 / 4 * more)


def test_ddp_hides_all_but_the_gradient_of_the_embedding():
    time = step_time(SHAPE, 1, "fp32", Layout("ddp", 2), Links(1e12), 1e9)
    assert time.communication == pytest.approx(4 * COUNT / 1e12)
    assert time.exposed == pytest.approx(4 * 512 * 64 / 1e12)
    slow = step_time(SHAPE, 1, "fp32", Layout("ddp", 2), Links(1e6), 1e9)
    assert slow.exposed == pytest.approx(4 * COUNT / 1e6 - 2 / 3 * slow.computation)


def test_tensor_parallel_sums_are_exposed_and_computation_is_divided():
    one = step_time(SHAPE, 2, "bf16", Layout(), Links(1e9), 1e9)
    two = step_time(SHAPE, 2, "bf16", Layout("ddp", 2, 2), Links(1e9), 1e9)
    assert one.exposed == one.communication == 0
    assert two.computation == pytest.approx(one.computation / 2)
    assert two.exposed == two.communication == pytest.approx(18 * 128 * 64 * 2 / 1e9)


def test_a_ring_over_machines_shares_their_networks():
    def seconds(layout, network):
        return step_time(SHAPE, 1, "bf16", layout, Links(450e9, network), 1e12).communication

    spread, near = Layout("fsdp", 16, ranks_per_machine=8), Layout("fsdp", 16)
    # leaves a machine over eight networks of 50 GB/s, 400 GB/s together
    assert seconds(spread, 50e9) == pytest.approx(seconds(near, None) * 450 / 400)
    assert seconds(spread, 100e9) == pytest.approx(seconds(near, None))
    # replicas: each GPU over its own
    hsdp = Layout("hsdp", 16, ranks_per_machine=8)
    sent = bytes_sent(SHAPE, 64, "bf16", hsdp)
    assert seconds(hsdp, 50e9) == pytest.approx((sent.gathered + sent.reduced) / 450e9 + sent.replicas / 50e9)
