import contextlib
import signal
import socket
import threading
import time

import pytest

from lmfast.serving.http_protocol import MAX_HEAD, LimitedProtocol
from lmfast.serving.http_server import HttpServer
from tests.processes import wait_until

REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"


@pytest.fixture
def connect():
    """Opens a connection to a server that answers "abab" to a body "ab"."""
    server = HttpServer(echo_twice, 1)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started, thread.is_alive)
        address = listener.getsockname()
        yield lambda: stack.enter_context(socket.create_connection(address, timeout=30))
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive()


async def echo_twice(scope, receive, send):
    if scope["type"] == "lifespan":
        for kind in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{kind}.complete"})
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": body * 2})


def until_closed(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(4096):
            found += data
    return found


def test_a_head_that_is_too_large_is_refused(connect):
    connection = connect()
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        for _ in range(400):
            connection.sendall(b"a" * MAX_HEAD)
        pytest.fail("26 MB of headers were read")


def test_slow_heads_and_silent_connections_are_closed(connect, monkeypatch):
    kept = connect()
    kept.sendall(REQUEST)
    assert kept.recv(4096).endswith(b"abab")
    monkeypatch.setattr(LimitedProtocol, "head_seconds", 0.2)
    silent, slow = connect(), connect()
    slow.sendall(b"GET / HTTP/1.1\r\nHost:")
    assert until_closed(silent) == until_closed(slow) == b""
    time.sleep(0.3)
    kept.sendall(REQUEST)  # what comes between requests is not limited by this
    assert kept.recv(4096).endswith(b"abab")


def test_requests_in_pieces_and_one_after_the_other(connect):
    connection = connect()
    for _ in range(3):
        for byte in REQUEST:
            connection.sendall(bytes([byte]))
        assert connection.recv(4096).endswith(b"abab")
    connection.sendall(REQUEST * 3 + b"GET")
    found = b""
    while found.count(b"abab") < 3:
        found += connection.recv(4096)
