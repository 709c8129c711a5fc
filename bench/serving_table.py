"""Compares the server with its targets: `python -m bench.serving_table [--only ROW …] [--quick] [--device cuda --bf16]`.

Random models of 5.3M and 22.7M parameters, prompts of 16 random ids, 128 greedy ids each; the same threads for all sides,
which are timed in turns, with new prompts in every round, so that no side finds a prompt in a cache:
- MODEL-clients: 16 clients at once, whole answers and streamed ones, relative to `generate` with a batch of 16, its packing
  of the weights included. The clients are one process on the same cores (serving_clients.py); the row has its CPU time.
- MODEL-llama.cpp: the same clients and llama.cpp's server on the same weights, with float32 keys and values or, if faster,
  with flash attention and float16 ones, which are its defaults.
- MODEL-first: one client's time to the first event of a stream, less that of `generate`'s decoder, open already, to the
  first id.
- MODEL-alone: one client, streamed, relative to `generate` with a batch of 1.

Every answer of ours in float32 on a CPU is compared with the text of `generate`'s ids; a row with another text is WRONG. Of
llama.cpp's, and in bfloat16 or on CUDA, the equal ones are counted.

Out: the table, and bench/results/serving_<device>.json. Two minutes on two cores.
"""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

from bench import machine
from bench.generation_table import MODELS, PROMPT
from bench.llama_cpp import build
from bench.results import Row
from bench.serving_clients import Answer, Clients
from bench.serving_offline import Offline
from bench.serving_processes import ServerProcess, llama_cpp_server, our_server
from bench.serving_run import random_prompts, text_model, text_tokenizer, write_run
from bench.target_table import compared, failed, measure, parser_of
from bench.timing import per_second
from lmfast.interop.gguf import write_gguf

CLIENTS = 16
PATH = "/v1/completions"
WHOLE, STREAMED = "whole", "streamed"
OFFLINE = {WHOLE: (0.8, 0.95), STREAMED: (0.5, 0.75)}
"""{answers: (must, aim) relative to `generate`}"""
PEER, PEER_TARGET = "llama.cpp", (1.2, 2.0)
FIRST_MS = 5.0, 2.0
FEW = 8


@dataclass(frozen=True)
class Setup:
    place: Path
    threads: int
    device: str = "cpu"
    bf16: bool = False
    new: int = 128
    rounds: int = 9
    requests: int = 60  # of the row on the first token

    @property
    def exact(self) -> bool:
        """Whether answers must not depend on what is decoded together with them."""
        return self.device == "cpu" and not self.bf16

    def run(self, name: str) -> Path:
        """The run folder of a model."""
        folder = self.place / name
        return folder if folder.exists() else write_run(folder, MODELS[name])

    def prompts(self, name: str, count: int, seed: int) -> list[list[int]]:
        return random_prompts(text_tokenizer(MODELS[name].vocab_size), count, PROMPT, seed)

    def offline(self, name: str) -> Offline:
        return Offline(self.run(name), self.threads, self.device, self.bf16)

    def server(self, name: str) -> ServerProcess:
        return our_server(self.run(name), self.threads, self.device, self.bf16)


@dataclass
class Timed:
    """One side, round by round. cpu, clients: processor seconds of its process and of the clients."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    clients: list[float] = field(default_factory=list)
    texts: list[list[str]] = field(default_factory=list)

    def equal(self, other: "Timed") -> int:
        """How many texts are equal, of all rounds."""
        pairs = zip(self.texts, other.texts, strict=True)
        return sum(a == b for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))

    @property
    def count(self) -> int:
        return sum(map(len, self.texts))


Side = Callable[[Sequence[list[int]]], Timed]
"""Answers prompts once"""


def body(prompt: Sequence[int], new: int, stream: bool) -> dict:
    """A request that either server understands."""
    return {"prompt": prompt, "max_tokens": new, "temperature": 0, "ignore_eos": True, "stream": stream}


def asks(server: ServerProcess, clients: Clients, new: int, stream: bool, **more: bool) -> Side:
    """The side of a server; more: parameters of its own."""

    def ask(prompts: Sequence[list[int]]) -> Timed:
        before = server.cpu
        found = clients(server.port, PATH, [body(prompt, new, stream) | more for prompt in prompts])
        texts = [answer.text for answer in found.answers]
        return Timed([found.seconds], [server.cpu - before], [found.cpu], [texts])

    return ask


def generates(offline: Offline, new: int) -> Side:
    def generate(prompts: Sequence[list[int]]) -> Timed:
        began = perf_counter()
        ids = offline.generate(prompts, new)
        seconds = perf_counter() - began
        return Timed([seconds], texts=[[offline.tokenizer.decode(row) for row in ids]])

    return generate


def take_turns(
    sides: dict[str, Side], rounds: int, prompts: Callable[[int], list[list[int]]]
) -> dict[str, Timed]:
    """Each side answers the prompts of each round, every other round in reverse order, after one round to warm up."""
    found = {name: Timed() for name in sides}
    for side in sides.values():
        side(prompts(0))
    for number in range(rounds):
        asked = prompts(1 + number)
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            once = sides[name](asked)
            for each in dataclasses.fields(Timed):
                getattr(found[name], each.name).extend(getattr(once, each.name))
    return found


def row(name: str, found: dict[str, Timed], ours: str, theirs: str, tokens: int, must: float | None, aim: float | None,
        equal_only: bool = True, note: str = "") -> Row:  # fmt: skip
    """Our side `ours`, compared with another by time; with equal_only, a text that differs is WRONG."""
    mine, other = found[ours], found[theirs]
    times = {"ours": mine.seconds, theirs: other.seconds}
    equal, clients = mine.equal(other), statistics.median(mine.clients)
    shown = (
        f"{theirs}{note}, {per_second(mine.seconds, tokens)} against {per_second(other.seconds, tokens)}; "
        f"clients' CPU {1e3 * clients:.0f} ms of {1e3 * statistics.median(mine.seconds):.0f} ms"
    )
    data = {"equal": equal, "server_cpu": mine.cpu, "clients_cpu": mine.clients}
    if other.clients:
        shown += f" (theirs {1e3 * statistics.median(other.clients):.0f} ms)"
        data |= {"peer_cpu": other.cpu, "peer_clients_cpu": other.clients}
    made = compared(name, times, f"{shown}; {equal} of {mine.count} texts equal", must, aim, **data)
    if equal_only and equal != mine.count:
        made.wrong = f"{mine.count - equal} of {mine.count} texts differ from {theirs}'s"
    return made


def many_clients(setup: Setup, name: str) -> Iterator[Row]:
    with setup.server(name) as server, Clients() as clients:
        sides = {"generate": generates(setup.offline(name), setup.new)}
        sides |= {how: asks(server, clients, setup.new, how == STREAMED) for how in OFFLINE}
        found = take_turns(sides, setup.rounds, lambda seed: setup.prompts(name, CLIENTS, seed))
    for how, (must, aim) in OFFLINE.items():
        title = f"{name}, {CLIENTS} clients, {how} answers, relative to generate"
        yield row(title, found, how, "generate", CLIENTS * setup.new, must, aim, setup.exact)


def one_client(setup: Setup, name: str) -> Iterator[Row]:
    with setup.server(name) as server, Clients() as clients:
        sides = {
            "generate": generates(setup.offline(name), setup.new),
            STREAMED: asks(server, clients, setup.new, True),
        }
        found = take_turns(sides, 2 * setup.rounds, lambda seed: setup.prompts(name, 1, seed))
    title = f"{name}, one client, streamed, relative to generate"
    yield row(title, found, STREAMED, "generate", setup.new, None, None, setup.exact)


def against_llama_cpp(setup: Setup, name: str) -> Iterator[Row]:
    tokenizer, config = text_tokenizer(MODELS[name].vocab_size), MODELS[name]
    path = setup.place / f"{name}.gguf"
    write_gguf(path, text_model(config), tokenizer, "f32")
    with ExitStack() as stack:
        clients, server = stack.enter_context(Clients()), stack.enter_context(setup.server(name))
        flash = fastest_way(setup, name, path, clients)
        peer = stack.enter_context(
            llama_cpp_server(path, config.context_length, CLIENTS, setup.threads, flash)
        )
        sides = {}
        for how in OFFLINE:
            sides[how] = asks(server, clients, setup.new, how == STREAMED)
            sides[f"{PEER} {how}"] = asks(peer, clients, setup.new, how == STREAMED, cache_prompt=False)
        found = take_turns(sides, setup.rounds, lambda seed: setup.prompts(name, CLIENTS, seed))
    way = "flash attention, float16 keys and values" if flash else "float32 keys and values"
    for how in OFFLINE:
        title = f"{name}, {CLIENTS} clients, {how} answers, against {PEER}"
        made = row(
            title, found, how, f"{PEER} {how}", CLIENTS * setup.new, *PEER_TARGET, False, f" ({build()}, {way})"
        )  # fmt: skip
        made.data |= {"build": build(), "flash": flash}
        yield made


def fastest_way(setup: Setup, name: str, path: Path, clients: Clients) -> bool:
    """Whether llama.cpp is faster with flash attention and float16 keys and values than without."""
    taken = {}
    for flash in (False, True):
        with llama_cpp_server(path, MODELS[name].context_length, CLIENTS, setup.threads, flash) as server:
            side = asks(server, clients, setup.new, False, cache_prompt=False)
            once = take_turns({PEER: side}, 3, lambda seed: setup.prompts(name, CLIENTS, seed))
            taken[flash] = min(once[PEER].seconds)
    return taken[True] < taken[False]


def first_token(setup: Setup, name: str) -> Iterator[Row]:
    """The first id's time: of a stream of FEW ids, of an open decoder, and of a call of `generate`."""
    with setup.server(name) as server, Clients() as clients, setup.offline(name) as offline:
        texts: dict[str, list[str]] = {"ours": [], "decoder": [], "generate": []}

        def ask(prompt: list[int]) -> float:
            answer: Answer = clients(server.port, PATH, [body(prompt, FEW, True)]).answers[0]
            texts["ours"].append(answer.text)
            return answer.first

        def decode(first_id: Callable[[list[int]], int], who: str) -> Callable[[list[int]], float]:
            def timed(prompt: list[int]) -> float:
                began = perf_counter()
                found = first_id(prompt)
                seconds = perf_counter() - began
                texts[who].append(offline.tokenizer.decode([found]))
                return seconds

            return timed

        sides = {
            "ours": ask,
            "decoder": decode(offline.first_id, "decoder"),
            "generate": decode(lambda prompt: offline.generate([prompt], 1)[0][0], "generate"),
        }
        times: dict[str, list[float]] = {who: [] for who in sides}
        for number in range(-2, setup.requests):  # two to warm up
            (prompt,) = setup.prompts(name, 1, 1000 + number)
            for who in list(sides)[:: 1 if number % 2 == 0 else -1]:
                seconds = sides[who](prompt)
                if number >= 0:
                    times[who].append(seconds)
    middle = {who: 1e3 * statistics.median(taken) for who, taken in times.items()}
    added = middle["ours"] - middle["decoder"]
    shown = (
        f"{added:.2f} ms: {middle['ours']:.2f} ms after {middle['decoder']:.2f} ms of an open decoder; a call of generate "
        f"{middle['generate']:.2f} ms with its packing"
    )
    made = Row(
        f"{name}, one client, time to first token added", added, shown, *FIRST_MS, at_most=True, times=times
    )
    pairs = zip(texts["ours"], texts["decoder"], strict=True)
    if setup.exact and not all(ours.startswith(first) for ours, first in pairs):
        made.wrong = "other first tokens than the decoder's"
    yield made


KINDS: dict[str, Callable[[Setup, str], Iterator[Row]]] = {
    "clients": many_clients,
    "llama.cpp": against_llama_cpp,
    "first": first_token,
    "alone": one_client,
}
ROWS = {f"{name}-{kind}": (name, kind) for name in ("5.3M", "22.7M") for kind in KINDS}


def rows(setup: Setup, chosen: Sequence[str]) -> Iterator[Row]:
    """llama.cpp's server is compared on CPUs only."""
    for key in chosen:
        name, kind = ROWS[key]
        if kind == "llama.cpp" and setup.device != "cpu":
            continue
        try:
            yield from KINDS[kind](setup, name)
        except Exception as error:
            yield failed(key, error)


def main() -> int:
    parser = parser_of("serving_table", __doc__, ROWS)
    parser.add_argument("--threads", type=int, default=2, help="of each side (default: 2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 on both sides")
    parser.add_argument(
        "--quick", action="store_true", help="few tokens and rounds: only proves that it works"
    )
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)  # of `generate` here
    sizes = {"new": 16, "rounds": 2, "requests": 4} if chosen.quick else {}
    gpu = machine.gpu_name() if chosen.device == "cuda" else None
    with tempfile.TemporaryDirectory() as place:
        setup = Setup(Path(place), chosen.threads, chosen.device, chosen.bf16, **sizes)
        settings = {"threads": chosen.threads, "bf16": chosen.bf16, "new_tokens": setup.new}
        return measure(
            "serving", rows(setup, chosen.only or list(ROWS)), chosen.output, gpu,
            "_quick" if chosen.quick else "", **settings,
        )  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
