"""Shared by the tests of the GPU benches: a training job of a tiny model, uncompiled, on the CPU."""

import pytest
import torch

from bench import gpu_training, gpu_training_job
from bench.gpu_training_job import Job
from lmfast.model.config import ModelConfig

SHAPE = ModelConfig(64, 8, d_model=16, num_layers=2, num_heads=2, d_ff=24, tie_embeddings=True).resolved()


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr(gpu_training_job, "IDS", 1000)
    monkeypatch.setattr(gpu_training, "device_peak", lambda device, bf16: (1e9, "a guess"))
    return Job("tiny", SHAPE, 4, torch.device("cpu"), compiled=False, steps=2, rounds=3)
