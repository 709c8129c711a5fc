"""text_file.py: spans do not change the pretokens, and a file that changes is an error, never a crash."""

import os
import random
from pathlib import Path

import pytest

from lmfast.errors import UserError
from lmfast.tokenizer import text_file
from lmfast.tokenizer.chunks import PADDING, PieceReader, SpecialTokens
from lmfast.tokenizer.patterns import NAMED, get_pattern
from lmfast.tokenizer.text_file import TextFile
from tests.tokenizer.test_chunks import SPECIALS, hard_text, pretokens

NONE, GPT2 = SpecialTokens([]), get_pattern("gpt2")


def written(path: Path, data: bytes) -> TextFile:
    path.write_bytes(data)
    return TextFile(path)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_pretokens_do_not_depend_on_the_cuts(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_file, "_SEARCH_BYTES", 1)
    monkeypatch.setattr(text_file, "CHUNK_BYTES", 17)
    rng, pattern, reader = random.Random(1), get_pattern(name), PieceReader()
    cuts = 0
    for _ in range(40):
        data, specials = hard_text(rng), rng.sample(SPECIALS, 2)
        file = written(tmp_path / "a.txt", data)
        found = []
        for begin, end in file.spans(SpecialTokens(specials), pattern):
            found += pretokens(reader.read(file, begin, end)[:-PADDING].tobytes(), specials, pattern)
            cuts += 1
        assert found == pretokens(data, specials, pattern), data
    assert cuts > 300


def test_spans_cover_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "CHUNK_BYTES", 100)
    data = "some words, 漢字。\n".encode() * 200
    file, reader = written(tmp_path / "a.txt", data), PieceReader()
    spans = list(file.spans(NONE, GPT2))
    assert len(spans) > 20 and file.size == len(file) == len(data)
    assert b"".join(reader.read(file, *span)[:-PADDING].tobytes() for span in spans) == data
    assert not reader.read(file, 3, 10)[-PADDING:].any()
    part = TextFile(file.path, *spans[3])
    assert list(part.spans(NONE, GPT2)) == [spans[3]] and len(part) == spans[3][1] - spans[3][0]


def test_unspaced_chinese_is_cut_at_its_punctuation(tmp_path):
    """A line without spaces must not be one piece, which would take 15 times its size in memory."""
    file = written(tmp_path / "a.txt", ("漢字" * 20 + "，").encode() * 2000)
    assert file.next_cut(100_000, NONE, GPT2) < 100_200


@pytest.mark.parametrize("left", [0, 5000, 10_001])
def test_a_file_that_changes_is_an_error(tmp_path, left):
    file, reader = written(tmp_path / "a.txt", b"word " * 2000), PieceReader()
    os.truncate(file.path, left)
    for read in (lambda: reader.read(file, 0, 100), lambda: reader.read(file, 9000, 10_000)):
        with pytest.raises(UserError, match=r"a\.txt: changed while it was read; rerun"):
            read()
    with pytest.raises(UserError, match=r"a\.txt: changed"):
        file.next_cut(10, NONE, GPT2)
    file.path.unlink()
    with pytest.raises(UserError, match=r"a\.txt: cannot be read \(No such file"):
        reader.read(file, 0, 100)


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(UserError, match=r"no_such\.txt: no such file"):
        TextFile(tmp_path / "no_such.txt")
    with pytest.raises(UserError, match=f"{tmp_path.name}: is a directory"):
        TextFile(tmp_path)
    assert len(written(tmp_path / "empty.txt", b"")) == 0


@pytest.mark.parametrize(
    ("name", "what"),
    [("a.jsonl", "JSON lines"), ("a.parquet", "Parquet"), ("a.txt.GZ", r"compressed \(.gz\)")],
)
def test_names_of_other_formats_are_rejected(tmp_path, name, what):
    with pytest.raises(
        UserError, match=f"{name}: is {what} by its name, not plain text; use `tokenizer train`"
    ):
        written(tmp_path / name, b"x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_and_devices_are_rejected(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    handle = os.open(tmp_path / "pipe", os.O_RDWR)  # otherwise opening it would block
    try:
        for path in (tmp_path / "pipe", Path(os.devnull)):
            with pytest.raises(UserError, match=f"{path.name}: is a directory, a pipe or a device"):
                TextFile(path)
    finally:
        os.close(handle)
