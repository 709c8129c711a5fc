"""Text generation: batched, streamed, with or without a KV cache.

When a sequence fills the context, the window moves: its last half is read again and generation continues. The window moves
at the same positions with and without cache, so greedy text does not depend on the cache.

DecoderWeights are decoded by CpuDecoder, without torch; model_decoder.py selects the decoder of a TransformerLM.

Measured on 2 cores (AMD EPYC, Zen 4), fp32, greedy, batch 1, 5.3M parameters: torch's operators 375 ids/s (45 % of the time
in matrix products, at 10 GB/s), compiled by Inductor 760, with products as sums over rows 1,580 after compiling for 10 s,
CpuDecoder, in Numba then, 4,900. Python takes 12 µs per step.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lmfast.errors import UserError
from lmfast.inference.cpu.decoder import CpuDecoder
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.sampling import Sampling

if TYPE_CHECKING:
    from lmfast.model.transformer import TransformerLM


class Decoder(Protocol):
    """Continues the sequences of one batch, numbered from 0, by one id per step."""

    lag: int
    """steps that may be taken before the ids of the first one are read"""

    def read(self, windows: dict[int, list[int]], /) -> None:
        """Starts sequences over: {sequence: its ids, at least one and at most context_length}."""
        ...

    def step(self, rows: list[int], number: int, /) -> Callable[[], list[int]]:
        """Chooses the next id of the sequences `rows` in step `number`, counted from 0; the function returned waits for
        the ids, in the order of `rows`. None of the sequences may be longer than context_length then."""
        ...

    def close(self) -> None:
        """Ends the call, with steps under way or not."""
        ...


def generate(
    model: "TransformerLM | DecoderWeights",
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    **options: Any,
) -> list[list[int]]:
    """`continue_prompts` with the sampling by names, for `model.generate` and for the samples while training."""
    return continue_prompts(model, prompts, max_tokens, Sampling(temperature, top_k, top_p, seed), **options)


def continue_prompts(
    model: "TransformerLM | DecoderWeights",
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    kv_cache: bool = True,
    compile: bool = False,
    quantize: Literal["int8"] | None = None,
    on_tokens: Callable[[list[int | None]], None] | None = None,
) -> list[list[int]]:
    """At most max_tokens new ids for each prompt, without the prompt and without the stop id that ended it.

    on_tokens: called with the new ids of each step, None for sequences that have ended. compile: compile the cached step
    with torch.compile, once per batch size. quantize: "int8" stores weights in 8 bits, only on a CPU, where all else stays
    float32. Deterministic for a given seed. Raises UserError on bad prompts and settings.
    """
    new: list[list[int]] = [[] for _ in prompts]
    for ids in stream(
        model,
        prompts,
        max_tokens,
        sampling,
        stop_ids=stop_ids,
        kv_cache=kv_cache,
        compile=compile,
        quantize=quantize,
    ):
        for row, token in zip(new, ids, strict=True):
            if token is not None:
                row.append(token)
        if on_tokens is not None:
            on_tokens(ids)
    return new


def stream(
    model: "TransformerLM | DecoderWeights",
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    sampling: Sampling,
    *,
    stop_ids: Collection[int] = (),
    kv_cache: bool = True,
    compile: bool = False,
    quantize: Literal["int8"] | None = None,
) -> Iterator[list[int | None]]:
    """Yields the new ids of each step, one per prompt, None for sequences that have ended; options as in
    `continue_prompts`."""
    _check_prompts(prompts, model.config.vocab_size)
    context = model.config.context_length
    sequences = [list(prompt) for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]  # ahead of `sequences` by the steps in flight
    starts = [-1] * len(prompts)  # window starts, as known to the decoder
    alive = set(range(len(prompts)))
    in_flight: deque[tuple[list[int], Callable[[], list[int]]]] = deque()

    def finish_oldest() -> list[int | None]:
        """The ids of the oldest step in flight."""
        rows, wait = in_flight.popleft()
        out: list[int | None] = [None] * len(sequences)
        for row, token in zip(rows, wait(), strict=True):
            if token in stop_ids:
                alive.discard(row)
            if row in alive:
                out[row] = token
                sequences[row].append(token)
        return out

    decoder = _make_decoder(model, len(prompts), sampling, kv_cache, compile, quantize)
    try:
        for number in range(max_tokens):
            moved = [window_start(length, context) for length in lengths]
            if moved != starts:
                while in_flight and alive:  # all ids of a window must be known
                    out = finish_oldest()
                    if alive:
                        yield out
                windows = {
                    row: sequences[row][moved[row] :] for row in sorted(alive) if moved[row] != starts[row]
                }
                if windows:
                    decoder.read(windows)
                starts = moved
            if not alive:
                return
            rows = sorted(alive)
            in_flight.append((rows, decoder.step(rows, number)))
            lengths = [length + 1 for length in lengths]
            if len(in_flight) > decoder.lag:
                out = finish_oldest()
                if not alive:
                    return
                yield out
        while in_flight and alive:
            out = finish_oldest()
            if alive:
                yield out
    finally:
        decoder.close()


def _make_decoder(
    model: "TransformerLM | DecoderWeights",
    batch: int,
    sampling: Sampling,
    kv_cache: bool,
    compile: bool,
    quantize: Literal["int8"] | None,
) -> Decoder:
    if quantize not in (None, "int8"):
        raise UserError(f"quantize is {quantize!r}; the only choice is 'int8'")
    if isinstance(model, DecoderWeights):
        if compile or not kv_cache:
            raise ValueError("without torch, ids are decoded with a KV cache and not compiled")
        return CpuDecoder(model, batch, sampling, quantize=quantize)
    from lmfast.inference.model_decoder import make_decoder  # imports torch

    return make_decoder(model, batch, sampling, kv_cache, compile, quantize)


def _check_prompts(prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(
                f"prompt {number} is empty; start it with at least one token, such as <|endoftext|>"
            )
        for token in prompt:
            if not 0 <= token < vocab_size:
                raise UserError(
                    f"prompt {number}: id {token} is outside the model's vocabulary of {vocab_size}; was it encoded with "
                    "another tokenizer?"
                )


def window_start(length: int, context_length: int) -> int:
    """Start of the window of a sequence of `length` tokens, which moves by half a context each time it is full.

    >>> [window_start(n, 8) for n in (1, 8, 9, 12, 13)]
    [0, 0, 4, 4, 8]
    """
    half = max(1, context_length // 2)
    return -(-max(0, length - context_length) // half) * half
