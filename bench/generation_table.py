"""How decoding stands against its targets: `python -m bench.generation_table [--quick] [--only ROW …] [--output FILE]`.

Greedy decoding after prompts of 16 tokens, beside Hugging Face's generate with its cache and the same weights, in turns
(timing.py); all ids must be equal before anything is timed. The prompt's own time is in it, on both sides. Ratios are
medians over pairs with their quartiles. float32, 5.3M and 22.7M parameters, one sequence and 16, on a CPU: CUDA devices
have bench/gpu_decoding.py.

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

from bench import machine
from bench.huggingface import llama
from bench.target_table import Row, add_options, measure
from bench.timing import in_turns, per_second, ratio
from lmfast.inference.decode import generate
from lmfast.model.accounting import num_parameters
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM

MODELS = {
    "5.3M": ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=8, d_ff=704),
    "22.7M": ModelConfig(10_000, 256, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
}
PROMPT = 16
SPEEDUP = {("5.3M", 1): 3.0, ("22.7M", 1): 1.8, ("5.3M", 16): 3.0, ("22.7M", 16): 3.0}  # of Hugging Face's
ROOFLINE, ROOFLINE_AIM = 0.6, 0.8


def make_model(name: str) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(MODELS[name]).eval()


def make_prompts(model, batch: int) -> torch.Tensor:
    """(batch, PROMPT) ids on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, (batch, PROMPT), generator=generator)


def their_generate(
    model, prompts: torch.Tensor, new: int, dtype: torch.dtype = torch.float32
) -> Callable[[], list[list[int]]]:
    """Hugging Face's greedy generate of exactly `new` ids, with the model's weights in `dtype`."""
    theirs = llama(model).eval().to(dtype)
    ids = prompts.to(model.embedding.weight.device)
    mask = torch.ones_like(ids)

    def run() -> list[list[int]]:
        made = theirs.generate(
            ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )
        return made[:, PROMPT:].tolist()

    return run


def bytes_read(model) -> int:
    """Of weights, a step: all but the embedding's table."""
    config = model.config
    return 4 * (num_parameters(config) - config.vocab_size * config.d_model)


@torch.inference_mode()
def measure_one(name: str, batch: int, quick: bool) -> Iterator[Row]:
    """Beside Hugging Face's, and beside the read bandwidth where there is one sequence."""
    model = make_model(name)
    prompts, new, rounds = make_prompts(model, batch), 40 if quick else 200, 3 if quick else 11
    rows = prompts.tolist()
    read = bytes_read(model)
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
    shown = (
        f"{found} x generate, {per_second(times['ours'], count)} against {per_second(times['peer'], count)}"
    )
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


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {
    f"{name}-{batch}": lambda quick, name=name, batch=batch: measure_one(name, batch, quick)
    for name, batch in SPEEDUP
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.generation_table", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="few tokens and rounds: proves that it works")
    add_options(parser, ROWS)
    arguments = parser.parse_args()
    described = machine.describe()
    rows = (row for chosen in arguments.only or ROWS for row in ROWS[chosen](arguments.quick))
    name = f"generation_{machine.slug(described['cpu'])}{'_quick' if arguments.quick else ''}.json"
    threads = torch.get_num_threads()
    measure(f"{described['cpu']}, {threads} threads", described, rows, arguments.output or name)


if __name__ == "__main__":
    main()
