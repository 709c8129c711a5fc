"""Sharded ranks train the model that one process trains, each with 1/N of it.

Bounds after 20 steps in fp32, where only the order of sums differs between one process and N ranks: losses 1e-5 of their
value, weights 2e-5 + 1e-3 of theirs. Muon rounds to bf16, so the last bit of a gradient can change an update by 0.4 %:
losses 2e-4, norm of the difference of each weight 5e-3 of its norm; 3e-2 with experts, whose router turns rounding into
another choice.
"""

import dataclasses
import os
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from lmfast.settings import TrainSettings, replace_flat
from lmfast.training import compiled
from lmfast.training.evaluation import evaluate
from lmfast.training.objectives import NextToken
from lmfast.training.parallel import choice
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.parallel.sharded_muon import ShardedMuon
from lmfast.training.resolve import resolve
from lmfast.training.run import make_plan
from lmfast.training.state import State, make_state
from lmfast.training.step import Stepper
from lmfast.training.task import Rows, Task
from lmfast.training.tensor_files import part_of
from tests.training.forked_runs import close, on_ranks
from tests.training.parallel.test_pieces import join
from tests.training.parallel.test_tensor_model import Collectives

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 64,
    "context_length": 16,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "d_ff": 128,
    "batch_size": 4,
    "max_iters": 20,
    "warmup_iters": 2,
    "learning_rate": 1e-2,
    "device": "cpu",
    "parallel": "fsdp",
}
OBJECTIVE = NextToken()


def settings(changes: dict[str, Any]) -> TrainSettings:
    return resolve(replace_flat(TrainSettings(), SHAPE | changes), 64)


def start(config: TrainSettings, ranks: Ranks, kind: str) -> State:
    return make_state(config, Task(OBJECTIVE, None), None, None, CPU, ranks, kind)


def whole_weights(state: State, ranks: Ranks) -> dict[str, torch.Tensor]:
    """The whole weights, joined from the pieces of all ranks."""
    if state.sharded is None:
        return state.tensors()[0]
    found: list[Any] = [None] * ranks.world_size
    own = [piece for pieces in state.sharded.weight_pieces().values() for piece in pieces]
    dist.all_gather_object(found, own)
    once = {(piece.name, piece.offset): piece for pieces in found for piece in pieces}  # hsdp has replicas
    wholes: dict[str, torch.Tensor] = {}
    for name, whole in sorted(join([*once.values()]).items()):
        name = part_of(name)[0]
        wholes[name] = torch.cat([wholes[name], whole]) if name in wholes else whole
    return wholes


def steps(config: TrainSettings, ranks: Ranks, kind: str, bad: tuple[int, int] = (-1, -1)) -> dict[str, Any]:
    """Takes 20 steps; the loss of rank bad[0] is NaN in step bad[1]."""
    state = start(config, ranks, kind)
    now = [0]

    def loss(model, *tensors):
        found = OBJECTIVE.loss(model, *tensors)
        return found * float("nan") if (ranks.rank, now[0]) == bad else found

    plan = make_plan(config, Rows(16), 1.0)
    stepper = Stepper(
        state.model, state.optimizer, OBJECTIVE, loss, plan, ranks, state.loss_scale, 0, state.sharded
    )
    rows = config.optimizer.batch_size * config.optimizer.grad_accumulation
    losses, seen, gradients = [], Counter(), [0]
    update = state.optimizer.step

    def count_and_update() -> None:
        storages = {p.grad.untyped_storage().data_ptr(): p.grad.untyped_storage() for p in stepper.weights}
        gradients[0] = sum(storage.nbytes() for storage in storages.values())
        update()

    state.optimizer.step = count_and_update
    state.model.train()
    for step in range(1, config.optimizer.max_iters + 1):
        now[0] = step
        batch = np.random.default_rng(step).integers(0, 64, (rows, 17))
        with Collectives() as collectives:
            result = stepper.take(step, batch, 1e-2)
        losses.append(result.loss.item())
        seen = collectives.seen
    weights = whole_weights(state, ranks)
    local = state.weights.values()
    return {
        "losses": losses,
        "weights": weights,
        "skipped": stepper.guard.skipped()[1],
        "collectives": dict(seen),
        "bytes": {
            "weights": sum(p.nbytes for p in local),
            "gradients": gradients[0],
            "optimizer": sum(t.nbytes for p in local for t in state.optimizer.state[p].values() if t.ndim),
        },
    }


def on_rank(ranks: Ranks, changes: dict[str, Any], kind: str, local: int, bad=(-1, -1)) -> dict[str, Any]:
    os.environ["LOCAL_WORLD_SIZE"] = str(local)
    if changes.get("grad_accumulation") == 3:  # a device that cannot hold the whole gradient
        choice.memory_capacity = lambda _: 1
    return steps(settings(changes), ranks, kind, bad)


CASES = {
    "adamw": (2, "fsdp", 2, {"grad_accumulation": 2, "tie_embeddings": True, "qkv_bias": True}),
    "muon": (4, "fsdp", 4, {"optimizer": "muon", "qk_norm": True, "value_embeddings": True}),
    "hsdp": (4, "hsdp", 2, {"optimizer": "muon", "grad_accumulation": 2}),
    "muon, experts": (2, "fsdp", 2, {"optimizer": "muon", "num_experts": 3, "d_ff": 24}),
    "experts": (2, "fsdp", 2, {"num_experts": 4, "experts_per_token": 2, "d_ff": 64}),
    "reduced": (4, "hsdp", 2, {"grad_accumulation": 3}),
    "uneven": (3, "fsdp", 3, {"optimizer": "muon", "batch_size": 3, "position": "learned", "d_ff": 50}),
}
NOT_FINITE = {"adamw": 5}
"""the step in which the loss is NaN, on one rank only"""


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        "muon",
        *(
            pytest.param(name, marks=pytest.mark.ci)
            for name in ("hsdp", "reduced", "uneven", "experts", "muon, experts")
        ),
    ],
)
def test_ranks_equal_one_and_communicate_as_derived(name, tmp_path):
    number, kind, local, changes = CASES[name]
    step = NOT_FINITE.get(name, -1)
    one = steps(settings(changes), SINGLE_PROCESS, "single", (0, step))
    found = on_ranks(on_rank, tmp_path / "ranks", number, changes, kind, local, (1, step))
    muon = changes.get("optimizer") == "muon"
    for other in found:
        assert other["losses"] == pytest.approx(one["losses"], rel=2e-4 if muon else 1e-5, nan_ok=True)
        assert other["skipped"] == one["skipped"] == ([step] if step > 0 else [])
    if muon:
        bound = 3e-2 if "num_experts" in changes else 5e-3
        for weight, whole in one["weights"].items():
            assert (whole - found[0]["weights"][weight]).norm() <= bound * whole.norm(), weight
    else:
        close(one["weights"], found[0]["weights"])
    layers, passes = 2, changes.get("grad_accumulation", 1)
    derived = {
        "_allgather_base_": 1 + 2 * layers * passes,
        "_reduce_scatter_base_": (1 + layers) * (passes if name == "reduced" else 1),
        "allreduce_": 2 + (1 + layers if kind == "hsdp" else 0),
    }
    if muon:
        matrices = 7 + (1 + 2 * 3 if "num_experts" in changes else 0)  # two further experts and a router
        derived["alltoall_base_"] = 2 * -(-matrices * layers // local)
    assert found[0]["collectives"] == derived
    if name != "uneven":
        for what, total in one["bytes"].items():
            for other in found:
                assert other["bytes"][what] == pytest.approx(total / local, rel=0.05), what


@pytest.mark.ci
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.005)])
def test_16_bit_products(precision, tolerance, tmp_path):
    """Norms also compute with 16-bit weights, which travel, so that losses are only close to those of autocast."""
    changes = {precision: True, "grad_accumulation": 2, "qk_norm": True}
    one = steps(settings(changes), SINGLE_PROCESS, "single")
    found = on_ranks(on_rank, tmp_path / "ranks", 2, changes, "fsdp", 2)
    assert found[0]["losses"] == found[1]["losses"] == pytest.approx(one["losses"], rel=tolerance)
    assert found[0]["skipped"] == one["skipped"] == []
    for what, total in one["bytes"].items():
        assert found[0]["bytes"][what] == pytest.approx(total / 2, rel=0.05), what


def compiled_on_rank(ranks: Ranks) -> tuple[list[float], int, int]:
    """(losses of three steps and an evaluation after each, graphs, recompiles), with graphs and guards but no code."""
    compiled.inductor = lambda graph, inputs: graph.forward
    config = settings({"num_layers": 3, "grad_accumulation": 2, "max_iters": 3})
    state = start(config, ranks, "fsdp")
    loss = compiled.CompiledBlocks(OBJECTIVE.loss, state.model)
    plan = make_plan(config, Rows(16), 1.0)
    stepper = Stepper(state.model, state.optimizer, OBJECTIVE, loss, plan, ranks, None, 0, state.sharded)
    losses = []
    for step in range(1, 4):
        batch = np.random.default_rng(step).integers(0, 64, (8, 17))
        losses.append(stepper.take(step, batch, 1e-2).loss.item())
        losses.append(evaluate(state.model, OBJECTIVE, [batch] * 3, CPU, "fp32", None, ranks)["val_loss"])
        state.model.train()
    return losses, loss.graphs, loss.recompiles


@pytest.mark.ci
def test_blocks_of_a_kind_share_one_graph_and_evaluation_uses_none(tmp_path):
    (losses, graphs, recompiles), other = on_ranks(lockstep_compiled, tmp_path / "ranks", 2)
    assert losses == other[0] and (graphs, recompiles) == (2, 0)  # the first block has no residual stream yet
    config = settings({"num_layers": 3, "grad_accumulation": 2, "max_iters": 3, "log_interval": 1})
    one = steps(config, SINGLE_PROCESS, "single")
    assert losses[::2] == pytest.approx(one["losses"], rel=1e-5)


def lockstep_compiled(ranks: Ranks) -> tuple[list[float], int, int]:
    return compiled_on_rank(dataclasses.replace(ranks, lockstep=True))


def test_in_lockstep_all_ranks_have_equally_many_turns():
    dealt = [list(Ranks(rank, 4, lockstep=True).deal("abcdef")) for rank in range(4)]
    assert dealt == [
        [("a", True), ("e", True)],
        [("b", True), ("f", True)],
        [("c", True), ("f", False)],
        [("d", True), ("f", False)],
    ]
    assert [list(Ranks(rank, 4).deal("abcdef"))[1:] for rank in (0, 3)] == [[("e", True)], []]
    assert [len(list(Ranks(rank, 3, lockstep=True).deal("abcdef"))) for rank in range(3)] == [2, 2, 2]


class PeakBytes(TorchDispatchMode):
    """The largest number of bytes of tensors that exist at the same time, of those made within."""

    def __init__(self):
        super().__init__()
        self.alive: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (list, tuple)) else [found]:
            if isinstance(tensor, torch.Tensor) and not isinstance(tensor, DTensor) and not tensor.is_meta:
                storage = tensor.untyped_storage()
                self.alive[StorageWeakRef(storage)] = storage.nbytes()
        self.alive = {ref: size for ref, size in self.alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self.alive.values()))
        return found


def construction(ranks: Ranks) -> tuple[int, int, int, dict[str, torch.Tensor]]:
    """(peak bytes, bytes of the shard, bytes of one block, this rank's weights)."""
    config = settings({"num_layers": 4})
    with PeakBytes() as bytes_:
        state = start(config, ranks, "fsdp")
    assert state.sharded is not None
    block = sum(p.numel() for p in state.model.blocks[0].parameters()) * 4
    weights = {name: p.detach() for name, p in state.sharded.weights.items()}
    return bytes_.peak, sum(p.nbytes for p in weights.values()), block, weights


def muon_alone(ranks: Ranks) -> bool:
    """Whether sharded Muon equals Muon to the bit, for equal gradients and with a skipped step."""
    config = settings({"optimizer": "muon", "d_ff": 50})
    states = [start(config, ranks, "fsdp"), start(config, SINGLE_PROCESS, "single")]
    sharded, whole = (state.optimizer.both[0] for state in states)
    assert isinstance(sharded, ShardedMuon)
    pieces = states[0].sharded.pieces
    for step in range(3):
        skip = torch.tensor(float(step == 1))
        torch.manual_seed(step)
        for name, weight in states[1].weights.items():
            weight.grad = torch.randn_like(weight) * (float("nan") if step == 1 else 1)
            begin, size = pieces[name].offset[0], len(pieces[name].tensor)
            states[0].weights[name].grad = weight.grad[begin : begin + size].clone()
        for muon in (sharded, whole):
            for group in muon.param_groups:
                group["lr"] = 0.03
            muon.found_inf = skip
            muon.step()
    return all(
        torch.equal(pieces[name].tensor, weight[pieces[name].offset[0] :][: len(pieces[name].tensor)])
        for name, weight in states[1].weights.items()
    )


def both(ranks: Ranks) -> tuple[Any, bool]:
    return construction(ranks), muon_alone(ranks)


def test_construction_is_small_and_muon_is_exact(tmp_path):
    whole = start(settings({"num_layers": 4}), SINGLE_PROCESS, "single").weights
    results = on_ranks(both, tmp_path / "ranks", 3)
    for (peak, shard, block, _), equal in results:
        assert peak <= 1.1 * shard + block
        assert equal
    for name, weight in whole.items():
        parts = torch.cat([result[0][3][name] for result in results])
        assert torch.equal(parts, weight), name  # the weights of one process, to the bit
