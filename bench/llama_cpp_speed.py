"""Compares decoding with llama.cpp: `python -m bench.llama_cpp_speed [--threads N] [--llama-cpp FOLDER] [--only ROW …]`.

The same random weights on both sides (llama.cpp reads the GGUF file of our exporter), the same number of threads, in turns:
- MODEL-KIND-1 and -16: tokens/s of greedy decoding after prompts of 16 tokens, of 1 and 16 sequences (in one llama_batch).
  Only steps are timed, not prompts. Ours are steps of `generate`, including the choice of ids; theirs only llama_decode.
- MODEL-KIND-prompt: seconds until the first id after a prompt of 512 tokens, batch 1. Ours is `generate`, which packs the
  weights first; theirs is llama_decode with logits of the last token, in a context that is open already.
KIND: fp32 against F32, int8 against Q8_0. 200 greedy ids of each sequence are compared first. A row in fp32 is WRONG if two
ids differ whose logits in float64 are further apart than rounding explains: ROUNDINGS times the largest error of PyTorch's
float32 logits.

llama.cpp: keys and values in float32, flash attention off. One cache for 16 sequences or a cache each, and for Q8_0 with or
without flash attention and float16 keys and values (its defaults): whichever is fastest. Each row names what was chosen.

Reading at 90 % of the read bandwidth meets a row's target, too: weights per step × steps/s, compared with the fastest of
torch's sums over a buffer of their size by as many threads, in the same rounds. Such a buffer is in the cache where the
weights fit, otherwise in memory, whose bandwidth is the first row. int8 weights count one byte each, without scales.

Out: the table, and bench/results/llama_cpp_speed_<cpu>.json. About five minutes on two cores.
"""

import copy
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from bench import generation_table
from bench.ceilings import read_bandwidth
from bench.generation_table import PROMPT, bytes_read, make_prompts
from bench.llama_cpp_folder import FOLDER
from bench.llama_cpp_library import Context, Library, Timed
from bench.results import Row
from bench.target_table import attempt, compared, measure, parser_of
from bench.timing import per_second, ratio, seconds
from lmfast import Tokenizer, TransformerLM
from lmfast.errors import UserError
from lmfast.inference.decode import generate
from lmfast.interop.gguf import Quantize, write_gguf

LONG, NEW = 512, 200  # tokens of the long prompt, greedy ids
CONTEXT = 768
MODELS = {
    **{name: replace(config, context_length=CONTEXT) for name, config in generation_table.MODELS.items()},
    "135M": replace(generation_table.SMOLLM, context_length=CONTEXT),
}
Kind = Literal["fp32", "int8"]
KINDS: dict[Kind, tuple[Quantize, int]] = {"fp32": ("f32", 4), "int8": ("q8_0", 1)}
"""{ours: (llama.cpp's type, our bytes per weight)}"""
MUST, AIM = 1.2, 2.0
SHARE = 0.9  # of the read bandwidth, which meets MUST too
ROUNDINGS = 2
PEER = "llama.cpp"
MEMORY_BYTES = 1 << 30
READ_BYTES = 1 << 28  # of one measurement of the bandwidth
TRIED = 8  # the fewest steps that are timed


@dataclass(frozen=True)
class Setup:
    """seconds: least time of a turn of decoding, but at most NEW steps."""

    library: Library
    place: Path
    threads: int
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Case:
    """A row. long: the time of a long prompt instead of the steps after short ones."""

    model: str
    kind: Kind
    batch: int = 1
    long: bool = False

    @property
    def key(self) -> str:
        return f"{self.model}-{self.kind}-{'prompt' if self.long else self.batch}"

    @property
    def title(self) -> str:
        work = f"prompt of {LONG}" if self.long else f"batch {self.batch}"
        return f"{self.model}, {work}, {self.kind} against {KINDS[self.kind][0].upper()}"

    def prompts(self) -> list[list[int]]:
        return make_prompts(make_model(self.model), self.batch, LONG if self.long else PROMPT).tolist()

    def taken(self, timed: Timed) -> float:
        """Seconds of what the row times."""
        return timed.first if self.long else timed.rest


CASES = {
    case.key: case
    for name in MODELS
    for kind in KINDS
    for case in (Case(name, kind), Case(name, kind, 16), Case(name, kind, long=True))
}


class Side(Protocol):
    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> Timed:
        """Greedy ids."""
        ...


class Ours:
    def __init__(self, model: TransformerLM, kind: Kind):
        self.model = model
        self.options: dict[str, Any] = {} if kind == "fp32" else {"quantize": kind}

    def generate(self, prompts: Sequence[Sequence[int]], new: int) -> Timed:
        times = [time.perf_counter()]
        ids = generate(
            self.model, prompts, new, temperature=0.0,
            on_tokens=lambda _: times.append(time.perf_counter()), **self.options,
        )  # fmt: skip
        return Timed(ids, times[1] - times[0], times[-1] - times[1])


@cache
def make_model(name: str) -> TransformerLM:
    """Matrices are twice as large as initialised: a tied head would otherwise repeat the last id."""
    torch.manual_seed(0)
    model = TransformerLM(MODELS[name]).eval()
    with torch.no_grad():
        for weight_name, weight in model.named_parameters():
            if weight.dim() > 1 and "embedding" not in weight_name:
                weight.mul_(2)
    return model


def pair_tokenizer(vocab_size: int) -> Tokenizer:
    """Bytes, pairs of them, and one special token: vocab_size ids."""
    single = [bytes([i]) for i in range(256)]
    pairs = [(a, b) for a in single for b in single][: vocab_size - 257]
    return Tokenizer(dict(enumerate([*single, *(a + b for a, b in pairs)])), pairs, ["<|endoftext|>"])


def exported(place: Path, name: str, kind: Kind) -> Path:
    path = place / f"{name}-{kind}.gguf"
    if not path.exists():
        write_gguf(path, make_model(name), pair_tokenizer(MODELS[name].vocab_size), KINDS[kind][0])
    return path


def fastest_peer(setup: Setup, case: Case) -> tuple[Context, dict[str, bool]]:
    """llama.cpp in the way that takes the least time, and that way."""
    path, prompts = exported(setup.place, case.model, case.kind), case.prompts()
    found: list[tuple[float, Context, dict[str, bool]]] = []
    for unified in (False, True) if case.batch > 1 else (False,):
        for flash in (False, True) if case.kind == "int8" else (False,):
            way = {"unified": unified, "flash": flash}
            context = Context(setup.library, path, setup.threads, CONTEXT, case.batch, **way)
            context.generate(prompts, 2)  # the first reads the file
            taken = min(case.taken(context.generate(prompts, TRIED)) for _ in range(2))
            found.append((taken, context, way))
    found.sort(key=lambda one: one[0])
    for _, context, _ in found[1:]:
        context.close()
    return found[0][1:]


@torch.inference_mode()
def compare(
    model: TransformerLM, prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]]
) -> tuple[int, str]:
    """(ids before the first difference of each sequence, a difference that is not a tie, as text)."""
    equal, wrong = 0, ""
    for number, (prompt, a, b) in enumerate(zip(prompts, ours, theirs, strict=True)):
        i = next((i for i, pair in enumerate(zip(a, b, strict=True)) if pair[0] != pair[1]), len(a))
        equal += i
        if i < len(a):
            context = torch.tensor([prompt + a[:i]])
            exact = copy.deepcopy(model).double()(context)[0, -1]
            rounding = (model(context)[0, -1] - exact).abs().max()
            if (exact[a[i]] - exact[b[i]]).abs() > ROUNDINGS * rounding:
                wrong = f"id {i} of sequence {number} is {b[i]} in llama.cpp, not {a[i]}"
    return equal, wrong


def measure_case(setup: Setup, case: Case) -> Row:
    peer, way = fastest_peer(setup, case)
    try:
        return timed_row(setup, case, peer, way)
    finally:
        peer.close()


def timed_row(setup: Setup, case: Case, peer: Side, way: dict[str, bool]) -> Row:
    """The row of our decoder and llama.cpp opened in one way."""
    model, prompts = make_model(case.model), case.prompts()
    sides = {"ours": Ours(model, case.kind), PEER: peer}
    outputs = {who: side.generate(prompts, NEW) for who, side in sides.items()}
    per_step = max(timed.rest for timed in outputs.values()) / (NEW - 1)
    steps = 0 if case.long else max(TRIED, min(NEW - 1, round(setup.seconds / per_step)))
    read = bytes_read(model) * KINDS[case.kind][1] // 4
    times, bandwidth = take_turns(setup.rounds, case, sides, prompts, steps, sum_of(read))

    def rate(who: str) -> str:
        return milliseconds(times[who]) if case.long else per_second(times[who], steps * case.batch)

    data = {"way": way, "steps": steps, "type": KINDS[case.kind][0]}
    caches = ("one cache, " if way["unified"] else "a cache each, ") * (case.batch > 1)
    theirs = f"{rate(PEER)} ({caches}flash attention {'on' if way['flash'] else 'off'})"
    equal, wrong = compare(model, prompts, outputs["ours"].ids, outputs[PEER].ids)
    shown = f"{rate('ours')} against {theirs}; {equal} of {case.batch * NEW} ids equal"
    row = compared(case.title, times, shown, equal=equal, **data)
    if case.kind == "fp32":
        row.wrong = wrong
    if case.kind == "fp32" or not case.long:
        row.must, row.aim = MUST, AIM
    if not case.long:
        add_bandwidth(row, read, [read * steps / taken for taken in times["ours"]], max(bandwidth))
        row.data["bandwidth"] = bandwidth
    return row


def take_turns(
    rounds: int, case: Case, sides: Mapping[str, Side], prompts: list[list[int]], steps: int,
    read: Callable[[], float],
) -> tuple[dict[str, list[float]], list[float]]:  # fmt: skip
    """(seconds of each side, bytes/s of reading), round by round."""
    times: dict[str, list[float]] = {who: [] for who in sides}
    bandwidth: list[float] = []
    for number in range(rounds):
        for who in list(sides)[:: 1 if number % 2 == 0 else -1]:
            times[who].append(case.taken(sides[who].generate(prompts, 1 + steps)))
        if not case.long:
            bandwidth.append(read())
    return times, bandwidth


def add_bandwidth(row: Row, read: int, ours: list[float], most: float) -> None:
    """Adds to a row which part of the greatest bandwidth our rates of reading are, which may meet its target."""
    part = ratio(ours, [most] * len(ours))
    row.data |= {"read": read, "part": part.as_dict()}
    row.shown += f"; {part} of reading {read / 1e6:.1f} MB per step at {most / 1e9:.0f} GB/s"
    if part.median >= SHARE:
        row.value = max(row.value, MUST)


def sum_of(size: int) -> Callable[[], float]:
    """A function that measures bytes per second of summing a buffer, several times if it is small."""
    buffer, repeats = torch.ones(size // 4), max(1, READ_BYTES // size)

    def measure_sum() -> float:
        return size * repeats / seconds(lambda: [buffer.sum() for _ in range(repeats)])

    return measure_sum


def milliseconds(times: list[float]) -> str:
    low, middle, high = (1e3 * t for t in statistics.quantiles(times, n=4, method="inclusive"))
    return f"{middle:,.1f} ({low:,.1f}-{high:,.1f}) ms"


def bandwidth_row(num_bytes: int) -> Row:
    rate = read_bandwidth(torch.device("cpu"), num_bytes=num_bytes)
    return Row(
        "read bandwidth", rate, f"{rate / 1e9:.1f} GB/s, the best of torch's sums over {num_bytes >> 20} MiB"
    )


def rows(setup: Setup, chosen: Sequence[str]) -> Iterator[Row]:
    yield bandwidth_row(MEMORY_BYTES)
    for key in chosen:
        yield attempt(CASES[key].title, partial(measure_case, setup, CASES[key]))


def main() -> int:
    parser = parser_of("llama_cpp_speed", __doc__, CASES)
    parser.add_argument("--llama-cpp", type=Path, default=FOLDER, metavar="FOLDER", help=f"default: {FOLDER}")
    parser.add_argument("--threads", type=int, default=2, help="of both sides (default: 2)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default: 7)")
    parser.add_argument("--seconds", type=float, default=0.5, help="of a turn of decoding (default: 0.5)")
    arguments = parser.parse_args()
    sys.path.append(str(arguments.llama_cpp / "python"))  # gguf, for machines without it
    torch.set_num_threads(arguments.threads)
    try:
        library = Library(arguments.llama_cpp)
    except UserError as error:
        parser.error(str(error))
    about = {
        "threads": arguments.threads,
        "library": library.name,
        "backend": library.backend,
        "cpu": library.system,
    }
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    with tempfile.TemporaryDirectory() as place:
        setup = Setup(library, Path(place), arguments.threads, arguments.rounds, arguments.seconds)
        return measure(
            "llama_cpp_speed", rows(setup, arguments.only or list(CASES)), arguments.output, **about
        )


if __name__ == "__main__":
    raise SystemExit(main())
