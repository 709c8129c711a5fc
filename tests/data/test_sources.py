"""sources.py: the same documents from any kind of file, cut anywhere; what cannot be read is one line."""

import gzip
import json
import random
import re
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.data import sources
from lmfast.data.sources import documents, find_sources, plan_shards, split
from lmfast.errors import UserError

TEXTS = ["one", "two\nlines", "", "ütf-8 żółw", "  ", "last <|endoftext|> mark" * 3]
PLAIN = [text for text in TEXTS if "<|" not in text]


def read(path: Path, shard_bytes: int = 1 << 30, **more) -> list[bytes]:
    shards = plan_shards([path], shard_bytes, more.get("separator"))
    return [document for shard in shards for document in documents(shard, **more)]


def write_records(path: Path, texts: list, field: str = "text") -> Path:
    path.write_text("".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)))
    return path


def test_every_kind_of_file_holds_the_same_documents(tmp_path):
    want = [text.encode() for text in PLAIN]
    text = "<|endoftext|>".join(PLAIN).encode()
    (tmp_path / "a.txt").write_bytes(text)
    (tmp_path / "b").write_bytes(text + b"<|endoftext|>")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(text, mtime=0))
    (tmp_path / "d.txt.zst").write_bytes(zstandard.compress(text[:30]) + zstandard.compress(text[30:]))
    write_records(tmp_path / "e.jsonl", PLAIN)
    records = (tmp_path / "e.jsonl").read_bytes()
    (tmp_path / "f.ndjson.gz").write_bytes(gzip.compress(records.replace(b"\n", b"\r\n\n"), mtime=0))
    (tmp_path / "g.jsonl.zst").write_bytes(zstandard.compress(records))
    pq.write_table(
        pa.table({"id": [1] * len(PLAIN), "text": PLAIN}), tmp_path / "h.parquet", row_group_size=2
    )
    for path in sorted(tmp_path.iterdir()):
        for shard_bytes in (1, 10, 10**9):
            assert read(path, shard_bytes) == want, (path, shard_bytes)


def test_marks_inside_records_are_text(tmp_path):
    assert read(write_records(tmp_path / "a.jsonl", TEXTS)) == [text.encode() for text in TEXTS]
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [text.encode() for text in TEXTS]


def test_fields_and_columns_of_other_names_and_kinds(tmp_path):
    path = write_records(tmp_path / "a.jsonl", ["a", None], "body")
    assert read(path, field="body") == [b"a", b""]
    column = pa.array(["a", None, "a"]).dictionary_encode()
    for texts in (
        column,
        column.cast(pa.string()),
        column.cast(pa.large_string()),
        pa.array(["a", None, "a"], pa.string_view()),
    ):
        pq.write_table(pa.table({"body": texts}), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet", field="body") == [b"a", b"", b"a"]
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "\\ud800 lone"}\n')
    assert read(tmp_path / "b.jsonl") == [b"\xed\xa0\x80 lone"]


pieces = st.lists(st.sampled_from(["a", "\n", "\n", "bb", "<|endoftext|>", "<|end", "|>", " "]), max_size=40)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(pieces.map("".join), st.integers(1, 30), st.sampled_from([None, "\n\n", "\n", "a\na"]))
def test_shards_split_like_the_whole(tmp_path_factory, text, shard_bytes, separator):
    path = tmp_path_factory.getbasetemp() / "split.txt"
    path.write_text(text + "x")
    marks = "|".join(re.escape(mark) for mark in ("<|endoftext|>", separator) if mark)
    want = [part.encode() for part in re.split(marks, text + "x")]
    assert read(path, shard_bytes, separator=separator) == want
    data = (text + "x").encode()
    cut = (data[i : i + shard_bytes] for i in range(0, len(data), shard_bytes))
    assert list(split(cut, sources.separators(path, separator))) == want


def test_a_long_text_without_marks_is_read_in_linear_time():
    size = 1 << 16
    assert [len(text) for text in split((b"x" * size for _ in range(800)), [b"<|endoftext|>"])] == [
        800 * size
    ]


def test_folders_globs_and_names(tmp_path):
    for name in (
        "b.txt",
        "a.md",
        "sub/c.jsonl",
        "sub/d.parquet",
        "e.txt.gz",
        ".hidden.txt",
        ".git/f.txt",
        "x.npy",
        "y.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [path.relative_to(tmp_path).as_posix() for path in find_sources([tmp_path])]
    assert names == ["a.md", "b.txt", "e.txt.gz", "sub/c.jsonl", "sub/d.parquet"]
    assert [path.name for path in find_sources([f"{tmp_path}/*.txt", tmp_path / "a.md", tmp_path])] == [
        "b.txt", "a.md", "e.txt.gz", "c.jsonl", "d.parquet",
    ]  # fmt: skip
    assert [path.name for path in find_sources([f"{tmp_path}/**/*.jsonl"])] == ["c.jsonl"]


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl, line 2: is no JSON"),
        (
            "a.jsonl",
            b'{"body": "a", "id": 1}\n',
            r"line 1: has no field 'text' \(it has body, id\); name it with --text-field",
        ),
        ("a.jsonl", b'["a"]\n', r"line 1: has no field 'text' \(it has list\)"),
        ("a.jsonl", b'{"text": ["a"]}\n', r"line 1: field 'text' is list and no text"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-9], r"a.txt.gz: damaged or cut short"),
        ("a.txt.gz", b"plain", r"a.txt.gz: damaged or cut short"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), r"a.txt.gz: holds nothing once unpacked"),
        ("a.txt.zst", b"plain", r"a.txt.zst: damaged or cut short"),
        ("a.txt.gz", gzip.compress(b"abc", mtime=0) + b"more", r"a.txt.gz: damaged or cut short"),
        ("a.txt.zst", zstandard.compress(b"abc") + b"more", r"a.txt.zst: damaged or cut short"),
        (
            "a.txt.zst",
            zstandard.compress(bytes(range(256)) * 9)[:-1],
            r"a.txt.zst: damaged .*\(its last frame has no end\)",
        ),
        ("a.txt.zst", zstandard.compress(b""), r"a.txt.zst: holds nothing once unpacked"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl, line 1: is no JSON \(maximum recursion"),
        ("a.parquet", b"plain", r"a.parquet: no whole Parquet file"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_zst_file_that_is_cut_short_anywhere_is_refused(tmp_path):
    """zstandard's own reader hands out what is there and says nothing."""
    packed = [zstandard.compress(random.Random(seed).randbytes(300_000)) for seed in (1, 2)]
    for cut in (1, 4, 1000, 200_000, len(packed[0]) - 1, len(packed[0]) + 9, sum(map(len, packed)) - 1):
        (tmp_path / "a.txt.zst").write_bytes((packed[0] + packed[1])[:cut])
        with pytest.raises(UserError, match=r"its last frame has no end"):
            read(tmp_path / "a.txt.zst")
    (tmp_path / "a.txt.zst").write_bytes(packed[0] + packed[1])
    assert sum(map(len, read(tmp_path / "a.txt.zst"))) == 600_000


def test_bad_parquet_columns(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1], "tags": [["a"]]}), path)
    with pytest.raises(UserError, match=r"a.parquet: has no column 'text' \(it has id, tags\)"):
        read(path)
    with pytest.raises(UserError, match=r"a.parquet: column 'id' is int64 and no text"):
        read(path, field="id")


def test_the_line_of_a_bad_record_is_counted_from_the_files_start(tmp_path):
    path = write_records(tmp_path / "a.jsonl", ["a"] * 30)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 31: is no JSON"):
        read(path, 100)


def test_sources_that_change_or_go_are_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    (shard,) = plan_shards([path])
    path.write_text("ab")
    with pytest.raises(UserError, match=r"a.txt: changed since the work was planned"):
        list(documents(shard))
    path.unlink()
    with pytest.raises(UserError, match=r"a.txt: is gone since the work was planned"):
        list(documents(shard))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("no.txt", r"no.txt: no such file, and no file matches it"),
        ("*.csv", r"\*.csv: no such file, and no file matches it"),
        ("void", r"void: a folder with no text in it \(.txt, "),
        ("empty.txt", r"empty.txt: is empty"),
        ("*.txt", r"no file matches it"),
        ("list.json", r"list.json: is JSON; give text, JSON lines \(.jsonl\) or Parquet"),
        ("a.parquet.gz", r"a.parquet.gz: Parquet is packed inside already"),
    ],
)
def test_names_that_stand_for_nothing(tmp_path, name, match):
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.txt").touch()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "a.parquet.gz").write_text("x")
    with pytest.raises(UserError, match=match) as caught:
        find_sources([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_empty_files_of_a_folder_or_glob_are_left_out_and_no_name_is_no_folder(tmp_path):
    (tmp_path / "a.txt").touch()
    (tmp_path / "b.txt").write_text("b")
    for name in (tmp_path, f"{tmp_path}/*.txt"):
        assert find_sources([name]) == [tmp_path / "b.txt"]
    with pytest.raises(UserError, match="is no name"):
        find_sources([""])


def test_separators_within_the_mark_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--separator '<\|': <\|endoftext\|> is one already"):
        plan_shards([Path(__file__)], separator="<|")


@pytest.mark.parametrize(
    ("module", "name", "match"),
    [
        ("zstandard", "a.txt.zst", "needs zstandard, which is not installed; `pip install zstandard`"),
        ("pyarrow", "a.parquet", "needs pyarrow, which is not installed; `pip install pyarrow`"),
    ],
)
def test_missing_packages_are_one_line(tmp_path, monkeypatch, module, name, match):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=match):
        read(tmp_path / name)


def test_links_in_a_circle_and_other_names_give_a_file_once(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/x.txt", "a/b/y.txt"):
        (tmp_path / name).write_text(name)
    for name in ("a/up", "a/here", "a/b/again"):
        (tmp_path / name).symlink_to(tmp_path / "a")
    (tmp_path / "a/z.txt").symlink_to("x.txt")
    wanted = ["a/b/y.txt", "a/x.txt"]

    def found(*patterns):
        return [
            str(path.relative_to(tmp_path)) for path in find_sources([tmp_path / name for name in patterns])
        ]

    for pattern in ("a", "**/*.txt", "**", "a/**/*.txt", "a/**/**/*.txt", "**/b/**/y.txt"):
        assert found(pattern) == (wanted if "y" not in pattern else wanted[:1]), pattern
    assert found("a/z.txt", "a/here/x.txt", "a") == ["a/z.txt", "a/b/y.txt"]


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("a.txt.GZ", r"a.txt.GZ: write its ending in small letters \(.gz\)"),
        ("a.txt.xz", "a.txt.xz: is no text by its ending; unpack it, or leave it out"),
        ("a.zip", "is no text by its ending"),
        ("a.tar.gz", "is no text by its ending"),
        ("train.npy", "is no text by its ending"),
    ],
)
def test_what_would_be_read_as_nonsense_is_refused(tmp_path, name, match):
    (tmp_path / name).write_bytes(b"x")
    for source in (tmp_path / name, tmp_path / "*"):
        with pytest.raises(UserError, match=match):
            find_sources([source])
