"""Decoding with torch on any device: reads prompts into a KV cache and decodes from it.

On CUDA one step (model, sampling, copy of the ids to the input of the next step) is a CUDA graph, captured once for all
lengths, temperatures and seeds, which are tensors. Steps return functions that wait for their ids; the host reads them LAG
steps later. Prompts and sampling parameters are copied through pinned memory. The graph replaces 7 kernel launches per
layer for up to four sequences, 10 for more, of at least 5 µs each. A decoder can serve several calls (`begin`;
decoder_cache.py). With `compiled`, torch.compile fuses the operations between the kernels, which takes ten seconds or more
to compile. The cost of a further call is in docs/decoding.md.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lmfast.inference import cuda_graph
from lmfast.inference.sampling import Sampling, SamplingKind
from lmfast.inference.torch_sampling import DeviceSampling, pinned_zeros, sample
from lmfast.inference.weights import WeightAddresses, refresh
from lmfast.model.device import disable_compile_workers
from lmfast.model.inductor import inductor
from lmfast.model.kv_cache import KVCache
from lmfast.model.transformer import TransformerLM

CACHE_STEP = 128  # on a CPU, the cache is read in multiples of this many positions
LAG = 8  # steps that CUDA is ahead of the ids the host has read; as many are wasted after the last stop
PREFILL_TOKENS = 4096  # up to this size, launching a prefill takes longer than running it, so it is captured
SHORTEST_PREFILL = 32
COMPILE = {"fullgraph": True, "dynamic": False, "backend": inductor}
MAX_GRAPHS = 256  # compiled steps, one per batch size and model shape; Dynamo's default limit is 8


@functools.cache
def _compiled_decode() -> Callable:
    disable_compile_workers()
    return torch.compile(_decode, **COMPILE)


def _decode(model: TransformerLM, ids: Tensor, cache: KVCache, max_length: int) -> Tensor:
    return model.decode(ids, cache, max_length)


class DecoderKey(NamedTuple):
    """Everything that a decoder, its cache and its graph are specific to; calls with equal keys can reuse a decoder."""

    batch: int
    device: torch.device
    dtype: torch.dtype  # of matrices and cache
    autocast: bool
    training: bool  # whether dropout is on
    sampling: SamplingKind
    unused_ids: int  # number of excluded ids
    compiled: bool
    matmul_precision: str

    @classmethod
    def of(cls, model: TransformerLM, batch: int, sampling: Sampling, compiled: bool) -> "DecoderKey":
        weight = model.embedding.weight
        kind = weight.device.type
        autocast = torch.is_autocast_enabled(kind)
        return cls(
            batch, weight.device, torch.get_autocast_dtype(kind) if autocast else weight.dtype, autocast,
            model.training, sampling.kind, 0 if model.unused_ids is None else len(model.unused_ids), compiled,
            torch.get_float32_matmul_precision(),
        )  # fmt: skip


class TorchDecoder:
    """Decodes the sequences of one batch. Sequences that have ended are still computed, but ignored."""

    def __init__(self, model: TransformerLM, batch: int, sampling: Sampling, compiled: bool = False):
        self.key = key = DecoderKey.of(model, batch, sampling, compiled)
        self.device, self.compiled, self.graph_compiled = key.device, compiled, False
        # Otherwise autocast would cast all weights at each step, which moves three times as many bytes.
        self.cast = model.with_matrix_dtype(key.dtype) if key.autocast else None
        self.places = WeightAddresses(model)
        self.cache = KVCache(model.config, batch, model.config.context_length, key.device, key.dtype)
        self.sampling = DeviceSampling(key.sampling, key.device)
        self.ids = torch.zeros(
            batch, dtype=torch.int64, device=key.device
        )  # newest ids, not yet in the cache
        self.unused_ids = None if model.unused_ids is None else model.unused_ids.clone()
        self.by_graph = by_graph = cuda_graph.uses_graphs(key.device)
        self.lag = LAG if by_graph else 0
        self.graph = None
        self.prefills: dict[
            int, tuple[Tensor, torch.cuda.CUDAGraph]
        ] = {}  # length -> padded prompts, captured prefill
        self.last: torch.cuda.Event | None = None  # after the newest step or read
        self.give_back: Callable[[TorchDecoder], None] | None = None
        self.ring = pinned_zeros((LAG + 2) * batch, key.device).view(LAG + 2, batch) if by_graph else None
        self.events = (
            [cuda_graph.new_event() for _ in range(LAG + 3)] if by_graph else []
        )  # of slots; of read
        self.attach(model, sampling)

    def fits(self) -> bool:
        """Whether the weights are still at the addresses that this decoder reads; their values may have changed."""
        return not self.places.moved()

    def begin(self, model: TransformerLM, sampling: Sampling) -> None:
        """Resets a used decoder to the state of a new one for this model."""
        self._wait_for_last_use()
        if self.cast is not None:
            refresh(self.cast, model)
        if (
            self.unused_ids is not None and model.unused_ids is not None
        ):  # the key says that both have as many
            self.unused_ids.copy_(model.unused_ids)
        self.cache.clear()
        self.attach(model, sampling)

    def attach(self, model: TransformerLM, sampling: Sampling) -> None:
        self.model = model if self.cast is None else self.cast
        self.sampling.set(sampling)
        self.lengths = [0] * self.key.batch  # host copy of the lengths in the cache
        self.reusable = True

    @torch.inference_mode()
    def read(self, windows: dict[int, list[int]]) -> None:
        """Starts sequences: {index: ids}. Reads all but the last id into the cache."""
        self.reusable = False
        rows = list(windows)
        for b, ids in windows.items():
            self.lengths[b] = len(ids) - 1
        longest = max(len(ids) for ids in windows.values()) - 1
        # One line per sequence: its index, the number of ids for the cache, its last id, the other ids.
        host = pinned_zeros(len(rows) * (longest + 3), self.device).view(len(rows), -1)
        lines = [
            [b, len(ids) - 1, ids[-1], *ids[:-1], *[0] * (longest + 1 - len(ids))]
            for b, ids in windows.items()
        ]
        host.copy_(torch.tensor(lines))
        places, lengths, newest, table = host.to(self.device, non_blocking=True).split([1, 1, 1, longest], 1)
        places, lengths, newest = places[:, 0], lengths[:, 0], newest[:, 0]
        whole = rows == list(range(len(self.lengths)))
        if longest:
            self._prefill(table, None if whole else places)
        if whole:
            self.cache.lengths.copy_(lengths)
            self.ids.copy_(newest)
        else:
            self.cache.lengths.index_copy_(0, places, lengths.int())
            self.ids.index_copy_(0, places, newest)
        if self.by_graph:
            self.last = self.events[-1]
            cuda_graph.record(self.last, self.device)
        self.reusable = True

    def _prefill(self, table: Tensor, places: Tensor | None) -> None:
        """Fills the cache with prompts (batch, longest) of the sequences `places`; None: all."""
        longest = table.shape[1]
        size = min(self.cache.max_length, max(SHORTEST_PREFILL, 1 << (longest - 1).bit_length()))
        if places is not None or not self.by_graph or size * len(table) > PREFILL_TOKENS:
            self.model.prefill(table, self.cache, places)
            return
        if size not in self.prefills:
            ids = torch.zeros(len(table), size, dtype=torch.int64, device=self.device)
            run = functools.partial(self._fill_from, ids)
            pool = next((graph.pool() for _, graph in self.prefills.values()), None)
            cuda_graph.warm_up(run, [], self.device)
            self.prefills[size] = ids, cuda_graph.capture(run, self.device, pool)
        ids, graph = self.prefills[size]
        ids[:, :longest].copy_(table)  # ids of an earlier prompt beyond that are padding
        graph.replay()

    def _fill_from(self, ids: Tensor) -> None:
        self.model.prefill(ids, self.cache)

    @torch.inference_mode()
    def step(self, rows: list[int], number: int) -> Callable[[], list[int]]:
        """Appends the newest id of each sequence and samples the next; returns a function that waits for those of `rows`."""
        self.reusable = False
        for b in range(len(self.lengths)):
            self.lengths[b] += 1
        if self.ring is None:
            self._advance()
            ids = self.ids.tolist()
            self.reusable = True
            return lambda: [ids[b] for b in rows]
        if self.graph is None:
            cuda_graph.warm_up(self._advance, self._state(), self.device)
            self.graph = cuda_graph.capture(self._advance, self.device)
        self.graph.replay()
        slot = number % len(self.ring)
        host, done = self.ring[slot], self.events[slot]
        host.copy_(self.ids, non_blocking=True)
        cuda_graph.record(done, self.device)
        self.last = done
        self.reusable = True

        def wait() -> list[int]:
            done.synchronize()
            ids = host.tolist()
            return [ids[b] for b in rows]

        return wait

    def close(self) -> None:
        """Ends a call: returns a borrowed decoder to its cache, frees any other."""
        give_back, self.give_back = self.give_back, None
        del self.model  # an idle decoder must not keep its model alive
        if give_back is not None and self.reusable:
            give_back(self)
        else:
            self.free()

    def free(self) -> None:
        """Frees the graphs when the device has finished with them."""
        if self.last is not None:
            self.last.synchronize()
        self.graph = self.last = None
        self.prefills.clear()

    def _state(self) -> list[Tensor]:
        return [self.ids, self.cache.lengths, self.sampling.step]

    def _wait_for_last_use(self) -> None:
        """Makes the current stream wait for steps of an earlier call, perhaps on another stream."""
        if self.last is not None:
            cuda_graph.wait_for(self.last, self.device)

    def _advance(self) -> None:
        """One step, in place on the device."""
        cache, bound = self.cache, self.cache.max_length
        if self.device.type == "cpu" and not self.compiled and not self.by_graph:
            longest = min(bound, max(self.lengths))
            bound = min(bound, -(-longest // CACHE_STEP) * CACHE_STEP)
        if not self.compiled:
            logits = _decode(self.model, self.ids, cache, bound)
        elif self.graph_compiled:
            logits = _compiled_decode()(self.model, self.ids, cache, bound)
        else:  # changing the limit takes 70 µs
            with torch._dynamo.config.patch(recompile_limit=MAX_GRAPHS):
                logits = _compiled_decode()(self.model, self.ids, cache, bound)
            self.graph_compiled = True
        # A sequence that fills the cache is read again before its next step; one that has ended stays at the end.
        cache.lengths.clamp_(max=cache.max_length - 1)
        if self.unused_ids is not None:
            logits.index_fill_(-1, self.unused_ids, float("-inf"))
        sample(logits, self.sampling, self.sampling.step, out=self.ids)
        if not self.key.sampling.greedy:
            self.sampling.step += 1
