"""Training with experts: the load-balancing term, its metrics, and that every stage and command works with such a model."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from lmfast import load_run
from lmfast.data.packing import TOKEN
from lmfast.dpo import dpo
from lmfast.errors import UserError
from lmfast.evaluate import EvaluateSettings, evaluate_run
from lmfast.interop.exporting import export_run
from lmfast.model.config import ModelConfig
from lmfast.model.device import compile_blocker
from lmfast.model.experts import load_balance_loss
from lmfast.model.transformer import TransformerLM
from lmfast.sft import sft
from lmfast.train import train
from lmfast.training.checkpoint import find_checkpoint
from lmfast.training.compiled import CompiledLoss
from lmfast.training.load_balance import Balanced
from lmfast.training.objectives import DPO, IGNORE, SFT, NextToken
from lmfast.training.parallel.ranks import SINGLE_PROCESS
from lmfast.training.run_folder import read_metrics
from lmfast.training.weights import mapped_weights
from tests.complete_runs import differ, run

CPU = torch.device("cpu")
SHAPE = ModelConfig(
    vocab_size=50, context_length=8, d_model=16, num_layers=2, num_heads=2, d_ff=12, num_experts=4
)
EXPERTS = ["--num-experts", 4]
LOAD = {"expert_load_max", "expert_load_min", "load_balance_loss"}


def make(weight: float = 0.1):
    torch.manual_seed(0)
    return TransformerLM(SHAPE), Balanced(NextToken(), weight, SHAPE.resolved(), CPU)


def batch_of(rows: int) -> np.ndarray:
    batch = np.random.default_rng(0).integers(0, 50, (rows, 9))
    batch[:, 7:] = IGNORE
    return batch


def test_the_term_is_added_to_the_loss_of_each_token_in_training_only():
    model, objective = make()
    tensors = objective.tensors(batch_of(4), CPU)
    plain = objective.objective.loss(model, *tensors)
    load = model.take_expert_load()
    loss = objective.loss(model, *tensors)
    expected = plain + 0.1 * objective.valid_tokens(batch_of(4)) * load_balance_loss(load, 2).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(objective.loss(model.eval(), *tensors), plain)
    assert model.expert_load is None and not objective.sums.requires_grad


def test_the_metrics_are_means_over_the_passes_of_a_step():
    model, objective = make()
    loads = []
    for rows in (4, 2):
        tensors = objective.tensors(batch_of(rows), CPU)
        objective.objective.loss(model, *tensors)
        loads.append(model.take_expert_load())
        objective.loss(model, *tensors)
    found = objective.read_metrics(SINGLE_PROCESS)
    shares = torch.stack(loads)[:, :, 0].mean(0)
    assert found["expert_load_max"] == pytest.approx(shares.max().item())
    assert found["expert_load_min"] == pytest.approx(shares.min().item())
    expected = load_balance_loss(torch.stack(loads), 2).mean().item()
    assert found["load_balance_loss"] == pytest.approx(expected)
    objective.begin_step()
    assert objective.read_metrics(SINGLE_PROCESS) == {}


def test_a_step_whose_loss_is_not_finite_has_no_metrics():
    model, objective = make()
    tensors = objective.tensors(batch_of(4), CPU)
    with torch.no_grad():
        norm, kept = model.final_norm.weight, model.final_norm.weight.clone()
        norm.fill_(float("nan"))  # the loads themselves stay finite
    objective.loss(model, *tensors)
    assert objective.read_metrics(SINGLE_PROCESS) == {}
    objective.begin_step()
    with torch.no_grad():
        norm.copy_(kept)
    objective.loss(model, *tensors)
    assert objective.read_metrics(SINGLE_PROCESS).keys() == LOAD


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_padding_does_not_count(stage):
    """Neither in the term nor in the metrics: a row has the same with and without it."""
    found = []
    for length in (6, 9):  # documents of 6 tokens
        rows = np.zeros((4, length), TOKEN)
        rows["document"], rows["document"][:, 6:] = 0, 1
        rows["id"][:, :6] = np.random.default_rng(0).integers(1, 50, (4, 6))
        rows["loss"][:, 3:6] = True
        model, objective = make()
        objective.objective = SFT() if stage == "sft" else DPO()
        loss = objective.loss(model, *objective.tensors(rows, CPU))
        loss.backward()
        gradient = model.blocks[0].feed_forward.router.weight.grad
        found.append((loss.detach(), gradient, objective.read_metrics(SINGLE_PROCESS)))
    (short, few, metrics), (long, many, others) = found
    torch.testing.assert_close(short, long)
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-5)
    assert metrics == pytest.approx(others)


def test_without_the_term_splitting_a_batch_changes_only_rounding():
    """With it, each part has a term of its own (see the module)."""

    def gradients(weight: float, parts: int) -> torch.Tensor:
        model, objective = make(weight)
        for rows in np.split(batch_of(6), parts):
            objective.loss(model, *objective.tensors(rows, CPU)).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradients(0.0, 1), gradients(0.0, 3), rtol=1e-4, atol=1e-4)
    one, three, none = gradients(0.1, 1), gradients(0.1, 3), gradients(0.0, 1)
    assert not torch.allclose(one, three, rtol=1e-4, atol=1e-4)
    assert torch.cosine_similarity(one - none, three - none, dim=0) > 0.5


@pytest.mark.ci  # Inductor takes 10 s
def test_a_compiled_step_is_one_graph_however_tokens_are_routed():
    if reason := compile_blocker(CPU):
        pytest.skip(reason)
    torch._dynamo.reset()
    torch.manual_seed(0)
    shape = dataclasses.replace(SHAPE, num_layers=1).resolved()
    model, objective = TransformerLM(shape), Balanced(NextToken(), 0.1, shape, CPU)
    compiled = CompiledLoss(objective.loss)
    for scale in (1.0, 30.0):  # almost all tokens to the same experts
        with torch.no_grad():
            model.blocks[0].feed_forward.router.weight.mul_(scale)
        tensors = objective.tensors(batch_of(4), CPU)
        model.zero_grad()
        compiled(model, *tensors).backward()
        found = [p.grad for p in model.parameters()]
        model.zero_grad()
        objective.loss(model, *tensors).backward()
        for ours, theirs in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs.grad, rtol=1e-3, atol=1e-4)
        shares = objective.read_metrics(SINGLE_PROCESS)
        assert shares["expert_load_max"] <= 1.0
    assert (compiled.graphs, compiled.recompiles) == (1, 0)


@pytest.fixture(scope="module")
def base(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts") / "run"
    metrics, _ = run(corpus, folder, *EXPERTS, "--sample-interval", 6, "--log-interval", 2)
    return folder, metrics


def test_a_run_logs_the_load_and_learns(base):
    folder, metrics = base
    logged = [line for line in metrics if "train_loss" in line]
    assert all(line.keys() >= LOAD for line in logged)
    for line in logged:
        assert 0 <= line["expert_load_min"] <= 0.5 <= line["expert_load_max"] <= 1
    assert metrics[-1]["val_loss"] < metrics[0]["train_loss"]
    assert "Largest share of an expert" in (folder / "report.html").read_text()
    assert list((folder / "samples").iterdir())


def test_a_larger_weight_balances_more(corpus, tmp_path):
    flags = [*EXPERTS, "--max-iters", 60, "--eval-interval", 0, "--lr", "1e-2", "--load-balance"]
    losses = [
        run(corpus, tmp_path / weight, *flags, weight)[0][-1]["load_balance_loss"] for weight in ("0", "1")
    ]
    assert losses[1] < losses[0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_resumes_to_the_same_bits(corpus, tmp_path, optimizer):
    flags = [
        *EXPERTS,
        "--optimizer",
        optimizer,
        "--lr-decay-iters",
        6,
        "--eval-interval",
        0,
        "--log-interval",
        6,
    ]
    _, whole = run(corpus, tmp_path / "whole", *flags)
    run(corpus, tmp_path / "parts", *flags, "--max-iters", 3)
    _, parts = run(corpus, tmp_path / "parts", *flags)
    assert not differ(whole, parts)
    lines = [read_metrics(tmp_path / name)[-1] for name in ("whole", "parts")]
    assert all(lines[0][name] == lines[1][name] for name in LOAD)
    with pytest.raises(UserError, match="the run has num_experts 4, which cannot change to 8"):
        run(corpus, tmp_path / "parts", *flags, "--num-experts", 8, "--max-iters", 9)


def test_mapped_weights_are_those_of_the_model(base):
    model, _, config = load_run(base[0])
    arrays = mapped_weights(find_checkpoint(base[0]), config)
    assert arrays.keys() == model.named_weights().keys()
    assert arrays["blocks.0.feed_forward.up.weight"].shape == (4 * 2 * config.d_ff, config.d_model)


def test_sft_dpo_and_evaluation(base, tmp_path):
    common = (
        "--held-out 4 --warmup-iters 1 --max-iters 2 --device cpu --batch-size 4 --log-interval 1".split()
    )
    talks = [{"instruction": f"a{i}", "output": "b"} for i in range(24)]
    pairs = [{"prompt": f"a{i}", "chosen": "b", "rejected": "c"} for i in range(24)]
    (tmp_path / "talks.json").write_text(json.dumps(talks))
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    flags = [*common, "--init-from", str(base[0]), "--train-data", str(tmp_path / "talks.json")]
    assert sft([*flags, "--out-dir", str(tmp_path / "sft")])
    flags = [*common, "--init-from", str(tmp_path / "sft"), "--train-data", str(tmp_path / "pairs.json")]
    assert dpo([*flags, "--out-dir", str(tmp_path / "dpo")])
    for stage in ("sft", "dpo"):
        line = read_metrics(tmp_path / stage)[-1]
        assert line.keys() >= LOAD and np.isfinite(line["val_loss"])
        found = evaluate_run(EvaluateSettings(run=str(tmp_path / stage), device="cpu"))
        assert found["loss"] == pytest.approx(line["val_loss"], rel=1e-4)
    assert "rewards/margins" in line


def test_exports_are_rejected_by_name(base, tmp_path):
    for kind in ("hf", "gguf"):
        with pytest.raises(UserError, match=r"num_experts is 4, which .* only models with num_experts 0"):
            export_run(base[0], kind, output=tmp_path / kind)
        assert not (tmp_path / kind).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-experts", "1"], "num_experts is 1; it must be 0"),
        (
            ["--num-experts", "4", "--experts-per-token", "5"],
            "experts_per_token 5 is greater than num_experts 4",
        ),
        (["--num-experts", "4", "--load-balance", "-1"], "load_balance is -1.0; it must be"),
        (["--load-balance", "0.1"], "load_balance is 0.1, but there are no experts; set num_experts"),
        (["--experts-per-token", "1"], "experts_per_token is 1, but there are no experts; set num_experts"),
        (["--num-experts", "4", "--bf16", "--fp8"], "fp8 does not support num_experts; remove --fp8"),
    ],
)
def test_bad_settings_write_nothing(corpus, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        train([*corpus.flags(), "--out-dir", str(tmp_path / "run"), *flags])
    assert not (tmp_path / "run").exists()


def test_muon_orthogonalises_each_matrix_of_each_expert(corpus, tmp_path):
    """One step of Muon on a model whose experts are stacked equals one on its matrices alone."""
    from lmfast.training.optimizers import make_optimizer

    model, _ = make()
    up = model.blocks[0].feed_forward.up.weight
    before, gradient = up.detach().clone(), torch.randn_like(up)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    up.grad = gradient.clone()
    make_optimizer(model, "muon", 0.1, (0.9, 0.95), 0.0).step()
    parts = zip(before.chunk(8), gradient.chunk(8), up.detach().chunk(8), strict=True)
    for old, grad, new in parts:
        alone = torch.nn.Parameter(old.clone())
        alone.grad = grad.clone()
        options = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
        torch.optim.Muon([alone], **options).step()
        torch.testing.assert_close(new, alone.detach())
