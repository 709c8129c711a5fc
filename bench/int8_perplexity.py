"""Perplexity of trained models with 8-bit weights on a CPU: `python -m bench.int8_perplexity RUN TOKENS …`.

In: pairs of a run folder and a token file, which CpuDecoder scores in sequences of the model's context, in float32 and with
quantize="int8". Out: a row per run, and bench/results/int8_perplexity_<cpu>.json.
"""

import math
import sys
from pathlib import Path
from typing import Literal

import numpy as np

from bench.results import Row
from bench.target_table import measure, parser_of
from lmfast import TransformerLM, load_run
from lmfast.data.token_file import open_tokens
from lmfast.inference.cpu.decoder import CpuDecoder
from lmfast.inference.cpu.torch_weights import weights_of
from lmfast.inference.sampling import Sampling

MUST = 5e-3
"""largest relative difference of perplexity that is accepted"""
BATCH = 32
TOKENS = 50_000
"""at most, of a file"""


def loss(model: TransformerLM, ids: np.ndarray, quantize: Literal["int8"] | None) -> float:
    """Mean negative log-likelihood in nats of ids (batch, length), but for the first of each row."""
    decoder = CpuDecoder(weights_of(model), len(ids), Sampling(0.0), quantize=quantize)
    rows, total = list(range(len(ids))), 0.0
    try:
        decoder.read({row: [int(ids[row, 0])] for row in rows})
        for number in range(ids.shape[1] - 1):
            decoder.step(rows, number)
            logits, following = decoder.logits.astype(np.float64), ids[:, number + 1]
            top = logits.max(axis=1)
            total += (top + np.log(np.exp(logits - top[:, None]).sum(axis=1)) - logits[rows, following]).sum()
            decoder.newest[:] = following
    finally:
        decoder.close()
    return total / (ids.size - len(ids))


def row(run: Path, source: Path) -> Row:
    model, _, config = load_run(run)
    found = open_tokens(source, config.vocab_size).tokens
    length = config.context_length
    count = min(TOKENS, len(found)) // (BATCH * length) * BATCH or 1
    batches = found[: count * length].astype(np.int64).reshape(-1, min(BATCH, count), length)
    exact, ours = (
        float(np.mean([loss(model, batch, quantize) for batch in batches])) for quantize in (None, "int8")
    )
    change = math.exp(ours - exact) - 1
    parameters = sum(weight.numel() for weight in model.parameters())
    shown = f"perplexity {math.exp(exact):.4f}, {change:+.3%} with int8, {batches.size:,} tokens"
    name = f"{parameters / 1e6:.1f}M, {config.num_layers} layers of {config.d_model}"
    return Row(name, abs(change), shown, must=MUST, at_most=True, data={"run": run.name})


def main(arguments: list[str] | None = None) -> int:
    parser = parser_of("int8_perplexity", __doc__ or "")
    parser.add_argument("paths", nargs="+", type=Path, metavar="RUN TOKENS", help="run folder, token file")
    options = parser.parse_args(arguments)
    if len(options.paths) % 2:
        parser.error("give a token file for each run folder")
    pairs = zip(options.paths[::2], options.paths[1::2], strict=True)
    return measure("int8_perplexity", (row(*pair) for pair in pairs), options.output)


if __name__ == "__main__":
    sys.exit(main())
