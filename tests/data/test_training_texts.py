"""training_texts.py: the same vocabulary from the same texts in any kind of file."""

import gzip
import json

import pytest
import zstandard

from lmfast.data.training_texts import training_texts
from lmfast.errors import UserError
from lmfast.tokenizer.patterns import get_pattern
from lmfast.tokenizer.training import train_bpe

TEXTS = ["the cat sat on the mat", "the other cat\nsat there", "a bat and a cat"] * 5
MARK = "<|endoftext|>"
PATTERN = get_pattern("gpt2")


@pytest.fixture
def files(tmp_path):
    """The texts in every form that needs no other package."""
    text, records = MARK.join(TEXTS).encode(), "".join(json.dumps({"body": t}) + "\n" for t in TEXTS).encode()
    found = {"a.txt": text, "b.txt.gz": gzip.compress(text), "c.txt.zst": zstandard.compress(text)}
    found |= {"d.jsonl": records, "e.json.gz": gzip.compress(records)}
    for name, data in found.items():
        (tmp_path / name).write_bytes(data)
    return [tmp_path / name for name in found]


def test_the_same_vocabulary_from_any_form(files):
    trained = [train_bpe(training_texts([path], "body", [MARK], PATTERN), 300, [MARK]) for path in files]
    assert all(one.vocab == trained[0].vocab and one.merges == trained[0].merges for one in trained)
    assert b" cat" in trained[0].vocab.values()


def test_plain_text_stays_a_path_and_folders_are_searched(files, tmp_path):
    texts = training_texts([tmp_path], "body", [], PATTERN)
    assert len(texts) == len(files) and texts[0] == tmp_path / "a.txt"
    assert not any(text in files for text in texts[1:])


def test_a_missing_field_and_a_missing_file_are_one_line(files, tmp_path):
    with pytest.raises(UserError, match="text"):
        train_bpe(training_texts([tmp_path / "d.jsonl"], "text", [], PATTERN), 300, [])
    with pytest.raises(UserError, match="nowhere"):
        training_texts([tmp_path / "nowhere.txt"], "text", [], PATTERN)
