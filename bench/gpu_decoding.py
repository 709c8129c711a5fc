"""Greedy decoding on a CUDA device in bf16: `python -m bench.gpu_decoding [--config NAME] [--only ROW …]`.

Rows, most important first: whether it computes what plain PyTorch computes; ids per second of one sequence and of 16, by a
graph of torch's steps and of compiled ones; what a second call on a warm model costs before its first id; Hugging Face's
generate in bf16 with the same weights, in turns. A call covers prompts to all their ids; the rate of the steps alone
comes from two calls that differ in their number. The roofline is what reading the weights (a tied head once, an untied
embedding's table not at all) and the keys and values of the mean length allows at the read bandwidth measured before.

Compared: the ids in float32 with Hugging Face's, one for one, and bf16's logits of cached steps with whole passes, since
bf16 rounds the largest of random logits into ties. A difference is a row marked WRONG; everything is timed anyway.

In: a file of configs/; random weights. Without a CUDA device the same rows come out in float32, which is how tests run it.
"""

import contextlib
import functools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import torch

from bench import machine
from bench.ceilings import read_bandwidth, synchronizer
from bench.generation_table import PROMPT, make_prompts
from bench.gpu_profile import profile
from bench.gpu_training_job import CONFIG, TINY, clean, on_h100, read_config
from bench.huggingface import greedy, llama
from bench.results import Row
from bench.target_table import attempt, compared, measure, parser_of
from bench.timing import in_turns, per_second, seconds
from lmfast.inference.decode import generate
from lmfast.inference.sampling import Sampling
from lmfast.inference.torch_decoder import TorchDecoder
from lmfast.model.accounting import num_parameters
from lmfast.model.config import ModelConfig
from lmfast.model.memory import kv_cache_bytes_per_token
from lmfast.model.transformer import TransformerLM

# Ids per second on an H100 by (batch, compiled): must, aim, prediction made before the first run.
TARGETS = {
    (1, False): (1500.0, 3000.0, "1,100-1,450"),
    (1, True): (1500.0, 3000.0, "about 2,000"),
    (16, False): (15_000.0, 40_000.0, "16,000-22,000"),
    (16, True): (15_000.0, 40_000.0, "about 30,000"),
}
SETUP_MS = 5.0, 1.0  # of a second call, must and aim
CLOSE = 0.02  # of the largest logit
GATE_STEPS = 24
SECOND_CALL = "set-up, prompt and first id of a second call, ms"
PEER = "LlamaForCausalLM.generate"


class Subject:
    """A model on a device, and how long calls are: NEW ids, a quarter of them in the short ones."""

    def __init__(self, shape: ModelConfig, device: torch.device, new: int, rounds: int, reading: float):
        torch.manual_seed(0)
        self.model = TransformerLM(shape).to(device).eval()
        self.device, self.new, self.rounds, self.reading = device, new, rounds, reading
        self.bf16 = device.type == "cuda"

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def ours(self, batch: int, new: int, compile: bool) -> Callable[[], list[list[int]]]:
        prompts = make_prompts(self.model, batch).tolist()

        def run() -> list[list[int]]:
            with self.autocast():
                return generate(self.model, prompts, new, temperature=0.0, compile=compile)

        return run

    def bytes_per_step(self, batch: int, length: float) -> float:
        """What a step must read: weights, and the keys and values of `batch` sequences of `length` tokens."""
        config, size = self.model.config, 2 if self.bf16 else 4
        weights = num_parameters(config)
        if not config.tie_embeddings:
            weights -= config.vocab_size * config.d_model
        return size * weights + batch * length * kv_cache_bytes_per_token(config, size)


@torch.inference_mode()
def agreement(subject: Subject) -> Row:
    """Compares ids with Hugging Face's in float32, and logits with the cache with those of full passes."""
    model, found, wrong = subject.model, {}, []
    prompts = make_prompts(model, 2)
    ours = generate(model, prompts.tolist(), GATE_STEPS, temperature=0.0)
    if find_spec("transformers"):
        theirs = greedy(llama(model).eval(), prompts, GATE_STEPS)()
        found["ids, float32"] = sum(a == b for x, y in zip(ours, theirs) for a, b in zip(x, y, strict=True))
        if ours != theirs:
            wrong.append(f"other ids than Hugging Face's in float32: {ours} {theirs}")
    with subject.autocast():
        decoder = TorchDecoder(model, 2, Sampling(0.0))
        rows = prompts.tolist()
        decoder.read(dict(enumerate(rows)))
        worst = torch.zeros((), device=subject.device)  # torch's maximum keeps a NaN, Python's does not
        for number in range(GATE_STEPS):
            whole = model(torch.tensor(rows, device=subject.device))[:, -1]
            cached = decoder.model.decode(decoder.ids, decoder.cache, decoder.cache.max_length)
            decoder.cache.lengths -= 1
            worst = torch.maximum(worst, ((cached - whole).abs().max() / whole.abs().max()).float())
            for row, token in zip(rows, decoder.step([0, 1], number)(), strict=True):
                row.append(token)
        decoder.close()
    worst = worst.item()
    found["logits with the cache"] = worst
    if not worst <= CLOSE:
        wrong.append(f"logits with the cache differ by {worst:.2g} of the largest")
    shown = (
        f"{found.get('ids, float32', 0)} ids equal Hugging Face's, logits with the cache within {worst:.1e}"
    )
    return Row("decoding: agreement", worst, shown, data=found, wrong="; ".join(wrong))


def decode(subject: Subject, batch: int, compile: bool) -> Row:
    """Ids per second of calls of `new` ids, and of the steps alone."""
    clean()
    few = max(1, subject.new // 4)
    functions = {
        "long": subject.ours(batch, subject.new, compile),
        "short": subject.ours(batch, few, compile),
    }
    wait = synchronizer(subject.device)
    in_turns(functions, 1, wait)
    times = in_turns(functions, subject.rounds, wait)
    found = profile(functions["short"], subject.device, few)
    count = batch * subject.new
    rate = count / statistics.median(times["long"])
    per_step = (statistics.median(times["long"]) - statistics.median(times["short"])) / (subject.new - few)
    needed = subject.bytes_per_step(batch, PROMPT + subject.new / 2) / subject.reading
    kind = "compiled" if compile else "torch's"
    must, aim, predicted = TARGETS[batch, compile] if on_h100() else (None, None, "")
    shown = (
        f"{per_second(times['long'], count)} in calls of {subject.new}; a step alone {1e6 * per_step:.0f} us, "
        f"of them {1e6 * found.busy:.0f} in kernels, "
        f"{batch / per_step:,.0f} tok/s, {needed / per_step:.0%} of the roofline at {subject.reading / 1e9:,.0f} GB/s"
    )
    data = {
        "times": times, "new": subject.new, "few": few, "seconds_per_step": per_step, "roofline": needed / per_step,
        "roofline_of_calls": needed * rate / batch, "reading": subject.reading,
        "profile": found._asdict(),
    }  # fmt: skip
    name = f"greedy, batch {batch}, {kind} steps, tok/s"
    return Row(name, rate, shown, must, aim, data=data, predicted=predicted)


def second_call(subject: Subject) -> Row:
    """Milliseconds of a call for one id on a warm model: an upper bound on a call's set-up before it decodes."""
    clean()
    call, wait = subject.ours(1, 1, compile=False), synchronizer(subject.device)
    first = seconds(call, wait)
    later = [seconds(call, wait) for _ in range(max(5, 3 * subject.rounds))]
    middle = 1e3 * statistics.median(later)
    shown = f"{middle:.2f} ms, the first call {1e3 * first:.0f} ms"
    must, aim = SETUP_MS if on_h100() else (None, None)
    predicted = "60-120 without kept decoders" if on_h100() else ""
    data = {"first": first, "times": later}
    return Row(SECOND_CALL, middle, shown, must, aim, at_most=True, predicted=predicted, data=data)


def against_generate(subject: Subject, batch: int) -> Row:
    """How many times as fast as Hugging Face's generate, in calls of a quarter of the ids."""
    clean()
    few, wait = max(1, subject.new // 4), synchronizer(subject.device)
    theirs = llama(subject.model).eval().to(torch.bfloat16 if subject.bf16 else torch.float32)
    functions = {
        "ours": subject.ours(batch, few, compile=False),
        PEER: greedy(theirs, make_prompts(subject.model, batch), few),
    }
    in_turns(functions, 1, wait)
    times = in_turns(functions, max(1, subject.rounds // 2), wait)
    shown = f"generate, {' against '.join(per_second(taken, batch * few) for taken in times.values())}"
    return compared(f"greedy, batch {batch}: beside Hugging Face's generate", times, shown)


def rows(subject: Subject, only: list[str] | None = None) -> Iterator[Row]:
    yield attempt("decoding: agreement", lambda: agreement(subject))
    for name, make in MAKERS.items():
        if only is None or name in only:
            yield attempt(f"decoding: {name}", functools.partial(make, subject))


MAKERS: dict[str, Callable[[Subject], Row]] = {
    "one": lambda subject: decode(subject, 1, False),
    "one-compiled": lambda subject: decode(subject, 1, True),
    "second-call": second_call,
    "sixteen": lambda subject: decode(subject, 16, False),
    "sixteen-compiled": lambda subject: decode(subject, 16, True),
} | (
    {
        "one-peer": lambda subject: against_generate(subject, 1),
        "sixteen-peer": lambda subject: against_generate(subject, 16),
    }
    if find_spec("transformers")
    else {}
)


def main() -> int:
    parser = parser_of("gpu_decoding", __doc__, MAKERS)
    parser.add_argument("--config", default=CONFIG, help="of configs/")
    parser.add_argument("--new", type=int, default=400, help="ids per call")
    parser.add_argument("--warm", action="store_true", help="only compile the steps of both batch sizes")
    parser.add_argument("--rehearse", action="store_true", help="one tiny layer and few ids, on any machine")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    shape, new, rounds = read_config(arguments.config).model.resolved(), arguments.new, arguments.rounds
    if arguments.rehearse:
        shape, new, rounds = replace(shape, **TINY).resolved(), 8, 2
    if arguments.warm:
        subject = Subject(shape, device, 2, 1, 1.0)
        for batch in (1, 16):
            subject.ours(batch, 2, compile=True)()
        return 0
    subject = Subject(shape, device, new, rounds, read_bandwidth(device))
    found = rows(subject, arguments.only)
    return measure("gpu_decoding", found, arguments.output, gpu=machine.gpu_name(), config=arguments.config)


if __name__ == "__main__":
    raise SystemExit(main())
