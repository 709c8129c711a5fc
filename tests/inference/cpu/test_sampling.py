"""The decoder library's sampling compared with that in torch."""

from ctypes import byref

import numpy as np
import pytest
import torch

from lmfast.inference.cpu.plan import SamplingNumbers, library
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_sampling import filter_logits, sample
from tests.kernels.cpu_native import needs_decoder

pytestmark = needs_decoder


def picked(logits: torch.Tensor, sampling: Sampling, step: int) -> list[int]:
    count = logits.shape[1]
    weights, heap = np.empty(count, np.float32), np.empty(count, np.int64)
    return [
        library().pick_id(
            row.data_ptr(),
            count,
            byref(SamplingNumbers.of(sampling, number)),
            step,
            weights.ctypes.data,
            heap.ctypes.data,
        )
        for number, row in enumerate(logits.contiguous())
    ]


def keep_largest(weights: np.ndarray, floor: float, at_most: int, wanted: float) -> None:
    heap = np.empty(len(weights), np.int64)
    library().keep_largest(weights.ctypes.data, len(weights), floor, at_most, wanted, heap.ctypes.data)


@pytest.mark.parametrize(
    "options",
    [(0.0,), (1.0,), (0.7, 5), (1.5, None, 0.9), (2.0, 40, 0.5), (1e-4, None, 0.95), (50.0, 3, 0.999)],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_choices_are_the_same(options, scale):
    torch.manual_seed(1)
    for step in range(20):
        logits = torch.randn(8, 300) * scale
        sampling = Sampling(*options, seed=step)
        assert picked(logits, sampling, step) == sample(logits, sampling, step).tolist()


def test_ties_go_to_the_lowest_id():
    assert picked(torch.tensor([[1.0, 3.0, 3.0, 2.0]]), Sampling(0.0), 0) == [1]
    assert picked(torch.zeros(1, 50), Sampling(1.0, None, 1e-9), 0) == [0]
    assert picked(torch.full((1, 5), float("nan")), Sampling(0.0), 0) == [0]


def test_top_p_keeps_the_same_ids_as_torch():
    torch.manual_seed(0)
    for count in (1, 2, 7, 100, 1000):
        for top_p in (0.01, 0.3, 0.9, 0.999):
            logits = (torch.randn(count) * 3).round()  # many equals
            weights = logits.double().softmax(-1).float().numpy()
            floor = np.float32((1 - top_p) / count)
            keep_largest(weights, floor, count, top_p)
            expected = filter_logits(logits.double()[None], None, top_p)[0].isfinite().tolist()
            assert (weights > 0).tolist() == expected, (count, top_p)


def test_top_k_keeps_ties_with_the_last():
    weights = np.array([0.1, 0.3, 0.2, 0.2, 0.2], np.float32)
    keep_largest(weights, np.float32(0), 2, np.inf)
    assert (weights > 0).tolist() == [False, True, True, True, True]


def test_the_smallest_temperatures_give_no_nan():
    logits = torch.tensor([[0.5, 2.0, 1.0, 2.0], [0.0, -3.0, -1.0, -2.0]])
    for temperature in (1e-30, 1.2e-38, 1e-39, 1e-45, 1e-46, 1e-300):
        sampling = Sampling(temperature, seed=1)
        assert picked(logits, sampling, 0) == sample(logits, sampling, 0).tolist()
