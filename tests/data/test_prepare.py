"""prepare.py: every document is in one part once, for any shards, workers and engine; resumed, reused or rejected."""

import gzip
import json
import os
import signal
import sys
from pathlib import Path

import distributed
import numpy as np
import pytest

from lmfast.data import prepare as module
from lmfast.data.encode_shards import is_held_out
from lmfast.data.prepare import PrepareOptions, prepare_files
from lmfast.data.stories.corpus import write_stories
from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.sharding.jobs import ExecutionOptions
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.training import train_bpe

MARK = b"<|endoftext|>"
SMALL = ExecutionOptions(num_workers=1, shard_bytes=5000)
HALF = PrepareOptions(val_fraction=0.25)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    write_stories(path, 60_000, seed=3)
    return path


@pytest.fixture(scope="module")
def tokenizer(text, tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe(text, 400, num_workers=1).save(folder)
    return Tokenizer.load(folder)


def stories(text: Path) -> list[bytes]:
    return [story for story in text.read_bytes().split(MARK) if story.strip()]


def parts(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".npy", ".json")
    }


def test_every_document_is_in_one_part_once(text, tokenizer, tmp_path):
    counts = prepare_files([text], tokenizer, tmp_path / "out", HALF, options=SMALL)
    wanted = {"train": [], "valid": []}
    for story in stories(text):
        wanted["valid" if is_held_out(story, 0.25, 0) else "train"].append(story)
    assert len(wanted["valid"]) > 5
    end = tokenizer.special_tokens["<|endoftext|>"]
    for part, texts in wanted.items():
        file = open_tokens(tmp_path / "out" / f"{part}.npy", tokenizer.vocab_size)
        assert file.tokens.dtype == np.uint16
        want = [token for story in texts for token in [*tokenizer.encode(story), end]]
        assert file.tokens.tolist() == want
        size = sum(map(len, texts)) + len(texts) * len(MARK)
        assert counts["parts"][part] == {"documents": len(texts), "tokens": len(want), "bytes": size}
        assert file.summary == {
            "tokens": len(want),
            "documents": len(texts),
            "bytes": size,
            "special_bytes": len(texts) * len(MARK),
            "vocab_size": 400,
            "dtype": "uint16",
            "tokenizer": str(tokenizer.loaded_from),
            "tokenizer_relative": os.path.relpath(tokenizer.loaded_from, tmp_path / "out"),
            "tokenizer_sha256": tokenizer.fingerprint(),
        }
    assert counts["sources"] == {str(text): counts["parts"]}
    assert counts["blank_documents"] == 1  # the newline after the last separator
    assert json.loads((tmp_path / "out" / "token_counts.json").read_text()) == counts
    assert sorted(os.listdir(tmp_path / "out")) == [
        "token_counts.json", "train.npy", "train.npy.json", "valid.npy", "valid.npy.json",
    ]  # fmt: skip


def test_without_validation_the_file_equals_that_of_encode(text, tokenizer, tmp_path):
    bare = tmp_path / "bare.txt"
    bare.write_bytes(text.read_bytes().removesuffix(b"\n"))
    tokenizer.encode_file(bare, tmp_path / "encoded.npy", num_workers=1)
    prepare_files([bare], tokenizer, tmp_path / "out", PrepareOptions(val_fraction=0), options=SMALL)
    assert (tmp_path / "out" / "train.npy").read_bytes() == (tmp_path / "encoded.npy").read_bytes()
    assert not (tmp_path / "out" / "valid.npy").exists()


def test_shards_workers_and_kinds_of_files_do_not_matter(text, tokenizer, tmp_path):
    """Two processes, three threads, one shard, compressed text and records: the same token files."""
    made = []
    records = "".join(json.dumps({"text": story.decode()}) + "\n" for story in stories(text))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "stories.txt.gz").write_bytes(gzip.compress(text.read_bytes()))
    (tmp_path / "stories.jsonl").write_text(records)
    for number, (source, options) in enumerate(
        [
            (text, SMALL),
            (text, ExecutionOptions(num_workers=1)),
            (text, ExecutionOptions(num_workers=2, shard_bytes=7000)),
            (text, ExecutionOptions("threads", num_workers=3, shard_bytes=7000)),
            (tmp_path / "in", SMALL),
            (tmp_path / "*.jsonl", SMALL),
        ]
    ):
        prepare_files([source], tokenizer, tmp_path / str(number), HALF, options=options)
        made.append(
            {
                name: data
                for name, data in parts(tmp_path / str(number)).items()
                if name != "token_counts.json"
            }
        )
    assert all(each == made[0] for each in made[1:])


@pytest.mark.ci
def test_dask_with_a_killed_worker_gives_the_same_files(text, tokenizer, tmp_path):
    prepare_files([text], tokenizer, tmp_path / "local", HALF, options=SMALL)
    killed = []
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, scheduler_kwargs={"dashboard": False}, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):

        def kill(done, total):
            if not killed:
                killed.append(done)
                os.kill(min(client.run(os.getpid).values()), signal.SIGKILL)

        options = ExecutionOptions("dask", client.scheduler.address, shard_bytes=5000)
        prepare_files([text], tokenizer, tmp_path / "dask", HALF, options=options, progress=kill)
    assert killed and killed[0] < text.stat().st_size
    assert parts(tmp_path / "dask") == parts(tmp_path / "local")


def test_completed_shards_are_skipped_after_an_interruption(text, tokenizer, tmp_path, monkeypatch):
    done = []
    encode_shard = module.encode_shard

    def counted(job):
        done.append(job.name)
        if len(done) == 5:
            raise KeyboardInterrupt
        return encode_shard(job)

    monkeypatch.setattr(module, "encode_shard", counted)
    with pytest.raises(KeyboardInterrupt):
        prepare_files([text], tokenizer, tmp_path / "out", HALF, options=SMALL)
    assert os.listdir(tmp_path / "out") == [".shards"]
    prepare_files([text], tokenizer, tmp_path / "out", HALF, options=SMALL)
    assert len(done) == len(set(done)) + 1 and done[4] == done[5]  # only the fifth was started twice
    prepare_files([text], tokenizer, tmp_path / "whole", HALF, options=SMALL)
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")


def test_a_repeated_request_is_skipped_and_a_different_one_is_not(text, tokenizer, tmp_path):
    source, messages = tmp_path / "a.txt", []
    source.write_bytes(text.read_bytes())
    out = tmp_path / "out"

    def prepared(settings=HALF, **more):
        messages.clear()
        prepare_files([source], tokenizer, out, settings, report=messages.append, options=SMALL, **more)
        return parts(out)

    first = prepared()
    stamp = (out / "train.npy").stat().st_mtime_ns
    assert prepared() == first and messages == [f"{out}: reused (same sources, tokenizer and settings)"]
    assert (out / "train.npy").stat().st_mtime_ns == stamp
    assert prepared(PrepareOptions(val_fraction=0.25, seed=1)) != first and not messages
    assert "valid.npy" not in prepared(PrepareOptions(val_fraction=0)) and not messages
    assert prepared() == first and not messages
    (out / "valid.npy").unlink()
    assert prepared() == first and not messages
    source.write_bytes(text.read_bytes() + b"one more")
    assert prepared() != first and not messages


def test_unrelated_files_are_left_alone(text, tokenizer, tmp_path):
    (tmp_path / "valid.npy").write_bytes(b"mine")
    (tmp_path / "token_counts.json").write_text("[]")
    prepare_files([text], tokenizer, tmp_path, PrepareOptions(val_fraction=0), options=SMALL)
    assert (tmp_path / "valid.npy").read_bytes() == b"mine"


def test_separate_sources_for_validation(text, tokenizer, tmp_path):
    other = tmp_path / "valid.txt"
    other.write_bytes(b"one" + MARK + b"two")
    counts = prepare_files([text], tokenizer, tmp_path / "out", val_inputs=[other], options=SMALL)
    assert counts["parts"]["train"]["documents"] == len(stories(text))
    assert counts["parts"]["valid"]["documents"] == 2
    assert counts["sources"][str(other)]["train"]["documents"] == 0
    tokens = np.load(tmp_path / "out" / "valid.npy")
    assert tokenizer.decode_bytes(tokens) == b"one" + MARK + b"two" + MARK


def test_small_files_share_a_shard_and_are_counted_once(tokenizer, tmp_path):
    for i in range(20):
        (tmp_path / f"{i:02}.txt").write_text(f"file {i}")
    options = ExecutionOptions(num_workers=1, shard_bytes=50)
    jobs = list(
        module.plan(
            [tmp_path, tmp_path / "03.txt"], [], tokenizer, tmp_path, PrepareOptions(val_fraction=0), 50
        )
    )
    assert 2 <= len(jobs) < 10 and sum(len(job.request.shards) for job in jobs) == 20
    prepare_files(
        [f"{tmp_path}/*.txt"], tokenizer, tmp_path / "out", PrepareOptions(val_fraction=0), options=options
    )
    tokens = np.load(tmp_path / "out" / "train.npy")
    assert tokenizer.decode_bytes(tokens) == b"".join(b"file %d" % i + MARK for i in range(20))


def test_a_folder_may_be_source_and_output(text, tokenizer, tmp_path):
    (tmp_path / "a.txt").write_bytes(text.read_bytes())
    messages = []
    prepare_files([tmp_path], tokenizer, tmp_path, HALF, options=SMALL)
    (tmp_path / "stats.txt").write_text("what --create-stats wrote")
    prepare_files([tmp_path], tokenizer, tmp_path, HALF, options=SMALL, report=messages.append)
    assert messages == [f"{tmp_path}: reused (same sources, tokenizer and settings)"]


def test_documents_of_a_separator(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i}" for i in range(100)) + "\n\n  \n\n")
    settings = PrepareOptions(separator="\n\n", val_fraction=0.2)
    counts = prepare_files([tmp_path / "a.txt"], tokenizer, tmp_path / "out", settings, options=SMALL)
    found = counts["parts"]
    assert found["train"]["documents"] + found["valid"]["documents"] == 100 and counts["blank_documents"] == 1
    assert 8 < found["valid"]["documents"] < 35


@pytest.mark.parametrize(
    ("data", "settings", "match"),
    [
        (
            b"one text",
            PrepareOptions(),
            r"--val-fraction 0.01 assigns none of 1 document to validation; .*--separator",
        ),
        (b"a<|endoftext|>b", PrepareOptions(), r"assigns none of 2 documents to validation"),
        (b" \n<|endoftext|>\n", PrepareOptions(), r"the sources contain only whitespace"),
        (b"a", PrepareOptions(val_fraction=1.5), r"--val-fraction is 1.5"),
        (
            b"a<|endoftext|>b",
            PrepareOptions(val_tokens=4),
            r"--val-tokens: the sources have only 4 tokens, which leaves none",
        ),
    ],
)
def test_empty_parts_are_rejected_without_output(tokenizer, tmp_path, data, settings, match):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        prepare_files([tmp_path / "a.txt"], tokenizer, tmp_path / "out", settings, options=SMALL)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_line_and_the_next_call_resumes(text, tokenizer, tmp_path, small_files):
    with (
        small_files(20_000),
        pytest.raises(UserError, match=r"\.ids: cannot be written \(File too large\)"),
    ):
        prepare_files([text], tokenizer, tmp_path / "a", HALF, options=ExecutionOptions(num_workers=1))
    with (
        small_files(20_000),
        pytest.raises(UserError, match=r"train\.npy: cannot be written \(File too large\)"),
    ):
        prepare_files([text], tokenizer, tmp_path / "out", HALF, options=SMALL)
    assert os.listdir(tmp_path) == ["out"] and os.listdir(tmp_path / "out") == [".shards"]
    prepare_files([text], tokenizer, tmp_path / "out", HALF, options=SMALL)
    prepare_files([text], tokenizer, tmp_path / "whole", HALF, options=SMALL)
    assert parts(tmp_path / "out") == parts(tmp_path / "whole")


def test_other_bad_input_is_rejected(text, tokenizer, tmp_path):
    bare = Tokenizer(tokenizer.vocab, tokenizer.merges, ["<|end|>"])
    with pytest.raises(UserError, match=r"has no special token <\|endoftext\|>"):
        prepare_files([text], bare, tmp_path / "out")
    with pytest.raises(UserError, match=r"stories.txt: is in both --input and --val-input"):
        prepare_files([text], tokenizer, tmp_path / "out", val_inputs=[text.parent / "*.txt"])
    with pytest.raises(UserError, match=r"stories.txt: is a file; choose another --output"):
        prepare_files([text], tokenizer, text)
    with module.work_folder(tmp_path / "out" / ".shards"):  # noqa: SIM117
        with pytest.raises(UserError, match=r"another command is writing the same output"):
            prepare_files([text], tokenizer, tmp_path / "out", HALF, options=SMALL)
    assert os.listdir(tmp_path) == ["out"] and not os.listdir(tmp_path / "out")
