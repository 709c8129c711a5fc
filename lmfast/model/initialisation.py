"""The initial weights of a TransformerLM, drawn whole or piece by piece, with equal values.

`initialise(model, place)` draws every weight from torch's default generator on the CPU, always in the same order and in
chunks of whole rows of at most CHUNK elements, and calls place(name, first row, chunk) with each; a rank that owns a part
of a weight keeps its part and drops the rest. So the weights depend on the seed alone, and nobody holds more than a chunk
of what it does not own. `skip_construction` draws what torch's own constructors draw when a model is built in memory.

Matrices are normal, truncated at three standard deviations; scales are explained in transformer.py.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lmfast.model.config import ResolvedConfig
from lmfast.model.layers import Attention, FusedLinear, RMSNorm, named_modules

VALUE_STD = 0.1
"""standard deviation of value embeddings"""
LEARNED_SCALE = 0.1
"""standard deviation of learned position embeddings, relative to that of the embedding"""
CHUNK = 2**24
"""largest number of elements drawn at once (64 MiB)"""


class Rows(NamedTuple):
    """Consecutive rows of a weight that are initialised together."""

    name: str
    weight: Tensor
    begin: int
    end: int
    std: float  # of a truncated normal distribution; 0 for a constant
    constant: float = 0.0


Place = Callable[[str, int, Tensor], None]
"""takes (name of a weight, number of the first row, rows of its initial values on the CPU)"""


def initial_rows(model: nn.Module, config: ResolvedConfig) -> Iterator[Rows]:
    """Every row of every weight, in the order in which they are drawn."""

    def whole(name: str, weight: Tensor, std: float, constant: float = 0.0) -> Rows:
        return Rows(name, weight, 0, weight.shape[0], std, constant)

    for name, module in named_modules(model):
        if isinstance(module, RMSNorm):
            yield whole(f"{name}.weight", module.weight, 0, 1.0)
        elif isinstance(module, nn.Linear) and not (name == "head" and config.tie_embeddings):
            writes_residual = name.endswith(("attention.out", "feed_forward.down"))
            scale = 1.0
            if writes_residual:
                scale = 0.0 if config.zero_init else (2 * config.num_layers) ** -0.5
            # The matrices of a fused projection are initialised separately.
            begin = 0
            for width in module.widths if isinstance(module, FusedLinear) else [module.out_features]:
                std = scale * (2 / (width + module.in_features)) ** 0.5
                yield Rows(f"{name}.weight", module.weight, begin, begin + width, std)
                begin += width
        elif isinstance(module, Attention) and module.value_embedding is not None:
            yield whole(f"{name}.value_embedding.weight", module.value_embedding.weight, VALUE_STD)
            yield whole(f"{name}.value_weight", module.value_weight, 0, 1.0)
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if name.endswith(".bias"):
            yield whole(name, weight, 0)
    yield whole("embedding.weight", weights["embedding.weight"], config.embedding_std)
    if (table := weights.get("position_embedding.weight")) is not None:
        yield whole("position_embedding.weight", table, LEARNED_SCALE * config.embedding_std)


@torch.no_grad()
def initialise(model: nn.Module, config: ResolvedConfig, place: Place) -> None:
    """Draws all initial weights of a model, which may be on the meta device, and passes them to `place`."""
    for rows in initial_rows(model, config):
        for begin, end in _chunks(rows):
            shape = (end - begin, *rows.weight.shape[1:])
            place(rows.name, begin, _drawn(torch.empty(shape), rows))


@torch.no_grad()
def initialise_in_place(model: nn.Module, config: ResolvedConfig) -> None:
    """Draws all initial weights of a model in memory."""
    for rows in initial_rows(model, config):
        for begin, end in _chunks(rows):
            _drawn(rows.weight[begin:end], rows)


def skip_construction(model: nn.Module) -> None:
    """Draws as many values as constructing `model` in memory draws before its weights are initialised."""
    for module in model.modules():
        count = 0
        if isinstance(module, nn.Embedding):
            count = module.num_embeddings * module.embedding_dim
            count += 16 if count % 16 else 0  # torch draws the last 16 again
        elif isinstance(module, nn.Linear):
            count = module.in_features * module.out_features
            count += 0 if module.bias is None else module.out_features
        while count:
            size = min(count, CHUNK)
            torch.empty(size).uniform_()
            count -= size


def _chunks(rows: Rows) -> Iterator[tuple[int, int]]:
    """The rows in chunks of at most CHUNK elements, or of one row."""
    width = rows.weight.shape[1:].numel()
    each = max(1, CHUNK // max(1, width))
    for begin in range(rows.begin, rows.end, each):
        yield begin, min(begin + each, rows.end)


def _drawn(chunk: Tensor, rows: Rows) -> Tensor:
    if rows.std == 0:
        return chunk.fill_(rows.constant)
    return nn.init.trunc_normal_(chunk, std=rows.std, a=-3 * rows.std, b=3 * rows.std)
