import numpy as np
import pytest
import torch

from lmfast.data.batches import splitmix64
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_sampling import (
    RowKind,
    RowSampling,
    exponential,
    filter_logits,
    sample,
    sample_rows,
)

LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def kept(**options):
    return filter_logits(LOGITS, **options).isfinite()[0].tolist()


def test_top_k_keeps_k():
    assert kept(top_k=2) == [True, True, False, False]
    assert kept(top_k=9) == [True] * 4


@pytest.mark.parametrize(
    ("top_p", "count"), [(0.01, 1), (0.49, 1), (0.51, 2), (0.79, 2), (0.81, 3), (1.0, 4)]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, count):
    assert kept(top_p=top_p) == [i < count for i in range(4)]


def test_frequencies_follow_the_distribution():
    ids = sample(LOGITS.expand(20000, 4), Sampling(), 0)
    share = torch.bincount(ids, minlength=4) / 20000
    torch.testing.assert_close(share, LOGITS[0].exp(), atol=0.015, rtol=0)
    ids = torch.cat([sample(LOGITS, Sampling(seed=3), step) for step in range(4000)])
    share = torch.bincount(ids, minlength=4) / 4000
    torch.testing.assert_close(share, LOGITS[0].exp(), atol=0.03, rtol=0)


def test_temperature_sharpens_and_zero_is_greedy():
    sharp = sample(LOGITS.expand(5000, 4), Sampling(0.25), 0)
    assert (sharp == 0).float().mean() > 0.85
    ties = torch.tensor([[1.0, 3.0, 3.0, 2.0]])
    for zero in (
        0.0,
        1e-39,
        1e-45,
        7e-46,
        1e-300,
    ):  # division by the last two, which are 0 in float32, once gave NaN
        assert sample(ties, Sampling(zero), 0).tolist() == [1]
    assert sample(LOGITS, Sampling(1.2e-38), 0).tolist() == [0]


def test_draws_are_exponential_and_determined_by_seed_step_row_and_id():
    rows = torch.arange(50)
    draws = exponential(Sampling(seed=1).key, 2, rows, 1000)
    assert draws.min() > 0 and draws.isfinite().all()
    assert draws.mean() == pytest.approx(1, abs=0.02) and draws.std() == pytest.approx(1, abs=0.03)
    assert torch.equal(draws[7:9], exponential(Sampling(seed=1).key, torch.tensor(2), rows[7:9], 1000))
    for other in (Sampling(seed=2).key, 2), (Sampling(seed=1).key, 3):
        assert (draws == exponential(*other, rows, 1000)).float().mean() < 0.01


def test_draws_come_from_splitmix64():
    """NumPy's unsigned arithmetic and torch's signed arithmetic give the same bits."""
    golden, key, step, row, token = 0x9E3779B97F4A7C15, Sampling(seed=9).key, 5, 3, 17

    def mix(value: int) -> int:
        # data.batches adds the golden number before it mixes.
        return int(splitmix64(np.array([(value - golden) % 2**64], np.uint64))[0])

    bits = mix((mix((mix((key + step * golden) % 2**64) + row) % 2**64) + token * golden) % 2**64) >> 41
    expected = -np.log((bits + 0.5) / 2**23)
    draw = exponential(key, step, torch.tensor([row]), 20)[0, token]
    assert draw.item() == pytest.approx(expected, rel=1e-6)


ROWS = [
    Sampling(0.0, top_k=3),
    Sampling(0.7, seed=1),
    Sampling(1.3, top_k=5, seed=2),
    Sampling(2.0, top_p=0.6, seed=3),
    Sampling(1.1, top_k=1000, top_p=0.999, seed=4),
    Sampling(3.0, top_k=7, top_p=0.5, seed=5),
    Sampling(3.0, top_p=1.0, seed=5),
    Sampling(1.2e-38, seed=6),
    Sampling(1.0, top_k=1),
]


def row_sampling(samplings: list[Sampling], rows: list[int], kind: RowKind | None = None) -> RowSampling:
    columns = [RowSampling.column(s, row) for s, row in zip(samplings, rows, strict=True)]
    return RowSampling(RowKind.of(samplings) if kind is None else kind, torch.tensor(columns).T.contiguous())


def test_the_kind_of_rows():
    assert RowKind.of([Sampling(0.0), Sampling(0.0, 5, 0.5)]) is RowKind.GREEDY
    assert RowKind.of([Sampling(0.0, 5), Sampling(1.0), Sampling(1.0, top_p=1.0)]) is RowKind.FREE
    assert RowKind.of([Sampling(1.0), Sampling(1.0, top_p=0.9)]) is RowKind.FILTERED
    assert RowKind.of([Sampling(0.0), Sampling(1.0, top_k=9)]) is RowKind.FILTERED


def test_rows_with_their_own_sampling_get_the_ids_of_sample():
    """Each row at its own step, among rows with other parameters, with unused ids and ties."""
    torch.manual_seed(0)
    numbers = [4, 0, 11, 2, 7, 1, 9, 3, 5]
    sampling, chosen = row_sampling(ROWS, numbers), set()
    sampling.step.copy_(torch.arange(len(ROWS)))
    for _ in range(200):
        logits = (torch.randn(len(ROWS), 300) * 2).round(decimals=1)
        logits[:, 250:] = float("-inf")
        expected = [
            sample(logits[b : b + 1], s, int(sampling.step[b]), torch.tensor(numbers[b : b + 1])).item()
            for b, s in enumerate(ROWS)
        ]
        assert sample_rows(logits, sampling).tolist() == expected
        chosen.update(expected)
        sampling.step += 1
    assert len(chosen) > 200 and max(chosen) < 250


@pytest.mark.parametrize(
    "samplings", [[Sampling(0.0), Sampling(0.0)], [Sampling(0.0), Sampling(1.5, seed=4)]]
)
def test_a_higher_kind_chooses_the_same(samplings):
    logits = torch.randn(2, 300)
    kind = RowKind.of(samplings)
    for higher in list(RowKind)[kind:]:
        assert sample_rows(logits, row_sampling(samplings, [3, 4], higher)).tolist() == [
            sample(logits[b : b + 1], s, 0, torch.tensor([3 + b])).item() for b, s in enumerate(samplings)
        ]


def test_rows_of_a_wider_table():
    """A prefix of the columns serves the first rows, and steps are counted in the table."""
    table = torch.tensor([RowSampling.column(s, b) for b, s in enumerate(ROWS)]).T.contiguous()
    first = RowSampling(RowKind.FILTERED, table[:, :4])
    logits, out = torch.randn(4, 50), torch.zeros(4, dtype=torch.int64)
    sample_rows(logits, first, out=out)
    assert out.tolist() == sample_rows(logits, row_sampling(ROWS[:4], list(range(4)))).tolist()
    first.step += 1
    assert table[0].tolist() == [1] * 4 + [0] * (len(ROWS) - 4)
