"""token_file.py: every kind of file gives the same ids, and every bad file is one line that names it."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from lmfast.data import token_file
from lmfast.data.token_file import TokenWriter, check_ids, dtype_for, open_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer


def rejected(match: str, *args, **kwargs) -> None:
    with pytest.raises(UserError, match=match) as caught:
        open_tokens(*args, **kwargs)
    assert "\n" not in str(caught.value)
    assert str(args[0]) in str(caught.value)


@pytest.fixture
def ids():
    return np.random.default_rng(0).integers(0, 50_000, 10_000)


def test_every_kind_of_file_gives_the_same_ids(tmp_path, ids):
    np.save(tmp_path / "a.npy", ids.astype(np.uint16))
    np.save(tmp_path / "b.npy", ids.astype(np.uint32))
    np.save(tmp_path / "c.npy", ids.astype(np.int64))
    ids.astype("<u2").tofile(tmp_path / "d.bin")
    ids.astype("<u4").tofile(tmp_path / "e.bin")
    (tmp_path / "f.txt").write_text(" ".join(map(str, ids)))
    (tmp_path / "g.ids").write_text("\n".join(map(str, ids)) + "\n")
    (tmp_path / "h.txt").write_text("\r\n \t".join(map(str, ids)))
    for name in ("a.npy", "b.npy", "c.npy", "d.bin", "f.txt", "g.ids", "h.txt"):
        file = open_tokens(tmp_path / name, vocab_size=50_000)
        assert np.array_equal(file.tokens, ids), name
        assert file.path == tmp_path / name
        assert isinstance(file.tokens, np.memmap) and not file.tokens.flags.writeable
    assert np.array_equal(open_tokens(tmp_path / "e.bin", dtype="uint32").tokens, ids)
    assert np.array_equal(open_tokens(tmp_path / "e.bin", vocab_size=100_000).tokens, ids)


def test_text_is_converted_once_and_again_when_it_changes(tmp_path, monkeypatch):
    source = tmp_path / "ids.txt"
    source.write_text("1 2 3")
    assert open_tokens(source).tokens.tolist() == [1, 2, 3]
    assert (tmp_path / "ids.txt.npy").exists()
    monkeypatch.setattr(token_file, "convert_text", lambda *_: pytest.fail("converted a second time"))
    assert open_tokens(source).tokens.tolist() == [1, 2, 3]
    monkeypatch.undo()
    source.write_text("4 5 70000")
    os.utime(source, ns=(1, 1))
    changed = open_tokens(source).tokens
    assert changed.tolist() == [4, 5, 70000] and changed.dtype == np.uint32


@pytest.mark.parametrize("piece", [12, 13, 17, 64])
def test_text_in_pieces_of_any_size(tmp_path, monkeypatch, ids, piece):
    monkeypatch.setattr(token_file, "PIECE", piece)
    source = tmp_path / "ids.txt"
    source.write_text("  " + "\n".join(map(str, ids[:500])) + "   \n\n")
    assert np.array_equal(open_tokens(source, vocab_size=50_000).tokens, ids[:500])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1 2 x 3", "byte b'x' at position 4"),
        ("[1, 2]", "position 0"),
        ("1 -2", "position 2"),
        ("1 5000000000", "does not fit 32 bits"),
        ("1 " + "9" * 40, "more than 10 digits|does not fit"),
        (" \n ", "contains no tokens"),
    ],
)
def test_text_that_is_not_ids(tmp_path, text, match):
    source = tmp_path / "ids.txt"
    source.write_text(text)
    rejected(match, source)
    if match != "contains no tokens":
        assert os.listdir(tmp_path) == ["ids.txt"], "something half-written was left"


def test_ids_outside_the_vocabulary(tmp_path, monkeypatch):
    tokens = np.zeros(1000, np.uint16)
    tokens[812], tokens[900] = 50300, 60000
    path = tmp_path / "tokens.npy"
    np.save(path, tokens)
    for piece in (7, 812, 813, 10_000):
        monkeypatch.setattr(token_file, "PIECE", piece)
        with pytest.raises(UserError) as caught:
            open_tokens(path, vocab_size=10_000)
        assert str(caught.value) == (
            f"{path}: id 50300 at position 812 is outside the vocabulary of 10000; "
            "was it encoded with another tokenizer?"
        )
    open_tokens(path, vocab_size=60_001)
    with pytest.raises(UserError, match="id -1 at position 2"):
        check_ids(np.array([1, 2, -1], np.int32), 10, "x.npy")


def test_bad_files(tmp_path):
    path = tmp_path / "x.npy"
    rejected("no such token file", path)
    rejected("is a directory", tmp_path)
    path.write_bytes(b"")
    rejected("is empty", path)
    path.write_bytes(b"not numpy at all")
    rejected("not a complete .npy file", path)
    np.save(path, np.arange(100, dtype=np.uint16))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    rejected("not a complete .npy file", path)
    np.save(path, np.zeros((2, 2), np.uint16))
    rejected("a 1-D array of integers", path)
    np.save(path, np.zeros(4, np.float32))
    rejected("a 1-D array of integers", path)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    rejected("not a complete .npy file|a 1-D array of integers", path)
    np.save(path, np.zeros(0, np.uint16))
    rejected("contains no tokens|not a whole", path)
    np.save(path, np.zeros(10, np.uint16))
    rejected("uint16 ids are too small for a vocabulary of 100277", path, vocab_size=100_277)
    rejected(r"has 10 tokens, but one window needs 11 .*context_length", path, min_length=11)
    assert len(open_tokens(path, min_length=10)) == 10
    odd = tmp_path / "x.bin"
    odd.write_bytes(b"abc")
    rejected("not a multiple of the size of uint16", odd)
    np.arange(1000, dtype=np.uint32).tofile(odd)
    rejected("seem to be uint32", odd)
    assert open_tokens(odd, dtype="uint32").tokens[999] == 999


def test_summary_of_a_token_file(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(5, dtype=np.uint16))
    assert open_tokens(path).summary is None and open_tokens(path).tokenizer_path is None
    side = tmp_path / "x.npy.json"
    side.write_text(json.dumps({"tokens": 5, "tokenizer": "runs/tokenizer", "vocab_size": 300}))
    file = open_tokens(path)
    assert file.summary["vocab_size"] == 300 and file.tokenizer_path == "runs/tokenizer"
    side.write_text(json.dumps({"tokens": 6}))
    with pytest.raises(UserError, match=r"x.npy.json: records 6 tokens, but x.npy has 5"):
        open_tokens(path)
    side.write_text("{")
    with pytest.raises(UserError, match=r"x.npy.json: not valid JSON"):
        open_tokens(path)


def test_writer_makes_a_plain_npy(tmp_path, ids):
    path = tmp_path / "w.npy"
    with TokenWriter(path, np.uint16) as writer:
        for piece in np.array_split(ids, 7):
            writer.write(piece)
        assert not path.exists(), "visible before it was complete"
    loaded = np.load(path)
    assert loaded.dtype == np.uint16 and np.array_equal(loaded, ids)
    assert os.listdir(tmp_path) == ["w.npy"]


def test_a_failed_write_leaves_no_files(tmp_path):
    path = tmp_path / "w.npy"
    with pytest.raises(UserError, match=r"w.npy: id 65536 at position 3 does not fit uint16"):  # noqa: SIM117
        with TokenWriter(path, np.uint16) as writer:
            writer.write(np.arange(2))
            writer.write(np.array([5, 65536]))
    with pytest.raises(RuntimeError), TokenWriter(path, np.uint16):
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    with pytest.raises(UserError, match="does not exist"), TokenWriter(tmp_path / "no" / "w.npy", np.uint16):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("pieces", [[1000], [100_000], [100_000, 100_000]])
def test_a_full_disk_is_one_line_and_leaves_no_files(tmp_path, small_files, pieces):
    """The last piece is still buffered when the file is closed, or is written immediately."""
    with small_files(1500):  # noqa: SIM117
        with pytest.raises(UserError, match=r"w.npy: cannot be written \(File too large\)"):
            with TokenWriter(tmp_path / "w.npy", np.uint16) as writer:
                for size in pieces:
                    writer.write(np.arange(size) % 1000)
    assert os.listdir(tmp_path) == []


def test_dtype_for():
    assert dtype_for(65_536) == np.uint16 and dtype_for(65_537) == np.uint32


@pytest.mark.parametrize("place", ["data/tokenizer", "data/gpt2", "gpt2", "models/deep/gpt2"])
def test_a_tokenizer_moved_with_the_file_is_found(corpus, tmp_path, place):
    """Next to the token file, next to its folder, or where the relative path leads; by its fingerprint, not its name."""
    home, tokens = tmp_path / "old" / place, tmp_path / "old/data/train.npy"
    tokens.parent.mkdir(parents=True)
    shutil.copytree(corpus.tokenizer, home)
    tokenizer = Tokenizer.load(home)
    tokenizer.encode_file(corpus.text, tokens, num_workers=1)
    assert open_tokens(tokens).tokenizer_path == str(home)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = tmp_path / "new/data/train.npy"
    assert open_tokens(moved).tokenizer_path == str(tmp_path / "new" / place)
    side = Path(f"{moved}.json")
    side.write_text(side.read_text().replace('tokenizer_sha256": "', 'tokenizer_sha256": "0'))
    assert open_tokens(moved).tokenizer_path == str(home)  # the path of a different tokenizer does not count
