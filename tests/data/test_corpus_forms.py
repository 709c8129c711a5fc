"""corpus_forms.py: files become documents and records; missing content is reported."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmfast.data.corpus_forms import MAKERS, articles, preference
from lmfast.errors import UserError


def test_articles_begin_at_titles_between_blank_lines():
    rows = [
        "",
        " = First = \n",
        "",
        " Text with = signs = in it . \n",
        "",
        " = = Section = = \n",
        "",
        " = no title = \n",
        " as a line follows . \n",
        "",
        " = Second = \n",
        "",
        " = = = Deeper = = = \n",
        "",
    ]
    first, second = articles(iter(rows))
    assert first.startswith(" = First = \n\n Text") and first.endswith(" as a line follows . ")
    assert "\n = = Section = = \n\n = no title = \n" in first
    assert second == " = Second = \n\n = = = Deeper = = = "
    assert list(articles([])) == [] and list(articles(["", "\n", " "])) == []


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


def test_preferences():
    assert preference([user("q"), answer("a")], [user("q"), answer("b")]) == {
        "prompt": "q",
        "chosen": "a",
        "rejected": "b",
    }
    talk = [user("q"), answer("x"), user("more")]
    assert preference([*talk, answer("a")], [*talk, answer("b")])["prompt"] == talk
    assert preference([user("q"), answer("a")], [user("q"), answer("a")]) is None
    assert preference([user("q"), answer(" ")], [user("q"), answer("a")]) is None
    assert preference([user("q")], [user("q"), answer("a")]) is None
    assert preference([user("q"), answer("a")], [user("r"), answer("b")]) is None
    assert preference([user("q"), answer("a")], [user("q"), user("b")]) is None


def test_mostly_unusable_data_is_rejected(tmp_path):
    rows = {
        "chosen": [[user("q"), answer("a")]] * 3,
        "rejected": [[user("q"), answer("a")]] * 2 + [[user("q"), answer("b")]],
    }
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="2 of 3 records of the train part are unusable"):
        MAKERS["preferences"]("train", [tmp_path / "a.parquet"], tmp_path, True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_unexpected_files_leave_no_output(tmp_path):
    for name, data in (
        ("page.txt", b"<html>moved</html>"),
        ("page.txt.gz", gzip.compress(b"<html>moved</html>", mtime=0)),
        ("cut.txt.gz", gzip.compress(b"a<|endoftext|>b" * 1000, mtime=0)[:-20]),
        (
            "list.json",
            json.dumps([{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "a"}]).encode(),
        ),
        ("text.json", b"{"),
        ("not.parquet", b"PAR1 or not"),
    ):
        (tmp_path / name).write_bytes(data)
    pq.write_table(pa.table({"other": ["a"]}), tmp_path / "other.parquet")
    out = tmp_path / "out"
    out.mkdir()
    for form, name, match in (
        ("text", "page.txt", "page.txt: contains no <|endoftext|>"),
        ("text", "page.txt.gz", "page.txt.gz: contains no <|endoftext|>"),
        ("text", "cut.txt.gz", "cut.txt.gz: damaged or truncated"),
        ("alpaca", "list.json", "list.json: record 1 lacks the strings"),
        ("alpaca", "text.json", "text.json: not valid JSON"),
        ("wikitext", "not.parquet", "not.parquet: not a complete Parquet file"),
        ("wikitext", "other.parquet", "other.parquet: has no column 'text' (it has other)"),
        ("preferences", "other.parquet", "other.parquet: has no column 'chosen'"),
    ):
        with pytest.raises(UserError) as caught:
            MAKERS[form]("train", [tmp_path / name], out, True)
        assert match in str(caught.value) and "\n" not in str(caught.value)
        assert not list(out.iterdir()), name
