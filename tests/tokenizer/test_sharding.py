"""sharding.py in threads, processes and a real cluster: the same bytes, whatever happens to a worker."""

import os
import re
import signal
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed
import numpy as np
import pytest

from lmfast.cli.tokenizer.commands import selected_engine
from lmfast.data.stories.corpus import write_stories
from lmfast.errors import UserError
from lmfast.sharding import engines, jobs
from lmfast.sharding.jobs import ExecutionOptions
from lmfast.tokenizer import counting, encoding, sharding, text_file
from lmfast.tokenizer.__main__ import main
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.compile_cost import Allowance
from lmfast.tokenizer.counting import count_pretokens
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.sharding import ShardedEngine
from lmfast.tokenizer.training import train_bpe

SHARD = 10_000  # bytes: some forty shards


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    write_stories(path, 400_000, seed=5)
    with path.open("ab") as file:  # with bytes that are no UTF-8, and no mark for longer than a shard
        file.write(b"\xff\xfe<|user|>" + "żółw ".encode() * 6000 + b"\x80")
    return path


@pytest.fixture(scope="module")
def tokenizer(text, tmp_path_factory) -> Tokenizer:
    tokenizer = train_bpe(text, 400, ["<|endoftext|>", "<|user|>"], num_workers=1)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return Tokenizer.load(folder)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, scheduler_kwargs={"dashboard": False}, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def engine(client, output: Path) -> ShardedEngine:
    return ShardedEngine(output, ExecutionOptions("dask", client.scheduler.address, shard_bytes=SHARD))


def kill_a_worker(client) -> int:
    """Kills one worker process at once, as the kernel would; returns its process id."""
    process = min(client.run(os.getpid).values())
    os.kill(process, signal.SIGKILL)
    return process


def same(counts, other) -> bool:
    return counts.total_bytes == other.total_bytes and all(
        np.array_equal(getattr(counts, name), getattr(other, name)) for name in ("data", "offsets", "counts")
    )


def test_counts_are_the_same_if_a_worker_is_killed(client, text, tmp_path):
    killed, reports = [], []

    def progress(done, total):
        reports.append((done, total))
        if not killed:
            finished = len(list((tmp_path / ".tok.shards").glob("*.json")))
            killed.append((kill_a_worker(client), finished))

    local = count_pretokens([text], ["<|endoftext|>"], get_pattern("gpt2"), 1)
    counts = engine(client, tmp_path / "tok").count_pretokens(
        [text], ["<|endoftext|>"], get_pattern("gpt2"), progress=progress
    )
    assert same(counts, local)
    assert killed[0][1] < len(reports), "the worker was killed after the last shard"
    assert reports[-1][0] == reports[-1][1] == text.stat().st_size
    assert not (tmp_path / ".tok.shards").exists()


def test_token_files_are_the_same_if_a_worker_is_killed(client, text, tokenizer, tmp_path):
    killed = []
    tokenizer.encode_file(text, tmp_path / "local.npy", num_workers=1)
    tokenizer.encode_file(
        text,
        tmp_path / "dask.npy",
        progress=lambda done, total: killed or killed.append(kill_a_worker(client)),
        engine=engine(client, tmp_path / "dask.npy"),
    )
    assert killed
    for end in (".npy", ".npy.json"):
        assert (tmp_path / f"dask{end}").read_bytes() == (tmp_path / f"local{end}").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["dask.npy", "dask.npy.json", "local.npy", "local.npy.json"]


def test_a_rerun_skips_completed_shards(client, text, tmp_path, monkeypatch):
    asked = []
    run_on_dask = jobs.run_on_dask
    monkeypatch.setattr(
        jobs,
        "run_on_dask",
        lambda work, left, client: asked.append(len(left)) or run_on_dask(work, left, client),
    )

    class Stop(Exception):
        pass

    def stop(done, total):
        if done > total // 2:
            raise Stop

    def count(progress=None):
        return engine(client, tmp_path / "tok").count_pretokens(
            [text], [], get_pattern("gpt2"), progress=progress
        )

    with pytest.raises(Stop):
        count(stop)
    while any(client.run(lambda dask_worker: len(dask_worker.state.executing)).values()):
        pass  # what was being worked on at the stop is finished all the same
    stamps = sorted((tmp_path / ".tok.shards").glob("*.json"))
    assert asked[0] // 2 <= len(stamps) <= asked[0]
    for stamp in stamps[10:]:  # whatever the workers finished after the stop: ten stay
        stamp.unlink()
    counts = count()
    assert asked[1] == asked[0] - 10
    assert same(counts, count_pretokens([text], [], get_pattern("gpt2"), 1))


def test_shards_of_another_request_are_not_reused(client, text, tmp_path):
    def stop(done, total):
        raise RuntimeError("stopped")

    changed = tmp_path / "text.txt"
    changed.write_bytes(text.read_bytes())
    with pytest.raises(RuntimeError):
        engine(client, tmp_path / "tok").count_pretokens([changed], [], get_pattern("gpt2"), progress=stop)
    changed.write_bytes(text.read_bytes().replace(b"the", b"thy"))
    counts = engine(client, tmp_path / "tok").count_pretokens([changed], [], get_pattern("gpt2"))
    assert same(counts, count_pretokens([changed], [], get_pattern("gpt2"), 1))


def test_the_commands(client, text, tmp_path, capsys):
    for name in ("local", "dask"):
        more = (
            ""
            if name == "local"
            else f"--engine dask --scheduler {client.scheduler.address} --shard-size 50kB"
        )
        main(f"train --input {text} --vocab-size 300 --output {tmp_path}/{name} {more}".split())
        main(
            f"encode --input {text} --tokenizer {tmp_path}/{name} --output {tmp_path}/{name}.npy {more}".split()
        )
    for file in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (tmp_path / "dask" / file).read_bytes() == (tmp_path / "local" / file).read_bytes()
    assert (tmp_path / "dask.npy").read_bytes() == (tmp_path / "local.npy").read_bytes()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("workers", [1, 2, 7, 16])
def test_engines_give_the_same_bytes(text, tokenizer, tmp_path, monkeypatch, workers):
    """Processes as threads here; test_processes starts some."""
    monkeypatch.setattr(engines, "ProcessPoolExecutor", lambda workers, *_, **__: ThreadPoolExecutor(workers))
    for module in (counting, encoding, sharding, text_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", SHARD)
    arguments = [text], ["<|endoftext|>", "<|user|>"], get_pattern("gpt2")
    processes = ShardedEngine(tmp_path / "tok", ExecutionOptions("processes", num_workers=workers))
    expected = count_pretokens(*arguments, 1)
    assert same(count_pretokens(*arguments, workers), expected)
    assert same(processes.count_pretokens(*arguments), expected)
    monkeypatch.setattr(tokenizer, "_plain_bytes", Allowance("", 0, 0), raising=False)
    tokenizer.encode_file(text, tmp_path / "one.npy", 1)
    tokenizer.encode_file(text, tmp_path / "threads.npy", workers)
    tokenizer.encode_file(text, tmp_path / "processes.npy", engine=processes)
    one, threads, others = (tmp_path / f"{name}.npy" for name in ("one", "threads", "processes"))
    assert one.read_bytes() == threads.read_bytes() == others.read_bytes()


def test_processes(text, tokenizer, tmp_path, capsys):
    command = f"encode --input {text} --tokenizer {tokenizer.loaded_from} --num-workers 2 --output {tmp_path}"
    main(f"{command}/threads.npy --engine threads".split())
    main(f"{command}/processes.npy --engine processes --shard-size 300kB".split())
    assert (tmp_path / "processes.npy").read_bytes() == (tmp_path / "threads.npy").read_bytes()


def test_large_input_on_many_cores_is_for_processes(tmp_path):
    def selected(size: int, **given):
        nothing = dict.fromkeys(("scheduler", "shard_size", "num_workers"))
        known = {"input": "a", "output": "b", "engine": "auto"}
        return selected_engine(Namespace(**nothing | known | given), size)

    large = 64 * (256 << 20)
    found = selected(large, num_workers=64)
    assert isinstance(found, ShardedEngine) and found.options.engine == "processes"
    assert selected(large - 1, num_workers=64) is selected(large, num_workers=32) is None
    assert selected(large, num_workers=64, engine="threads") is None
    assert isinstance(selected(1, num_workers=1, engine="processes"), ShardedEngine)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        (
            "train --input {t} --vocab-size 300 --output {o}/tok --scheduler tcp://x:1",
            "--scheduler requires --engine dask",
        ),
        (
            "train --input {t} --vocab-size 300 --output {o}/tok --shard-size 1MB",
            "--shard-size requires --engine processes or dask",
        ),
        ("train --input {o}/no --vocab-size 300 --output {o}/tok --engine dask", "no: no such file"),
        ("encode --input {o} --tokenizer {k} --output {o}/x.npy --engine dask", "is a directory"),
        (
            "encode --input - --tokenizer {k} --output {o}/x.npy --engine dask",
            "give a file for --input",
        ),
        (
            "encode --input {t} --tokenizer {k} --output - --engine processes",
            "processes does not work with -",
        ),
    ],
)
def test_bad_input_is_one_error_line(text, tokenizer, tmp_path, capsys, line, match):
    with pytest.raises(SystemExit) as caught:
        main(line.format(t=text, o=tmp_path, k=tokenizer.loaded_from).split())
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and printed.count("\n") == 1
    assert re.search(match, printed), printed
    assert not list(tmp_path.iterdir())


def test_a_source_that_changes_is_reported(client, text, tmp_path):
    changing = tmp_path / "text.txt"
    changing.write_bytes(text.read_bytes())
    pattern = get_pattern("gpt2")
    cluster = engine(client, tmp_path / "tok")
    shard = next(cluster._shards([changing], sharding.SpecialTokens([]), pattern))
    [job] = cluster._jobs([sharding.CountRequest(shard, (), pattern.regex, None)])
    changing.write_bytes(b"short")
    with pytest.raises(UserError, match=r"text.txt: changed while it was read"):
        sharding.count_shard(job)
