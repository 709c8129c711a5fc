"""The command line end to end: every option has an effect; bad input prints one line and exits with code 2."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from lmfast.tokenizer.__main__ import build_parser, main
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.units import data_size
from tests.processes import assert_starts_within

ROOT = Path(__file__).resolve().parents[2]
TEXT = "".join(
    f"Tom has {i} cats. They're happy, and the {('red', 'blue', 'green')[i % 3]} ball isn't lost.\n<|endoftext|>\n"
    for i in range(300)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with text.txt, its tokenizer tok/ and its token file ids.npy, written by the commands."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text(TEXT)
    main(f"train --input {folder}/text.txt --output {folder}/tok --vocab-size 400".split())
    main(f"encode --input {folder}/text.txt --output {folder}/ids.npy --tokenizer {folder}/tok".split())
    return folder


def run(capsys, line: str, *more: str) -> str:
    main([*line.split(), *more])
    return capsys.readouterr().out


def error_line(capsys, line: str, *more: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*line.split(), *more])
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1
    return printed.err


def test_train_then_encode_then_decode(place, capsys, tmp_path):
    tokenizer = Tokenizer.load(place / "tok")
    assert (
        tokenizer.special_tokens == {"<|endoftext|>": tokenizer.vocab_size - 1}
        and tokenizer.vocab_size == 400
    )
    assert np.load(place / "ids.npy").tolist() == tokenizer.encode(TEXT)
    summary = json.loads((place / "ids.npy.json").read_text())
    assert summary["tokenizer"] == str(place / "tok") and summary["bytes"] == len(TEXT)
    out = run(capsys, f"decode --input {place}/ids.npy --output {tmp_path}/back.txt --tokenizer {place}/tok")
    assert (tmp_path / "back.txt").read_text() == TEXT
    assert f"from {summary['tokens']:,} tokens" in out


def test_train_prints_a_summary(place, capsys, tmp_path):
    out = run(capsys, f"train --input {place}/text.txt --output {tmp_path}/tok --vocab-size 400")
    assert re.search(r"tok: 400 tokens \(143 merges, 1 special\) from [1-9][\d.]* kB", out)
    assert re.search(
        r"counting [\d.]+ s \([\d.,]+ MB/s\), merging [\d.]+ s, saving [\d.]+ s; peak memory [\d,]+ MB; "
        r"\d+ distinct pretokens; longest token ' ?\w+' \(\d+ bytes\)",
        out,
    )


def test_an_expression_as_pattern_and_a_byte_order_mark(place, capsys, tmp_path):
    """The folder stores the pattern; a text with a byte order mark is encoded as it is, with one warning."""
    text, folder = tmp_path / "bom.txt", tmp_path / "tok"
    text.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    main(f"train --input {place}/text.txt --output {folder} --vocab-size 300 --pattern \\w+|\\W+".split())
    assert "saved without a tokenizer.json" in capsys.readouterr().err
    main(f"encode --input {text} --output {tmp_path}/x.npy --tokenizer {folder}".split())
    assert capsys.readouterr().err.count(f"{text}: starts with a byte order mark, which is kept as text") == 1
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.pattern.regex == r"\w+|\W+"
    assert tokenizer.decode_bytes(np.load(tmp_path / "x.npy")) == text.read_bytes()


def test_encode_prints_a_summary(place, capsys, tmp_path):
    out = run(capsys, f"encode --input {place}/text.txt --output {tmp_path}/x.npy --tokenizer {place}/tok")
    assert re.search(
        r"x.npy: [\d,]+ tokens \(uint16\) from [1-9][\d.]* kB: \d\.\d{3} bytes/token in [\d.]+ s, [\d.,]+ MB/s; "
        r"peak memory [\d,]+ MB",
        out,
    )


def test_train_options(place, capsys, tmp_path):
    text = tmp_path / "more.txt"
    text.write_text("zebra zebra zebra <a> <b> " * 50)
    base = f"train --vocab-size 350 --input {place}/text.txt"
    one = run(capsys, f"{base} --output {tmp_path}/1") and Tokenizer.load(tmp_path / "1")
    run(capsys, f"{base} {text} --output {tmp_path}/2 --special-tokens <a> <b>")
    two = Tokenizer.load(tmp_path / "2")
    assert two.special_tokens == {"<a>": 348, "<b>": 349}
    assert any(b"zeb" in token for token in two.vocab.values())
    run(capsys, f"{base} --output {tmp_path}/3 --pattern cl100k --special-tokens")
    three = Tokenizer.load(tmp_path / "3")
    assert three.pattern.name == "cl100k" and three.special_tokens == {}
    run(
        capsys,
        f"train --vocab_size 350 --input {place}/text.txt --output {tmp_path}/4 --num-proc 3 --max-memory 2MB",
    )
    assert Tokenizer.load(tmp_path / "4").fingerprint() == one.fingerprint()
    arguments = build_parser().parse_args(
        [
            "train",
            "--input",
            "x",
            "--output",
            "y",
            "--vocab_size=300",
            "--num_workers",
            "5",
            "--max-memory",
            "1.5GB",
        ]
    )
    assert (arguments.num_workers, arguments.max_memory, arguments.vocab_size) == (5, 1_500_000_000, 300)


def test_train_reads_what_prepare_reads(capsys, tmp_path):
    """The same texts give the same vocabulary in every form, instead of one of the compressed bytes."""
    texts = [text + " and <|q|> more" for text in TEXT.split("\n<|endoftext|>\n")]
    joined = "<|endoftext|>".join(texts).encode()
    records = "".join(json.dumps({"body": text}) + "\n" for text in texts).encode()
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.txt").write_bytes(joined)
    (folder / "b.txt.gz").write_bytes(gzip.compress(joined))
    (folder / "c.jsonl").write_bytes(records)
    (folder / "d.json.zst").write_bytes(zstandard.compress(records))
    pq.write_table(pa.table({"body": texts}), folder / "e.parquet", row_group_size=50)
    more = "--vocab-size 350 --text-field body --special-tokens <|endoftext|> <|q|>"
    made = []
    for path in [*sorted(folder.iterdir()), folder, f"{folder}/*.gz"]:
        out = run(capsys, f"train --input {path} --output {tmp_path}/tok {more}")
        assert f"{data_size(len(joined) * (5 if path == folder else 1))}" in out
        made.append(Tokenizer.load(tmp_path / "tok").fingerprint())
    assert len(made) == 7 and len(set(made)) == 1


def test_a_separator_learnt_as_text_is_reported(place, capsys, tmp_path):
    main(
        f"train --input {place}/text.txt --output {tmp_path}/tok --vocab-size 300 --special-tokens <x>".split()
    )
    assert "text.txt: contains <|endoftext|>, which is not in --special-tokens" in capsys.readouterr().err


def test_vocab_and_merges_instead_of_a_folder(place, capsys, tmp_path):
    files = f"--vocab {place}/tok/vocab.json --merges {place}/tok/merges.txt"
    run(capsys, f"encode --input {place}/text.txt --output {tmp_path}/x.npy {files} --num-workers 2")
    assert np.array_equal(np.load(tmp_path / "x.npy"), np.load(place / "ids.npy"))
    run(
        capsys,
        f"encode --input {place}/text.txt --output {tmp_path}/y.npy {files} --special-tokens <|endoftext|> <|q|>",
    )
    assert json.loads((tmp_path / "y.npy.json").read_text())["vocab_size"] == 401
    run(
        capsys,
        f"encode --input {place}/text.txt --output {tmp_path}/y.npy {files} --special-tokens <|endoftext|> <|q|>=500",
    )
    assert json.loads((tmp_path / "y.npy.json").read_text())["vocab_size"] == 501
    run(capsys, f"encode --input {place}/text.txt --output {tmp_path}/z.npy {files} --pattern", r"[\s\S]")
    assert len(np.load(tmp_path / "z.npy")) > len(np.load(tmp_path / "x.npy"))


def piped(line: str, data: bytes) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lmfast.tokenizer", *line.split()], input=data, capture_output=True, cwd=ROOT
    )


def test_standard_input_and_output(place, tmp_path):
    data = TEXT.encode() + b"\xff\xfe"
    ids = Tokenizer.load(place / "tok").encode(data)
    encoded = piped(f"encode --input - --output - --tokenizer {place}/tok", data)
    assert encoded.returncode == 0 and [int(i) for i in encoded.stdout.split()] == ids
    assert b"bytes/token" in encoded.stderr
    decoded = piped(f"decode --input - --tokenizer {place}/tok", encoded.stdout)
    assert decoded.stdout == data
    assert piped(f"encode --input - --output {tmp_path}/x.npy --tokenizer {place}/tok", data).returncode == 0
    assert np.load(tmp_path / "x.npy").tolist() == ids
    assert piped(f"encode --input - --output {tmp_path}/y.npy --tokenizer {place}/tok", b"").returncode == 2
    assert not (tmp_path / "y.npy").exists()
    (tmp_path / "file.txt").write_bytes(data)
    from_file = piped(f"encode --input {tmp_path}/file.txt --output - --tokenizer {place}/tok", b"")
    assert from_file.stdout.split() == encoded.stdout.split()
    wrong = piped(f"decode --input - --tokenizer {place}/tok", b"1 2 x\n")
    assert wrong.returncode == 2 and b"line 1: not a list of ids" in wrong.stderr


def test_unusable_streams_are_one_error_line(place, capsys, tmp_path, monkeypatch):
    tokenizer = f"--tokenizer {place}/tok"
    for line in (
        "encode --output - --input -",
        f"encode --output {tmp_path}/x.npy --input -",
        "decode --input -",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", None)
            assert "standard input is closed" in error_line(capsys, f"{line} {tokenizer}")
    assert not list(tmp_path.iterdir())
    for line in (f"encode --input {place}/text.txt --output -", f"decode --input {place}/ids.npy", "inspect"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", None)
            assert "standard output is closed" in error_line(capsys, f"{line} {tokenizer}")
        if os.path.exists("/dev/full"):
            with open("/dev/full", "w") as output, monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", output)
                printed = error_line(capsys, f"{line} {tokenizer}")
            assert "standard output cannot be written (No space left on device)" in printed


def test_count(place, capsys, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(10, dtype=np.uint16))
    (tmp_path / "sub").mkdir()
    np.arange(6, dtype="<u2").tofile(tmp_path / "sub" / "b.bin")
    (tmp_path / "c.ids").write_text("1 2 3")
    out = run(capsys, f"count --input {tmp_path} {tmp_path}/c.ids {place}/ids.npy")
    total = 10 + 6 + 3 + len(np.load(place / "ids.npy"))
    assert "a.npy: 10 tokens (uint16)\n" in out and "b.bin: 6 tokens" in out and "c.ids: 3 tokens" in out
    assert re.search(r"ids.npy: [\d,]+ tokens \(uint16\), \d\.\d{3} bytes/token", out)
    assert f"total: {total:,} tokens in 4 files" in out


def test_compression_of_several_pairs(place, capsys, tmp_path):
    run(capsys, f"train --input {place}/text.txt --output {tmp_path}/small --vocab-size 300")
    (tmp_path / "other.txt").write_text("One.\n\nTwo two.\n\n\n\nThree three three.\n")
    line = (
        f"compression --input {place}/text.txt {tmp_path}/other.txt --tokenizer {place}/tok {tmp_path}/small"
    )
    out = run(capsys, f"{line} --n 5")
    assert len(re.findall(r"\d\.\d{3} bytes/token .*, one thread [\d.,]+ [kM]B/s\n", out)) == 4
    assert "text.txt: 5 documents" in out and "other.txt: 3 documents" in out
    sizes = [
        re.findall(r"documents, ([\d,]+) bytes", run(capsys, f"{line} --n 20 --seed {seed}"))
        for seed in (1, 1, 2)
    ]
    assert sizes[0] == sizes[1] != sizes[2]


def test_debug_log(place, tmp_path):
    line = f"train --input {place}/text.txt --output {tmp_path}/tok --vocab-size 300"
    printed = subprocess.run(
        [sys.executable, "-m", "lmfast.tokenizer", *line.split()],
        env=os.environ | {"LOG_LEVEL": "DEBUG"}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert "pretoken b'.'" in printed.stderr and re.search(
        r"merge 1: b'.' \+ b'.', \d+ times", printed.stderr
    )
    wrong = subprocess.run(
        [sys.executable, "-m", "lmfast.tokenizer", *line.split()],
        env=os.environ | {"LOG_LEVEL": "LOUD"}, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert wrong.returncode == 2 and "LOG_LEVEL=LOUD" in wrong.stderr


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("train --input {p}/no.txt --output {t}/tok --vocab-size 400", "no.txt: no such file"),
        (
            "train --input {t}/empty.txt --output {t}/tok --vocab-size 400",
            "empty.txt: is empty; remove it",
        ),
        ("train --input {p}/text.txt --output {t}/tok --vocab-size 200", "200 is too small.*at least 257"),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size many",
            "--vocab-size: 'many' is not a positive whole number",
        ),
        (
            "train --input {p}/text.txt --output {p}/text.txt --vocab-size 300",
            "text.txt: is a file; choose another --output",
        ),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size 300 --max-memory lots",
            "'lots' is not a size",
        ),
        ("train --input {p}/text.txt --output {t}/tok --vocab-size 300 --pattern (", "pattern '\\('"),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size 300 --special-tokens <|k|>=x",
            "'x' is not an id",
        ),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size 300 --special-tokens <|x|>=299",
            "training assigns the ids",
        ),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size 300 --special-tokens \udcff",
            "contains a lone surrogate",
        ),
        ("train --input {p}/text.txt --output {t}/tok --vocab-siz 300", "--vocab-size"),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size 300 --num-worker 3",
            "did you mean --num-workers",
        ),
        (
            "train --input {p}/text.txt --output {t}/tok --vocab-size 300 --num-workers 0",
            "'0' is not a positive whole number",
        ),
        ("encode --input {p}/text.txt --output {t}/x.npy", "--tokenizer PATH or --vocab"),
        ("encode --input {p}/text.txt --output {t}/x.npy --vocab {p}/tok/vocab.json", "belong together"),
        ("encode --input {p}/text.txt --output {t}/x.npy --tokenizer {p}/none", "none: no such file"),
        ("encode --input {p}/text.txt --output {t}/x.npy --tokenizer {t}", "contains no tokenizer"),
        ("encode --input {p}/text.txt --output {t}/x.bin --tokenizer {p}/tok", "x.bin: not a .npy file name"),
        ("encode --input {p}/text.txt --output {t}/no/x.npy --tokenizer {p}/tok", "no does not exist"),
        ("encode --input {t}/empty.txt --output {t}/x.npy --tokenizer {p}/tok", "empty.txt: is empty"),
        ("encode --input {p}/no.txt --output {t}/x.npy --tokenizer {p}/tok", "no.txt: no such file"),
        ("encode --input {p}/no.txt --output - --tokenizer {p}/tok", "no.txt: cannot be read"),
        ("decode --input {p}/no.npy --tokenizer {p}/tok", "no.npy: no such token file"),
        (
            "decode --input {t}/large.npy --tokenizer {p}/tok",
            "id 50300 at position 812 is outside the vocabulary of 400",
        ),
        ("decode --input {p}/text.txt --tokenizer {p}/tok", "is not a digit"),
        ("decode --input {p}/ids.npy --output {p}/ids.npy --tokenizer {p}/tok", "ids.npy: is also the input"),
        ("encode --input {t}/link --output {t}/text.npy --tokenizer {p}/tok", "text.npy: is also the input"),
        (
            "encode --input {p}/ids.npy --output {t}/x.npy --tokenizer {p}/tok",
            "ids.npy: .npy files are not text",
        ),
        (
            "encode --input {t}/a.jsonl --output - --tokenizer {p}/tok",
            "a.jsonl: is JSON lines by its name, .*`data prepare`, which read it",
        ),
        (
            "encode --input {t}/a.txt.gz --output {t}/x.npy --tokenizer {p}/tok",
            r"compressed \(.gz\) by its name",
        ),
        (
            "encode --input {t}/packed --output {t}/x.npy --tokenizer {p}/tok",
            "packed: is gzip, not UTF-8 text",
        ),
        ("train --input {t}/packed --output {t}/tok --vocab-size 300", "packed: is gzip, not UTF-8 text"),
        ("train --input {t}/a.zip --output {t}/tok --vocab-size 300", "a.zip: .zip files are not text"),
        ("train --input {t}/a.jsonl --output {t}/tok --vocab-size 300 --text-field body", "no field 'body'"),
        (
            "train --input {t}/a.jsonl --output {t}/tok --vocab-size 300 --engine dask",
            "a.jsonl: is JSON lines by its name, not plain text",
        ),
        (
            "encode --input {p}/text.txt --output {t}/x.npy --tokenizer {t}/other",
            r"text.txt: <\|endoftext\|> at byte \d+ is not a special token of the tokenizer \(it has <\|end_of_text\|>\)",
        ),
        (
            "encode --input {p}/text.txt --output - --tokenizer {t}/other",
            r"add --special-tokens '<\|endoftext",
        ),
        ("inspect --input {p}/text.txt --tokenizer {p}/tok --document 5000", "has 301 documents"),
        ("inspect --input {p}/ids.npy --tokenizer {p}/tok --document 5000", "has 301 documents"),
        ("inspect --input {p}/text.txt --tokenizer {p}/tok --document -1", "it must be at least 0"),
        ("count --input {t}/void", "void: contains no token files"),
        ("compression --input {t}/empty.txt --tokenizer {p}/tok", "empty.txt: is empty"),
        ("compression --input {p}/text.txt", "--tokenizer PATH or --vocab"),
        ("encod --input x", "invalid choice: 'encod'"),
        ("", "the following arguments are required"),
    ],
)
def test_bad_input_is_one_error_line(place, capsys, tmp_path, line, match):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "void").mkdir()
    tokens = np.zeros(1000, np.uint16)
    tokens[812] = 50300
    np.save(tmp_path / "large.npy", tokens)
    (tmp_path / "a.jsonl").write_text('{"text": "a b c"}\n')
    for name in ("packed", "a.txt.gz", "a.zip"):
        (tmp_path / name).write_bytes(gzip.compress(b"text"))
    (tmp_path / "text.npy").write_text("some text")
    (tmp_path / "link").symlink_to("text.npy")
    if "other" in line:
        Tokenizer({i: bytes([i]) for i in range(256)}, [], ["<|end_of_text|>"]).save(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    printed = error_line(capsys, line.format(p=place, t=tmp_path))
    assert re.search(match, printed), printed
    assert sorted(tmp_path.rglob("*")) == before, "a file was left behind"


def test_output_to_a_terminal_is_coloured(place, tmp_path):
    leader, follower = pty.openpty()
    line = f"inspect --input {place}/text.txt --tokenizer {place}/tok --limit 5"
    done = subprocess.run(
        [sys.executable, "-m", "lmfast.tokenizer", *line.split()], stdout=follower, stderr=follower, cwd=ROOT
    )
    os.close(follower)
    printed = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert done.returncode == 0 and "\x1b[97;48;5;" in printed


def test_help_is_fast():
    words = ["-m", "lmfast.tokenizer", "train", "--help"]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, cwd=ROOT
    )
    assert "--vocab-size" in done.stdout
    assert "numba" not in done.stderr and "numpy" not in done.stderr
    assert_starts_within(0.6, *words)  # 0.11 s on an idle machine
