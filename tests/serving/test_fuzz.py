"""Malformed requests on the socket of a server in a process of its own: no 5xx, no hang, and it answers as before.

Bodies are valid ones with other values, names and types, or broken ones; HTTP has other methods, paths and headers; and raw
bytes are no HTTP. The same requests in every run.
"""

import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.interop.models import SMALL, make_run, random_model, tokenizer
from tests.processes import wait_until

for package in ("starlette", "uvicorn", "pydantic", "prometheus_client"):
    pytest.importorskip(package)

TIMEOUT = 60  # seconds for an answer: far more than any takes
COMPLETION: dict[str, Any] = {"prompt": "the cat", "max_tokens": 2, "temperature": 0}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2, "temperature": 0}
NAMES = (
    "model prompt messages max_tokens max_completion_tokens temperature top_p top_k seed stop n logprobs top_logprobs "
    "stream stream_options user ignore_eos truncation echo best_of suffix presence_penalty frequency_penalty logit_bias "
    "tools tool_choice response_format store metadata service_tier parallel_tool_calls functions modalities audio"
).split()

ODD_NUMBERS = [0, -1, 1, 2, 20, 21, 128, 129, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, 1e308, -0.0, 1e-320]
ODD_TEXTS = [
    "",
    "\0",
    "\ud800",
    "a\udc00b",
    "\U0010ffff",
    "x" * 3000,
    "<|endoftext|>",
    "true",
    "5",
    "auto",
    "user",
]
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(ODD_NUMBERS)
    | st.text(max_size=10) | st.sampled_from(ODD_TEXTS)
)  # fmt: skip
JUNK = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "include_usage", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
MESSAGE = st.fixed_dictionaries(
    {}, optional={
        "role": st.sampled_from(["system", "user", "assistant", "developer", "tool"]) | JUNK,
        "content": st.sampled_from(["hi", "", [{"type": "text", "text": "hi"}], [{"type": "image_url"}]]) | JUNK,
        "name": JUNK, "tool_calls": JUNK, "refusal": JUNK,
    },
)  # fmt: skip
CHANGES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=8), JUNK, min_size=1, max_size=3)
CHANGES |= st.fixed_dictionaries({"messages": st.lists(MESSAGE, max_size=4)})
LIMITS: dict[str, list[Any]] = {
    "prompt": ["", "a" * 70, [0], [269], [270], [[1, 2], [3]], ["a", "b"], [], [[]], [1, "a"], ["a"] * 64, ["a"] * 65, 5],
    "max_tokens": [1, 5, 63, 64, 65, 0, 1.0, 10**20],
    "temperature": [0, 0.5, 2, 1e-40, 2.1, -0.1, "1"],
    "top_p": [1e-9, 0.5, 1, 0, 1.1],
    "top_k": [1, 300, -1, 0, 2**40, 1.5],
    "seed": [0, -1, 2**63 - 1, -(2**63), 2**63, 0.5],
    "stop": ["a", ["b", "\n"], [], "", [""], ["x"] * 16, ["x"] * 17, "é", "\U0010ffff", 1],
    "n": [1, 2, 20, 128, 0, 129, True],
    "logprobs": [0, 5, 20, 21, True, False, None],
    "top_logprobs": [0, 5, 20, 21],
    "stream": [True, True, False, 1],
    "stream_options": [{"include_usage": True}, {}, {"include_usage": 1}, {"x": True}],
    "ignore_eos": [True, False, 0],
    "truncation": ["auto", "disabled", "x"],
    "user": ["a", "", "x" * 1000, 5],
    "best_of": [1, 2, None],
    "response_format": [{"type": "text"}, {"type": "json_object"}],
    "messages": [
        [{"role": "user", "content": "a" * 100}], [{"role": "user", "content": ""}], [{"role": "system", "content": "a"}],
        [{"role": ("user", "assistant")[i % 2], "content": "a" * 30} for i in range(9)],
        [{"role": "system", "content": "a" * 20}, {"role": "user", "content": [{"type": "text", "text": "<|end|>"}]}],
    ],
}  # fmt: skip
"""values at the limits of what is accepted, by name"""
LIMIT = st.sampled_from([(name, value) for name, values in LIMITS.items() for value in values])
AT_LIMITS = st.lists(LIMIT, min_size=1, max_size=5).map(dict)
ONLY = {
    "/v1/completions": {"prompt", "best_of"},
    "/v1/chat/completions": {"messages", "top_logprobs", "truncation"},
}
"""names that the other endpoint does not have"""
ENDPOINTS = st.sampled_from([("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)])
NESTED = [
    opening * depth + closing * depth
    for depth in (50, 250, 100_000)
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"), (b"[", b""))
]


def in_bytes(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")


@st.composite
def changed_bodies(draw) -> tuple[str, bytes]:
    path, body = draw(ENDPOINTS)
    if draw(st.booleans()):
        foreign = set().union(*ONLY.values()) - ONLY[path]
        changes = {name: value for name, value in draw(AT_LIMITS).items() if name not in foreign}
    else:
        changes = draw(CHANGES)
    return path, in_bytes(body | changes, draw(st.booleans()))


@st.composite
def broken_bodies(draw) -> tuple[str, bytes]:
    path, body = draw(ENDPOINTS)
    data = in_bytes(body, True)
    begin = draw(st.integers(0, len(data)))
    end = draw(st.integers(begin, len(data)))
    inserted = draw(
        st.binary(max_size=8) | st.sampled_from([*NESTED, b"NaN", b"1e999", b"9" * 5000, b"\\ud800"])
    )
    return path, data[:begin] + inserted + data[end:]


METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "post", "X"]
PATHS = [
    "/", "/v1", "/v1/", "/v1/models", "/v1/models/x", "/v1/models/a/b", "/v1/completions", "/v1/completions/", "/health",
    "/v1/chat/completions", "/metrics", "/openapi.json", "//", "/../../etc/passwd", "/%00", "/%ff%fe", "/v1/models/%2e%2e",
    "/v1/completions?stream=true", "*", "http://example.org/", "/" + "x" * 5000, "/v1/embeddings", "/docs", "?", "",
]  # fmt: skip
HEADERS = {
    "Host": ["127.0.0.1", "localhost:1", "example.org", "", "[::1", "a" * 300],
    "Content-Type": ["application/json", "text/plain", "", "application/json; charset=x", "multipart/form-data", "é"],
    "Authorization": ["Bearer x", "Bearer", "", "Basic eDp5", "é" * 10],
    "Content-Length": ["0", "-1", "1", "10000000000000000000000", "x", "5, 5", ""],
    "Transfer-Encoding": ["chunked", "gzip", "chunked, chunked", "x", ""],
    "Expect": ["100-continue", "x"],
    "Upgrade": ["websocket", "h2c", "x"],
    "Connection": ["upgrade", "keep-alive", "close", "x"],
    "Accept": ["text/html", "*/*", "x"],
    "Origin": ["null", "http://example.org"],
    "Cookie": ["a" * 20_000, "=;="],
    "Sec-WebSocket-Key": ["x"],
    "Sec-WebSocket-Version": ["13"],
    "X-Forwarded-For": ["1.2.3.4, x"],
    "Access-Control-Request-Method": ["POST"],
}  # fmt: skip
HEADER = st.sampled_from([(name, value) for name, values in HEADERS.items() for value in values])
HEADER |= st.tuples(st.text("abcXYZ-_:é \t", max_size=8), st.text(max_size=8))


@st.composite
def odd_requests(draw) -> bytes:
    """What HTTP allows, and a little of what it does not."""
    method, path = draw(st.sampled_from(METHODS)), draw(st.sampled_from(PATHS) | st.text(max_size=8))
    fields = draw(st.lists(HEADER, max_size=5))
    body = draw(
        st.sampled_from(
            [b"", in_bytes(COMPLETION, True), in_bytes(CHAT, True), b"\0", b"5\r\nabcde\r\n0\r\n\r\n"]
        )
    )
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    if draw(st.booleans()):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogatepass") + body


@st.composite
def raw_bytes(draw) -> bytes:
    """No HTTP, or HTTP with bytes replaced."""
    if draw(st.booleans()):
        return draw(st.binary(min_size=1, max_size=100))
    data = framed("/v1/completions", in_bytes(COMPLETION, True))
    begin = draw(st.integers(0, len(data)))
    return data[:begin] + draw(st.binary(max_size=20)) + data[begin + draw(st.integers(0, 5)) :]


def framed(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Server:
    """`lmfast serve` with a tiny model."""

    def __init__(self, run, log):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        with log.open("wb") as output:
            words = ["-m", "lmfast.serve", str(run), "--port", str(self.port), "--device", "cpu"]
            self.process = subprocess.Popen([sys.executable, *words], stdout=output, stderr=output)
        wait_until(self.answers, self.alive)

    def alive(self) -> bool:
        return self.process.poll() is None

    def answers(self) -> bool:
        try:
            return (
                self.exchange(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", True)[
                    0
                ]
                == 200
            )
        except ConnectionRefusedError:
            return False

    def exchange(self, data: bytes, complete: bool) -> tuple[int, bytes]:
        """(status, body) of the answer, (0, b"") if the server closed the connection without one.

        complete: `data` is a whole request, so that the server need not be told that no more follows."""
        received = bytearray()
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT) as connection:
            try:
                connection.sendall(data)
                if not complete:
                    connection.shutdown(socket.SHUT_WR)
                while found := connection.recv(1 << 16):
                    received += found
            except ConnectionError:  # it was closed before all was sent
                pass
        if not received:
            return 0, b""
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), head[:100]
        return int(head[9:12]), body


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    names = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
    run = make_run(folder / "run", random_model(SMALL), tokenizer(*names))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    server = Server(run, folder / "log.txt")
    yield server
    server.process.terminate()
    server.process.wait(60)


@pytest.fixture(autouse=True)
def as_before(server):
    """Each test leaves a server that answers as before, and has logged no failure."""

    def choices(path: str, body: dict[str, Any]) -> Any:
        address, kind = f"http://127.0.0.1:{server.port}{path}", {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(address, in_bytes(body, True), kind)) as answer:
            return json.load(answer)["choices"]

    valid = [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)]
    before = [choices(path, body) for path, body in valid]
    yield
    assert server.alive()
    assert [choices(path, body) for path, body in valid] == before
    assert "Traceback" not in server.log.read_text("utf-8", "replace")


def try_all(strategy: st.SearchStrategy, examples: int, check: Callable[[Any], None]) -> None:
    tried = count()

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def one(value) -> None:
        next(tried)
        check(value)

    one()
    assert next(tried) >= examples


def many(number: int):
    """A twentieth by default, all with -m ci."""
    return pytest.mark.parametrize("examples", [number // 20, pytest.param(number, marks=pytest.mark.ci)])


def check_answer(status: int, body: bytes, *allowed: int) -> None:
    assert status == 200 or status in allowed, (status, body[:300])
    assert b"internal_error" not in body
    if status != 200:
        error = json.loads(body)["error"]
        assert error["message"] and error["type"] and {"param", "code"} <= error.keys()


@many(4000)
def test_changed_bodies(server, examples):
    def check(value):
        check_answer(*server.exchange(framed(*value), True), 400, 404, 429)

    try_all(changed_bodies(), examples, check)


@many(2000)
def test_broken_bodies(server, examples):
    def check(value):
        check_answer(*server.exchange(framed(*value), True), 400, 404)

    try_all(broken_bodies(), examples, check)


@many(2500)
def test_odd_methods_paths_and_headers(server, examples):
    try_all(odd_requests(), examples, lambda data: no_failure(*server.exchange(data, False)))


@many(1500)
def test_raw_bytes(server, examples):
    try_all(raw_bytes(), examples, lambda data: no_failure(*server.exchange(data, False)))


def no_failure(status: int, body: bytes) -> None:
    assert status < 500, (status, body[:300])
    assert b"Traceback" not in body and b"site-packages" not in body
