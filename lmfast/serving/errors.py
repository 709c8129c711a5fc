"""`ApiError`: every error that a client of the server sees, with its HTTP status and OpenAI-style body.

The functions below make the errors, one for each case, so that status, type and code are written once. Messages contain
values of the request but never paths, tracebacks or settings of the server.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from lmfast.counted import counted
from lmfast.suggestions import nearest

SHOWN = 60  # characters of a value in a message
INVALID, SERVER = "invalid_request_error", "server_error"


class ApiError(Exception):
    """An error response. param: the parameter at fault, such as "messages[2].content"; code: a name for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.type, self.param, self.code = status, message, type, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of the response, also of an error within a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def shown(value: Any) -> str:
    """A value as JSON in at most `SHOWN` characters.

    >>> shown("a" * 100)[-5:]
    'aaaa…'
    """
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):  # an integer of more than 4,300 digits, for example
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


# The request's content: 400 ----------------------------------------------------------------------------------


def invalid_request(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, param=param)


def invalid_value(param: str, value: Any, expected: str) -> ApiError:
    """expected: what the value must be, such as "a number from 0 to 2"."""
    return ApiError(400, f"{param} is {shown(value)}; it must be {expected}", param=param)


def missing_parameter(param: str, expected: str) -> ApiError:
    return ApiError(400, f"{param} is missing; it must be {expected}", param=param, code="missing_parameter")


def unknown_parameter(param: str, known: Collection[str]) -> ApiError:
    """param: with its path; known: the names that are allowed there."""
    path, dot, name = param.rpartition(".")
    near = nearest(name, known)
    remedy = f"did you mean {near}?" if near else f"known are {', '.join(sorted(known))}"
    param = path + dot + (name if len(name) <= SHOWN else name[: SHOWN - 1] + "…")
    return ApiError(400, f"unknown parameter {param}; {remedy}", param=param, code="unknown_parameter")


def unsupported_parameter(param: str, value: Any, neutral: str) -> ApiError:
    """neutral: the values that are accepted because they change nothing."""
    message = f"{param} is {shown(value)}, which this server does not support; remove it, or use {neutral}"
    return ApiError(400, message, param=param, code="unsupported_parameter")


def context_length_exceeded(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="context_length_exceeded")


# Access and addresses: 401, 403, 404, 405 ---------------------------------------------------------------------------


def invalid_api_key() -> ApiError:
    message = "the API key is missing or wrong; send it in the header Authorization: Bearer KEY"
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def foreign_host(host: str) -> ApiError:
    message = f"the header Host is {shown(host)}; use localhost or 127.0.0.1, or start the server with --host"
    return ApiError(403, message, code="foreign_host")


def model_not_found(name: str, served: str) -> ApiError:
    message = f"model {shown(name)} is not served here; use {shown(served)}, or leave it out"
    return ApiError(404, message, param="model", code="model_not_found")


def not_found(path: str) -> ApiError:
    return ApiError(404, f"{shown(path)} does not exist; the API is under /v1", code="not_found")


def method_not_allowed(method: str, allowed: Iterable[str]) -> ApiError:
    names = ", ".join(sorted(allowed))
    message = f"method {shown(method)} is not allowed here; use {names}"
    return ApiError(405, message, code="method_not_allowed", headers={"Allow": names})


# The request's transfer: 408, 413, 415 -------------------------------------------------------------------------


def body_too_slow(seconds: float) -> ApiError:
    message = f"the request body did not arrive within {seconds:g} seconds"
    return ApiError(408, message, code="request_timeout", headers={"Connection": "close"})


def body_too_large(limit: int) -> ApiError:
    message = f"the request body is larger than the limit of {limit} bytes"
    return ApiError(413, message, code="request_too_large", headers={"Connection": "close"})


def wrong_media_type(given: str | None) -> ApiError:
    has = f"is {shown(given)}" if given else "is missing"
    message = f"the header Content-Type {has}; it must be application/json"
    return ApiError(415, message, code="unsupported_media_type")


# The server's state: 429, 500, 503, 504 ------------------------------------------------------------------------


def queue_full(waiting: int, retry_after: int) -> ApiError:
    """waiting: answers; retry_after: seconds after which the client may try again."""
    message = f"the queue is full ({counted(waiting, 'answer')} waiting); try again in {counted(retry_after, 'second')}"
    headers = {"Retry-After": str(retry_after)}
    return ApiError(429, message, type="rate_limit_error", code="queue_full", headers=headers)


def internal_error() -> ApiError:
    """Without details, which stand in the server's log."""
    return ApiError(
        500, "internal error; the server's log has the details", type=SERVER, code="internal_error"
    )


def shutting_down() -> ApiError:
    message = "the server is shutting down and takes no new requests"
    return ApiError(503, message, type=SERVER, code="shutting_down", headers={"Retry-After": "5"})


def time_limit_passed(seconds: float) -> ApiError:
    message = f"the answer was not complete within the limit of {seconds:g} seconds; ask for fewer tokens"
    return ApiError(504, message, type=SERVER, code="time_limit")
