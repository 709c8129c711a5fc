"""The description against the checks: what `parse` accepts fits the schema, and the reverse for single parameters."""

import json

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmfast.serving.errors import ApiError
from lmfast.serving.openapi import openapi
from lmfast.serving.parameters import ChatParameters, CompletionParameters, parse
from tests.serving.test_parameters import NEUTRAL, RANGES, USER, VALUES

MODELS = {
    CompletionParameters: {"prompt": "x"},
    ChatParameters: {"messages": [USER]},
}


def validator(model: type) -> jsonschema_rs.Draft202012Validator:
    document = openapi()
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return jsonschema_rs.Draft202012Validator({**reference, "components": document["components"]})


def accepts(model: type, body: dict) -> bool:
    try:
        parse(model, json.dumps(body).encode())
    except ApiError:
        return False
    return True


@pytest.mark.parametrize("model", MODELS)
def test_limits_are_those_of_the_schema(model):
    check = validator(model)
    tables = NEUTRAL["both"] | NEUTRAL["chat" if model is ChatParameters else "completion"]
    tables |= {name: (good, bad) for name, good, bad in RANGES}
    for name, (good, bad) in tables.items():
        for value in good:
            assert check.is_valid(MODELS[model] | {name: value}), (name, value)
        for value in bad:  # in JSON Schema 1.0 is an integer; best_of is compared with n
            if not (isinstance(value, float) and value.is_integer()) and name != "best_of":
                assert not check.is_valid(MODELS[model] | {name: value}), (name, value)


@pytest.mark.parametrize("model", MODELS)
def test_the_schema_of_one_parameter_says_what_is_accepted(model):
    check = validator(model)
    extra = {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}}
    names = [field.alias or name for name, field in model.model_fields.items()]

    @settings(max_examples=500, deadline=None)
    @given(
        st.sampled_from(names),
        VALUES
        | st.sampled_from(
            ["auto", "none", "text", "default", "disabled", "medium", [], {}, [[1]], [1], ["a"]]
        )
        | st.integers(-2, 130)
        | st.floats(-1, 3),
    )
    def agree(name, value):
        if name == "best_of" or (isinstance(value, float) and value.is_integer()):
            return  # compared with n; 1.0 is an integer in JSON Schema
        body = MODELS[model] | extra.get(name, {}) | {name: value}
        assert check.is_valid(body) == accepts(model, body)

    agree()


@pytest.mark.parametrize("model", MODELS)
def test_required_and_unknown_parameters(model):
    check = validator(model)
    assert check.is_valid(MODELS[model])
    assert not check.is_valid({}) and not check.is_valid(MODELS[model] | {"other": None})


def test_messages_fit_the_schema():
    check = validator(ChatParameters)
    parts = [{"type": "text", "text": "a"}]
    assert check.is_valid({"messages": [{"role": "developer", "content": parts, "name": None}, USER]})
    for message in (
        {"role": "tool", "content": ""},
        {"role": "user"},
        {**USER, "other": 1},
        {**USER, "name": "a"},
    ):
        assert not check.is_valid({"messages": [message]})


def test_the_document_is_complete():
    document = openapi()
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        "/v1/completions",
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{name}",
        "/health",
        "/metrics",
        "/openapi.json",
        "/",
    }
    for path in document["paths"].values():
        for operation in path.values():
            assert "200" in operation["responses"] and "500" in operation["responses"]
            assert ("security" in operation) == ("401" in operation["responses"])
    for path in ("/v1/completions", "/v1/chat/completions"):
        responses = document["paths"][path]["post"]["responses"]
        assert set(responses) == {*map(str, (200, 400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504))}
    text = json.dumps(document)
    names = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert names <= set(document["components"]["schemas"])
    assert "given_" not in text


def test_errors_fit_their_schema():
    check = jsonschema_rs.Draft202012Validator(openapi()["components"]["schemas"]["Error"])
    assert check.is_valid(ApiError(400, "wrong").body())
    assert check.is_valid(ApiError(429, "full", type="rate_limit_error", param="n", code="x").body())
    assert not check.is_valid({"error": "wrong"})
