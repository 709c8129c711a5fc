"""A lost rank ends the run within a minute, and the lowest survivor names it."""

import datetime
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from lmfast.training.parallel import lost_ranks
from lmfast.training.parallel.lost_ranks import LostRanks, describe_lost
from tests.training.parallel.killing import kill_rank

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks processes that share the loopback")
INTACT = (
    "exited early; rerun the same command to go on from the newest complete checkpoint, if the run has one"
)


def test_the_message_names_the_ranks():
    assert describe_lost([1], 4) == f"process 2 of 4 (rank 1) {INTACT}"
    assert describe_lost([0, 2, 3], 5) == f"processes 1, 3 and 4 of 5 (ranks 0, 2 and 3) {INTACT}"
    assert describe_lost([], 4).startswith("a connection between the 4 processes of this run was lost")


@pytest.fixture
def store():
    before = signal.getsignal(signal.SIGTERM)
    yield dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=20)
    )
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("lost", [{0}, {1, 3}, set()])
def test_the_lowest_survivor_reports(store, monkeypatch, lost):
    """The others are blocked when the last one notices, and check in without their main threads."""
    monkeypatch.setattr(lost_ranks, "PATIENCE", 2.0)
    monkeypatch.setattr(lost_ranks, "LOOK", 0.05)
    survivors = sorted({0, 1, 2, 3} - lost)
    watches = {rank: LostRanks(store, rank, 4) for rank in survivors}
    for watch in watches.values():
        watch.__enter__()
    messages = {survivors[-1]: watches[survivors[-1]].message()}
    for rank in survivors[:-1]:  # meanwhile noticed here, too
        messages[rank] = watches[rank].message()
    for watch in watches.values():
        watch.__exit__()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # which torchrun sends meanwhile
    assert messages.pop(survivors[0]) == describe_lost(sorted(lost), 4)
    assert set(messages.values()) == {None}


def test_a_blocked_survivor_ends_itself(store, monkeypatch, capfd, tmp_path):
    ended = threading.Event()

    def leave(code):
        assert code == 2
        ended.set()
        sys.exit()  # ends the thread

    monkeypatch.setattr(lost_ranks, "PATIENCE", 0.5)
    monkeypatch.setattr(lost_ranks, "GRACE", 0.3)
    monkeypatch.setattr(lost_ranks, "LOOK", 0.05)
    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with LostRanks(store, 0, 3):
        dist.PrefixStore("survivors", store).set("lost", "")  # by rank 2, which then ends
        dist.PrefixStore("survivors", store).set("2", "")
        assert ended.wait(20)
    assert capfd.readouterr().err.count(f"error: process 2 of 3 (rank 1) {INTACT}") == 1
    assert "process 2 of 3 (rank 1)" in (tmp_path / "error.json").read_text()


def test_a_rank_that_ends_normally_is_not_lost(store, monkeypatch):
    monkeypatch.setattr(lost_ranks, "LOOK", 0.05)
    with LostRanks(store, 0, 2) as watch:
        time.sleep(0.2)
    dist.PrefixStore("survivors", store).set("lost", "")
    time.sleep(0.3)
    assert not watch.noticed.is_set() and not dist.PrefixStore("survivors", store).check(["0"])


def kill_one(corpus, folder: Path, number: int, victim: int, at_step: int) -> list[str]:
    """Kills a rank of a run of `number` ranks at a step; returns the output of each."""
    argv = [*corpus.flags(), "--tokenizer", str(corpus.tokenizer), "--out-dir", str(folder)]
    more = ["--max-iters", "100000", "--eval-interval", "0", "--batch-size", str(2 * number)]
    return kill_rank([*argv, *more], folder, number, victim, at_step)


def test_a_killed_rank_is_named_once(corpus, tmp_path):
    texts = kill_one(corpus, tmp_path / "run", 3, victim=2, at_step=3)
    assert "Traceback" not in "".join(texts)
    assert texts[0].count(f"error: process 3 of 3 (rank 2) {INTACT}") == 1 and texts[1] == ""


def test_the_loss_of_rank_0_which_has_the_store_is_named(corpus, tmp_path):
    texts = kill_one(corpus, tmp_path / "run", 2, victim=0, at_step=3)
    assert texts[1].count(f"error: process 1 of 2 (rank 0) {INTACT}") == 1 and "Traceback" not in texts[1]
