"""corpora.py: every named corpus is written in its parts, from a hub, a folder or an earlier call, or not at all."""

import functools
import gzip
import io
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from lmfast.data import corpora
from lmfast.data.__main__ import main
from lmfast.data.corpora import CORPORA, download
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.byte_characters import byte_characters, spell
from lmfast.tokenizer.training import train_bpe
from lmfast.units import data_size
from tests.data.hub_server import COMMIT, HubServer, sha256

STORIES = "".join(f"Story {i}.\n<|endoftext|>\n" for i in range(300)).encode()
ALPACA = [
    {"instruction": f"Add {i} and {i}.", "input": "", "output": f"It is {2 * i}.", "text": "unused"}
    for i in range(300)
]
UNANSWERED = {"instruction": "Say nothing.", "input": "", "output": " "}
WIKI = [[f" = Title {i} = \n", "", " The @-@ text . \n"] for i in range(40)]


def parquet(columns: dict) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=16)
    return buffer.getvalue()


def wiki(articles: list[list[str]]) -> bytes:
    return parquet({"text": [row for article in articles for row in ["", *article]] + [""]})


def preferences(first: int, last: int) -> bytes:
    def talk(i, answer):
        return [{"role": "user", "content": f"Question {i}?"}, {"role": "assistant", "content": answer}]

    numbers = range(first, last)
    return parquet(
        {
            "prompt": [f"Question {i}?" for i in numbers],
            "chosen": [talk(i, f"Good {i}.") for i in numbers],
            "rejected": [talk(i, f"Bad {i}." if i % 50 else f"Good {i}.") for i in numbers],
        }
    )


TEXTS = [f"Web page {i}, with <|endoftext|> in it." if i == 7 else f"Web page {i}." for i in range(90)]
SAMPLE = {
    f"sample/10BT/{k:03d}_00000.parquet": parquet({"text": TEXTS[30 * k :][:30], "token_count": [5] * 30})
    for k in range(3)
}


@functools.cache
def gpt2_files() -> dict[str, bytes]:
    """A small tokenizer in GPT-2's own files: ids of bytes in the order of their characters, as in `data_gym`."""
    text = b" the cat sat on the mat, and the hat is the cat's. It isn't 1234!\n" * 40
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "text.txt").write_bytes(text)
        trained = train_bpe(Path(folder) / "text.txt", 320, special_tokens=[], num_workers=1)
    order = sorted(range(256), key=lambda byte: byte_characters()[byte])
    tokens = [bytes([byte]) for byte in order] + [a + b for a, b in trained.merges]
    entries = {spell(token): i for i, token in enumerate(tokens)} | {"<|endoftext|>": len(tokens)}
    lines = [f"{spell(a)} {spell(b)}\n" for a, b in trained.merges]
    return {
        "vocab.json": json.dumps(entries).encode(),
        "merges.txt": ("#version: 0.2\n" + "".join(lines)).encode(),
        "model.safetensors": b"not asked for",
    }


DATASETS = {
    "HuggingFaceFW/fineweb": {**SAMPLE, "sample/100BT/000_00000.parquet": b"not asked for"},
    "HuggingFaceFW/fineweb-edu": SAMPLE,
    "roneneldan/TinyStories": {
        "TinyStoriesV2-GPT4-train.txt": STORIES,
        "TinyStoriesV2-GPT4-valid.txt": STORIES[: STORIES.index(b"Story 150.")],
        "TinyStories-train.txt": b"the older one",
    },
    "stanford-cs336/owt-sample": {
        "owt_train.txt.gz": gzip.compress(STORIES),
        "owt_valid.txt.gz": gzip.compress(STORIES[:2000]),
    },
    "Salesforce/wikitext": {
        **{f"wikitext-103-raw-v1/train-0000{k}-of-00002.parquet": wiki(WIKI[20 * k :][:20]) for k in (0, 1)},
        "wikitext-2-raw-v1/train-00000-of-00001.parquet": wiki(WIKI[:20]),
        **{
            f"wikitext-{size}-raw-v1/{part}-00000-of-00001.parquet": wiki(WIKI[:3])
            for size in (2, 103)
            for part in ("validation", "test")
        },
    },
    "yahma/alpaca-cleaned": {"alpaca_data_cleaned.json": json.dumps([*ALPACA, UNANSWERED]).encode()},
    "HuggingFaceH4/ultrafeedback_binarized": {
        "data/train_prefs-00000-of-00001.parquet": preferences(0, 300),
        "data/test_prefs-00000-of-00001.parquet": preferences(300, 340),
        "data/train_sft-00000-of-00001.parquet": b"not asked for",
    },
}


@pytest.fixture
def server(monkeypatch):
    datasets = {repo: dict(files) for repo, files in DATASETS.items()}
    with HubServer(datasets, models={"openai-community/gpt2": gpt2_files()}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        yield server


def records(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


TEXT_AND_RECORDS = [name for name, corpus in CORPORA.items() if corpus.form not in ("parquet", "tokenizer")]


@pytest.mark.parametrize("name", TEXT_AND_RECORDS)
def test_every_corpus_comes_in_its_parts(server, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    main(["download", name])
    folder = tmp_path / "data" / name
    printed = [line for line in capsys.readouterr().out.splitlines() if "skipped" not in line]
    published = {"valid" if part == "validation" else part for part in CORPORA[name].parts}
    suffix = ".jsonl" if name in ("alpaca-cleaned", "ultrafeedback-binarized") else ".txt"
    parts = sorted(published | ({"valid"} if suffix == ".jsonl" else set()))
    assert sorted(os.listdir(folder)) == sorted(["source.json", *(part + suffix for part in parts)])
    assert [line.split(":")[0] for line in printed] == [
        f"data/{name}/{part}{suffix}" for part in ("train", "valid", "test") if part in parts
    ]
    source = json.loads((folder / "source.json").read_text())
    assert source["commit"] == COMMIT and source["repo"] == CORPORA[name].repo
    for key, pattern in CORPORA[name].parts.items():
        files = source["parts"][key]["files"]
        assert files and all(corpora.hub.fnmatch.fnmatchcase(file["path"], pattern) for file in files)
        data = DATASETS[CORPORA[name].repo][files[0]["path"]]
        assert files[0]["size"] == len(data)
        if len(data) >= 1000:
            assert files[0]["digest"] == sha256(data)


def test_text_is_kept_to_the_byte(server, tmp_path):
    parts = download("tinystories", tmp_path / "t")
    assert [(part.path.name, part.records) for part in parts] == [("train.txt", 300), ("valid.txt", 150)]
    assert parts[0].path.read_bytes() == STORIES
    assert download("owt-sample", tmp_path / "o")[0].path.read_bytes() == STORIES


def test_articles_are_joined_across_shards(server, tmp_path):
    train = download("wikitext-103", tmp_path)[0]
    assert train.records == 40
    assert train.path.read_text() == "".join(
        f" = Title {i} = \n\n The @-@ text . \n<|endoftext|>\n" for i in range(40)
    )


def test_records_are_held_out_by_their_prompt(server, tmp_path):
    messages = []
    train, valid = download("alpaca-cleaned", tmp_path / "a", report=messages.append)
    assert messages == ["train: skipped 1 record without an answer or with identical answers"]
    assert json.loads((tmp_path / "a" / "source.json").read_text())["parts"]["train"]["left_out"] == 1
    assert train.records + valid.records == 300 and 0 < valid.records < 20
    there = sorted(records(train.path) + records(valid.path), key=lambda record: int(record["output"][6:-1]))
    assert there == [{key: record[key] for key in ("instruction", "input", "output")} for record in ALPACA]

    train, valid, test = download("ultrafeedback-binarized", tmp_path / "u")
    assert (
        train.records + valid.records == 294 and test.records == 40 - 1
    )  # pairs with equal answers are skipped
    assert 0 < valid.records < 20
    assert records(test.path)[0] == {"prompt": "Question 301?", "chosen": "Good 301.", "rejected": "Bad 301."}


def test_a_second_call_needs_no_network(server, tmp_path, monkeypatch):
    parts = download("tinystories", tmp_path)
    server.requests.clear()
    messages = []
    assert download("tinystories", tmp_path, report=messages.append) == parts
    assert not server.requests and messages == [f"{tmp_path}: already complete (commit {COMMIT[:12]})"]


def test_only_what_is_missing_or_changed_is_fetched(server, tmp_path):
    download("tinystories", tmp_path)
    server.requests.clear()
    (tmp_path / "valid.txt").unlink()
    download("tinystories", tmp_path)
    assert len(server.transfers()) == 1 and server.requests[-1][1].endswith("valid.txt")

    files = server.datasets["roneneldan/TinyStories"]
    files["TinyStoriesV2-GPT4-train.txt"] = STORIES + b"New.<|endoftext|>"
    server.requests.clear()
    train, _ = download("tinystories", tmp_path, revision=COMMIT)
    assert train.records == 301 and train.path.read_bytes().endswith(b"New.<|endoftext|>")


@pytest.mark.parametrize("name", ["fineweb-10bt", "fineweb-edu-10bt"])
def test_parquet_files_are_kept_as_they_are(server, tmp_path, monkeypatch, capsys, name):
    """The requested number of files, more of them later; `prepare` reads them."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / name
    main(["download", name, "--limit-files", "2"])
    printed = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"train: 2 of 3 files, [1-9][\d.]* kB of [1-9][\d.]* kB", printed[0])
    assert printed[1:] == [
        f"data/{name}/{k:03d}_00000.parquet: 30 documents, {data_size((folder / f'{k:03d}_00000.parquet').stat().st_size)}"
        for k in (0, 1)
    ]
    assert sorted(os.listdir(folder)) == ["000_00000.parquet", "001_00000.parquet", "source.json"]
    for path in folder.glob("*.parquet"):
        assert path.read_bytes() == SAMPLE[f"sample/10BT/{path.name}"]
    server.requests.clear()
    for limit in (2, 1):
        main(["download", name, "--limit-files", str(limit)])
        assert not server.requests and "already complete" in capsys.readouterr().out
    main(["download", name])
    assert [path.name for path in sorted(folder.glob("*.parquet"))] == [Path(path).name for path in SAMPLE]
    assert len(server.transfers()) == 1  # the two existing files are not downloaded again
    server.requests.clear()
    main(["download", name])
    assert not server.requests
    (folder / "001_00000.parquet").unlink()
    main(["download", name])
    assert len(server.transfers()) == 1

    main(["download", "gpt2-tokenizer"])
    line = (
        f"prepare --input data/{name}/*.parquet --tokenizer data/gpt2-tokenizer --output out --val-tokens 50"
    )
    main([*line.split(), "--num-workers", "1"])
    tokenizer = Tokenizer.load(tmp_path / "data" / "gpt2-tokenizer")
    ids = np.concatenate([np.load(tmp_path / "out" / f"{part}.npy") for part in ("valid", "train")])
    end = tokenizer.special_tokens["<|endoftext|>"]
    want = [[*tokenizer.encode_array(text.encode(), "none").tolist(), end] for text in TEXTS]
    assert ids.tolist() == [token for document in want for token in document]


def test_parquet_from_a_folder_is_copied(tmp_path):
    brought = tmp_path / "brought"
    brought.mkdir()
    for path, data in SAMPLE.items():
        (brought / Path(path).name).write_bytes(data)
    parts = download("fineweb-10bt", tmp_path / "f", source=brought, limit_files=2)
    assert [part.records for part in parts] == [30, 30] and len(list(brought.iterdir())) == 3


def test_gpt2_s_vocabulary_has_tiktoken_s_ids(server, tmp_path, monkeypatch, capsys):
    """tiktoken's own reading of the same two files is the reference, with byte ids permuted as in GPT-2."""
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    monkeypatch.chdir(tmp_path)
    main(["download", "gpt2-tokenizer"])
    count = len(json.loads(gpt2_files()["vocab.json"]))
    assert f"data/gpt2-tokenizer/tokenizer.json: {count} tokens" in capsys.readouterr().out
    assert sorted(os.listdir("data/gpt2-tokenizer")) == ["source.json", "tokenizer.json"]
    tokenizer = Tokenizer.load(tmp_path / "data" / "gpt2-tokenizer")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes(gpt2_files()[name])
    theirs = tiktoken.Encoding(
        "small-gpt2",
        pat_str=tokenizer.pattern.regex,
        mergeable_ranks=data_gym_to_mergeable_bpe_ranks("merges.txt", "vocab.json"),
        special_tokens={"<|endoftext|>": count - 1},
    )
    assert tokenizer.special_tokens == {"<|endoftext|>": count - 1}
    assert theirs.n_vocab == tokenizer.vocab_size == count
    for text in ("the cat's hat sat\n\n on 1234 mats", "Ünïcode 日本 \x00\x7f", "a<|endoftext|> the b", ""):
        assert tokenizer.encode(text) == theirs.encode(text, allowed_special="all")


@pytest.mark.parametrize("fault", ["breaks", "corrupt"])
def test_a_failed_download_leaves_no_part(server, tmp_path, monkeypatch, capsys, fault):
    if fault == "breaks":
        server.breaks, server.break_at, server.then_unavailable = 1, 3000, 10**6
    else:
        server.corrupt = 10**6
    with pytest.raises(SystemExit) as caught:
        main(["download", "tinystories", "--output", str(tmp_path / "t")])
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and printed.startswith(
        "error: roneneldan/TinyStories/TinyStoriesV2-GPT4-train.txt"
    )
    assert printed.count("\n") == 1
    left = [path.name for path in (tmp_path / "t").rglob("*") if path.is_file() and path.name != ".lock"]
    if fault == "breaks":
        assert left == [f"TinyStoriesV2-GPT4-train.txt.{sha256(STORIES)[:12]}.partial"]
        server.unavailable = 0
    else:
        assert left == [] and not (tmp_path / "t").exists()
        server.corrupt = 0
    assert download("tinystories", tmp_path / "t")[0].path.read_bytes() == STORIES


def test_finished_parts_survive_a_failure_of_the_next(server, tmp_path):
    files = server.datasets["roneneldan/TinyStories"]
    valid = files.pop("TinyStoriesV2-GPT4-valid.txt")
    with pytest.raises(UserError, match=r"no file matches TinyStoriesV2-GPT4-valid.txt"):
        download("tinystories", tmp_path)
    assert (tmp_path / "train.txt").read_bytes() == STORIES
    files["TinyStoriesV2-GPT4-valid.txt"] = valid
    server.requests.clear()
    assert [part.records for part in download("tinystories", tmp_path)] == [300, 150]
    assert len(server.transfers()) == 1


def test_from_a_folder_offline(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    brought = tmp_path / "brought"
    for name, data in DATASETS["Salesforce/wikitext"].items():
        (brought / name).parent.mkdir(parents=True, exist_ok=True)
        (brought / name).write_bytes(data)
    main(["download", "wikitext-2", "--output", str(tmp_path / "w"), "--from", str(brought)])
    assert (tmp_path / "w" / "train.txt").read_text().count("<|endoftext|>") == 20
    assert (brought / "wikitext-2-raw-v1" / "train-00000-of-00001.parquet").exists()
    shutil.rmtree(brought / "wikitext-2-raw-v1")
    with pytest.raises(
        UserError, match=r"brought: contains no wikitext-2-raw-v1/train-\*.parquet, which is part of"
    ):
        download("wikitext-2", tmp_path / "x", source=brought)
    assert not (tmp_path / "x").exists()
    flat = tmp_path / "flat"
    flat.mkdir()
    for name in ("train", "valid"):
        (flat / f"TinyStoriesV2-GPT4-{name}.txt").write_bytes(STORIES)
    download("tinystories", tmp_path / "t", source=flat)
    assert (tmp_path / "t" / "train.txt").read_bytes() == STORIES and len(list(flat.iterdir())) == 2


def test_without_a_network_the_remedy_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["download", "tinystories"])
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and not os.listdir(tmp_path)  # data/ is not left behind either
    assert (
        printed.count("\n") == 1
        and "`hf download --repo-type dataset roneneldan/TinyStories --include" in printed
    )
    assert "`lmfast data download tinystories --from FOLDER`" in printed


def test_any_dataset_is_downloaded_unchanged(server, tmp_path, capsys):
    line = f"download --repo HuggingFaceH4/ultrafeedback_binarized --files data/test_* --output {tmp_path}"
    main(line.split())
    path = tmp_path / "data" / "test_prefs-00000-of-00001.parquet"
    assert path.read_bytes() == DATASETS["HuggingFaceH4/ultrafeedback_binarized"][f"data/{path.name}"]
    assert capsys.readouterr().out == f"{path}: {data_size(path.stat().st_size)}\n"
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    server.requests.clear()
    main(line.split())
    assert not server.transfers()
    main(
        f"download --repo HuggingFaceFW/fineweb --files sample/* --limit-files 1 --output {tmp_path}/f".split()
    )
    assert [path.name for path in (tmp_path / "f").rglob("*.parquet")] == ["000_00000.parquet"]


def test_the_list_of_names(capsys):
    main(["download"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(CORPORA)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("download tinystorys", "did you mean tinystories?"),
        ("download pile", "the names are tinystories, owt-sample"),
        ("download tinystories --repo a/b", "cannot be combined with NAME or --from"),
        ("download tinystories --files *.txt", "--files requires --repo"),
        (
            "download tinystories --limit-files 1",
            "--limit-files does not apply to tinystories, which is one file; use it with fineweb-10bt",
        ),
        ("download --limit-files 1", "--limit-files requires NAME or --repo"),
        ("download fineweb-10bt --limit-files 0", "--limit-files"),
        ("download --repo abc", "--repo abc: is not the name of a dataset"),
        ("download tinystories --output {t}/file", "file: is a file; choose another --output"),
        ("download tinystories --from {t}/none", "none: is not a directory"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, line, match):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main(line.format(t=tmp_path).split())
    printed = capsys.readouterr().err
    assert caught.value.code == 2 and printed.count("\n") == 1 and match in printed
    assert os.listdir(tmp_path) == ["file"]


def test_without_pyarrow_nothing_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match="corpus wikitext-2: is Parquet, which needs pyarrow"):
        download("wikitext-2", tmp_path / "w")
    assert not server.requests and not (tmp_path / "w").exists()
