"""counting.py compared with the oracle: any text, any number of workers, any memory limit."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.errors import UserError
from lmfast.tokenizer import counting, plain_training, text_file
from lmfast.tokenizer.compiled import count_table
from lmfast.tokenizer.counting import count_pretokens
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.text_file import Documents, TextFile
from tests.tokenizer import oracle, sample_text
from tests.tokenizer.compiled.test_scanner import HARD

END = "<|endoftext|>"
GPT2 = get_pattern("gpt2")


def counted(paths, specials=(END,), pattern="gpt2", **options) -> dict[bytes, int]:
    result = count_pretokens(paths, list(specials), get_pattern(pattern), **options)
    words = [result.pretoken(i) for i in range(len(result))]
    assert words == sorted(set(words))
    assert result.total_bytes == sum(Path(path).stat().st_size for path in paths)
    found = dict(zip(words, result.counts.tolist()))
    plain = plain_training.count_pretokens([TextFile(path) for path in paths], specials, get_pattern(pattern))
    assert found == plain and words == list(plain)
    return found


@pytest.fixture
def small_chunks(monkeypatch):
    for module in (counting, text_file):
        monkeypatch.setattr(module, "CHUNK_BYTES", 64)


texts = st.lists(
    st.sampled_from([*HARD, END.encode(), b" the", b" cat", b" a"]) | st.binary(max_size=30), max_size=60
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    texts.map(b"".join), st.sampled_from(["gpt2", "cl100k", "o200k", r"\w+|\s+"]), st.sampled_from([1, 2, 7])
)
def test_counts_equal_the_oracles(tmp_path_factory, text, pattern, workers):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(text)
    expected = oracle.count(text, [END.encode()], get_pattern(pattern).regex)
    assert counted([path], pattern=pattern, num_workers=workers) == expected


def mixed_text(words: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    lengths = rng.choice([1, 3, 7, 8, 14, 15, 16, 17, 40], words)
    pieces = []
    for length in lengths.tolist():
        pieces.append(
            b" " + bytes(rng.integers(97, 97 + rng.integers(1, 26), length - 1 or 1).astype(np.uint8))
        )
    return b"".join(pieces)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_any_number_of_workers_gives_the_same_arrays(tmp_path, small_chunks, workers):
    path = tmp_path / "text.txt"
    path.write_bytes(mixed_text(20_000, seed=1) + b"\n" + END.encode() + "naïve 漢字\n".encode() * 50)
    one = count_pretokens([path], [END], get_pattern("gpt2"), num_workers=1)
    many = count_pretokens([path], [END], get_pattern("gpt2"), num_workers=workers)
    for name in ("data", "offsets", "counts"):
        assert np.array_equal(getattr(one, name), getattr(many, name))
    assert counted([path], num_workers=workers) == oracle.count(
        path.read_bytes(), [END.encode()], get_pattern("gpt2").regex
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_counts_that_spill_to_disk_are_exact(tmp_path, small_chunks, monkeypatch, workers):
    path = tmp_path / "text.txt"
    path.write_bytes(mixed_text(30_000, seed=2))
    for module in (counting, count_table):
        monkeypatch.setattr(module, "FIRST_ROWS", 1 << 8)
    spilled = []
    spill = counting._Totals._spill
    monkeypatch.setattr(
        counting._Totals, "_spill", lambda self, table: spilled.append(len(table)) or spill(self, table)
    )
    assert counted([path], num_workers=workers, max_memory=200_000) == counted([path], num_workers=workers)
    assert len(spilled) > 2


def test_a_full_worker_table_is_added_to_the_totals(tmp_path, small_chunks, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_bytes(mixed_text(30_000, seed=3))
    for module in (counting, count_table):
        monkeypatch.setattr(module, "FIRST_ROWS", 1 << 8)
    expected = counted([path], num_workers=2)
    monkeypatch.setattr(counting, "_WORKER_ROWS", 200)
    assert counted([path], num_workers=2) == expected


def test_hard_input(tmp_path):
    path = tmp_path / "text.txt"
    for text in (
        b"", b" ", b"\n" * 10000, b"x" * 1_000_000,
        b"'s" * 10000, b"today\n \n", b"\x80" * 77, b"a\r\nb\r\n", b"no newline at the end",
        b"a" * 15 + b" " + b"a" * 14 + b" " + b"a" * 16, b"a\0b a\0\0", b"a" * 65535 + b"!" + b"a" * 65536, b"caf\xc3",
        b"<|endoftext|>", b"<|endoftext|>" * 3, b"<|endoftext|", b" <|endoftext|> x", b"  \n<|endoftext|>  \n",
    ):  # fmt: skip
        path.write_bytes(text)
        assert counted([path]) == oracle.count(text, [END.encode()], get_pattern("gpt2").regex), text[:60]


def test_files_are_counted_separately(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"hello wor")
    (tmp_path / "b.txt").write_bytes(b"ld hello")
    (tmp_path / "empty.txt").write_bytes(b"")
    paths = [tmp_path / name for name in ("a.txt", "empty.txt", "b.txt")]
    assert counted(paths) == {b"hello": 1, b" wor": 1, b"ld": 1, b" hello": 1}


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"absent\.txt"):
        count_pretokens([tmp_path / "absent.txt"], [], get_pattern("gpt2"))


def test_progress_ends_at_the_files_size(tmp_path, small_chunks):
    path = tmp_path / "text.txt"
    path.write_bytes(b"some words " * 100)
    seen = []
    counted([path], num_workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1] == (1100, 1100) and len(seen) > 5


@pytest.mark.parametrize("left", [0, -1])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_truncated_while_read_is_one_error_line(tmp_path, small_chunks, monkeypatch, workers, left):
    """Instead of a bus error that leaves the folder of counts behind."""
    path = tmp_path / "text.txt"
    path.write_bytes(b"some words " * 100)
    monkeypatch.setattr(counting.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UserError, match=r"text\.txt: changed while it was read; rerun"):
        counted([path], num_workers=workers, progress=lambda done, total: os.truncate(path, left % total))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("specials", [(), (END,), ("<|x|>", "me w")])
def test_documents_count_like_separate_files(tmp_path, small_chunks, specials):
    """Including one that contains <|endoftext|> as text, and many that are counted together."""
    texts = [
        b"",
        b"some words",
        b" and more, even <|endoftext|> more",
        b"<|x|>",
        b"x" * 100,
        b"some words",
    ] * 5
    paths = [tmp_path / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_bytes(text)
    seen = []
    source = Documents(lambda: ((text, 10 * number) for number, text in enumerate(texts)), 300)
    found = count_pretokens(
        [paths[0], source, paths[1]],
        list(specials),
        GPT2,
        2,
        progress=lambda *progress: seen.append(progress),
    )
    want = count_pretokens([*paths, *paths[:2]], list(specials), GPT2)
    assert [found.pretoken(i) for i in range(len(found))] == [want.pretoken(i) for i in range(len(want))]
    assert found.counts.tolist() == want.counts.tolist()
    assert seen == sorted(seen) and seen[-1] == (310, 310)


@pytest.mark.parametrize("name", sample_text.NAMES)
def test_whole_texts(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(sample_text.sample(name)[: 1 << 19])
    assert counted([path], num_workers=2) == oracle.count(
        path.read_bytes(), [END.encode()], get_pattern("gpt2").regex
    )
