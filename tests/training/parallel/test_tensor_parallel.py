"""Ranks that share the layers of a model train the model that one process trains, each with 1/N of it.

Bounds after 20 steps in fp32, where only the order of sums differs between one process and N ranks: losses 1e-5 of their
value, weights 2e-5 + 1e-3 of theirs. Muon rounds to bf16, so the last bit of a gradient can change an update by 0.4 %:
losses 2e-4, norm of the difference of each weight 5e-3 of its norm. With FSDP among the tensor groups, gradients are summed
in yet another order, and AdamW magnifies the rounding of single gradients near 0: norm of the difference 1e-4 of the norm.
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend

from lmfast.train import train
from lmfast.training.compiled import CompiledLoss
from lmfast.training.parallel import choice
from lmfast.training.parallel.ranks import SINGLE_PROCESS, Ranks
from lmfast.training.parallel.sharded_muon import ShardedMuon
from lmfast.training.run import make_plan
from lmfast.training.run_folder import read_metrics
from lmfast.training.step import Stepper
from lmfast.training.task import Rows
from tests.evaluation.conftest import task_folder  # noqa: F401
from tests.training.forked_runs import close, finish, on_ranks, start_ranks
from tests.training.parallel.test_fsdp import OBJECTIVE, PeakBytes, settings, start, steps
from tests.training.parallel.test_tensor_model import parts_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")

AUTO = {"parallel": "auto"}


def split_steps(ranks: Ranks, changes: dict[str, Any], size: int, bad=(-1, -1)) -> dict[str, Any]:
    """20 steps on ranks of which `size` share the layers."""
    kind = "fsdp" if "parallel" in changes else "tensor"
    if changes.get("grad_accumulation") == 3:  # a device that cannot hold the whole gradient
        choice.memory_capacity = lambda _: 1
    return steps(settings(AUTO | changes), ranks.in_tensor_groups(size), kind, bad)


CASES = {
    "adamw": (2, 2, {"grad_accumulation": 2, "tie_embeddings": True, "dropout": 0.1}),
    "data": (4, 2, {"qk_norm": True, "qkv_bias": True, "value_embeddings": True}),
    "muon": (2, 2, {"optimizer": "muon", "position": "learned", "parallel_block": True}),
    "fsdp": (4, 2, {"grad_accumulation": 2, "qk_norm": True, "qkv_bias": True, "parallel": "fsdp"}),
    "fsdp, reduced": (4, 2, {"grad_accumulation": 3, "parallel": "fsdp"}),
    "four": (4, 4, {"num_kv_heads": 4, "norm": "post", "ffn": "relu2"}),
}
NORMS = {"muon": 5e-3, "fsdp": 1e-4, "fsdp, reduced": 1e-4}
"""largest norm of the difference of a weight, relative to its norm"""
NOT_FINITE = {"adamw": 5, "fsdp": 5}
"""the step in which the loss is NaN, on one rank only"""


@pytest.mark.parametrize(
    "name",
    [
        "adamw",
        "data",
        *(pytest.param(n, marks=pytest.mark.ci) for n in ("muon", "four", "fsdp", "fsdp, reduced")),
    ],
)
def test_ranks_equal_one_and_communicate_as_derived(name, tmp_path):
    number, size, changes = CASES[name]
    step = NOT_FINITE.get(name, -1)
    one = steps(settings(AUTO | changes), SINGLE_PROCESS, "single", (0, step))
    found = on_ranks(split_steps, tmp_path / "ranks", number, changes, size, (1, step))
    muon = changes.get("optimizer") == "muon"
    for other in found:
        bound = 2e-4 if muon else 1e-5
        assert other["losses"] == pytest.approx(one["losses"], rel=bound, nan_ok=True)
        assert other["skipped"] == one["skipped"] == ([step] if step > 0 else [])
    if name in NORMS:
        for weight, whole in one["weights"].items():
            assert (whole - found[0]["weights"][weight]).norm() <= NORMS[name] * whole.norm(), weight
    else:
        close(one["weights"], found[0]["weights"])
    layers, passes = 2, changes.get("grad_accumulation", 1)
    sublayers = layers * (1 if changes.get("parallel_block") else 2)
    derived = {"all_reduce": passes * (2 * sublayers + 2), "all_gather_into_tensor": passes}
    derived["allreduce_"] = 2  # gradients of replicated weights; norm and loss
    if number > size:
        derived["allreduce_"] += 2  # data ranks: loss; DDP's only bucket, or FSDP's part of the norm
    if changes.get("parallel") == "fsdp":
        derived |= {"_allgather_base_": 1 + 2 * layers * passes, "_reduce_scatter_base_": 1 + layers}
        derived["_reduce_scatter_base_"] *= passes if "reduced" in name else 1
        size = number
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


@pytest.mark.ci
@pytest.mark.parametrize(("optimizer", "parallel"), [("muon", "ddp"), ("adamw", "fsdp")])
def test_runs_resume_with_other_ranks(corpus, tmp_path, optimizer, parallel):
    """Two tensor ranks, one process, two by two ranks, two data ranks: the run of one process."""
    more = ["--lr-decay-iters", 12, "--qk-norm", "--optimizer", optimizer, "--max-iters"]
    train(flags(corpus, tmp_path / "one", *more, 12))
    run_on_ranks(corpus, tmp_path / "run", 2, *more, 3)
    train(flags(corpus, tmp_path / "run", *more, 6, "--tensor-parallel", 1))
    run_on_ranks(corpus, tmp_path / "run", 4, *more, 9, "--parallel", parallel)
    log = tmp_path / "log"
    finish(start_ranks(flags(corpus, tmp_path / "run", *more, 12, "--tensor-parallel", 1), log), log)
    one, other = (read_metrics(tmp_path / name) for name in ("one", "run"))
    assert [m["step"] for m in other] == [*range(1, 13)]
    for a, b in zip(one, other, strict=True):
        for name in a.keys() & {"train_loss", "val_loss"}:
            assert a[name] == pytest.approx(b[name], rel=2e-4)


@pytest.mark.ci
def test_16_bits_and_a_loss_scale(corpus, tmp_path):
    """Losses are those of one process up to the rounding of 16 bits; the loss scale is the same."""
    for precision in ("fp16", "bf16"):
        more = ["--eval-interval", 0, "--grad-accumulation", 2, f"--{precision}"]
        train(flags(corpus, tmp_path / precision, *more))
        run_on_ranks(corpus, tmp_path / f"{precision} split", 2, *more)
        runs = [read_metrics(tmp_path / name) for name in (precision, f"{precision} split")]
        for a, b in zip(*runs, strict=True):
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=2e-3)
            assert a.get("loss_scale") == b.get("loss_scale")
            assert ("loss_scale" in a) == (precision == "fp16")


@pytest.mark.ci
def test_tasks_are_those_of_one_process(corpus, tmp_path, task_folder):  # noqa: F811
    names = "tiny_animals,tiny_perplexity"
    more = ["--eval-tasks", names, "--eval-tasks-include-path", task_folder, "--eval-tasks-limit", 3]
    train(flags(corpus, tmp_path / "one", *more))
    texts = run_on_ranks(corpus, tmp_path / "two", 2, *more)
    assert "tasks at step 6" in texts[0] and texts[1] == ""
    one, two = (read_metrics(tmp_path / name)[-1] for name in ("one", "two"))
    assert "tiny_perplexity/bits_per_byte" in one
    for name in one.keys() - {"seconds", "tokens_per_second", "mfu"}:
        assert one[name] == pytest.approx(two[name], rel=1e-4), name


def losses(ranks: Ranks, loss_fn: Callable[..., torch.Tensor]) -> list[float]:
    """Of four steps on two by two ranks."""
    config = settings(AUTO | {"qk_norm": True})  # without dropout, whose masks are others in compiled code
    state = start(config, ranks, "tensor")
    plan = make_plan(config, Rows(16), 1.0)
    stepper = Stepper(state.model, state.optimizer, OBJECTIVE, loss_fn, plan, ranks, None, 0, state.sharded)
    batches = np.random.default_rng(0).integers(0, 64, (4, 4, 17))
    return [stepper.take(step, batch, 1e-2).loss.item() for step, batch in enumerate(batches, 1)]


def compiled(ranks: Ranks, backend: str) -> tuple[list[float], list[float], int]:
    """(losses, losses of a compiled step, its number of graphs)"""
    ranks = ranks.in_tensor_groups(2)
    with pytest.MonkeyPatch.context() as patch:
        if backend != "inductor":
            patch.setattr("lmfast.training.compiled.inductor", lookup_backend(backend))
        found = CompiledLoss(OBJECTIVE.loss)
        return losses(ranks, OBJECTIVE.loss), losses(ranks, found), found.graphs


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("aot_eager", marks=pytest.mark.ci),
        pytest.param("inductor", marks=pytest.mark.exhaustive),
    ],
)
def test_a_compiled_step_is_one_graph(tmp_path, backend):
    for plain, other, graphs in on_ranks(compiled, tmp_path / "ranks", 4, backend):
        assert other == pytest.approx(plain, rel=1e-5) and graphs == 1
