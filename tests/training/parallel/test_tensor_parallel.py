"""Ranks that share the layers of a model train the model that one process trains, each with 1/N of it.

Bounds after 20 steps in fp32, where only the order of sums differs between one process and N ranks: losses 1e-5 of their
value, weights 2e-5 + 1e-3 of theirs. Muon rounds to bf16, so the last bit of a gradient can change an update by 0.4 %:
losses 2e-4, norm of the difference of each weight 5e-3 of its norm.
"""

import sys
from typing import Any

import pytest
import torch

from lmfast.train import train
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.parallel.sharded_muon import ShardedMuon
from lmfast.training.run_folder import read_metrics
from tests.training.forked_runs import close, finish, on_ranks, start_ranks
from tests.training.parallel.test_fsdp import PeakBytes, settings, start, steps
from tests.training.parallel.test_tensor_model import parts_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")

AUTO = {"parallel": "auto"}


def split_steps(ranks: Ranks, changes: dict[str, Any], size: int, bad=(-1, -1)) -> dict[str, Any]:
    """20 steps on ranks of which `size` share the layers."""
    return steps(settings(changes | AUTO), ranks.in_tensor_groups(size), "tensor", bad)


CASES = {
    "adamw": (2, 2, {"grad_accumulation": 2, "tie_embeddings": True, "dropout": 0.1}),
    "data": (4, 2, {"qk_norm": True, "qkv_bias": True, "value_embeddings": True}),
    "muon": (2, 2, {"optimizer": "muon", "position": "learned", "parallel_block": True}),
    "four": (4, 4, {"num_kv_heads": 4, "norm": "post", "ffn": "relu2"}),
}
NOT_FINITE = {"adamw": 5}
"""the step in which the loss is NaN, on one rank only"""


@pytest.mark.parametrize(
    "name", ["adamw", "data", *(pytest.param(n, marks=pytest.mark.ci) for n in ("muon", "four"))]
)
def test_ranks_equal_one_and_communicate_as_derived(name, tmp_path):
    number, size, changes = CASES[name]
    step = NOT_FINITE.get(name, -1)
    one = steps(settings(changes | AUTO), SINGLE_PROCESS, "single", (0, step))
    found = on_ranks(split_steps, tmp_path / "ranks", number, changes, size, (1, step))
    muon = changes.get("optimizer") == "muon"
    for other in found:
        bound = 2e-4 if muon else 1e-5
        assert other["losses"] == pytest.approx(one["losses"], rel=bound, nan_ok=True)
        assert other["skipped"] == one["skipped"] == ([step] if step > 0 else [])
    if muon:
        for weight, whole in one["weights"].items():
            assert (whole - found[0]["weights"][weight]).norm() <= 5e-3 * whole.norm(), weight
    else:
        close(one["weights"], found[0]["weights"])
    layers, passes = 2, changes.get("grad_accumulation", 1)
    sublayers = layers * (1 if changes.get("parallel_block") else 2)
    derived = {"all_reduce": passes * (2 * sublayers + 2), "all_gather_into_tensor": passes}
    derived["allreduce_"] = 2  # gradients of replicated weights; norm and loss
    if number > size:
        derived["allreduce_"] += 2  # data ranks: loss; DDP's only bucket
    if muon:
        derived["alltoall_base_"] = 2 * -(-7 * layers // size)
    assert found[0]["collectives"] == derived
    for what, total in one["bytes"].items():
        for other in found:
            assert other["bytes"][what] == pytest.approx(total / size, rel=0.05), what


THIRDS = AUTO | {"num_heads": 6, "num_kv_heads": 3, "head_dim": 8, "vocab_size": 66, "d_ff": 126}
"""for three ranks"""


def construction(ranks: Ranks) -> tuple[int, int, int, list]:
    """(peak bytes, bytes of this rank's weights, of one whole block, (part of a weight of one process, this rank's) …)"""
    ranks = ranks.in_tensor_groups(ranks.world_size)
    config = settings(THIRDS | {"num_layers": 4})
    with PeakBytes() as peak:
        state = start(config, ranks, "tensor")
    one = start(config, SINGLE_PROCESS, "single")
    pairs = {name: (weight.detach(), state.weights[name].detach()) for name, weight in one.weights.items()}
    block = sum(p.nbytes for p in one.model.blocks[0].parameters())
    return (
        peak.peak,
        sum(p.nbytes for p in state.weights.values()),
        block,
        list(parts_of(pairs, state.model, ranks).values()),
    )


def muon_alone(ranks: Ranks) -> list:
    """(part of a weight after three steps of Muon, after three of split Muon) …, with equal gradients; skips the second."""
    ranks = ranks.in_tensor_groups(ranks.world_size)
    config = settings(THIRDS | {"optimizer": "muon"})
    split, whole = start(config, ranks, "tensor"), start(config, SINGLE_PROCESS, "single")
    for step in range(3):
        torch.manual_seed(step)
        for name, weight in whole.weights.items():
            weight.grad = torch.randn_like(weight) * (float("nan") if step == 1 else 1)
            split.weights[name].grad = torch.empty_like(split.weights[name])
        grads = {name: (weight.grad, split.weights[name].grad) for name, weight in whole.weights.items()}
        for theirs, own in parts_of(grads, split.model, ranks).values():
            own.copy_(theirs)
        for state in (split, whole):
            muon = state.optimizer.both[0]
            assert isinstance(muon, ShardedMuon) == (state is split)
            for group in muon.param_groups:
                group["lr"] = 0.03
            muon.found_inf = torch.tensor(float(step == 1))
            muon.step()
    pairs = {name: (weight.detach(), split.weights[name].detach()) for name, weight in whole.weights.items()}
    return list(parts_of(pairs, split.model, ranks).values())


def both(ranks: Ranks):
    return construction(ranks), muon_alone(ranks)


def test_construction_is_small_and_muon_is_exact(tmp_path):
    for (peak, own, block, initial), after_muon in on_ranks(both, tmp_path / "ranks", 3):
        assert peak <= 1.1 * own + block
        for theirs, ours in [*initial, *after_muon]:
            assert torch.equal(theirs, ours)


def flags(corpus, folder, *more):
    return [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder), *map(str, more)]


def run_on_ranks(corpus, folder, number, *more, codes=None) -> list[str]:
    """The output of each rank of a run with --tensor-parallel 2."""
    log = folder.with_suffix(".log")
    argv = flags(corpus, folder, "--tensor-parallel", 2, *more)
    return finish(start_ranks(argv, log, number), log, codes or (0,) * number)


def test_evaluation_and_samples_equal_those_of_one_process(corpus, tmp_path):
    more = ["--sample-interval", 3, "--document-mask", "--z-loss", 1e-3, "--eval-interval", 3]
    train(flags(corpus, tmp_path / "one", *more))
    run_on_ranks(corpus, tmp_path / "two", 2, *more)
    for a, b in zip(read_metrics(tmp_path / "one"), read_metrics(tmp_path / "two"), strict=True):
        assert a.keys() == b.keys() and (a["step"] % 3 or a.keys() >= {"val_loss", "bits_per_byte"})
        for name in a.keys() - {"seconds", "tokens_per_second", "mfu"}:
            assert a[name] == pytest.approx(b[name], rel=1e-4), name
    texts = [(tmp_path / name / "samples").glob("*") for name in ("one", "two")]
    assert [p.read_text() for p in sorted(texts[0])] == [p.read_text() for p in sorted(texts[1])] != []


def test_what_cannot_be_split_is_rejected_on_all_ranks(corpus, tmp_path):
    texts = run_on_ranks(corpus, tmp_path / "run", 2, "--num-heads", 1, codes=(2, 2))
    assert "tensor_parallel 2 is more than num_heads 1" in texts[0] and texts[1] == ""
    assert not (tmp_path / "run").exists()
