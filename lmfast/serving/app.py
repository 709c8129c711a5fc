"""The server's routes: OpenAI's API, metrics, health, and the page.

Every response that is not an answer is an error in OpenAI's form (errors.py). Failures inside the server are logged to
standard error; the client sees only that there was one.
"""

import contextlib
import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Collection
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lmfast.serving.answering import Answering, Limits
from lmfast.serving.errors import ApiError, internal_error, method_not_allowed, model_not_found, not_found
from lmfast.serving.guard import Guard, error_response
from lmfast.serving.http import ClientLeft
from lmfast.serving.metrics import Metrics
from lmfast.serving.openapi import openapi
from lmfast.serving.scheduler import Scheduler
from lmfast.serving.served_model import ServedModel

CLIENT_LEFT = 499  # nginx's status for a request whose client left; nobody receives it
PAGE = Path(__file__).with_name("page.html")


def make_app(
    model: ServedModel,
    scheduler: Scheduler,
    limits: Limits,
    *,
    api_key: str | None = None,
    hosts: Collection[str] | None = None,
    origins: Collection[str] = (),
) -> Starlette:
    """The application. It starts the scheduler; the caller closes it.

    api_key: required by /v1 and /metrics if set. hosts: names that requests may address the server by; None: any. origins:
    whose pages may use the API."""
    metrics = Metrics()
    answering = Answering(model, scheduler, limits, metrics)
    page = PAGE.read_text(encoding="utf-8")
    page_headers = {
        "Content-Security-Policy": page_policy(page),
        "Cache-Control": "no-cache",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }

    async def show_page(request: Request) -> Response:
        return HTMLResponse(page, headers=page_headers)

    async def health(request: Request) -> Response:
        alive = scheduler.thread.is_alive()
        return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.describe()]})

    async def one_model(request: Request) -> Response:
        name = request.path_params["name"]
        if name != model.name:
            raise model_not_found(name, model.name)
        return JSONResponse(model.describe())

    async def show_metrics(request: Request) -> Response:
        data = metrics.text(scheduler.running, scheduler.waiting, scheduler.tokens_per_second)
        return Response(data, headers={"Content-Type": metrics.content_type})

    async def schema(request: Request) -> Response:
        return JSONResponse(openapi())

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        scheduler.start()
        yield

    guard = Middleware(Guard, api_key=api_key, hosts=hosts, metrics=metrics)
    cors = Middleware(
        CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"],
        allow_headers=["*"],  # OpenAI's JavaScript client sends some of its own
    )  # fmt: skip
    app = Starlette(
        routes=[
            Route("/", show_page),
            Route("/health", health),
            Route("/metrics", show_metrics),
            Route("/openapi.json", schema),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/completions", answering.complete, methods=["POST"]),
            Route("/v1/chat/completions", answering.chat, methods=["POST"]),
        ],
        middleware=[*([cors] if origins else []), guard],
        exception_handlers={
            ApiError: _api_error,
            ClientLeft: lambda request, error: Response(status_code=CLIENT_LEFT),
            HTTPException: _routing_error,
            Exception: lambda request, error: error_response(internal_error()),
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # /v1/models/ is a 404, not an empty redirect
    return app


def page_policy(page: str) -> str:
    """The page's Content-Security-Policy: its own scripts and styles, by their hashes, and requests to this server."""

    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in texts)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


def _routing_error(request: Request, error: Exception) -> Response:
    """404 and 405 of Starlette's router."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "GET").split(", ")
        return error_response(method_not_allowed(request.method, allowed))
    return error_response(not_found(request.url.path))
