"""documents.py: spans of documents, and samples that depend only on their seed."""

import os
import sys

import numpy as np
import pytest

from lmfast.errors import UserError
from lmfast.tokenizer.documents import document_spans, open_text, sample_documents


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
    assert [data[start:end] for start, end in document_spans(as_text(data))] == documents


def test_a_sample_skips_blank_documents_and_depends_on_the_seed():
    data = b"<|endoftext|>".join(b"doc %d" % i for i in range(50)) + b"<|endoftext|>\n"
    text = as_text(data)
    sample = sample_documents(text, 10, 3)
    assert sample == sample_documents(text, 10, 3) != sample_documents(text, 10, 4)
    assert len(set(sample)) == 10 and all(document.startswith(b"doc ") for document in sample)
    assert len(sample_documents(text, 1000, 0)) == 50


def test_an_empty_text_is_rejected(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(UserError, match=r"a.txt: is empty"):
        open_text(tmp_path / "a.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux enforces the limit")
def test_a_file_larger_than_the_address_space(tmp_path):
    import resource

    path = tmp_path / "huge.txt"
    path.touch()
    os.truncate(path, 1 << 42)  # a sparse file
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 41, before[1]))
    try:
        with pytest.raises(UserError, match=r"huge\.txt: cannot be mapped, because no address space is left"):
            open_text(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
