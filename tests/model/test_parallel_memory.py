import pytest

from lmfast.model.accounting import num_parameters
from lmfast.model.config import ModelConfig
from lmfast.model.memory import training_memory
from lmfast.model.parallel_memory import Layout, rank_memory, weight_groups

SHAPE = ModelConfig(
    vocab_size=512, context_length=64, d_model=64, num_layers=4, num_heads=8, num_kv_heads=4, d_ff=160
)
# per block: 2 · 64 · (64 + 32) attention, 3 · 64 · 160 feed-forward, 2 · 64 norms
BLOCK = 12_288 + 30_720 + 128
ROOT = 2 * 512 * 64 + 64


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("checkpointing", ["none", "block", "selective"])
def test_one_rank_needs_what_one_device_needs(dtype, checkpointing):
    one = training_memory(SHAPE, 3, dtype, checkpointing=checkpointing)
    for layout in (Layout(), Layout("ddp", 8), Layout("fsdp", 1), Layout("hsdp", 4, ranks_per_machine=1)):
        rank = rank_memory(SHAPE, 3, dtype, layout, checkpointing=checkpointing)
        assert {name: getattr(rank, name) for name in vars(one)} == vars(one)
        assert (rank.gathered, rank.reduced) == (0, 0)


def test_fsdp_divides_weights_gradients_and_moments():
    rank = rank_memory(SHAPE, 1, "bf16", Layout("fsdp", 8))
    assert (4 * BLOCK + ROOT) % 8 == 0
    own = (4 * BLOCK + ROOT) // 8
    assert (rank.weights, rank.gradients, rank.optimizer) == (4 * own, 4 * own, 8 * own)
    # two blocks and the root in 16 bits; a block's gradient in 16 bits and its copy in fp32
    assert rank.gathered == 2 * (2 * BLOCK + ROOT)
    assert rank.reduced == 6 * BLOCK
    assert rank.weight_copies == 0
    assert rank.activations == training_memory(SHAPE, 1, "bf16").activations


def test_hsdp_divides_within_a_machine():
    hsdp = rank_memory(SHAPE, 1, "bf16", Layout("hsdp", 32, ranks_per_machine=8))
    assert hsdp == rank_memory(SHAPE, 1, "bf16", Layout("fsdp", 8))


def test_tensor_parallelism_divides_matrices_and_part_of_the_activations():
    whole, half = (rank_memory(SHAPE, 2, "bf16", Layout("ddp", n, n)) for n in (1, 2))
    norms = 4 * 2 * 64 + 64
    assert half.weights - 4 * norms == (whole.weights - 4 * norms) / 2
    assert half.weight_copies == whole.weight_copies / 2
    assert half.head_gradient == whole.head_gradient / 2
    # Per layer and token: residual sums and normalised inputs (2 · 4 · 64 bytes) and two 1/rms on each rank; the rest
    # (qkv 128, rotated 96, attention 64, gate, up and hidden 3 · 160 elements, 8 logsumexps) is divided.
    both = 2 * 64 * (4 * (512 + 8) + 2 * 128 + 4 + 8)
    assert whole.activations == both + 2 * 64 * 4 * (2 * (128 + 96 + 64 + 480) + 4 * 8)
    assert half.activations == both + 2 * 64 * 4 * (128 + 96 + 64 + 480 + 2 * 8)


def test_fsdp_divides_what_tensor_parallelism_has_left():
    layout = Layout("fsdp", 8, tensor_parallel=2)
    assert (layout.data_ranks, layout.shards) == (4, 4)
    rank = rank_memory(SHAPE, 2, "fp32", layout)
    own = 4 * (12_288 + 30_720) // 8 + 512 * 64 // 4 + (4 * 128 + 64) // 4
    assert rank.weights == 4 * own


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": True}, {"value_embeddings": True, "num_layers": 3}, {"position": "learned"},
     {"qkv_bias": True}, {"norm": "none"}, {"norm": "post"}, {"qk_norm": True}, {"parallel_block": True}],
    ids=str,
)  # fmt: skip
def test_the_groups_contain_every_parameter(changes):
    config = ModelConfig(**(vars(SHAPE) | changes)).resolved()
    assert weight_groups(config).total == num_parameters(config)


def test_8_billion_parameters_need_shards():
    config = ModelConfig(
        vocab_size=128_256, context_length=8192, d_model=4096, num_layers=32, num_heads=32, num_kv_heads=8, d_ff=14336
    )  # fmt: skip
    ddp, fsdp = (rank_memory(config, 1, "bf16", Layout(kind, 8)).total for kind in ("ddp", "fsdp"))
    assert ddp > 150e9 > 80e9 > fsdp
