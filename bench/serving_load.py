"""A server under mixed load: `python -m bench.serving_load [--requests N] [--concurrent N] [--seed N]`.

2,000 requests (serving_requests.py), 64 at a time, streamed and whole; a tenth of the clients leave early: after half a
request, before the answer, or during a stream. Every answer of the others must be the one that `generate` gives. In the
end, no request may be running or queued, /metrics must have counted all that were answered, and the server's memory must
not have grown in the second half.

Out: a row for each of these, and bench/results/serving_load_<cpu>.json; exit code 1 if one fails. A minute on two cores.
"""

import asyncio
import contextlib
import os
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.results import Row
from bench.serving_clients import Answer, content_length, encoded, without_chunks
from bench.serving_processes import ServerProcess, our_server
from bench.serving_requests import SHAPE, Planned, plan
from bench.serving_run import write_run
from bench.target_table import measure, parser_of

PATIENCE = 120.0  # seconds for one answer
SAMPLING = 0.1  # seconds between readings of the server's memory
GROWTH = 4e6, 1e6  # bytes in the second half, must and aim
SETTLE = 10.0  # seconds until nothing runs any more
RUNNING, QUEUED = "lmfast_running_sequences", "lmfast_queued_sequences"
ANSWERED = 'lmfast_requests_total{endpoint="/v1/(?:chat/)?completions",status="200"}'


@dataclass
class Outcome:
    """What happened: answers by kind, problems, and readings (seconds, resident bytes) of the server's memory."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    seconds: float = 0.0


class Connection:
    """A client's connection, opened when needed."""

    def __init__(self, port: int):
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def send(self, data: bytes) -> asyncio.StreamReader:
        if self.streams is None:
            self.streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self.streams
        writer.write(data)
        await writer.drain()
        return reader

    def leave(self, abruptly: bool) -> None:
        """Closes it, with a reset if abruptly."""
        if self.streams is not None:
            _, writer = self.streams
            writer.transport.abort() if abruptly else writer.close()
            self.streams = None


async def receive(reader: asyncio.StreamReader, events: int | None = None) -> Answer:
    """An answer; of a stream only so many events, if given."""
    head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
    length = content_length(head)
    if length is not None:
        data = await reader.readexactly(length)
    else:
        data = bytearray()
        while events is None or events > 0:
            line = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(line, 16) + 2)
            data += line + chunk
            if chunk == b"\r\n":
                break
            events = None if events is None else events - chunk.count(b"data: ")
        data = without_chunks(bytes(data) if events is None else bytes(data) + b"0\r\n")
    if b"connection: close" in head.lower():
        raise ConnectionError("the server closes the connection")
    return Answer(int(head.split(b" ", 2)[1]), data.decode("utf-8"), 0.0, 0.0)


def difference(planned: Planned, answer: Answer) -> str:
    """How an answer differs from the expected one; empty if it does not."""
    kind = planned.kind
    if answer.status != 200:
        return f"status {answer.status}: {answer.body[:200]}"
    texts, finishes = [""] * len(kind.texts), [""] * len(kind.texts)
    parts = answer.events() if planned.stream else [answer.json()]
    for part in parts:
        for choice in part["choices"]:
            number = choice["index"]
            texts[number] += text_of(choice)
            finishes[number] = choice["finish_reason"] or finishes[number]
    found = {
        "texts": (texts, kind.texts),
        "finish reasons": (finishes, kind.finishes),
        "prompt tokens": (parts[-1]["usage"]["prompt_tokens"], kind.prompt_tokens),
    }
    return "; ".join(f"{what} {a!r} instead of {b!r}" for what, (a, b) in found.items() if a != b)


def text_of(choice: dict) -> str:
    """The text in a choice of an answer or of an event of one."""
    if "text" in choice:
        return choice["text"]
    return (choice["message"] if "message" in choice else choice["delta"]).get("content") or ""


async def ask(connection: Connection, planned: Planned, outcome: Outcome) -> None:
    """Sends one request, and compares the answer or leaves."""
    data = encoded(planned.kind.path, planned.body)
    abruptly = planned.after % 2 == 0
    if planned.leaving == "half a request":
        await connection.send(data[: len(data) // 2])
    else:
        reader = await connection.send(data)
        if planned.leaving == "before the answer":
            await asyncio.sleep(planned.after / 1e3)
        elif planned.leaving == "during the stream":
            answer = await receive(reader, planned.after)
            if answer.status != 200:
                outcome.problems.append(f"status {answer.status}: {answer.body[:200]}")
        else:
            problem = difference(planned, await receive(reader))
            if problem:
                outcome.problems.append(f"{problem} ({planned.title})")
    if planned.leaving != "stays":
        connection.leave(abruptly)
    outcome.counts[planned.leaving] += 1


async def client(port: int, planned: Iterator[Planned], outcome: Outcome) -> None:
    """Sends requests one after another until none is left."""
    connection = Connection(port)
    for one in planned:
        try:
            async with asyncio.timeout(PATIENCE):
                await ask(connection, one, outcome)
        except Exception as error:  # whatever it is, this request is lost and the others go on
            outcome.problems.append(f"{type(error).__name__}: {error} ({one.title}, {one.leaving})")
            connection.leave(abruptly=True)
    connection.leave(abruptly=False)


async def watch(server: ServerProcess, outcome: Outcome) -> None:
    """Reads the server's memory until cancelled."""
    began = time.perf_counter()
    while True:
        outcome.memory.append((time.perf_counter() - began, server.rss))
        await asyncio.sleep(SAMPLING)


async def load(server: ServerProcess, requests: Sequence[Planned], concurrent: int) -> Outcome:
    outcome, planned = Outcome(), iter(requests)
    watching = asyncio.create_task(watch(server, outcome))
    began = time.perf_counter()
    await asyncio.gather(*(client(server.port, planned, outcome) for _ in range(concurrent)))
    outcome.seconds = time.perf_counter() - began
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return outcome


def metric(text: str, pattern: str) -> float:
    """The sum of the values whose names and labels match."""
    return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE))


def growth(memory: Sequence[tuple[float, int]]) -> float:
    """Bytes by which the median of the last tenth of the readings exceeds that of the tenth after the middle."""
    sizes = [size for _, size in memory]
    tenth = max(1, len(sizes) // 10)
    middle = len(sizes) // 2
    return statistics.median(sizes[-tenth:]) - statistics.median(sizes[middle : middle + tenth])


def settled(server: ServerProcess) -> str:
    """/metrics when nothing is running or queued any more, or after SETTLE seconds."""
    until = time.monotonic() + SETTLE
    while True:
        text = server.get("/metrics")
        if metric(text, RUNNING) + metric(text, QUEUED) == 0 or time.monotonic() > until:
            return text
        time.sleep(0.05)


def rows(requests: Sequence[Planned], run: Path, threads: int, concurrent: int) -> Iterator[Row]:
    with our_server(run, threads) as server:
        warm = [planned for planned in requests if planned.leaving == "stays"][:concurrent]
        first = asyncio.run(load(server, warm, concurrent))
        outcome = asyncio.run(load(server, requests, concurrent))
        text = settled(server)
    problems = first.problems + outcome.problems
    for problem in problems[:5]:
        print(f"        {problem[:600]}")
    counts = ", ".join(f"{count} {what}" for what, count in sorted(outcome.counts.items()))
    yield Row(
        "answers lost or wrong", len(problems), f"{len(problems)} of {len(requests)} ({counts}), in {outcome.seconds:.1f} s",
        must=0, aim=0, at_most=True, wrong=f"{problems[0][:200]}" if problems else "", data=dict(outcome.counts),
    )  # fmt: skip
    left, answered = metric(text, RUNNING) + metric(text, QUEUED), metric(text, ANSWERED)
    least, most = len(warm) + outcome.counts["stays"], len(warm) + len(requests)
    adds_up = left == 0 and RUNNING in text and least <= answered <= most
    yield Row(
        "running or queued afterwards", left, f"{left:.0f}; {answered:.0f} answered, from {least} to {most} expected",
        must=0, aim=0, at_most=True, wrong="" if adds_up else "/metrics does not add up", data={"metrics": text},
    )  # fmt: skip
    grown = growth(outcome.memory)
    sizes = [size for _, size in outcome.memory]
    shown = f"{grown / 1e6:+.1f} MB in the second half; from {sizes[0] / 1e6:.0f} to {sizes[-1] / 1e6:.0f} MB"
    yield Row(
        "growth of memory", grown, shown, *GROWTH, at_most=True, data={"memory": outcome.memory},
        wrong="" if grown <= GROWTH[0] else "memory grows",
    )  # fmt: skip


def main() -> int:
    parser = parser_of("serving_load", __doc__)
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--concurrent", type=int, default=64, metavar="N", help="default: 64")
    parser.add_argument("--threads", type=int, default=2, help="of the server (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of `generate` here
    with tempfile.TemporaryDirectory() as place:
        run = write_run(Path(place) / "load", SHAPE)
        requests = plan(run, chosen.requests, chosen.seed)
        settings = {name: getattr(chosen, name) for name in ("requests", "concurrent", "threads", "seed")}
        made = rows(requests, run, chosen.threads, chosen.concurrent)
        return measure("serving_load", made, chosen.output, **settings)


if __name__ == "__main__":
    raise SystemExit(main())
