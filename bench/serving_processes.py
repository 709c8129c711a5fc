"""Servers in processes of their own, for measurements: `lmfast serve`, and llama.cpp's (package xllamacpp).

In: a run folder or a GGUF file. Out: the port, and the process, whose processor time and memory can be read. A server is a
context manager; leaving it ends the process. Raises RuntimeError with what it printed if it does not start.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from bench import machine

START = 120.0  # seconds until a server must answer, and until it must be idle
IDLE, WATCHED = 0.02, 0.5  # part of a processor that an idle server takes at most, and seconds of watching it
OURS = (sys.executable, "-m", "lmfast.serve")
LLAMA_CPP = (sys.executable, "-m", "bench.llama_cpp")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A server on 127.0.0.1: `command` with `--port N`."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.port = free_port()
        self.log = tempfile.TemporaryFile(mode="w+", encoding="utf-8")  # noqa: SIM115  closed by `close`
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": machine.import_path(machine.ROOT)} | (environment or {}),
        )  # fmt: skip
        self.usage = psutil.Process(self.process.pid)
        try:
            self._wait()
            self._wait_until_idle()
        except BaseException:
            self.close()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + START
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(
                    f"the server ended with {self.process.returncode}: {self.printed()[-2000:]}"
                )
            try:
                self.get("/health")
                return
            except (OSError, urllib.error.URLError):
                if time.monotonic() > until:
                    raise RuntimeError(f"the server does not answer: {self.printed()[-2000:]}") from None
                time.sleep(0.05)

    def _wait_until_idle(self) -> None:
        """After its start, ours loads or compiles the tokenizer's code in the background."""
        until = time.monotonic() + START
        while time.monotonic() < until:
            before = self.cpu
            time.sleep(WATCHED)
            if self.cpu - before <= IDLE * WATCHED:
                return
        raise RuntimeError(f"the server is busy without requests: {self.printed()[-2000:]}")

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return answer.read().decode("utf-8")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that answers a request. Raises RuntimeError for an error."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"{path}: status {error.code}: {error.read()[:500]!r}") from None

    def printed(self) -> str:
        self.log.seek(0)
        return self.log.read()

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = self.usage.cpu_times()
        return times.user + times.system

    @property
    def rss(self) -> int:
        """Resident bytes."""
        return self.usage.memory_info().rss

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def our_server(
    run: Path, threads: int, device: str = "cpu", bf16: bool = False, *flags: str
) -> ServerProcess:
    """`lmfast serve`."""
    words = [*OURS, str(run), "--device", device, *(["--bf16"] if bf16 else []), *flags]
    return ServerProcess(words, {"OMP_NUM_THREADS": str(threads)})


def llama_cpp_server(path: Path, context_length: int, slots: int, threads: int, flash: bool) -> ServerProcess:
    """llama.cpp's server with continuous batching: `slots` sequences of at most context_length tokens each."""
    sizes = {"--context-length": context_length, "--slots": slots, "--threads": threads}
    words = [word for name, value in sizes.items() for word in (name, str(value))]
    return ServerProcess([*LLAMA_CPP, str(path), *words, *(["--flash"] if flash else [])])
