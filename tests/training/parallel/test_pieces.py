"""The pieces of all ranks cover every weight exactly once, whatever shards it."""

import contextlib

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.training.parallel.pieces import (
    Piece,
    cut,
    fused_widths,
    state_pieces,
    tensor_piece,
)


def weight_pieces(model) -> list[Piece]:
    """The pieces of all weights that this rank owns, in the order of named_parameters()."""
    widths = fused_widths(model)
    return [
        piece
        for name, weight in model.named_parameters()
        for piece in cut(tensor_piece(name, weight), widths.get(name, ()))
    ]


CONFIG = ModelConfig(vocab_size=61, d_model=16, num_heads=4, num_kv_heads=2, num_layers=2, qkv_bias=True)


@contextlib.contextmanager
def as_rank(rank: int, number: int):
    """A mesh without other processes; enough for sharding, which does not communicate.

    Its name differs between ranks, because DTensor caches by equality of meshes."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=number)
    try:
        yield init_device_mesh("cpu", (number,), mesh_dim_names=(f"rank{rank}of{number}",))
    finally:
        dist.destroy_process_group()


def seeded_model() -> TransformerLM:
    torch.manual_seed(7)
    model = TransformerLM(CONFIG)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    return model


def join(pieces: list[Piece]) -> dict[str, torch.Tensor]:
    """The whole tensors; fails where pieces overlap or leave a gap."""
    wholes: dict[str, torch.Tensor] = {}
    for piece in pieces:
        whole = wholes.setdefault(piece.name, torch.full(piece.shape, torch.nan))
        place = whole[tuple(slice(o, o + n) for o, n in zip(piece.offset, piece.tensor.shape))]
        assert place.shape == piece.tensor.shape and place.isnan().all(), piece
        place.copy_(piece.tensor)
    assert not any(whole.isnan().any() for whole in wholes.values())
    return wholes


def matrices(model: TransformerLM) -> dict[str, torch.Tensor]:
    """The expected wholes: every weight, or the matrices fused in it."""
    widths = fused_widths(model)
    found = {}
    for name, weight in model.named_parameters():
        if name in widths:
            found |= {f"{name}/{i}": part for i, part in enumerate(torch.split(weight, widths[name]))}
        else:
            found[name] = weight
    return found


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("number", [1, 2, 3, 5])  # 5 is more than the rows of some weights allow
def test_shards_of_fsdp_cover_every_weight_once(number):
    pieces = []
    for rank in range(number):
        with as_rank(rank, number) as mesh:
            model = seeded_model()
            for block in model.blocks:
                fully_shard(block, mesh=mesh)
            fully_shard(model, mesh=mesh)
            own = weight_pieces(model)
            assert len({piece.name for piece in own}) == len(own)
            pieces += own
    expected = matrices(seeded_model())
    assert "blocks.0.attention.qkv.weight/2" in expected and "blocks.1.attention.qkv.bias/0" in expected
    assert same(join(pieces), expected)


def test_whole_weights_are_whole_pieces_that_share_memory():
    model = seeded_model()
    assert same(join(weight_pieces(model)), matrices(model))
    pieces = {piece.name: piece.tensor for piece in weight_pieces(model)}
    pieces["blocks.0.feed_forward.up.weight/1"].fill_(3.0)
    assert model.blocks[0].feed_forward.up.weight[-1, 0] == 3.0


def test_row_shards_of_head_shards_are_rectangles():
    """Tensor parallelism cuts each matrix of a fused projection, fsdp then cuts the rows of what is left."""
    qkv, widths, local = torch.arange(24.0 * 3).view(24, 3), [12, 6, 6], [6, 3, 3]
    pieces = []
    for tensor_rank in range(2):
        shards = [m[tensor_rank * n : (tensor_rank + 1) * n] for m, n in zip(qkv.split(widths), local)]
        for data_rank, rows in enumerate(torch.cat(shards).chunk(5)):
            own = Piece("qkv", (12, 3), (data_rank * 3, 0), rows)
            for piece in cut(own, local):
                width = piece.shape[0]
                pieces.append(piece.inside((2 * width, 3), (tensor_rank * width, 0)))
    assert same(join(pieces), {f"qkv/{i}": m for i, m in enumerate(qkv.split(widths))})


def test_optimizer_state_is_cut_like_its_weight():
    state = {"exp_avg": torch.randn(5, 2), "step": torch.tensor(3.0)}
    weight = Piece("w", (9, 2), (4, 0), torch.zeros(5, 2))
    pieces = {piece.name: piece for piece in state_pieces("w", weight.tensor, cut(weight, [6, 3]), state)}
    assert pieces.keys() == {"w/0.exp_avg", "w/1.exp_avg", "w.step"}
    assert pieces["w/0.exp_avg"][1:3] == ((6, 2), (4, 0)) and pieces["w/1.exp_avg"][1:3] == ((3, 2), (0, 0))
    assert torch.equal(pieces["w/1.exp_avg"].tensor, state["exp_avg"][2:])
    assert pieces["w.step"][1:] == ((), (), state["step"])
    (whole,) = state_pieces("w", weight.tensor, cut(weight, []), {"momentum_buffer": state["exp_avg"]})
    assert whole.name == "w.momentum_buffer" and whole.offset == (4, 0)


def test_an_empty_shard_has_no_piece():
    assert cut(Piece("w", (1, 4), (1, 0), torch.empty(0, 4)), [1]) == []
    assert tensor_piece("w", torch.tensor(2.0))[1:3] == ((), ())
