"""Recomputed activations give the same bits and take less memory. (Exact bytes: test_memory.py.)"""

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lmfast.model.config import ModelConfig
from lmfast.model.device import compile_blocker, make_deterministic
from lmfast.model.recomputation import EXPENSIVE, use_checkpointing
from lmfast.model.transformer import TransformerLM
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.compiled import CompiledLoss
from lmfast.training.objectives import NextToken
from lmfast.training.parallel.ranks import SINGLE_PROCESS
from lmfast.training.resolve import resolve
from lmfast.training.run import make_plan
from lmfast.training.state import make_state
from lmfast.training.step import Stepper
from lmfast.training.task import Rows, Task

CPU = torch.device("cpu")
TINY = {
    "vocab_size": 48, "context_length": 16, "d_model": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2,
    "d_ff": 48,
}  # fmt: skip
ARRANGEMENTS = [
    {},
    {"norm": "post", "dropout": 0.1},
    {"norm": "none"},
    {"parallel_block": True},
    {"parallel_block": True, "dropout": 0.1},
    {"qk_norm": True, "value_embeddings": True, "dropout": 0.1},
    {"ffn": "silu", "position": "learned", "tie_embeddings": True},
    {"num_experts": 4, "experts_per_token": 2},
    {"sliding_window": 4, "d_ff": 64, "num_kv_heads": 4},
]


@pytest.fixture(autouse=True)
def deterministic():
    make_deterministic(CPU)


def model_of(changes: dict, kind: str = "none") -> TransformerLM:
    torch.manual_seed(0)
    model = TransformerLM(ModelConfig(**(TINY | changes))).train()
    use_checkpointing(model, kind)
    return model


def batch(objective: NextToken) -> tuple:
    rows = np.random.default_rng(0).integers(0, 48, (4, 17))
    rows[:, 5] = 0  # with a separator, documents begin here
    return objective.tensors(rows, CPU)


def gradients(
    changes: dict, kind: str, dtype: torch.dtype | None, separator: int | None
) -> list[torch.Tensor]:
    objective, model = NextToken(separator=separator), model_of(changes, kind)
    torch.manual_seed(1)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        loss = objective.loss(model, *batch(objective))
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("separator", [None, 0])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("changes", ARRANGEMENTS, ids=str)
def test_loss_and_gradients_have_the_same_bits(changes, dtype, separator):
    expected = gradients(changes, "none", dtype, separator)
    for kind in ("block", "selective"):
        found = gradients(changes, kind, dtype, separator)
        assert len(found) == len(expected)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), kind


class Products(TorchDispatchMode):
    """Counts matrix products and attention in the forward and in recomputation."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        if "attention" in name or name in ("aten.mm.default", "aten.addmm.default"):
            self.count += torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


def products(changes: dict, kind: str) -> int:
    """In the forward and in recomputation; the head's loss computes its products without autograd."""
    objective, model = NextToken(), model_of(changes, kind)
    with Products() as mode:
        objective.loss(model, *batch(objective)).backward()
    return mode.count


@pytest.mark.parametrize(
    ("changes", "last"),
    [({}, 1), ({"norm": "post"}, 0), ({"parallel_block": True}, 1), ({"dropout": 0.1}, 0)],
    ids=str,
)
def test_selective_recomputes_no_product_and_block_all_but_the_last(changes, last, monkeypatch):
    monkeypatch.setattr("lmfast_kernels.cpu_library.available", lambda: False)
    once = products(changes, "none")
    assert once >= 2 * 5  # qkv, attention, out, up, down
    assert products(changes, "selective") == once
    assert products(changes, "block") == once + 2 * (5 - last)


def test_generation_and_evaluation_are_not_affected(monkeypatch):
    def forbidden(*arguments, **options):
        raise AssertionError("checkpoint")

    monkeypatch.setattr("lmfast.model.recomputation.checkpoint", forbidden)
    objective = NextToken()
    for kind in ("block", "selective"):
        model, plain = model_of({}, kind), model_of({})
        with torch.no_grad():
            assert torch.equal(
                objective.loss(model, *batch(objective)), objective.loss(plain, *batch(objective))
            )
        assert torch.equal(
            objective.loss(model.eval(), *batch(objective)), objective.loss(plain.eval(), *batch(objective))
        )
        assert model.generate([1, 2], max_tokens=4, temperature=0) == plain.generate(
            [1, 2], max_tokens=4, temperature=0
        )
        with pytest.raises(AssertionError, match="checkpoint"):
            objective.loss(model.train(), *batch(objective))


def test_none_turns_it_off_again():
    model = model_of({}, "block")
    use_checkpointing(model, "none")
    assert all(block.recomputed is None for block in model.blocks)


def trained(**changes) -> tuple[list[float], list[torch.Tensor]]:
    """Losses and weights after three steps of two forward passes, as a run takes them."""
    shape = TINY | {"batch_size": 4, "grad_accumulation": 2, "max_iters": 3, "dropout": 0.1, "device": "cpu"}
    settings = resolve(replace_flat(TrainSettings(), shape | changes), 48)
    objective = NextToken()
    state = make_state(settings, Task(objective, None), None, None, CPU, SINGLE_PROCESS, "single")
    plan = make_plan(settings, Rows(16), 1.0)
    stepper = Stepper(
        state.model, state.optimizer, objective, objective.loss, plan, SINGLE_PROCESS, state.loss_scale, 0
    )
    state.model.train()
    rows = np.random.default_rng(0).integers(0, 48, (3, 8, 17))
    losses = [stepper.take(step, rows[step - 1], 1e-2).loss.item() for step in (1, 2, 3)]
    assert all(
        (block.recomputed is not None) == ("activation_checkpointing" in changes)
        for block in state.model.blocks
    )
    return losses, [p.detach() for p in state.model.parameters()]


@pytest.mark.parametrize("precision", [{}, {"bf16": True}, {"fp16": True}], ids=str)
def test_a_run_with_accumulation_reaches_the_same_weights(precision):
    losses, weights = trained(**precision)
    for kind in ("block", "selective"):
        found, others = trained(activation_checkpointing=kind, **precision)
        assert found == losses
        assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def kept_bytes(run, model: nn.Module) -> int:
    """Bytes of the tensors that autograd keeps, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run().backward()
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", ["block", pytest.param("selective", marks=pytest.mark.ci)])
def test_a_compiled_step_is_one_graph_that_keeps_less(kind, capfd):
    """With dropout, documents and evaluations between the steps."""
    if reason := compile_blocker(CPU):
        pytest.skip(reason)
    kept, losses = {}, {}
    for this in ("none", kind):
        torch._dynamo.reset()
        objective, model = NextToken(separator=0), model_of({"dropout": 0.1}, this)
        compiled = CompiledLoss(objective.loss)

        def loss(model=model, compiled=compiled, objective=objective):
            torch.manual_seed(1)
            return compiled(model.train(), *batch(objective))

        kept[this] = kept_bytes(loss, model)
        with torch.no_grad():
            objective.loss(model.eval(), *batch(objective))
        losses[this] = [loss().detach(), *(p.grad.clone() for p in model.parameters())]
        assert (compiled.graphs, compiled.recompiles) == (1, 0)
    assert kept[kind] < (0.5 if kind == "block" else 0.9) * kept["none"]
    torch.testing.assert_close(losses[kind], losses["none"])
    assert "context_fn" not in capfd.readouterr().err  # torch warns of it


def test_operators_that_selective_keeps_exist():
    for name in EXPENSIVE:
        namespace, operator, overload = name.split(".")
        if namespace == "lmfast":  # registered when its module is imported
            importlib.import_module(f"lmfast_kernels.{operator.removeprefix('cpu_')}")
        assert str(getattr(getattr(getattr(torch.ops, namespace), operator), overload)) == name
