"""Compares decoding with its targets: `python -m bench.generation_table [--quick] [--only ROW …] [--output FILE]`.

Greedy decoding after prompts of 16 tokens, in turns with Hugging Face's generate with its cache and the same weights
(timing.py); all ids must be equal before anything is timed. The prompt's time is included on both sides. float32,
5.3M and 22.7M parameters, one sequence and 16, on a CPU: CUDA devices have bench/gpu_decoding.py.

The roofline is what reading the weights once per token allows (the embedding's table is not read): of the memory's read
bandwidth, and, because weights that fit a cache can be read faster than memory, of the bandwidth at which this machine
re-reads a buffer of their size. Both are torch's sum over such a buffer, in the same rounds as decoding.

Out: the table, and bench/results/generation_<cpu>.json. Under two minutes on two cores.
"""

import statistics
from collections.abc import Callable, Iterator

import torch

from bench.huggingface import greedy, llama
from bench.results import Row
from bench.target_table import compared, measure, parser_of
from bench.timing import in_turns, per_second, ratio
from lmfast.inference.decode import generate
from lmfast.model.accounting import num_parameters
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM

MODELS = {
    "5.3M": ModelConfig(4096, 256, d_model=256, num_layers=4, num_heads=8, d_ff=704),
    "22.7M": ModelConfig(10_000, 256, d_model=512, num_layers=4, num_heads=8, d_ff=1344),
}
SMOLLM = ModelConfig(
    49_152, 2048, d_model=576, num_layers=30, num_heads=9, num_kv_heads=3, d_ff=1536, tie_embeddings=True
)
"""SmolLM's 135M shape, of other tables"""
PROMPT, PEER = 16, "LlamaForCausalLM.generate"
SPEEDUP = {("5.3M", 1): 3.0, ("22.7M", 1): 1.8, ("5.3M", 16): 3.0, ("22.7M", 16): 3.0}  # over Hugging Face's
ROOFLINE, ROOFLINE_AIM = 0.6, 0.8


def make_model(name: str) -> TransformerLM:
    torch.manual_seed(0)
    return TransformerLM(MODELS[name]).eval()


def make_prompts(model, batch: int, length: int = PROMPT) -> torch.Tensor:
    """(batch, length) ids on the CPU."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, model.config.vocab_size, (batch, length), generator=generator)


def bytes_read(model) -> int:
    """Of float32 weights per step: all but the embedding's table, unless it is the head, too."""
    config = model.config
    table = 0 if config.tie_embeddings else config.vocab_size * config.d_model
    return 4 * (num_parameters(config) - table)


@torch.inference_mode()
def measure_one(name: str, batch: int, quick: bool) -> Iterator[Row]:
    """Against Hugging Face's, and for one sequence against the read bandwidth."""
    model = make_model(name)
    prompts, new, rounds = make_prompts(model, batch), 40 if quick else 200, 3 if quick else 11
    rows, read = prompts.tolist(), bytes_read(model)
    memory, resident = torch.ones(64 << 20), torch.ones(read // 4)
    functions = {
        "ours": lambda: generate(model, rows, new, temperature=0.0),
        PEER: greedy(llama(model).eval(), prompts, new),
        "memory": lambda: [memory.sum() for _ in range(2)],
        "resident": lambda: [resident.sum() for _ in range(20)],
    }
    if functions["ours"]() != functions[PEER]():
        raise SystemExit(f"{name}, batch {batch}: other ids than Hugging Face's; nothing was timed")
    times = in_turns(functions, rounds)
    reading = {kind: times.pop(kind) for kind in ("memory", "resident")}
    shown = f"generate, {' against '.join(per_second(taken, batch * new) for taken in times.values())}"
    data = {**reading, "new_tokens": new, "read": read}
    yield compared(f"greedy, {name}, batch {batch}", times, shown, SPEEDUP[name, batch], **data)
    if batch > 1:
        return
    for kind, size, whose, must, aim in (
        ("memory", 2 * memory.nbytes, "memory", ROOFLINE, ROOFLINE_AIM),
        ("resident", 20 * read, "a buffer of its size", 0.0, None),
    ):
        bandwidth = size / statistics.median(reading[kind])
        allowed = [
            taken / size * read * new for taken in reading[kind]
        ]  # seconds that reading alone would take
        part = ratio(allowed, times["ours"])
        shown = f"{part} of reading {read / 1e6:.1f} MB per token at {bandwidth / 1e9:.0f} GB/s, {whose}'s"
        title = f"greedy, {name}, part of the read roofline ({kind})"
        data = {"ratio": part.as_dict(), "bandwidth": bandwidth}
        yield Row(title, part.median, shown, must, aim, data=data)


ROWS: dict[str, Callable[[bool], Iterator[Row]]] = {
    f"{name}-{batch}": lambda quick, name=name, batch=batch: measure_one(name, batch, quick)
    for name, batch in SPEEDUP
}


def main() -> int:
    parser = parser_of("generation_table", __doc__, ROWS)
    parser.add_argument(
        "--quick", action="store_true", help="few tokens and rounds: only proves that it works"
    )
    arguments = parser.parse_args()
    rows = (row for chosen in arguments.only or ROWS for row in ROWS[chosen](arguments.quick))
    suffix = "_quick" if arguments.quick else ""
    return measure("generation", rows, arguments.output, suffix=suffix, threads=torch.get_num_threads())


if __name__ == "__main__":
    raise SystemExit(main())
