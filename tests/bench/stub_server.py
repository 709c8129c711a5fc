"""A server with the API that bench/serving_*.py use, in the place of lmfast's and of llama.cpp's:
`python -m tests.bench.stub_server RUN --port N`, other flags ignored. Greedy completions of one prompt, one after another.
With SHIFT=1, ids are others than the model's.
"""

import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bench.serving_offline import Offline

LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    offline: Offline

    def do_GET(self):
        self.answer({"status": "ok"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with LOCK:
            (ids,) = self.offline.generate([body["prompt"]], body["max_tokens"])
        shift = int(os.environ.get("SHIFT", "0"))
        texts = [self.offline.tokenizer.decode([token + shift]) for token in ids]
        if not body["stream"]:
            self.answer({"choices": [{"text": "".join(texts)}]})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        events = [json.dumps({"choices": [{"text": text}]}) for text in texts]
        for event in [*events, '{"choices": []}', "[DONE]"]:
            self.chunk(f"data: {event}\n\n".encode())
        self.chunk(b"")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, value) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections at once; further ones would wait a second


if __name__ == "__main__":
    Handler.offline = Offline(Path(sys.argv[1]), threads=1)
    Server(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
