"""Every smoke check passes at tiny sizes on the CPU, and fails if something is wrong."""

import sys

import pytest
import torch

from bench import gpu_smoke, gpu_training, gpu_training_job
from bench.gpu_smoke import CHECKS, Machine, main

pytest.importorskip("transformers")


@pytest.fixture
def machine(monkeypatch):
    monkeypatch.setattr(gpu_training_job, "IDS", 5000)
    monkeypatch.setattr(gpu_training, "device_peak", lambda device, bf16: (1e9, "a guess"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield Machine(rehearse=True)
    torch.use_deterministic_algorithms(deterministic)


# Checks that compile take a minute each on a CPU; rows of the others are tested separately.
@pytest.mark.parametrize("name", ["operator-rope", "agreement", "step-ours", "train"])
def test_checks_pass(name, machine):
    CHECKS[name](machine)


def test_a_wrong_step_fails(machine, monkeypatch):
    real = gpu_training.loss_and_gradients
    monkeypatch.setattr(
        gpu_training, "loss_and_gradients", lambda *a: (lambda loss, grads: (1.1 * loss, grads))(*real(*a))
    )
    with pytest.raises(SystemExit):
        CHECKS["step-ours"](machine)


def test_a_wrong_operator_fails(machine, monkeypatch):
    monkeypatch.setattr(gpu_smoke.check, "main", lambda words: 1)
    with pytest.raises(SystemExit):
        CHECKS["operator-rope"](machine)


def test_a_missing_device_is_reported(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu_smoke", "agreement"])
    with pytest.raises(SystemExit, match="needs a CUDA device, or --rehearse"):
        main()
