"""The OpenAPI description of the server, for GET /openapi.json: routes, parameters, status codes.

Parameters come from the models that check them (parameters.py), so the description cannot differ from the checks. It omits
conditions between parameters, such as stream_options requiring stream.
"""

import functools
from typing import Any

from lmfast.serving.parameters import ChatParameters, CompletionParameters
from lmfast.serving.validation import Checked

Json = dict[str, Any]

REFUSALS = {
    400: "the request is wrong, or does not fit the model's context",
    401: "the API key is missing or wrong",
    403: "the Host header names another server",
    404: "no such model",
    408: "the request body arrived too slowly",
    413: "the request body is too large",
    415: "the request body is not application/json",
    429: "too many requests are waiting",
    500: "internal error",
    503: "the server is shutting down",
    504: "the time limit passed",
}
OF_ALL_ROUTES = (403, 500)


@functools.cache
def openapi() -> Json:
    """The document; do not change it."""
    schemas: Json = {"Error": _ERROR, "Model": _object("id", "object", "created", "owned_by")}
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmfast", "version": "1", "description": "OpenAI's API for a language model."},
        "paths": {
            "/v1/completions": {"post": _generation(CompletionParameters, "Continue text", schemas)},
            "/v1/chat/completions": {"post": _generation(ChatParameters, "Answer a conversation", schemas)},
            "/v1/models": {"get": _reading("The served models", _object("object", "data"), key=True)},
            "/v1/models/{name}": {"get": _one_model()},
            "/health": {"get": _reading("Whether the server runs", _object("status"))},
            "/metrics": {"get": _reading("Metrics for Prometheus", "text/plain", key=True)},
            "/openapi.json": {"get": _reading("This description", _object("openapi", "paths"))},
            "/": {"get": _reading("A page to chat and to complete text", "text/html")},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _object(*required: str) -> Json:
    return {"type": "object", "required": list(required)}


def _responses(content: Json, *refusals: int) -> Json:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found = {"200": {"description": "success", "content": content}}
    for status in sorted({*refusals, *OF_ALL_ROUTES}):
        found[str(status)] = {"description": REFUSALS[status], "content": error}
    return found


def _secured(operation: Json) -> Json:
    """With a key, which is optional: whether one is required depends on the server."""
    return operation | {"security": [{}, {"key": []}]}


def _reading(summary: str, answer: Json | str, key: bool = False) -> Json:
    """answer: a schema, or a media type of text."""
    if isinstance(answer, str):
        content = {answer: {"schema": {"type": "string"}}}
    else:
        content = {"application/json": {"schema": answer}}
    operation = {"summary": summary, "responses": _responses(content, *([401] if key else []))}
    return _secured(operation) if key else operation


def _one_model() -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Model"}}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return _secured(
        {"summary": "One model", "parameters": [name], "responses": _responses(content, 401, 404)}
    )


def _generation(model: type[Checked], summary: str, schemas: Json) -> Json:
    """Adds the parameters' schemas to `schemas`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    required = schema.get("required", [])
    for name, value in schema["properties"].items():
        if name not in required:  # null means not set (validation.py)
            schema["properties"][name] = _nullable(value)
    schemas[model.__name__] = schema
    answer = {
        "application/json": {"schema": _object("id", "object", "created", "model", "choices", "usage")},
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return _secured(
        {
            "summary": summary,
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
                },
            },
            "responses": _responses(answer, *REFUSALS),
        }
    )


def _nullable(schema: Json) -> Json:
    options = schema.get("anyOf", [])
    if schema.get("type") == "null" or {"type": "null"} in options:
        return schema
    kept = {name: schema[name] for name in ("title", "description", "default") if name in schema}
    rest = {name: value for name, value in schema.items() if name not in kept}
    return kept | {"anyOf": [rest, {"type": "null"}]}
