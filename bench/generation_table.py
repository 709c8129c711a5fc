"""How decoding stands against its targets: `python -m bench.generation_table [--quick] [--only ROW …] [--output FILE]`.

Greedy decoding after prompts of 16 tokens, beside Hugging Face's generate with its cache and the same weights, in turns
(timing.py); all ids must be equal before anything is timed. The prompt's own time is in it, on both sides. Ratios are
medians over pairs with their quartiles. On a CPU: float32, 5.3M and 22.7M parameters, one sequence and 16. On CUDA:
bfloat16, 124M, compiled and not.

The roofline is what reading the weights once a token allows (the embedding's table is not read): of the memory's read
bandwidth, and, because weights that fit a cache can be read faster than memory, of the bandwidth at which this machine
re-reads a buffer of their size. Both are torch's sum over such a buffer, in the same rounds as what they are
compared with.

Out: the table, and bench/results/generation_<device>.json with every time taken, device, commit and versions. Under
two minutes on two cores.
"""

import argparse
from collections.abc import Callable, Iterator

import numpy as np
import torch

from bench import ceilings, machine
from bench.huggingface import llama
from bench.target_table import Row, add_options, measure
from bench.timing import in_turns, ratio
from lmfast.inference.decode import generate
from lmfast.model.accounting import num_parameters
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM

MODELS = {
    "5.3M": ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=8, d_ff=704),
    "22.7M": ModelConfig(10_000, 256, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
    "124M": ModelConfig(50_304, 1024, d_model=768, num_layers=12, num_heads=12, d_ff=2048),
}
PROMPT = 16
SPEEDUP = {("5.3M", 1): 3.0, ("22.7M", 1): 1.8, ("5.3M", 16): 3.0, ("22.7M", 16): 3.0}  # of Hugging Face's
ROOFLINE, ROOFLINE_AIM = 0.6, 0.8


def make_model(name: str, device: torch.device) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(MODELS[name]).to(device).eval()


def make_prompts(model, batch: int) -> torch.Tensor:
    """(batch, PROMPT) ids on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, (batch, PROMPT), generator=generator)


def their_generate(model, prompts: torch.Tensor, new: int) -> Callable[[], list[list[int]]]:
    """Hugging Face's greedy generate of exactly `new` ids."""
    theirs = llama(model).eval()
    ids = prompts.to(model.embedding.weight.device)
    mask = torch.ones_like(ids)

    def run() -> list[list[int]]:
        made = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        return made[:, PROMPT:].tolist()

    return run


def bytes_read(model, dtype: torch.dtype) -> int:
    """Of weights, a step: all but the embedding's table."""
    config = model.config
    return dtype.itemsize * (num_parameters(config) - config.vocab_size * config.d_model)


def spread(times: list[float], amount: float) -> str:
    low, middle, high = np.quantile(amount / np.array(times), [0.25, 0.5, 0.75])
    return f"{middle:,.0f} ({low:,.0f}-{high:,.0f}) tok/s"


@torch.inference_mode()
def on_cpu(name: str, batch: int, quick: bool) -> Iterator[Row]:
    """Beside Hugging Face's, and beside the read bandwidth where there is one sequence."""
    cpu = torch.device("cpu")
    model = make_model(name, cpu)
    prompts, new, rounds = make_prompts(model, batch), 40 if quick else 200, 3 if quick else 11
    rows = prompts.tolist()
    read = bytes_read(model, torch.float32)
    memory, resident = torch.ones(64 << 20), torch.ones(read // 4)
    functions = {
        "ours": lambda: generate(model, rows, new, temperature=0.0),
        "peer": their_generate(model, prompts, new),
        "memory": lambda: [memory.sum() for _ in range(2)],
        "resident": lambda: [resident.sum() for _ in range(20)],
    }
    if functions["ours"]() != functions["peer"]():
        raise SystemExit(f"{name}, batch {batch}: other ids than Hugging Face's; nothing was timed")
    times = in_turns(functions, rounds)
    found = ratio(times["peer"], times["ours"])
    data = {"times": times, "ratio": found.as_dict(), "new_tokens": new, "read": read}
    count = batch * new
    shown = f"{found} x generate, {spread(times['ours'], count)} against {spread(times['peer'], count)}"
    yield Row(f"greedy, {name}, batch {batch}", SPEEDUP[name, batch], None, found.median, shown, data=data)
    if batch > 1:
        return
    for kind, size, told in (
        ("memory", 2 * memory.nbytes, "memory"),
        ("resident", 20 * read, "a buffer of its size"),
    ):
        allowed = [
            taken / size * read * new for taken in times[kind]
        ]  # seconds that reading alone would take
        part = ratio(allowed, times["ours"])
        bandwidth = size / float(np.median(times[kind])) / 1e9
        must, aim = (ROOFLINE, ROOFLINE_AIM) if kind == "memory" else (0.0, None)
        shown = f"{part} of reading {read / 1e6:.1f} MB a token at {bandwidth:.0f} GB/s, {told}'s"
        yield Row(
            f"greedy, {name}, part of the read roofline ({kind})", must, aim, part.median, shown,
            data={"ratio": part.as_dict(), "bandwidth": bandwidth * 1e9},
        )  # fmt: skip


@torch.inference_mode()
def on_cuda(batch: int, quick: bool) -> Iterator[Row]:
    """124M in bfloat16: a graph of torch's steps, then of compiled ones; Hugging Face's beside them."""
    device = torch.device("cuda")
    model = make_model("124M", device)
    prompts, new, rounds = make_prompts(model, batch), 100 if quick else 400, 2 if quick else 5
    rows = prompts.tolist()
    reading = ceilings.measured(device, tries=5)["read"]

    def ours(compile: bool) -> Callable[[], list[list[int]]]:
        def run():
            with torch.autocast("cuda", torch.bfloat16):
                return generate(model, rows, new, temperature=0.0, compile=compile)

        return run

    with torch.autocast("cuda", torch.bfloat16):
        peer = their_generate(model.with_matrices_in(torch.bfloat16), prompts, new)
    for name, compiled in (("eager", False), ("compiled", True)):
        functions = {"ours": ours(compiled), "peer": peer}
        in_turns(functions, 1)
        times = in_turns(functions, rounds, torch.cuda.synchronize)
        found = ratio(times["peer"], times["ours"])
        rate = batch * new / float(np.median(times["ours"]))
        part = rate / batch * bytes_read(model, torch.bfloat16) / reading
        shown = f"{spread(times['ours'], batch * new)}, {found} x generate, {part:.0%} of the read roofline"
        must, aim = (1500, 4000) if batch == 1 else (1500 * batch / 2, None)
        yield Row(
            f"greedy, 124M, batch {batch}, graph of {name} steps, tok/s", must, aim, rate, shown,
            data={"times": times, "ratio": found.as_dict(), "roofline": part, "read": reading},
        )  # fmt: skip


def make_rows(device: torch.device) -> dict[str, Callable[[bool], Iterator[Row]]]:
    if device.type == "cuda":
        return {f"124M-{batch}": lambda quick, batch=batch: on_cuda(batch, quick) for batch in (1, 16)}
    return {
        f"{name}-{batch}": lambda quick, name=name, batch=batch: on_cpu(name, batch, quick)
        for name, batch in SPEEDUP
    }


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows_of = make_rows(device)
    parser = argparse.ArgumentParser(
        prog="python -m bench.generation_table", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds: proves that it works")
    add_options(parser, rows_of)
    arguments = parser.parse_args()
    gpu = machine.gpu_name() if device.type == "cuda" else None
    described = machine.describe(gpu)
    rows = (row for chosen in arguments.only or rows_of for row in rows_of[chosen](arguments.quick))
    name = f"generation_{machine.slug(gpu or described['cpu'])}{'_quick' if arguments.quick else ''}.json"
    threads = torch.get_num_threads()
    measure(f"{gpu or described['cpu']}, {threads} threads", described, rows, arguments.output or name)


if __name__ == "__main__":
    main()
