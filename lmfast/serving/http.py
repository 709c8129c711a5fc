"""Reading requests within limits, and noticing clients that leave: what Starlette does not do.

Bodies must be application/json, which a page of another origin cannot send without a permission that this server never
gives. Raises ApiError.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lmfast.serving.answers import event
from lmfast.serving.errors import body_too_large, body_too_slow, shutting_down, wrong_media_type

T = TypeVar("T")


class ClientLeft(Exception):
    """Nobody waits for the answer any more."""


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body of a request, at most `limit` bytes. Raises ApiError 408, 413 or 415, or ClientLeft."""
    given = request.headers.get("content-type")
    if given is None or given.partition(";")[0].strip().lower() != "application/json":
        raise wrong_media_type(given)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise body_too_large(limit)
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise body_too_large(limit)
    except TimeoutError:
        raise body_too_slow(seconds) from None
    except ClientDisconnect:
        raise ClientLeft from None
    return bytes(body)


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects. The body must have been read.

    Raises ClientLeft."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientLeft
    finally:
        for task in (working, leaving):
            if not task.done():
                task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events, sent within `context`. Stops asking for them when the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], context: AbstractContextManager[None]):
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.events, self.context = events, context
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def send_all() -> None:
            async for data in self.events:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

        try:
            with contextlib.suppress(ClientLeft), self.context:
                await unless_client_leaves(receive, send_all())
        except asyncio.CancelledError:  # the server ends
            await send({"type": "http.response.body", "body": event(shutting_down().body())})
            raise
