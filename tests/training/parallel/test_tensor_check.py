"""Sizes that cannot be split over tensor ranks are rejected by name, with a remedy that works."""

import re

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.settings import TrainSettings, replace_flat
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.tensor_check import tensor_parallel_blocker

SHAPE = {
    "tensor_parallel": 2,
    "vocab_size": 64,
    "d_model": 32,
    "num_layers": 1,
    "num_heads": 12,
    "num_kv_heads": 6,
    "head_dim": 8,
    "d_ff": 48,
}


def blocker(**changes) -> str | None:
    return tensor_parallel_blocker(replace_flat(TrainSettings(), SHAPE | changes))


@pytest.mark.parametrize(
    ("changes", "message", "remedy"),
    [
        ({"tensor_parallel": 8}, "more than num_kv_heads 6.* use at most 6$", {"num_heads": 8, "num_kv_heads": 8}),
        ({"tensor_parallel": 16, "num_kv_heads": 12}, "more than num_heads 12", {"num_heads": 16, "num_kv_heads": 16}),
        ({"tensor_parallel": 4}, "not divide num_kv_heads 6; use one of 1, 2, 3, 6$", {"tensor_parallel": 2}),
        ({"tensor_parallel": 5, "num_kv_heads": 12}, "num_heads 12; use one of 1, 2, 3, 4, 6, 12$", {"tensor_parallel": 4}),
        ({"d_ff": 49}, r"hidden width 49 \(d_ff 49\); use --d-ff 50$", {"d_ff": 50}),
        ({"d_ff": 50, "ffn": "relu2"}, r"hidden width 75 \(d_ff 50\); use --d-ff 51$", {"d_ff": 51}),
        ({"vocab_size": 63}, "does not divide vocab_size 63; use --vocab-size 64$", {"vocab_size": 64}),
        ({"parallel": "hsdp"}, "parallel hsdp does not work with tensor_parallel 2", {"parallel": "fsdp"}),
        ({"parallel": "fsdp", "optimizer": "muon"}, "optimizer muon does not work with parallel fsdp", {"parallel": "ddp"}),
        ({"parallel": "fsdp", "sample_interval": 5}, "sample_interval 5 does not work with", {"sample_interval": 0}),
        ({"parallel": "fsdp", "eval_tasks": "piqa"}, "eval_tasks does not work with", {"eval_tasks": None}),
        ({"num_experts": 4}, "num_experts 4 does not work with tensor_parallel 2; use", {"num_experts": 0}),
        ({"fp8": True, "bf16": True}, "fp8 does not work with tensor_parallel 2", {"fp8": False}),
    ],
)  # fmt: skip
def test_rejections_and_their_remedies(changes, message, remedy):
    found = blocker(**changes)
    assert found and re.search(message, found) and "\n" not in found
    assert blocker(**changes | remedy) is None
    assert blocker(**changes | {"tensor_parallel": 1}) is None


def test_the_number_of_processes_must_be_a_multiple():
    with pytest.raises(
        UserError,
        match="needs 2 processes; start with torchrun --nproc-per-node=2, or use --tensor-parallel 1",
    ):
        Ranks().in_tensor_groups(2)
    with pytest.raises(UserError, match="tensor_parallel is 0; it must be at least 1"):
        Ranks().in_tensor_groups(0)
    with pytest.raises(
        UserError, match=r"3 does not divide the 4 processes .* --nproc-per-node with a multiple of 3"
    ):
        Ranks(0, 4).in_tensor_groups(3)
    with pytest.raises(SystemExit):
        Ranks(1, 4).in_tensor_groups(3)
    assert Ranks(1, 4).in_tensor_groups(1) == Ranks(1, 4)


def test_neighbours_are_tensor_ranks_and_rows_are_shared_among_data_ranks():
    ranks = [Ranks(rank, 4, tensor_size=2) for rank in range(4)]
    assert [(r.data_rank, r.tensor_rank, r.data_size) for r in ranks] == [
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 2),
        (1, 1, 2),
    ]
    rows = np.arange(8)
    assert [list(r.share(rows)) for r in ranks] == [[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2
