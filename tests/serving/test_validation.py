"""Bytes that are not a JSON object, paths of parameters, and errors in nested models."""

import pytest
from pydantic import Field

from lmfast.serving.errors import ApiError
from lmfast.serving.validation import Checked, checked, path, read_object


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"n": 1} x',
        b"{'n': 1}",
        b'{"n": NaN}',
        b'{"n": Infinity}',
        b'{"n": ' + b"9" * 5000 + b"}",
        b'{"user": "\xff"}',
        b'{"user": "\xed\xa0\x80"}',
        rb'{"user": "\ud800"}',
        rb'{"user": "\udc00\ud800"}',
        rb'{"\ud800": 1}',
        b'{"n": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"n":' * 100_000 + b"1" + b"}" * 100_000,
        '{"n": 1}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_invalid_json(body):
    with pytest.raises(ApiError, match="not valid JSON") as error:
        read_object(body)
    assert error.value.status == 400 and len(error.value.message) < 150


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"text"'])
def test_json_that_is_not_an_object(body):
    with pytest.raises(ApiError, match="must be a JSON object"):
        read_object(body)


def test_of_equal_names_the_last_counts():
    assert read_object(rb'{"a": 1, "a": "\ud83d\ude00"}') == {"a": "😀"}


def test_paths():
    assert path(("messages", 2, "#list", "content", "#text")) == "messages[2].content"
    assert path(("prompt", "#lists", 0, 1)) == "prompt[0][1]"


class Inner(Checked):
    size: int = Field(description="a size")
    note: str = Field("", alias="remark")


class Outer(Checked):
    inner: list[Inner] | None = None
    count: int = Field(1, description="a count")
    pairs: dict[str, int] = Field(default_factory=dict)
    needed: str | None = Field(description="a string or null")


@pytest.mark.parametrize(
    ("values", "param", "message"),
    [
        ({"inner": [{"size": 1}, {"size": "2"}]}, "inner[1].size", 'inner[1].size is "2"; it must be a size'),
        ({"inner": [{}]}, "inner[0].size", "inner[0].size is missing; it must be a size"),
        ({"inner": [5]}, "inner[0]", "inner[0] is 5; it must be an object"),
        (
            {"inner": [{"size": 1, "remrk": 2}]},
            "inner[0].remrk",
            "unknown parameter inner[0].remrk; did you mean remark?",
        ),
        (
            {"inner": [{"size": 1, "note": "x"}]},
            "inner[0].note",
            "unknown parameter inner[0].note; known are",
        ),
        ({"pairs": {"a": "b"}}, "pairs.a", 'pairs.a is "b"; it must be an integer'),
        ({"count": True}, "count", "count is true; it must be a count"),
        ({"count": 1.0}, "count", "count is 1.0; it must be a count"),
        ({"cuont": 1}, "cuont", "unknown parameter cuont; did you mean count?"),
    ],
)
def test_the_message_names_path_value_and_expectation(values, param, message):
    with pytest.raises(ApiError) as error:
        checked(Outer, {"needed": "x", **values})
    assert error.value.param == param
    assert error.value.message.startswith(message)


def test_null_means_not_set_unless_the_parameter_is_required():
    assert checked(Outer, {"count": None, "inner": None, "needed": None}) == Outer(needed=None)
    with pytest.raises(ApiError, match="needed is missing; it must be a string or null"):
        checked(Outer, {})
    with pytest.raises(ApiError, match="unknown parameter other"):
        checked(Outer, {"needed": None, "other": None})
