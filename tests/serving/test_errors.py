"""Bodies as OpenAI's, statuses, and values shortened."""

import json

import openai
import pytest

from lmfast.serving import errors


def test_body_has_the_fields_of_openai():
    error = errors.ApiError(400, "n is 0", param="n", code="some_code")
    assert error.body() == {
        "error": {"message": "n is 0", "type": "invalid_request_error", "param": "n", "code": "some_code"}
    }
    assert (error.status, str(error), error.headers) == (400, "n is 0", {})


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.invalid_request("bad"), 400, None),
        (errors.invalid_value("n", 0, "an integer of at least 1"), 400, None),
        (errors.missing_parameter("prompt", "a string"), 400, "missing_parameter"),
        (errors.unknown_parameter("promt", ["prompt"]), 400, "unknown_parameter"),
        (errors.unsupported_parameter("echo", True, "false"), 400, "unsupported_parameter"),
        (errors.context_length_exceeded("prompt", "too long"), 400, "context_length_exceeded"),
        (errors.invalid_api_key(), 401, "invalid_api_key"),
        (errors.model_not_found("gpt-5", "tiny"), 404, "model_not_found"),
        (errors.not_found("/v1/embeddings"), 404, "not_found"),
        (errors.method_not_allowed("PUT", ["POST", "GET"]), 405, "method_not_allowed"),
        (errors.body_too_slow(10), 408, "request_timeout"),
        (errors.body_too_large(1 << 20), 413, "request_too_large"),
        (errors.wrong_media_type("text/plain"), 415, "unsupported_media_type"),
        (errors.queue_full(256, 3), 429, "queue_full"),
        (errors.internal_error(), 500, "internal_error"),
        (errors.shutting_down(), 503, "shutting_down"),
        (errors.time_limit_passed(60), 504, "time_limit"),
    ],
)
def test_statuses_and_codes(error, status, code):
    assert (error.status, error.code) == (status, code)
    assert set(error.body()["error"]) == {"message", "type", "param", "code"}
    assert len(error.message) < 200 and "\n" not in error.message
    kind = (
        "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
    )
    assert error.type == kind


def test_headers_that_the_statuses_require():
    assert errors.invalid_api_key().headers == {"WWW-Authenticate": "Bearer"}
    assert errors.method_not_allowed("PUT", {"POST", "GET"}).headers == {"Allow": "GET, POST"}
    assert errors.queue_full(256, 3).headers == {"Retry-After": "3"}
    assert "Retry-After" in errors.shutting_down().headers


def test_messages_show_the_value_and_the_remedy():
    assert errors.invalid_value("n", "5", "an integer").message == 'n is "5"; it must be an integer'
    assert (
        errors.unknown_parameter("a[0].promt", ["prompt"]).message
        == "unknown parameter a[0].promt; did you mean prompt?"
    )
    assert (
        errors.unknown_parameter("zzz", ["n", "model"]).message == "unknown parameter zzz; known are model, n"
    )
    assert errors.wrong_media_type(None).message == (
        "the header Content-Type is missing; it must be application/json"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": ["é", None, True]}, '{"a": ["é", null, true]}'),
        ("x" * 58, f'"{"x" * 58}"'),
        ("x" * 59, f'"{"x" * 58}…'),
        ([10**5000], "a list that is too large to show"),
    ],
)
def test_values_are_shortened(value, text):
    assert errors.shown(value) == text
    assert len(text) <= errors.SHOWN


def test_long_names_of_parameters_are_shortened():
    error = errors.unknown_parameter("x" * 10_000, ["prompt"])
    assert len(error.message) < 150 and error.param == "x" * 59 + "…"


def test_the_openai_client_reads_the_body():
    error = errors.model_not_found("gpt-5", "tiny")
    read = openai.APIError("", request=None, body=json.loads(json.dumps(error.body()))["error"])  # pyright: ignore
    assert (read.code, read.param, read.type) == ("model_not_found", "model", "invalid_request_error")
