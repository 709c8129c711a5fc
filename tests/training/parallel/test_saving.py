"""Sharded checkpoints are complete or absent, like those of one process. Ranks are threads with a common store."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file

from lmfast.training.checkpoint import MARKER, newest_checkpoint, save_checkpoint
from lmfast.training.parallel import saving
from lmfast.training.parallel.pieces import Piece, cut, state_pieces
from lmfast.training.parallel.ranks import Ranks
from lmfast.training.parallel.saving import ShardedCheckpoints

WIDTHS = [5, 2, 2]
QKV, NORM = torch.arange(9.0 * 4).view(9, 4), torch.arange(5.0)


def pieces_of(rank: int, number: int, factor: float = 1.0) -> tuple[list[Piece], list[Piece]]:
    """(weights, state) of a rank that owns some rows of `qkv`, and like every rank all of `norm`."""
    each = -(-9 // number)
    rows = factor * QKV[rank * each : (rank + 1) * each]
    qkv = Piece("qkv", (9, 4), (rank * each, 0), rows)
    norm = Piece("norm", (5,), (0,), factor * NORM)
    parts, step = cut(qkv, WIDTHS), torch.tensor(factor)
    state = state_pieces("qkv", rows, parts, {"exp_avg": rows + 100, "step": step})
    return [*parts, norm], [
        *state,
        *state_pieces("norm", norm.tensor, [norm], {"exp_avg": norm.tensor - 100, "step": step}),
    ]


class RanksInThreads:
    """`number` ranks, each a thread; `on_each(f)` calls f(rank) on each and returns the results."""

    def __init__(self, folder, number, patch):
        self.number, self.barrier, self.shared = number, threading.Barrier(number), [None] * number
        self.gathers = 0
        patch.setattr(dist, "all_gather_object", self._gather)
        store = dist.HashStore()
        self.saves = [ShardedCheckpoints(folder, Ranks(r, number, r, store=store), 2) for r in range(number)]
        self.local = threading.local()

    def _gather(self, into, value):
        self.gathers += self.local.rank == 0
        self.shared[self.local.rank] = value
        self.barrier.wait(30)
        into[:] = self.shared
        self.barrier.wait(30)

    def on_each(self, function):
        def call(rank):
            self.local.rank = rank
            return function(rank)

        with ThreadPoolExecutor(self.number) as pool:
            return list(pool.map(call, range(self.number)))

    def save(self, step, factor=1.0, best=None):
        """Saves a checkpoint; the problem on rank 0."""
        progress = {"step": step, "best_step": best}
        self.on_each(lambda r: self.saves[r].begin(*pieces_of(r, self.number, factor), progress))
        return self.on_each(lambda r: self.saves[r].finish())[0]


@pytest.fixture
def make_ranks(tmp_path, monkeypatch):
    return partial(RanksInThreads, tmp_path, patch=monkeypatch)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_ranks_save_a_checkpoint_that_one_process_reads(make_ranks, tmp_path, number):
    assert make_ranks(number=number).save(7, 2.0) is None
    checkpoint = newest_checkpoint(tmp_path)
    assert checkpoint.step == 7 and [p.name for p in tmp_path.iterdir()] == ["step_00000007"]
    weights, state = checkpoint.model_tensors(), checkpoint.optimizer_tensors()
    assert weights.keys() == {"qkv", "norm"} and torch.equal(weights["qkv"], 2 * QKV)
    assert torch.equal(weights["norm"], 2 * NORM) and torch.equal(state["norm.exp_avg"], 2 * NORM - 100)
    assert torch.equal(state["qkv.exp_avg"], 2 * QKV + 100) and state["qkv.step"] == state["norm.step"] == 2
    sums = json.loads((checkpoint.path / MARKER).read_text())
    assert sums.keys() == {p.name for p in checkpoint.path.iterdir()} - {MARKER}
    assert len(sums) >= number + 2  # not all ranks have rows, and one writes `norm`


def test_what_every_rank_has_is_written_once(make_ranks, tmp_path):
    make_ranks(number=3).save(1)
    files = newest_checkpoint(tmp_path).weight_files
    names = [name for file in files for name in load_file(file)]
    assert names.count("norm") == 1 and names.count("qkv/0") == 2


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_files_are_those_of_torch(make_ranks, tmp_path):
    """torch's own reader loads them, and nothing is pickled."""
    make_ranks(number=2).save(1)
    path = newest_checkpoint(tmp_path).path
    loaded = {"qkv/0": torch.zeros(5, 4), "qkv/2.exp_avg": torch.zeros(2, 4)}
    dcp.load(loaded, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=True)
    assert torch.equal(loaded["qkv/0"], QKV[:5]) and torch.equal(loaded["qkv/2.exp_avg"], QKV[7:] + 100)
    assert {p.suffix for p in path.iterdir()} == {".safetensors", ".json", ""}


def test_later_checkpoints_need_no_collective_and_older_ones_are_removed(make_ranks, tmp_path):
    ranks = make_ranks(number=2)
    for step in range(1, 5):
        ranks.save(step, float(step), best=1)
    assert ranks.gathers == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_00000001", "step_00000003", "step_00000004"]
    assert torch.equal(newest_checkpoint(tmp_path).model_tensors()["qkv"], 4 * QKV)


def test_the_store_does_not_grow(make_ranks):
    ranks = make_ranks(number=2)
    ranks.save(1)
    before = ranks.saves[0].ranks.store.num_keys()
    ranks.save(2)
    assert ranks.saves[0].ranks.store.num_keys() == before


def test_weights_may_change_while_they_are_written(make_ranks, tmp_path, monkeypatch):
    """The next step begins before the first byte is written."""
    ranks, go = make_ranks(number=2), threading.Event()
    real = ShardedCheckpoints._write_shard
    monkeypatch.setattr(ShardedCheckpoints, "_write_shard", lambda *a: go.wait(30) and real(*a))
    pieces = [pieces_of(rank, 2) for rank in range(2)]
    ranks.on_each(lambda r: ranks.saves[r].begin(*pieces[r], {"step": 1}))
    assert all(save.writing for save in ranks.saves)
    for weights, state in pieces:
        for piece in [*weights, *state]:
            piece.tensor.fill_(-1.0)
    go.set()
    assert ranks.on_each(lambda r: ranks.saves[r].finish())[0] is None
    assert torch.equal(newest_checkpoint(tmp_path).model_tensors()["norm"], NORM)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_full_disk_keeps_the_previous_checkpoint(make_ranks, tmp_path, monkeypatch, victim):
    ranks = make_ranks(number=2)
    ranks.save(1)

    def full(folder, pattern):
        if pattern.startswith(f"shard-{victim + 1:05d}"):
            raise OSError(28, "No space left on device")
        return real(folder, pattern)

    real = saving.checksums
    monkeypatch.setattr(saving, "checksums", full)
    problem = ranks.save(2)
    assert problem.endswith("No space left on device") and problem.startswith("rank 1:") == (victim == 1)
    assert [p.name for p in tmp_path.iterdir()] == ["step_00000001"]
    monkeypatch.setattr(saving, "checksums", real)
    assert ranks.save(3) is None and newest_checkpoint(tmp_path).step == 3


def test_a_folder_that_cannot_be_created_fails_on_all_ranks(make_ranks, tmp_path):
    ranks = make_ranks(number=2)
    for save in ranks.saves:
        save.folder = tmp_path / "file" / "checkpoints"
    (tmp_path / "file").write_text("")
    assert "Not a directory" in ranks.save(1)
    assert not any(save.writing for save in ranks.saves)


def test_a_file_that_rank_0_cannot_see_is_reported(make_ranks, tmp_path, monkeypatch):
    """As on machines that do not share the folder."""
    real = saving.checksums
    monkeypatch.setattr(
        saving,
        "checksums",
        lambda folder, pattern: real(folder, pattern) | ({"lost": ""} if "00002" in pattern else {}),
    )
    assert "lost of rank 1 is missing; all machines of a run need the same --out-dir" in make_ranks(
        number=2
    ).save(1)
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("how", ["missing", "damaged"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_bad_shard_means_the_previous_checkpoint(make_ranks, tmp_path, how, number):
    ranks = make_ranks(number=2)
    ranks.save(1), ranks.save(2)
    shard = tmp_path / f"step_00000002/shard-00002-model-{number:05d}-of-00002.safetensors"
    if how == "missing":
        shard.unlink()
    else:
        data = bytearray(shard.read_bytes())
        data[-3] ^= 1
        shard.write_bytes(data)
    lines = []
    assert newest_checkpoint(tmp_path, lines.append).step == 1
    expected = "is missing" if how == "missing" else "is damaged (its checksum differs)"
    assert len(lines) == 1 and f"{shard.name} {expected}; using the previous checkpoint" in lines[0]


def test_a_checkpoint_of_one_process_replaces_a_sharded_one(make_ranks, tmp_path):
    make_ranks(number=2).save(1)
    save_checkpoint(tmp_path, {"qkv": QKV}, {}, {"step": 1})
    assert newest_checkpoint(tmp_path).weight_files == [tmp_path / "step_00000001/model.safetensors"]
