"""Ranks that recompute activations take the same steps, to the bit.

FSDP gathers nothing for it, because a block's weights are there when its backward begins. Tensor ranks repeat their sums
with block (that of the feed-forward only for a dropout after it); selective keeps them.
"""

import sys

import pytest

from tests.complete_runs import differ
from tests.training.forked_runs import on_ranks
from tests.training.parallel.test_fsdp import on_rank
from tests.training.parallel.test_tensor_parallel import split_steps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")
SHORT = {"max_iters": 3, "dropout": 0.1, "grad_accumulation": 2}


@pytest.mark.parametrize(
    ("parallel", "kind"),
    [("fsdp", "block"), ("ddp", "selective"),
     *(pytest.param(*case, marks=pytest.mark.ci) for case in (("fsdp", "selective"), ("ddp", "block")))],
)  # fmt: skip
def test_two_ranks(parallel, kind, tmp_path):
    plain, recomputed = (
        on_ranks(on_rank, tmp_path / name, 2, SHORT | {"activation_checkpointing": name}, parallel, 2)
        for name in ("none", kind)
    )
    for one, other in zip(plain, recomputed, strict=True):
        assert one["losses"] == other["losses"]
        assert one["collectives"] == other["collectives"]  # nothing is gathered for the recomputation
        assert not differ(one["weights"], other["weights"])


@pytest.mark.parametrize(
    ("kind", "repeated"), [("selective", 0), pytest.param("block", 2, marks=pytest.mark.ci)]
)
def test_two_tensor_ranks(kind, repeated, tmp_path):
    plain, recomputed = (
        on_ranks(split_steps, tmp_path / name, 2, SHORT | {"activation_checkpointing": name}, 2)
        for name in ("none", kind)
    )
    layers, passes = 2, 2
    for one, other in zip(plain, recomputed, strict=True):
        assert one["losses"] == other["losses"]
        sums = one["collectives"]["all_reduce"] + repeated * layers * passes
        assert other["collectives"] == one["collectives"] | {"all_reduce": sums}
        assert not differ(one["weights"], other["weights"])
