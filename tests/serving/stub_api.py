"""A server for tests of page.html: the page, and the API with answers that a test prescribes.

A test sets `chat` or `completion` to a list of steps, which the next requests replay: bytes are sent as they are, an
Event is waited for, an int is the status of an error with the body that follows. `requests` keeps the bodies received,
`disconnects` counts streams that the client ended. The real server's Content-Security-Policy is sent.
"""

import asyncio
import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PAGE = Path(__file__).parents[2] / "lmfast/serving/page.html"
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def usage(prompt: int, completion: int, cached: int = 0) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"choices": [], "usage": counts | {"prompt_tokens_details": {"cached_tokens": cached}}})


def chat_chunk(text: str, finish: str | None = None, **top: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}
    return event({"object": "chat.completion.chunk", "choices": [choice], "usage": None, **top})


def chat_answer(*pieces: Any, finish: str = "stop", prompt: int = 20, cached: int = 0, **top: Any) -> list:
    """The steps of an answer: pieces of text, with Events between them."""
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    first = event({"object": "chat.completion.chunk", "choices": [role], "usage": None, **top})
    middle = [chat_chunk(piece) if isinstance(piece, str) else piece for piece in pieces]
    count = sum(isinstance(piece, str) for piece in pieces)
    return [first, *middle, chat_chunk("", finish), usage(prompt, count, cached), DONE]


def completion_chunk(tokens: list[tuple[str, float, dict[str, float]]], finish: str | None = None) -> bytes:
    """tokens: (token, its log probability, {alternative: log probability})."""
    logprobs = {
        "tokens": [token for token, _, _ in tokens],
        "token_logprobs": [logprob for _, logprob, _ in tokens],
        "top_logprobs": [top for _, _, top in tokens],
        "text_offset": [0 for _ in tokens],
    }
    text = "".join(token for token, _, _ in tokens if not token.startswith("bytes:"))
    choice = {"index": 0, "text": text, "logprobs": logprobs if tokens else None, "finish_reason": finish}
    return event({"object": "text_completion", "choices": [choice], "usage": None})


def completion_answer(*tokens: Any, finish: str = "length", prompt: int = 4) -> list:
    middle = [token if isinstance(token, threading.Event) else completion_chunk([token]) for token in tokens]
    count = sum(isinstance(token, tuple) for token in tokens)
    return [*middle, completion_chunk([], finish), usage(prompt, count), DONE]


def error(status: int, code: str | None, message: str = "details") -> list:
    return [
        status,
        {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}},
    ]


class StubApi:
    """Serves the page and the prescribed answers at `address`, in a thread."""

    def __init__(self) -> None:
        self.reset()
        routes = [
            Route("/", self._page),
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/completions", self._completion, methods=["POST"]),
        ]
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def reset(self) -> None:
        self.model: dict[str, Any] = {"id": "stories-17m", "max_model_len": 256, "chat": True}
        self.key: str | None = None
        self.chat: list = chat_answer("Hello", " there", ".")
        self.completion: list = completion_answer((" there", -0.1, {" there": -0.1}))
        self.requests: list[dict[str, Any]] = []
        self.disconnects = 0

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    async def _page(self, request: Request) -> Response:
        text = PAGE.read_text("utf-8")

        def hashes(tag: str) -> str:
            found = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
            digests = [base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in found]
            return " ".join(f"'sha256-{digest}'" for digest in digests)

        policy = (
            f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
            "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    def _refused(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("Authorization") == f"Bearer {self.key}":
            return None
        status, body = error(401, "invalid_api_key")
        return JSONResponse(body, status)

    async def _models(self, request: Request) -> Response:
        return self._refused(request) or JSONResponse({"object": "list", "data": [self.model]})

    async def _chat(self, request: Request) -> Response:
        return await self._answer(request, self.chat)

    async def _completion(self, request: Request) -> Response:
        return await self._answer(request, self.completion)

    async def _answer(self, request: Request, steps: Any) -> Response:
        body = json.loads(await request.body())
        self.requests.append(body)
        if refused := self._refused(request):
            return refused
        steps = steps(body) if callable(steps) else steps
        if isinstance(steps[0], int):
            return JSONResponse(steps[1], steps[0], headers={"Retry-After": "2"} if steps[0] == 429 else None)
        return StreamingResponse(self._replay(steps), media_type="text/event-stream")

    async def _replay(self, steps: list) -> AsyncIterator[bytes]:
        complete = False
        try:
            for step in steps:
                if isinstance(step, bytes):
                    yield step
                    await asyncio.sleep(0.001)  # so that it is sent by itself
                    continue
                for _ in range(3000):
                    if step.is_set():
                        break
                    await asyncio.sleep(0.005)
            complete = True
        finally:
            self.disconnects += not complete
