import signal
import socket
import threading

import httpx
import pytest

from lmfast.serving.answering import Limits
from lmfast.serving.app import make_app
from lmfast.serving.http_server import HttpServer
from lmfast.serving.scheduler import Scheduler
from lmfast.serving.served_model import ServedModel
from tests.processes import wait_until
from tests.serving.server import CONTEXT, tokenizer
from tests.serving.test_scheduler import Paused


@pytest.mark.parametrize(("drain", "signals"), [(0.1, 1), (60, 2)])
def test_answers_that_are_not_finished_end_with_an_error(drain, signals, capfd):
    decoder = Paused(slots=1, context_length=CONTEXT)
    scheduler = Scheduler(decoder, 10)
    app = make_app(
        ServedModel("tiny", tokenizer(), CONTEXT, tokenizer().vocab_size, CONTEXT - 1), scheduler, Limits()
    )
    server, found = HttpServer(app, drain), {}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/completions"

        def ask(stream: bool) -> None:
            found[stream] = httpx.post(url, json={"prompt": "a", "stream": stream}, timeout=60)

        threads = [threading.Thread(target=server.run, kwargs={"sockets": [listener]})]
        threads += [threading.Thread(target=ask, args=(stream,)) for stream in (True, False)]
        for thread in threads:
            thread.start()
        alive = threads[0].is_alive
        wait_until(lambda: scheduler.running + scheduler.waiting == 2, alive)
        for _ in range(signals):
            server.handle_exit(signal.SIGTERM, None)
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    decoder.gate.release(1000)
    scheduler.close()
    whole, streamed = found[False], found[True]
    assert whole.status_code == 503 and whole.json()["error"]["code"] == "shutting_down"
    assert streamed.status_code == 200 and '"code":"shutting_down"' in streamed.text
    assert "Traceback" not in capfd.readouterr().err


def test_invalid_requests_are_not_logged(capfd):
    server = HttpServer(nothing, 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        wait_until(lambda: server.started, thread.is_alive)
        with socket.create_connection(listener.getsockname(), timeout=30) as connection:
            connection.sendall(b"\x16\x03\x01\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
    assert capfd.readouterr().err == ""


async def nothing(scope, receive, send):
    """An application that only starts and stops."""
    assert scope["type"] == "lifespan"
    for kind in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{kind}.complete"})
