"""Pieces of weights and state are read from checkpoints of any format and number of ranks."""

import pytest
import torch

from lmfast.errors import UserError
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.model.weight_shapes import fused_widths
from lmfast.training.checkpoint import save_tensors
from lmfast.training.parallel.pieces import Piece, cut, state_pieces
from lmfast.training.parallel.reading import read_pieces, read_state
from lmfast.training.tensor_files import TensorFiles
from tests.training.shard_files import write_shards

CONFIG = ModelConfig(
    vocab_size=61, d_model=16, num_heads=4, num_kv_heads=2, num_layers=1, qkv_bias=True
).resolved()
WIDTHS = fused_widths(CONFIG)


def row_shards(weights, rank, number):
    """{name: uncut piece} of the rows of a rank, as fsdp shards them."""
    pieces = {}
    for name, weight in weights.items():
        each = -(-len(weight) // number)
        rows = weight[rank * each : (rank + 1) * each].detach().clone()
        pieces[name] = Piece(name, tuple(weight.shape), (rank * each, *[0] * (weight.ndim - 1)), rows)
    return pieces


def cut_all(pieces):
    return [part for name, piece in pieces.items() for part in cut(piece, WIDTHS.get(name, ()))]


def make_state(weights):
    return {
        name: {"exp_avg": torch.randn(weight.shape), "step": torch.tensor(7.0)}
        for name, weight in weights.items()
    }


def saved_by(number, weights, state, folder):
    """(files of weights, files of state) as one process or `number` sharded ranks save them."""
    if number == 1:
        save_tensors(weights, folder / "model.safetensors")
        flat = {f"{name}.{field}": t for name, fields in state.items() for field, t in fields.items()}
        save_tensors(flat, folder / "optimizer.safetensors")
        return TensorFiles([folder / "model.safetensors"]), TensorFiles([folder / "optimizer.safetensors"])
    shards, states = [], []
    for rank in range(number):
        uncut = row_shards(weights, rank, number)
        shards.append(cut_all(uncut))
        rows = row_shards({name: fields["exp_avg"] for name, fields in state.items()}, rank, number)
        states.append(
            [
                piece
                for name, fields in state.items()
                for piece in state_pieces(
                    name,
                    uncut[name].tensor,
                    cut(uncut[name], WIDTHS.get(name, ())),
                    {"exp_avg": rows[name].tensor} | ({"step": fields["step"]} if rank == 0 else {}),
                )
            ]
        )
    return TensorFiles(write_shards(folder, shards, 1)), TensorFiles(write_shards(folder, states, 2))


@pytest.mark.parametrize("saved", [1, 2, 3])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_ranks_read_what_any_number_of_ranks_saved(tmp_path, saved, number):
    torch.manual_seed(0)
    weights = {name: w.detach() for name, w in TransformerLM(CONFIG).named_weights().items()}
    state = make_state(weights)
    files, state_files = saved_by(saved, weights, state, tmp_path)
    for rank in range(number):
        expected = row_shards(weights, rank, number)
        own = {
            name: piece._replace(tensor=torch.full_like(piece.tensor, torch.nan))
            for name, piece in expected.items()
        }
        read_pieces(files, cut_all(own), WIDTHS)
        moments = row_shards({n: fields["exp_avg"] for n, fields in state.items()}, rank, number)
        for name, piece in own.items():
            assert torch.equal(piece.tensor, expected[name].tensor), name
            found = read_state(state_files, piece.tensor, name, cut(piece, WIDTHS.get(name, ())), WIDTHS)
            assert found.keys() == {"exp_avg", "step"} and found["step"] == 7.0
            assert torch.equal(found["exp_avg"], moments[name].tensor), name


def test_head_shards_are_read(tmp_path):
    """Tensor rank 1 of 2 owns the second half of queries, keys and values."""
    whole = torch.arange(32.0 * 3).view(32, 3)
    save_tensors({"qkv.weight": whole}, tmp_path / "model.safetensors")
    local = torch.zeros(16, 3)
    pieces = [
        piece.inside((2 * len(piece.tensor), 3), (len(piece.tensor), 0))
        for piece in cut(Piece("qkv.weight", (16, 3), (0, 0), local), [8, 4, 4])
    ]
    read_pieces(TensorFiles([tmp_path / "model.safetensors"]), pieces, {"qkv.weight": [16, 8, 8]})
    assert torch.equal(local, torch.cat([whole[8:16], whole[20:24], whole[28:32]]))


def test_other_shapes_and_values_that_are_not_finite_are_rejected(tmp_path):
    save_tensors(
        {"w": torch.tensor([1.0, torch.inf]), "w.step": torch.tensor(1.0)}, tmp_path / "a.safetensors"
    )
    files = TensorFiles([tmp_path / "a.safetensors"])
    for name, shape, message in [
        ("v", (2,), r"another model shape: v is absent, not \(2,\)"),
        ("w", (3,), r"another model shape: w is \(2,\), not \(3,\)"),
        ("w", (2,), "w is not finite; use an older checkpoint"),
    ]:
        with pytest.raises(UserError, match=message):
            read_pieces(files, [Piece(name, shape, (0,), torch.zeros(shape))], {})
    read_pieces(files, [Piece("w", (2,), (0,), torch.zeros(1))], {})  # only its own part matters
    with pytest.raises(UserError, match="contains no optimizer state for v"):
        read_state(files, torch.zeros(2), "v", [], {})
    assert read_state(TensorFiles([]), torch.zeros(2), "v", [], {}) == {}


def test_the_widths_of_the_config_are_those_of_the_model():
    from lmfast.training.parallel.pieces import fused_widths as of_model

    for changes in ({}, {"ffn": "silu", "qkv_bias": True}):
        config = ModelConfig(vocab_size=61, d_model=16, num_heads=4, num_layers=2, **changes).resolved()
        model = TransformerLM.without_memory(config)
        names = model.named_weights()
        assert fused_widths(config) == {k: v for k, v in of_model(model).items() if k in names}
