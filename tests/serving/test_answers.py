"""Answers and chunks as OpenAI's types describe them, log probabilities of both endpoints, server-sent events."""

import json
import math

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from lmfast.inference.batching import TokenLogprobs
from lmfast.serving.answers import (
    DONE,
    ChatAnswers,
    Choice,
    CompletionAnswers,
    TokenNames,
    encode,
    event,
    token_name,
    usage,
)
from lmfast.serving.text import Piece, Token

NAMES = TokenNames({0: b" the", 1: "é".encode()[:1], 2: "é".encode()[1:], 3: b"the", 4: b"<|end|>"})
TOKENS = [
    Token(0, TokenLogprobs(-0.5, [(0, -0.5), (1, -1.5)]), 0),
    Token(1, TokenLogprobs(-2.5, [(3, -0.25), (0, -1.75)]), 4),
    Token(2, TokenLogprobs(-math.inf, [(4, 0.0), (9, -math.inf)]), 4),
]
USAGE = usage(prompt_tokens=5, completion_tokens=3, cached_tokens=2)


def strictly(model: type[BaseModel], data: dict) -> None:
    """Validates without conversions. All keys must be fields of OpenAI's types, except dropped_messages."""
    text = json.dumps({name: value for name, value in data.items() if name != "dropped_messages"})
    read = model.model_validate_json(text, strict=True)
    assert json.loads(read.model_dump_json(exclude_unset=True)) == json.loads(text)

    def no_extras(value):
        if isinstance(value, BaseModel):
            assert not value.model_extra
            for name in type(value).model_fields:
                no_extras(getattr(value, name))
        elif isinstance(value, list):
            for item in value:
                no_extras(item)

    no_extras(read)


def test_whole_completions():
    answers = CompletionAnswers("tiny", NAMES)
    data = answers.whole([Choice(" the", [], "stop"), Choice("é\ud7ff", [], "length")], USAGE)
    strictly(Completion, data)
    assert data["id"] == answers.id and data["id"].startswith("cmpl-") and len(data["id"]) == 5 + 32
    assert (data["object"], data["model"]) == ("text_completion", "tiny")
    assert data["choices"] == [
        {"index": 0, "text": " the", "logprobs": None, "finish_reason": "stop"},
        {"index": 1, "text": "é\ud7ff", "logprobs": None, "finish_reason": "length"},
    ]
    assert data["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert CompletionAnswers("tiny", NAMES).id != answers.id


def test_whole_chat_answers():
    data = ChatAnswers("tiny", NAMES).whole([Choice(" the", [], "stop")], USAGE)
    strictly(ChatCompletion, data)
    assert data["id"].startswith("chatcmpl-") and "dropped_messages" not in data
    (choice,) = data["choices"]
    assert choice["message"] == {"role": "assistant", "content": " the", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)


def test_logprobs_of_completions():
    answers = CompletionAnswers("tiny", NAMES, logprobs=True)
    expected = {
        "tokens": [" the", r"bytes:\xc3", r"bytes:\xa9"],
        "token_logprobs": [-0.5, -2.5, -9999.0],
        "top_logprobs": [
            {" the": -0.5, r"bytes:\xc3": -1.5},
            {"the": -0.25, " the": -1.75, r"bytes:\xc3": -2.5},
            {"<|end|>": 0.0, "": -9999.0, r"bytes:\xa9": -9999.0},
        ],
        "text_offset": [0, 4, 4],
    }
    data = answers.whole([Choice(" theé", TOKENS, "stop")], USAGE)
    strictly(Completion, data)
    assert data["choices"][0]["logprobs"] == expected
    data = answers.chunk(0, Piece(" theé", TOKENS))
    strictly(Completion, data | {"choices": [data["choices"][0] | {"finish_reason": "stop"}]})
    assert data["choices"][0]["logprobs"] == expected
    empty = answers.whole([Choice("", [], "stop")], USAGE)["choices"][0]["logprobs"]
    assert empty == {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def test_logprobs_of_chat_answers():
    answers = ChatAnswers("tiny", NAMES, logprobs=True)
    data = answers.whole([Choice(" theé", TOKENS, "stop")], USAGE)
    strictly(ChatCompletion, data)
    logprobs = data["choices"][0]["logprobs"]
    assert logprobs["content"][1] == {
        "token": r"bytes:\xc3",
        "logprob": -2.5,
        "bytes": [0xC3],
        "top_logprobs": [
            {"token": "the", "logprob": -0.25, "bytes": [116, 104, 101]},
            {"token": " the", "logprob": -1.75, "bytes": [32, 116, 104, 101]},
        ],
    }
    assert logprobs["content"][2]["logprob"] == -9999.0
    assert logprobs["content"][2]["top_logprobs"][1] == {"token": "", "logprob": -9999.0, "bytes": []}
    chunk = answers.chunk(0, Piece(" theé", TOKENS))
    strictly(ChatCompletionChunk, chunk)
    assert chunk["choices"][0]["logprobs"] == logprobs
    assert answers.whole([Choice("", [], "stop")], USAGE)["choices"][0]["logprobs"]["content"] == []


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_of_completions(include_usage):
    answers = CompletionAnswers("tiny", NAMES, include_usage=include_usage)
    part, last = answers.chunk(1, Piece("x", [])), answers.chunk(1, Piece("", []), "length")
    assert part["choices"] == [{"index": 1, "text": "x", "logprobs": None, "finish_reason": None}]
    assert last["choices"] == [{"index": 1, "text": "", "logprobs": None, "finish_reason": "length"}]
    strictly(Completion, last)
    for chunk in (part, last):
        assert chunk["object"] == "text_completion" and chunk["id"] == answers.id
        assert chunk.get("usage", "absent") == (None if include_usage else "absent")
    final = answers.usage_chunk(USAGE)
    strictly(Completion, final)
    assert final["choices"] == [] and final["usage"] == USAGE


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_of_a_chat_answer(include_usage):
    answers = ChatAnswers("tiny", NAMES, include_usage=include_usage)
    chunks = [
        answers.first_chunk(1),
        answers.chunk(1, Piece("x", [])),
        answers.chunk(1, Piece("", []), "stop"),
        answers.usage_chunk(USAGE),
    ]
    for chunk in chunks:
        strictly(ChatCompletionChunk, chunk)
        assert chunk["id"] == answers.id and "dropped_messages" not in chunk
        assert ("usage" in chunk) == (include_usage or chunk is chunks[-1])
    found = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["delta"] for choice in found] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "x"},
        {},
    ]
    assert [choice["finish_reason"] for choice in found] == [None, None, "stop"]
    assert {choice["index"] for choice in found} == {1}


def test_dropped_messages_are_reported():
    answers = ChatAnswers("tiny", NAMES, dropped=0)
    whole = answers.whole([Choice("x", [], "stop")], USAGE)
    assert whole["dropped_messages"] == 0 and answers.first_chunk(0)["dropped_messages"] == 0
    strictly(ChatCompletion, whole)
    assert "dropped_messages" not in answers.chunk(0, Piece("x", []))


def test_events():
    data = {"text": "é\n\r\u2028\x00😀", "number": -9999.0, "none": None}
    encoded = event(data)
    assert encoded.startswith(b"data: {") and encoded.endswith(b"}\n\n")
    assert encode(data) == encoded[6:-2]
    assert len(encoded.splitlines()) == 2 and json.loads(encoded.removeprefix(b"data: ")) == data
    assert b": " not in encoded.removeprefix(b"data: ") and "😀".encode() in encoded
    assert DONE == b"data: [DONE]\n\n"


def test_numbers_that_json_lacks_become_the_least_logprob():
    token = Token(0, TokenLogprobs(math.nan, [(1, math.nan), (2, -math.inf)]), 0)
    for answers in (CompletionAnswers("tiny", NAMES), ChatAnswers("tiny", NAMES)):
        encoded = event(answers.chunk(0, Piece("x", [token])))
        assert encoded.count(b"-9999.0") == 3 + isinstance(answers, CompletionAnswers)
        assert b"NaN" not in encoded and b"Infinity" not in encoded


def test_names_of_tokens():
    assert token_name("😀".encode()) == "😀" and token_name(b"\xff\x0a") == r"bytes:\xff\x0a"
    assert NAMES[0] is NAMES[0]
