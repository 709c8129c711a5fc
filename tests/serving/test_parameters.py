"""What requests may contain: every parameter's values, limits and error, and the interface for the server."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import completion_create_params
from openai.types.chat import completion_create_params as chat_create_params

from lmfast.data.chat_records import Message
from lmfast.inference.sampling import Sampling
from lmfast.serving.errors import ApiError
from lmfast.serving.parameters import ChatParameters, CompletionParameters, parse

USER = {"role": "user", "content": "Hi"}


def completion(**values) -> CompletionParameters:
    return parse(CompletionParameters, json.dumps({"prompt": "x", **values}).encode())


def chat(**values) -> ChatParameters:
    return parse(ChatParameters, json.dumps({"messages": [USER], **values}).encode())


def error_of(function, **values) -> ApiError:
    with pytest.raises(ApiError) as error:
        function(**values)
    assert error.value.status == 400
    return error.value


def test_defaults():
    for given_, max_tokens in ((completion(), 16), (chat(), None)):
        assert given_.sampling(seed=7) == Sampling(temperature=1.0, top_k=None, top_p=1.0, seed=7)
        assert (given_.max_tokens, given_.n, given_.stop, given_.top_logprobs) == (max_tokens, 1, [], None)
        assert (given_.model, given_.user, given_.truncation) == (None, None, "disabled")
        assert not (given_.stream or given_.include_usage or given_.ignore_eos)


def test_values_reach_the_server():
    common = {
        "model": "tiny",
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "seed": -5,
        "stop": ["a", "b"],
        "n": 128,
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "me",
        "ignore_eos": True,
        "max_tokens": 9,
    }
    for found in (
        completion(**common, logprobs=4),
        chat(**common, logprobs=True, top_logprobs=4, truncation="auto"),
    ):
        assert found.sampling(seed=7) == Sampling(0.0, 3, 0.5, -5)
        assert (found.model, found.stop, found.n, found.user) == ("tiny", ["a", "b"], 128, "me")
        assert found.stream and found.include_usage and found.ignore_eos
        assert (found.max_tokens, found.top_logprobs) == (9, 4)
    assert chat(truncation="auto").truncation == "auto"
    assert chat(max_completion_tokens=3).max_tokens == 3
    assert chat(logprobs=True).top_logprobs == 0 and completion(logprobs=0).top_logprobs == 0


def test_null_is_the_default():
    names = set(completion_create_params.CompletionCreateParamsBase.__annotations__) - {"prompt", "stream"}
    assert completion(**dict.fromkeys(names)) == completion()
    names = set(chat_create_params.CompletionCreateParamsBase.__annotations__) - {"messages"}
    assert chat(**dict.fromkeys(names)) == chat()


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [0]], [[1, 2], [0]]),
        (["a"] * 64, ["a"] * 64),
    ],
)
def test_prompts(prompt, prompts):
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (5, "prompt"),
        (None, "prompt"),
        ({}, "prompt"),
        ([], "prompt"),
        ([[]], "prompt[0]"),
        (["a"] * 65, "prompt"),
        ([[1]] * 65, "prompt"),
        (["a", 5], "prompt[1]"),
        ([5, "a"], "prompt[1]"),
        ([True], "prompt[0]"),
        ([1.0], "prompt[0]"),
        ([-1], "prompt[0]"),
        ([1 << 31], "prompt[0]"),
        ([[1], [2, -1]], "prompt[1][1]"),
        ([[1], 2], "prompt[1]"),
    ],
)
def test_bad_prompts(prompt, param):
    assert error_of(completion, prompt=prompt).param == param


RANGES = [
    ("temperature", [0, 2, 0.5], [-0.1, 2.1, "1", True, [], 10**400]),
    ("top_p", [1, 1e-9], [0, 1.1, "1", True]),
    ("top_k", [1, -1, 10**30], [0, -2, 1.0, "1", True]),
    ("seed", [-(2**63), 2**63 - 1], [-(2**63) - 1, 2**63, 1.0, "1", False]),
    ("n", [1, 128], [0, 129, 1.0, "1", True]),
    ("stop", ["a", [], ["a"] * 16], ["", ["a", ""], ["a"] * 17, 5, [5], {}]),
    ("stream", [False, True], [0, 1, "true"]),
    ("ignore_eos", [False, True], [0, 1, "true"]),
    ("max_tokens", [1, 10**30], [0, -1, 1.0, "1", True]),
    ("user", ["", "me"], [5]),
    ("model", ["tiny"], [5, ["tiny"]]),
]


@pytest.mark.parametrize("function", [completion, chat])
@pytest.mark.parametrize(("name", "good", "bad"), RANGES)
def test_ranges_and_types(function, name, good, bad):
    for value in good:
        function(**{name: value}).sampling(0)
    for value in bad:
        error = error_of(function, **{name: value})
        assert error.param is not None and error.param.split("[")[0] == name
        assert name in error.message and "must be" in error.message and len(error.message) < 200


def test_logprobs_of_both_endpoints():
    for value in (0, 20):
        assert completion(logprobs=value).top_logprobs == value
        assert chat(logprobs=True, top_logprobs=value).top_logprobs == value
    for value in (-1, 21, True, "1"):
        assert error_of(completion, logprobs=value).param == "logprobs"
        assert error_of(chat, logprobs=True, top_logprobs=value).param == "top_logprobs"
    assert error_of(chat, logprobs=1).param == "logprobs"
    assert "logprobs is not true" in error_of(chat, top_logprobs=0).message


def test_top_k_fits_the_decoders():
    assert completion(top_k=10**30).sampling(0).top_k == 1 << 30


@pytest.mark.parametrize("function", [completion, chat])
def test_stream_options_require_stream(function):
    assert error_of(function, stream_options={}).param == "stream_options"
    assert not function(stream=True, stream_options={}).include_usage
    for options in ({"include_usage": 1}, {"include_usge": True}, {"include_obfuscation": True}, 5):
        assert error_of(function, stream=True, stream_options=options).param.startswith("stream_options")


def test_max_tokens_has_one_name_at_a_time():
    assert error_of(chat, max_tokens=1, max_completion_tokens=1).param == "max_tokens"
    assert error_of(completion, max_completion_tokens=1).code == "unknown_parameter"


NEUTRAL = {
    "completion": {
        "echo": ([False], [True, 0]),
        "suffix": ([None], ["", "x"]),
        "best_of": ([1], [0, 2]),
    },
    "chat": {
        "tools": ([[]], [[{}], {}]),
        "tool_choice": (["none", "auto"], ["required", {}]),
        "parallel_tool_calls": ([True, False], [1]),
        "functions": ([[]], [[{}]]),
        "function_call": (["none", "auto"], [{"name": "f"}]),
        "response_format": ([{"type": "text"}], [{"type": "json_object"}, "text", {}]),
        "modalities": ([["text"]], [["audio"], ["text", "audio"], []]),
        "audio": ([None], [{}]),
        "prediction": ([None], [{}]),
        "moderation": ([None], [{}]),
        "web_search_options": ([None], [{}]),
        "reasoning_effort": (["none"], ["low", 0]),
        "verbosity": (["medium"], ["low"]),
        "store": ([False], [True, 0]),
        "service_tier": (["auto", "default"], ["flex"]),
        "prompt_cache_options": ([None], [{}]),
        "prompt_cache_retention": ([None], ["24h"]),
        "metadata": ([{}, {"a": "b"}], [[], {"a": 1}]),
        "prompt_cache_key": (["", "x"], [1]),
        "safety_identifier": (["x"], [1]),
    },
    "both": {
        "presence_penalty": ([0, 0.0], [0.1, -1, False]),
        "frequency_penalty": ([0, 0.0], [0.1, "0"]),
        "logit_bias": ([{}], [{"5": 1}, []]),
    },
}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        *((completion, name) for name in NEUTRAL["completion"] | NEUTRAL["both"]),
        *((chat, name) for name in NEUTRAL["chat"] | NEUTRAL["both"]),
    ],
)
def test_unsupported_parameters_are_accepted_only_where_they_change_nothing(function, name):
    good, bad = (NEUTRAL[function.__name__] | NEUTRAL["both"])[name]
    default = function()
    for value in good:
        found = function(**{name: value})
        assert found.sampling(0) == default.sampling(0) and found.max_tokens == default.max_tokens
    for value in bad:
        error = error_of(function, **{name: value})
        assert (error.param or "").split(".")[0].split("[")[0] == name
        if (name, value) != ("response_format", {}):  # whose type is missing
            assert error.code == "unsupported_parameter" and "does not support" in error.message


def test_best_of_may_equal_n():
    assert completion(best_of=3, n=3).n == 3


def test_every_parameter_of_the_openai_client_is_known():
    for model, names in (
        (CompletionParameters, completion_create_params.CompletionCreateParamsBase.__annotations__),
        (ChatParameters, chat_create_params.CompletionCreateParamsBase.__annotations__),
    ):
        known = {field.alias or name for name, field in model.model_fields.items()}
        assert not set(names) - known


@pytest.mark.parametrize(
    ("function", "name", "near"),
    [
        (completion, "promt", "prompt"),
        (completion, "max_new_tokens", "max_tokens"),
        (chat, "mesages", "messages"),
        (chat, "topk", "top_k"),
        (chat, "prompt", None),
        (completion, "messages", None),
        (completion, "given_stop", "stop"),
    ],
)
def test_unknown_parameters(function, name, near):
    error = error_of(function, **{name: None})
    assert (error.code, error.param) == ("unknown_parameter", name)
    assert (f"did you mean {near}?" if near else "known are") in error.message


def test_messages():
    messages = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            "name": None,
        },
        {
            "role": "assistant",
            "content": "",
            "refusal": None,
            "tool_calls": [],
            "annotations": [],
            "audio": None,
        },
        {"role": "user", "content": "é😀"},
    ]
    assert chat(messages=messages).messages == [
        Message("system", "Be brief."),
        Message("user", "a\nb"),
        Message("assistant", ""),
        Message("user", "é😀"),
    ]


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        ([], "messages", None),
        ("Hi", "messages", None),
        (["Hi"], "messages[0]", None),
        (None, "messages", None),
        ([{"content": "Hi"}], "messages[0].role", "missing_parameter"),
        ([{"role": "user"}], "messages[0].content", "missing_parameter"),
        ([{"role": "tool", "content": "Hi"}], "messages[0].role", None),
        ([{"role": "user", "content": None}], "messages[0].content", None),
        ([{"role": "user", "content": []}], "messages[0].content", None),
        ([{"role": "user", "content": ["Hi"]}], "messages[0].content[0]", None),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
            "messages[0].content[0].type",
            None,
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": 5}]}],
            "messages[0].content[0].text",
            None,
        ),
        ([{**USER, "name": "Ann"}], "messages[0].name", "unsupported_parameter"),
        ([{**USER, "tool_calls": [{}]}], "messages[0].tool_calls", "unsupported_parameter"),
        ([{**USER, "mood": "good"}], "messages[0].mood", "unknown_parameter"),
        ([USER, {"role": "system", "content": "x"}, USER], "messages[1].role", None),
        ([USER, {"role": "assistant", "content": "x"}], "messages[1].role", None),
        ([{"role": "system", "content": "x"}], "messages[0].role", None),
    ],
)
def test_bad_messages(messages, param, code):
    error = error_of(chat, messages=messages)
    assert (error.param, error.code) == (param, code)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "include_usage", "a"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("model", [CompletionParameters, ChatParameters])
def test_random_json_gives_parameters_or_an_api_error(model):
    names = [*(field.alias or name for name, field in model.model_fields.items()), "other"]
    required = {"prompt": "x"} if model is CompletionParameters else {"messages": [USER]}

    @settings(max_examples=300, deadline=None)
    @given(st.dictionaries(st.sampled_from(names), VALUES, max_size=6), st.booleans())
    def check(values, complete):
        try:
            found = parse(model, json.dumps(values | (required if complete else {})).encode())
        except ApiError as error:
            assert error.status == 400 and len(json.dumps(error.body())) < 2000
        else:
            assert isinstance(found.sampling(0), Sampling) and isinstance(found.stop, list)

    check()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_random_bytes_give_an_api_error(body):
    with pytest.raises(ApiError):
        parse(ChatParameters, body)
