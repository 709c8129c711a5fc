"""sources.py: the same documents from any kind of file, cut anywhere; unreadable files are one line."""

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
from lmfast.data.sources import documents, plan_shards, split
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
    (tmp_path / "i.JSON.GZ").write_bytes(gzip.compress(records, mtime=0))
    (tmp_path / "j.jl").write_bytes(records)
    (tmp_path / "k.json").write_bytes(records)
    (tmp_path / "l.TXT.Zst").write_bytes(zstandard.compress(text))
    pq.write_table(
        pa.table({"id": [1] * len(PLAIN), "text": PLAIN}), tmp_path / "h.parquet", row_group_size=2
    )
    for path in sorted(tmp_path.iterdir()):
        for shard_bytes in (1, 10, 10**9):
            assert read(path, shard_bytes) == want, (path, shard_bytes)


def test_separators_inside_records_are_text(tmp_path):
    assert read(write_records(tmp_path / "a.jsonl", TEXTS)) == [text.encode() for text in TEXTS]
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [text.encode() for text in TEXTS]


def test_fields_and_columns_with_other_names_and_types(tmp_path):
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


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', r"a.jsonl, line 2: not valid JSON"),
        (
            "a.jsonl",
            b'{"body": "a", "id": 1}\n',
            r"line 1: has no field 'text' \(it has body, id\); set --text-field",
        ),
        ("a.jsonl", b'["a"]\n', r"line 1: has no field 'text' \(it has list\)"),
        ("a.jsonl", b'{"text": ["a"]}\n', r"line 1: field 'text' is list, not a string"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-9], r"a.txt.gz: damaged or truncated"),
        ("a.txt.gz", b"plain", r"a.txt.gz: damaged or truncated"),
        ("a.txt.gz", gzip.compress(b"", mtime=0), r"a.txt.gz: is empty once decompressed"),
        ("a.txt.zst", b"plain", r"a.txt.zst: damaged or truncated"),
        ("a.txt.gz", gzip.compress(b"abc", mtime=0) + b"more", r"a.txt.gz: damaged or truncated"),
        ("a.txt.zst", zstandard.compress(b"abc") + b"more", r"a.txt.zst: damaged or truncated"),
        (
            "a.txt.zst",
            zstandard.compress(bytes(range(256)) * 9)[:-1],
            r"a.txt.zst: damaged .*\(its last frame has no end\)",
        ),
        ("a.txt.zst", zstandard.compress(b""), r"a.txt.zst: is empty once decompressed"),
        ("a.jsonl", b"[" * 100_000, r"a.jsonl, line 1: not valid JSON \(maximum recursion"),
        ("a.parquet", b"plain", r"a.parquet: not a complete Parquet file"),
    ],
)
def test_bad_files_are_one_line(tmp_path, name, data, match):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=match) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_zst_file_truncated_anywhere_is_rejected(tmp_path):
    """zstandard's own reader returns what there is without an error."""
    packed = [zstandard.compress(random.Random(seed).randbytes(300_000)) for seed in (1, 2)]
    for cut in (1, 4, 1000, 200_000, len(packed[0]) - 1, len(packed[0]) + 9, sum(map(len, packed)) - 1):
        (tmp_path / "a.txt.zst").write_bytes((packed[0] + packed[1])[:cut])
        with pytest.raises(UserError, match=r"its last frame has no end"):
            read(tmp_path / "a.txt.zst")
    (tmp_path / "a.txt.zst").write_bytes(packed[0] + packed[1])
    assert sum(map(len, read(tmp_path / "a.txt.zst"))) == 600_000


def test_the_line_of_a_bad_record_is_counted_from_the_files_start(tmp_path):
    path = write_records(tmp_path / "a.jsonl", ["a"] * 30)
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match=r"a.jsonl, line 31: not valid JSON"):
        read(path, 100)


def test_lists_of_texts_are_rejected(tmp_path):
    pq.write_table(pa.table({"text": [["a", None], None]}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a.parquet: column 'text' is list<.*string>, not one string per row"
    ):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize(("name", "data"), [("a.txt", b"x" * 1000), ("a.jsonl", b'{"text": "a"}\n' * 1000)])
@pytest.mark.parametrize("left", [0, 10])
def test_a_file_truncated_while_read_is_rejected(tmp_path, monkeypatch, name, data, left):
    monkeypatch.setattr(sources, "PIECE", 100)
    path = tmp_path / name
    path.write_bytes(data)
    (shard,) = plan_shards([path])
    cut = sources.split

    def reading(pieces, marks):
        for piece in pieces:
            path.write_bytes(data[:left])
            yield from cut([piece], marks)

    monkeypatch.setattr(sources, "split", reading)
    with pytest.raises(
        UserError, match=f"{name}: changed while it was being read|{name}, line .*: not valid JSON"
    ):
        list(documents(shard))


def test_a_compressed_file_of_another_format_is_rejected(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\x93NUMPY\x01\x00" + bytes(200)))
    with pytest.raises(UserError, match=r"a.gz: is NumPy's .npy, not UTF-8 text, by its first bytes"):
        read(tmp_path / "a.gz")


def test_changed_or_removed_sources_are_reported(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    (shard,) = plan_shards([path])
    path.write_text("ab")
    with pytest.raises(UserError, match=r"a.txt: changed while it was being read"):
        list(documents(shard))
    path.unlink()
    with pytest.raises(UserError, match=r"a.txt: was removed while it was being read"):
        list(documents(shard))


def test_separators_within_end_of_text_are_rejected(tmp_path):
    with pytest.raises(UserError, match=r"--separator '<\|': <\|endoftext\|> always separates documents"):
        plan_shards([Path(__file__)], separator="<|")


@pytest.mark.parametrize(
    ("module", "name", "match"),
    [
        ("zstandard", "a.txt.zst", "needs zstandard, which is not installed; run `pip install zstandard`"),
        ("pyarrow", "a.parquet", "needs pyarrow, which is not installed; run `pip install pyarrow`"),
    ],
)
def test_missing_packages_are_one_line(tmp_path, monkeypatch, module, name, match):
    (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=match):
        read(tmp_path / name)
