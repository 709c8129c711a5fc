import json
import threading

import numpy as np

from lmfast.data.stories.builtin import prepare
from lmfast.data.stories.corpus import bits_per_byte

SIZES = {"train_bytes": 20_000, "valid_bytes": 4_000, "vocab_size": 300}


def make(folder, **changes):
    lines = []
    return prepare(folder, **(SIZES | changes), report=lines.append), lines


def test_everything_is_built_once_and_reused(tmp_path):
    corpus, first = make(tmp_path / "c")
    assert len(first) == 5 and not any("reused" in line for line in first)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*") if p.is_file()}
    again, second = make(tmp_path / "c")
    assert again == corpus and all("reused" in line for line in second)
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*") if p.is_file()}
    assert corpus.floor_bits_per_byte == bits_per_byte(tmp_path / "c/valid.txt")
    train, valid = np.load(corpus.train), np.load(corpus.valid)
    assert train.dtype == np.uint16 and train.max() < 300 and len(valid) < len(train)


def test_training_and_validation_differ(tmp_path):
    make(tmp_path)
    assert not (tmp_path / "train.txt").read_text().startswith((tmp_path / "valid.txt").read_text()[:200])


def test_a_changed_request_rebuilds_what_depends_on_it(tmp_path):
    make(tmp_path)
    _, lines = make(tmp_path, vocab_size=310)
    assert ["reused" in line for line in lines] == [True, True, False, False, False]
    _, lines = make(tmp_path)
    assert all("reused" in line for line in lines)  # each vocabulary has a separate folder
    _, lines = make(tmp_path, vocab_size=310, train_bytes=30_000)
    assert ["reused" in line for line in lines] == [False, True, False, False, False]
    assert json.loads((tmp_path / "310/train.npy.json").read_text())["vocab_size"] == 310


def test_an_interrupted_stage_is_rebuilt(tmp_path):
    make(tmp_path)
    (tmp_path / "300/valid.npy").unlink()
    _, lines = make(tmp_path)
    assert ["reused" in line for line in lines] == [True, True, True, True, False]


def test_fresh_starts_over(tmp_path):
    make(tmp_path)
    _, lines = make(tmp_path, fresh=True)
    assert not any("reused" in line for line in lines)


def test_of_two_simultaneous_first_runs_one_builds_and_the_other_waits(tmp_path):
    lines = [[], []]

    def call(i):
        prepare(tmp_path / "c", **SIZES, report=lines[i].append)

    threads = [threading.Thread(target=call, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    first, second = sorted(lines, key=lambda printed: any("another process" in line for line in printed))
    assert len(first) == 5 and not any("reused" in line for line in first)
    assert "another process is preparing it" in second[0]
    assert len(second) == 6 and all("reused" in line for line in second[1:])
