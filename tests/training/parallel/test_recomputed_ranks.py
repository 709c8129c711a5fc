"""Ranks that recompute activations take the same steps, to the bit, with the gathers that FSDP derives."""

import sys

import pytest

from tests.complete_runs import differ
from tests.training.forked_runs import on_ranks
from tests.training.parallel.test_fsdp import on_rank

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
