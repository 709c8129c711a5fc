"""Who may use the server: ASGI middleware that checks the host and the API key, and counts responses.

A server on a loopback address rejects other names in the Host header, because a page of any site could otherwise reach it
through a name of its own that resolves to 127.0.0.1 (DNS rebinding).
"""

import asyncio
import hmac
import time
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmfast.serving.errors import ApiError, foreign_host, invalid_api_key, shutting_down
from lmfast.serving.metrics import Metrics

PROTECTED = ("/v1", "/metrics")
COUNTED = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/health",
    "/metrics",
    "/openapi.json",
    "/",
)


class Guard:
    """api_key: that requests under PROTECTED must carry, if set. hosts: names of the server, without ports; None: any."""

    def __init__(self, app: ASGIApp, api_key: str | None, hosts: Collection[str] | None, metrics: Metrics):
        self.app, self.hosts, self.metrics = app, hosts, metrics
        self.key = None if api_key is None else api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, began, status, started = scope["path"], time.perf_counter(), 500, False

        async def note_status(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
            await send(message)

        try:
            if (refusal := self._refusal(path, Headers(scope=scope))) is not None:
                await error_response(refusal)(scope, receive, note_status)
            else:
                await self.app(scope, receive, note_status)
        except asyncio.CancelledError:  # the server ends; a stream has been ended by EventStream
            if not started:
                await error_response(shutting_down())(scope, receive, note_status)
        finally:
            endpoint = path if path in COUNTED else "other"
            self.metrics.responded(endpoint, status, time.perf_counter() - began)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if self.hosts is not None and host_name(headers.get("host", "")) not in self.hosts:
            return foreign_host(headers.get("host", ""))
        if self.key is None or not path.startswith(PROTECTED):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), self.key)
        return None if right and scheme.lower() == "bearer" else invalid_api_key()


def error_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)


def host_name(host: str) -> str:
    """The name in a Host header.

    >>> [host_name(host) for host in ("LocalHost:8000", "[::1]:80", "[::1]", "[::1].example.org")]
    ['localhost', '::1', '::1', '[']
    """
    name, bracket, port = host[1:].partition("]") if host.startswith("[") else ("", "", "")
    if bracket and (not port or port.startswith(":")):
        return name.lower()
    return host.partition(":")[0].lower()
