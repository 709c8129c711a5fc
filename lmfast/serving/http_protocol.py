"""uvicorn's HTTP protocol with limits on the head of a request, its first line and headers, which uvicorn does not have.

A connection whose head is longer than MAX_HEAD bytes gets status 400; one whose head takes more than HEAD_SECONDS, or that
sends nothing for as long after it was opened, is closed.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 65536  # more by what is read at once, about 256 KiB
HEAD_SECONDS = 30.0


class LimitedProtocol(HttpToolsProtocol):
    head_seconds = HEAD_SECONDS

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.heads = self.head_bytes = (
            0  # heads begun; bytes of the one being read, after those read with its first
        )
        self.in_head = False
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.head_timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.heads, self.head_bytes, self.in_head = self.heads + 1, 0, True
        self._limit_head()

    def on_headers_complete(self) -> None:
        self.in_head = False
        self.head_timer.cancel()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        before = self.heads
        super().data_received(data)
        if self.in_head and self.heads == before:
            self.head_bytes += len(data)
            if self.head_bytes > MAX_HEAD:
                self.send_400_response("The head of the request is too large.")

    def _limit_head(self) -> None:
        if self.heads:
            self.head_timer.cancel()
        self.head_timer = asyncio.get_running_loop().call_later(self.head_seconds, self._give_up_head)

    def _give_up_head(self) -> None:
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:  # an earlier request is being answered
            self._limit_head()
        else:
            self.transport.close()
