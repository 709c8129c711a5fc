"""inspecting.py: shows the requested document of any kind of file, and reports differences."""

import gzip
import io
import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmfast.cli.tokenizer.inspecting import vocabulary_lines
from lmfast.tokenizer.__main__ import main
from lmfast.tokenizer.bpe import Tokenizer

MERGES = [(b"t", b"h"), (b"th", b"e"), (b" ", b"the")]
VOCAB = {i: bytes([i]) for i in range(256)} | {256 + i: a + b for i, (a, b) in enumerate(MERGES)}
TEXT = "the the\n<|endoftext|>two é the<|endoftext|>three"
RECORDS = ["the the", "two <|endoftext|>", "three"]


@pytest.fixture
def tokenizer(tmp_path) -> Tokenizer:
    tokenizer = Tokenizer(VOCAB, MERGES, ["<|endoftext|>"])
    tokenizer.save(tmp_path / "tok")
    return tokenizer


@pytest.fixture
def printed(tokenizer, tmp_path, capsys):
    """What inspect prints of a file in the test's folder."""

    def run(name: str, more: str = "") -> str:
        main(f"inspect --input {tmp_path}/{name} --tokenizer {tmp_path}/tok {more}".split())
        return capsys.readouterr().out

    (tmp_path / "t.txt").write_text(TEXT)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in RECORDS))
    return run


def test_documents_of_text_and_of_token_files(tokenizer, printed, tmp_path):
    np.save(tmp_path / "t.npy", np.array(tokenizer.encode(TEXT), np.uint16))
    shown = {
        (name, number): printed(name, f"--document {number}")
        for name in ("t.txt", "t.npy")
        for number in range(3)
    }
    assert shown["t.txt", 1].startswith("t│w│o│ │\\xc3│\\xa9│ the│⟦<|endoftext|>⟧\n")
    assert shown["t.txt", 2].startswith("th│r│e│e\n")
    for number in range(3):
        first = [shown[name, number].split("\n\n")[0] for name in ("t.txt", "t.npy")]
        assert first[0] == first[1]
        assert "decoding restores the source: yes" in shown["t.txt", number]
        assert "decoding and encoding again restores the ids: yes" in shown["t.npy", number]


def test_records_parquet_and_packed_texts(printed, tmp_path):
    pq.write_table(pa.table({"body": RECORDS}), tmp_path / "t.parquet")
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    for name in ("t.jsonl", "t.parquet"):
        shown = printed(name, "--text-field body --document 1")
        assert shown.startswith("t│w│o│ │<│|│e│n│d│o") and "decoding restores the source: yes" in shown
    assert printed("t.txt.gz", "--document 1").startswith("t│w│o│ │\\xc3│\\xa9│ the\n")


def test_standard_input(printed, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the")))
    main(f"inspect --input - --tokenizer {tmp_path}/tok".split())
    assert capsys.readouterr().out.startswith("the\n")


def test_several_documents_and_their_limit(printed):
    shown = printed("t.txt", "--document 1 --documents 5 --limit 2")
    assert "── document 1 ──\nt│w\n… 6 more tokens (--limit 8 shows all)" in shown
    assert "── document 2 ──\nth│r\n… 2 more tokens" in shown and "document 0" not in shown
    assert printed("t.jsonl", "--text-field body --documents 3").count("──") == 6


def test_colors(printed):
    assert "\x1b[97;48;5;" in printed("t.txt", "--color always")
    assert "\x1b" not in printed("t.txt", "--color never") and "\x1b" not in printed("t.txt")


def test_a_page(printed, tmp_path):
    summary = printed("t.txt", f"--html {tmp_path}/p.html")
    assert summary == f"{tmp_path}/p.html: 3 documents, 16 tokens\n"
    page = (tmp_path / "p.html").read_text()
    assert page.count("<section") == 3 and "decoding restores the source: yes" in page
    printed("t.txt", f"--html {tmp_path}/p.html --document 1 --documents 1")
    assert (tmp_path / "p.html").read_text().count("<section") == 1


def test_a_token_file_is_compared_with_its_source(tokenizer, printed, tmp_path):
    tokenizer.encode_file(tmp_path / "t.txt", tmp_path / "t.npy", num_workers=1)
    for number in range(3):
        assert "decoding restores the source: yes" in printed("t.npy", f"--document {number}")
    (tmp_path / "other.txt").write_text(TEXT.replace("two", "tow"))
    shown = printed("t.npy", f"--document 1 --source {tmp_path}/other.txt")
    assert "decoding differs from the source at byte 22" in shown
    (tmp_path / "t.txt").write_text("changed")  # no longer the text that was encoded
    assert "decoding and encoding again" in printed("t.npy", "--document 1")


def test_complete_files_are_verified(tokenizer, printed, tmp_path):
    tokenizer.encode_file(tmp_path / "t.txt", tmp_path / "t.npy", num_workers=1)
    for name, more in (("t.txt", ""), ("t.npy", ""), ("t.jsonl", "--text-field body")):
        assert printed(name, f"--verify {more}") == f"{tmp_path}/{name}: decoding restores the source: yes\n"


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("--input {t}/t.txt --document 3", "t.txt: has 3 documents; --document 3 must be below 3"),
        ("--input {t}/t.jsonl --text-field body --document 3", "t.jsonl: has 3 documents"),
        ("--input {t}/t.jsonl", "t.jsonl, line 1: has no field 'text' (it has body)"),
        ("--input {t}/t.txt --source {t}/t.txt", "--source applies only to token files"),
        ("--input - --verify", "--verify reads its input twice"),
        ("--input {t}/t.txt --html {t}/no/p.html", "no does not exist"),
        ("--input {t}/no.jsonl", "no.jsonl: no such file"),
    ],
)
def test_bad_input_is_one_line(printed, tmp_path, capsys, line, match):
    with pytest.raises(SystemExit) as caught:
        main(f"inspect --tokenizer {tmp_path}/tok {line.format(t=tmp_path)}".split())
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1 and match in error


def test_vocabulary(tokenizer, tmp_path, capsys):
    lines = vocabulary_lines(tokenizer, 2)
    assert lines[0].startswith("260 ids: 259 ordinary tokens, 3 merges, pattern gpt2, uint16")
    assert lines[1] == "special tokens: '<|endoftext|>' 259"
    assert lines[-2].split() == ["258", "4", "bytes", "'", "the'"] and "'the'" in lines[-1]
    main(f"inspect --tokenizer {tmp_path}/tok --longest 1".split())
    assert capsys.readouterr().out.rstrip().endswith("' the'")


def test_a_token_file_of_another_tokenizer_is_rejected(tokenizer, printed, tmp_path, capsys):
    """Its ids would be shown as nonsense. The tokenizer before chat tokens were added counts as the same."""
    from lmfast.data.__main__ import main as data
    from lmfast.data.chat import add_chat_tokens

    tokenizer.encode_file(
        tmp_path / "t.txt", tmp_path / "t.npy", tokenizer_path=tmp_path / "tok", num_workers=1
    )
    add_chat_tokens(tokenizer).save(tmp_path / "chat")
    Tokenizer({i: bytes([255 - i]) for i in range(256)}, [], ["<1>", "<|endoftext|>", "<2>", "<3>"]).save(
        tmp_path / "other"
    )
    shown = printed("t.npy", "--document 1")
    assert printed("t.npy", f"--document 1 --tokenizer {tmp_path}/chat") == shown
    for command, line in (
        (main, "inspect --document 1"),
        (main, "inspect --verify"),
        (data, "stats"),
    ):
        with pytest.raises(SystemExit) as caught:
            command([*line.split(), "--input", f"{tmp_path}/t.npy", "--tokenizer", f"{tmp_path}/other"])
        error = capsys.readouterr().err
        assert caught.value.code == 2 and error.count("\n") == 1
        assert f"t.npy: was encoded with another tokenizer, {tmp_path}/tok; give that one" in error
