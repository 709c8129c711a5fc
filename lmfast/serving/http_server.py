"""uvicorn's server as this project uses it: a second signal ends it at once, and what clients send is not logged.

Answers that are being computed when it ends are cancelled, and their clients get an error (guard.py, http.py).
"""

import asyncio
import math
import socket
from types import FrameType
from typing import Literal

import uvicorn
from starlette.types import ASGIApp

try:
    from lmfast.serving.http_protocol import LimitedProtocol

    PROTOCOL: type[asyncio.Protocol] | Literal["h11"] = LimitedProtocol
except ModuleNotFoundError:  # without httptools; h11 has a limit on the head of a request itself
    PROTOCOL = "h11"

KEEP_ALIVE_SECONDS = 75


class HttpServer(uvicorn.Server):
    """`run` serves `app` until a signal; then answers may take `drain` seconds, or until the next signal."""

    def __init__(self, app: ASGIApp, drain: float):
        config = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="on", server_header=False, ws="none",
            http=PROTOCOL,
            timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=math.ceil(drain),
        )  # fmt: skip
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Of the second signal, uvicorn heeds only SIGINT."""
        if self.should_exit:
            self.force_exit = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn would leave it to be cancelled, with a traceback
            await self.lifespan.shutdown()
