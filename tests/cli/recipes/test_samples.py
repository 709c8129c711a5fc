"""Data stages on pieces of their text. Times depend on the machine; what was read does not."""

import pytest

from lmfast.cli.recipes import samples
from lmfast.cli.recipes.jobs import DataJob
from lmfast.cli.recipes.samples import measure_data
from lmfast.tokenizer.bpe import Tokenizer


def test_a_text_is_read_up_to_two_lengths(corpus, monkeypatch):
    runs = []
    monkeypatch.setattr(samples, "SMALL", 1000)
    monkeypatch.setattr(samples, "LARGE", 3000)
    real = samples._run

    def run(words, folder):
        runs.append((words[: words.index("--input")], (folder / "sample.txt").stat().st_size))
        return real(words, folder)

    monkeypatch.setattr(samples, "_run", run)
    job = DataJob(["tokenizer", "encode"], str(corpus.text), "words")
    found = measure_data(job, {"words": Tokenizer.load(corpus.tokenizer)})
    assert (found["small_bytes"], found["large_bytes"]) == (1000, 3000)
    assert found["small_seconds"] > 0 and found["large_memory"] >= 0
    assert {size for _, size in runs} == {1000, 3000} and runs[0][0] == ["tokenizer", "encode"]


def test_a_run_that_compiled_is_repeated(monkeypatch):
    outcomes = [samples._Run(9.0, 9.0, True), samples._Run(1.0, 2.0, False), samples._Run(3.0, 4.0, False)]
    monkeypatch.setattr(samples, "_run", lambda words, folder: outcomes.pop(0))
    found = measure_data(DataJob(["data", "stories"]), {})
    assert (found["small_seconds"], found["large_seconds"]) == (1.0, 3.0)
    assert found["large_bytes"] == samples.LARGE * 1.1


def test_a_command_that_fails(tmp_path):
    with pytest.raises(OSError, match="exit code 2"):
        measure_data(DataJob(["data", "stories", "--vocab-size=1"]), {})
