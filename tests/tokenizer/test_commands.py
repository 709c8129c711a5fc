"""commands.py: the parts that the command line (test_main.py) does not show by itself."""

import numpy as np
import pytest

from lmfast.tokenizer import commands
from lmfast.tokenizer.commands import documents_of, duration, rate_line, sample_documents, shown


def as_text(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.mark.parametrize(
    ("data", "documents"),
    [
        (b"a<|endoftext|>b\n\nc<|endoftext|>", [b"a", b"b\n\nc", b""]),
        (b"a\n\nb\n\n\n\nc", [b"a", b"b", b"", b"c"]),
        (b"a\r\n\r\nb", [b"a", b"b"]),
        (b"one", [b"one"]),
    ],
)
def test_documents(data, documents):
    assert [data[start:end] for start, end in documents_of(as_text(data))] == documents


def test_a_sample_is_without_blanks_and_repeats_with_its_seed():
    data = b"<|endoftext|>".join(b"doc %d" % i for i in range(50)) + b"<|endoftext|>\n"
    text = as_text(data)
    sample = sample_documents(text, 10, 3)
    assert sample == sample_documents(text, 10, 3) != sample_documents(text, 10, 4)
    assert len(set(sample)) == 10 and all(document.startswith(b"doc ") for document in sample)
    assert len(sample_documents(text, 1000, 0)) == 50


def test_rates():
    assert rate_line(100_000_000, 1.0) == "100.0 MB/s (the Pile's 825 GB would take 2 h 18 min)"
    assert [duration(s) for s in (4.04, 90, 3600, 4000)] == ["4.0 s", "2 min", "1 h 0 min", "1 h 7 min"]


def test_shown():
    assert shown(b" a\n\xff") == "' a\\n\\\\xff'"
    assert len(shown(b"x" * 500)) == 61 and commands.shown(b"x" * 500, 100).count("x") == 98
