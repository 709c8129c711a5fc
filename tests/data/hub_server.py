"""A local server with the part of the Hugging Face Hub's protocol that downloads need, and with faults on request.

Datasets and models are dictionaries of path → bytes. Large files ("LFS", here: from `LARGE` bytes) are redirected to
another path, as the hub redirects to its storage hosts, and identified by their sha256; small ones by git's hash of their
blob. Ranges are answered as in RFC 9110. Every request is noted in `requests` as (method, path, Range or None).
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubServer:
    """with HubServer({"owner/name": {"a.txt": b"…"}}) as hub: … hub.url

    Faults, each a number that counts down: `breaks` (how many answers stop after `break_at` bytes and close the
    connection), `corrupt` (how many have a wrong byte), `unavailable` (how many are a 503), `then_unavailable` (how many
    are after the last break). stall: an event that answers wait for after `break_at` bytes."""

    def __init__(
        self,
        datasets: dict[str, dict[str, bytes]],
        gated: set[str] = frozenset(),
        models: dict[str, dict[str, bytes]] | None = None,
    ):
        self.datasets, self.gated, self.models = datasets, gated, models or {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.breaks = self.corrupt = self.unavailable = self.then_unavailable = 0
        self.break_at = 0
        self.stall: threading.Event | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        if self.stall is not None:
            self.stall.set()
        self._server.shutdown()
        self._server.server_close()

    def transfers(self) -> list[str | None]:
        """The ranges of the requests for file contents."""
        return [
            asked for method, path, asked in self.requests
            if method == "GET" and "/api/" not in path and not self._is_redirected(path)
        ]  # fmt: skip

    def _is_redirected(self, path: str) -> bool:
        data = self.file_at(path)
        return "/resolve/" in path and data is not None and len(data) >= LARGE

    def file_at(self, path: str) -> bytes | None:
        found = re.fullmatch(r"/(?:datasets/|storage/)?([^/]+/[^/]+)/(?:resolve/[^/]+/)?(.*)", path)
        repos = self.datasets if path.startswith("/datasets/") else self.datasets | self.models
        return None if found is None else repos.get(found[1], {}).get(found[2])


def _handler(hub: HubServer):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if hub.unavailable:
                hub.unavailable -= 1
                return self.reply(503, b"")
            match = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)(?:/revision/([^/]+))?", path)
            if match:
                return self.listing(getattr(hub, match[1]), match[2], match[3] or "main")
            match = re.fullmatch(r"/api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)/(.*)", path)
            if match:
                return self.tree(getattr(hub, match[1])[match[2]], unquote(match[4]) + "/")
            data = hub.file_at(path)
            if data is None:
                return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            digest = sha256(data) if len(data) >= LARGE else blob_sha1(data)
            known = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
            if "/resolve/" in path and len(data) >= LARGE:
                repo, name = re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/[^/]+/(.*)", path).groups()
                known |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
                return self.reply(302, b"", known | {"Location": f"{hub.url}/storage/{repo}/{name}"})
            return self.send_file(data, known, body)

        def listing(self, repos: dict, repo: str, revision: str) -> None:
            if repo in hub.gated:
                return self.reply(403, b"", {"X-Error-Code": "GatedRepo"})
            if repo not in repos:
                return self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", COMMIT):
                return self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            siblings = []
            for name, data in repos[repo].items():
                entry = {"rfilename": name, "size": len(data), "blobId": blob_sha1(data)}
                if len(data) >= LARGE:
                    entry["lfs"] = {"size": len(data), "sha256": sha256(data), "pointerSize": 130}
                siblings.append(entry)
            answer = {"id": repo, "sha": COMMIT, "siblings": siblings}
            return self.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def tree(self, files: dict[str, bytes], folder: str) -> None:
            entries = []
            for name, data in files.items():
                if name.startswith(folder):
                    entry = {"type": "file", "path": name, "size": len(data), "oid": blob_sha1(data)}
                    if len(data) >= LARGE:
                        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
                    entries.append(entry)
            if not entries:
                return self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            entries.append({"type": "directory", "path": f"{folder}more", "size": 0, "oid": "0" * 40})
            return self.reply(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})

        def send_file(self, data: bytes, known: dict, body: bool) -> None:
            begin = 0
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if asked:
                begin = int(asked[1])
                if begin >= len(data):
                    return self.reply(416, b"", {"Content-Range": f"bytes */{len(data)}"})
                known = known | {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
            rest = bytearray(data[begin:])
            if hub.corrupt:
                hub.corrupt -= 1
                rest[len(rest) // 2] ^= 0xFF
            self.send_response(206 if asked else 200)
            for name, value in (known | {"Content-Length": str(len(rest))}).items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return None
            try:
                if hub.stall is not None:
                    self.wfile.write(rest[: hub.break_at])
                    self.wfile.flush()
                    hub.stall.wait(30)
                    rest = rest[hub.break_at :]
                elif hub.breaks:
                    hub.breaks -= 1
                    if not hub.breaks:
                        hub.unavailable = hub.then_unavailable
                    self.wfile.write(rest[: hub.break_at])
                    self.close_connection = True
                    return None
                self.wfile.write(rest)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client was killed
            return None

        def reply(self, status: int, body: bytes, headers: dict | None = None) -> None:
            self.send_response(status)
            for name, value in ((headers or {}) | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    return Handler
