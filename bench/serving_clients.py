"""HTTP clients of a server in a process of their own: `python -m bench.serving_clients`, started by `Clients`.

In: a round as a line of JSON: {"port", "path", "bodies": [one request for each connection]}. Connections are kept from round
to round. Once all are open, the requests are sent one after another without waiting. Out: a line of JSON with the seconds
from the first byte sent to the last one received, the processor time of this process meanwhile, and the answers, each with
the seconds until its first data and its end. The one thread only collects bytes until an answer is complete; everything
else is done after the round.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from bench import machine

TIMEOUT = 120.0  # seconds without any data
IDLE = 2.0  # seconds after which a connection is opened again: servers close theirs after 5
RECEIVED = 1 << 18
EVENT = b"data: "  # what an event of a stream starts with


@dataclass(frozen=True)
class Answer:
    """body: without its transfer encoding. first: seconds until the first data, which for a stream is its first event."""

    status: int
    body: str
    first: float
    last: float

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The JSON of a stream's events. Raises ValueError for a stream that does not end with [DONE]."""
        lines = [line[len("data: ") :] for line in self.body.split("\n") if line.startswith("data: ")]
        if not lines or lines[-1].strip() != "[DONE]":
            raise ValueError(f"the stream is not complete: {self.body[-200:]!r}")
        return [json.loads(line) for line in lines[:-1]]

    @property
    def text(self) -> str:
        """Of a completion's only choice, streamed or not."""
        if self.body.startswith("data: "):
            return "".join(event["choices"][0]["text"] for event in self.events() if event["choices"])
        return self.json()["choices"][0]["text"]


@dataclass(frozen=True)
class Round:
    """What the clients measured. cpu: seconds of processor time that they took themselves."""

    seconds: float
    cpu: float
    answers: list[Answer]


class Clients:
    """The process of the clients; a context manager that ends it."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": machine.import_path(machine.ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.serving_clients"], env=environment, text=True, encoding="utf-8",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, port: int, path: str, bodies: Sequence[dict[str, Any]]) -> Round:
        """Sends all requests at once, each on a connection of its own. Raises RuntimeError if an answer is an error."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"port": port, "path": path, "bodies": list(bodies)}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the clients ended with {self.process.wait()}")
        found = json.loads(line)
        if "error" in found:
            raise RuntimeError(f"{path}: {found['error']}")
        answers = [Answer(*answer) for answer in found["answers"]]
        for answer in answers:
            if answer.status != 200:
                raise RuntimeError(f"{path}: status {answer.status}: {answer.body[:200]}")
        return Round(found["seconds"], found["cpu"], answers)

    def __enter__(self) -> "Clients":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


class Connection:
    """One connection to a local server, used for one request at a time."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.used = time.monotonic()
        self.expect(b"")

    def expect(self, first: bytes) -> None:
        """Forgets the last answer; `first` is what the first data of the next contains."""
        self.data, self.wanted = bytearray(), first
        self.head = -1  # length of the head, known once it is complete
        self.length: int | None = None  # of the whole answer; None for a chunked one
        self.first: float | None = None
        self.last = 0.0

    @property
    def stale(self) -> bool:
        """Whether the server has closed it, or soon may. llama.cpp's closes it after each stream."""
        if time.monotonic() - self.used > IDLE:
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            return bool(
                selector.select(0)
            )  # an answer is never read before its end, so this is the end of all

    def receive(self) -> bool:
        """Takes what has arrived; True once the answer is complete."""
        found = self.socket.recv(RECEIVED)
        if not found:
            raise ConnectionError(
                f"closed after {len(self.data)} bytes of an answer: {bytes(self.data[-200:])!r}"
            )
        self.data += found
        if self.head < 0:
            end = self.data.find(b"\r\n\r\n")
            if end < 0:
                return False
            self.head = end + 4
            self.length = content_length(bytes(self.data[:end]))
        if self.first is None and len(self.data) > self.head and self.wanted in self.data:
            self.first = time.perf_counter()
        if self.length is not None:
            return len(self.data) >= self.head + self.length
        return self.data.endswith(b"\r\n0\r\n\r\n")

    def answer(self, began: float) -> tuple[int, str, float, float]:
        """The fields of an Answer."""
        body = bytes(self.data[self.head :])
        if self.length is None:
            body = without_chunks(body)
        first = self.last if self.first is None else self.first
        status = int(self.data[: self.head].split(b" ", 2)[1])
        return status, body.decode("utf-8"), first - began, self.last - began


def content_length(head: bytes) -> int | None:
    """Of an answer's head; None for a chunked answer."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


def without_chunks(data: bytes) -> bytes:
    """The body that was sent in chunks."""
    parts, at = [], 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end].split(b";")[0], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def encoded(path: str, body: dict[str, Any]) -> bytes:
    """The bytes of a request."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def exchange(connections: Sequence[Connection], requests: Sequence[bytes], first: bytes) -> dict[str, Any]:
    """Sends a request on each connection and collects the answers."""
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.expect(first)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        processor, began = time.process_time(), time.perf_counter()
        for connection, request in zip(connections, requests, strict=True):
            connection.socket.sendall(request)
        waiting = len(connections)
        while waiting:
            ready = selector.select(TIMEOUT)
            if not ready:
                raise TimeoutError(f"no data for {TIMEOUT} s; {waiting} answers are missing")
            for key, _ in ready:
                connection: Connection = key.data
                if connection.receive():
                    connection.last = time.perf_counter()
                    waiting -= 1
                    selector.unregister(connection.socket)
        seconds, cpu = time.perf_counter() - began, time.process_time() - processor
    for connection in connections:
        connection.used = time.monotonic()
    return {
        "seconds": seconds,
        "cpu": cpu,
        "answers": [connection.answer(began) for connection in connections],
    }


def main() -> None:
    kept: dict[int, list[Connection]] = {}
    for line in sys.stdin:
        order = json.loads(line)
        port, bodies = order["port"], order["bodies"]
        requests = [encoded(order["path"], body) for body in bodies]
        connections = kept.setdefault(port, [])
        try:
            for connection in [one for one in connections if one.stale]:
                connection.socket.close()
                connections.remove(connection)
            while len(connections) < len(bodies):
                connections.append(Connection(port))
            streamed = any(body.get("stream") for body in bodies)
            found = exchange(connections[: len(bodies)], requests, EVENT if streamed else b"")
        except (OSError, ValueError) as error:
            del kept[port]
            found = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
