"""Whole, streamed and broken answers, from a server that sends them in pieces."""

import contextlib
import json
import socket
import threading
import time

import pytest

from bench import serving_clients
from bench.serving_clients import Clients, Connection, without_chunks

STREAM = 'data: {"choices": [{"text": "a é"}]}\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n'.encode()


def chunked(data: bytes, size: int) -> bytes:
    parts = [data[at : at + size] for at in range(0, len(data), size)] + [b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def head(*fields: str, status: int = 200) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Text", *fields, "", ""]).encode()


@pytest.fixture
def serve():
    """serve(answers) → the port of a server that answers the requests of each connection with these pieces, in turn."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=32)
    opened, threads = [], []

    def start(target, *arguments):
        threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        threads[-1].start()

    def converse(connection, answers):
        for pieces in answers:
            if not connection.recv(1 << 16):
                break
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(0.01)
        connection.shutdown(socket.SHUT_RDWR)

    def accept(answers):
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                opened.append(listener.accept()[0])
                start(until_closed, opened[-1], answers)

    def until_closed(connection, answers):
        with contextlib.suppress(OSError):  # the clients have left
            converse(connection, answers)

    def serve(*answers: list[bytes]) -> int:
        start(accept, answers)
        return listener.getsockname()[1]

    serve.opened = opened
    yield serve
    # Closed only when no thread uses them: a number is given to the next socket at once.
    for one in (listener, *opened):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join()
    for one in (listener, *opened):
        one.close()


def test_answers_are_complete_and_their_times_ordered(serve):
    whole = json.dumps({"choices": [{"text": "é" * 30}]}, ensure_ascii=False).encode()
    sent = head(f"content-length: {len(whole)}") + whole
    stream = chunked(STREAM, 7)
    port = serve(
        [sent[:20], sent[20:60], sent[60:]], [head("Transfer-Encoding: chunked"), stream[:30], stream[30:]]
    )
    with Clients() as clients:
        first = clients(port, "/x", [{}] * 3)
        second = clients(port, "/x", [{"stream": True}] * 3)
    assert [answer.text for answer in first.answers] == ["é" * 30] * 3
    assert [answer.text for answer in second.answers] == ["a é"] * 3
    assert len(serve.opened) == 3  # kept from round to round
    for found in (first, second):
        assert all(0 < one.first < one.last <= found.seconds for one in found.answers)
        assert 0 <= found.cpu < found.seconds


def test_a_closed_connection_is_opened_again(serve):
    port = serve([head("Content-Length: 2") + b"{}"])
    with Clients() as clients:
        for _ in range(3):
            assert clients(port, "/x", [{}]).answers[0].json() == {}
            time.sleep(0.05)
    assert len(serve.opened) == 3


def test_a_connection_that_idles_is_stale(serve, monkeypatch):
    connection = Connection(serve([]))
    assert not connection.stale
    monkeypatch.setattr(serving_clients, "IDLE", -1)
    assert connection.stale


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ([head("Content-Length: 4", status=500) + b"oops"], "status 500: oops"),
        ([head("Content-Length: 4") + b"oo"], "closed after .* bytes of an answer"),
        ([], "closed after 0 bytes"),
    ],
)
def test_errors_name_the_problem(serve, pieces, problem):
    with Clients() as clients, pytest.raises(RuntimeError, match=problem):
        clients(serve(pieces), "/x", [{}])


def test_an_incomplete_stream_is_an_error():
    answer = serving_clients.Answer(200, 'data: {"choices": []}\n\n', 0.0, 0.0)
    with pytest.raises(ValueError, match="not complete"):
        _ = answer.text


def test_chunks_of_any_size():
    assert all(without_chunks(chunked(STREAM, size)) == STREAM for size in (1, 2, 50, 1000))
