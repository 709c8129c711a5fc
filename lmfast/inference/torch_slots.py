"""Continuous batching with torch on any device: a SlotDecoder (slots.py), whose sequences start and end at any step.

In: ids of prompts, whole or in parts, and a Sampling per sequence. Out: a new id per sequence and step. Rejects sequences
longer than the context. Works in the precision that autocast had when it was made, in any thread.

A step computes the places of the cache from 0 to the highest active one. Idle slots in between are computed too, and
ignored: their lengths do not advance, and what they append is behind their cached positions, where the next append or
`fill` overwrites it. Only a slot of context_length cached positions loses the last one, which no sequence can use, because
a cached prefix is followed by at least one id. Slots change places if that halves a step.

On CUDA a step is a graph per number of places (powers of two) and kind of sampling, replayed without waiting for the host:
one step may be launched before the ids of the one before it are read. All that differs between sequences is in tensors,
which are copied to the device only when sequences start or end. A single prompt is filled by a graph, too, several at once
or later parts operator by operator.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lmfast.inference import cuda_graph
from lmfast.inference.sampling import Sampling
from lmfast.inference.slots import Part
from lmfast.inference.torch_decoder import CACHE_STEP, PREFILL_TOKENS, SHORTEST_PREFILL
from lmfast.inference.torch_sampling import RowKind, RowSampling, pinned_zeros, sample_rows
from lmfast.model.kv_cache import KVCache
from lmfast.model.transformer import TransformerLM

LAG = 1  # steps that CUDA is ahead of the ids the host has read
MAX_ROWS, MAX_ROWS_CUDA = 256, 2048  # ids of prompts between two steps
IDLE = RowSampling.column(Sampling(0.0), 0)


class TorchSlots:
    """Decodes up to `slots` sequences, each up to the model's context length. Weights must not change until `close`."""

    def __init__(self, model: TransformerLM, slots: int, context_length: int | None = None):
        """context_length: at most the model's, which is the default."""
        weight, config = model.embedding.weight, model.config
        self.device, kind = weight.device, weight.device.type
        self.autocast = torch.is_autocast_enabled(kind)
        self.dtype = torch.get_autocast_dtype(kind) if self.autocast else weight.dtype
        # Otherwise autocast would cast all weights at each step.
        self.model = model.with_matrix_dtype(self.dtype) if self.autocast else model
        self.context_length = context_length or config.context_length
        self.slots, self.vocab_size = slots, config.vocab_size
        self.by_graph = cuda_graph.uses_graphs(self.device)
        self.lag = LAG if self.by_graph else 0
        self.max_rows = MAX_ROWS_CUDA if self.by_graph else MAX_ROWS
        self.shared_rows = self.max_rows // 4
        self.cache = KVCache(config, slots, self.context_length, self.device, self.dtype)
        # Of each place: the newest id, which is not in the cache yet, the cached length, and the RowSampling.
        self.table = torch.tensor([0, 0, *IDLE], device=self.device)[:, None].repeat(1, slots)
        self.newest = self.table[0]
        self.active = torch.zeros(slots, dtype=torch.bool, device=self.device)
        self.stepping: list[int] = []  # the places that are active on the device
        # By slot: places, cached lengths, kinds, columns of the table that are not on the device yet.
        self.places, self.lengths, self.kinds = list(range(slots)), [0] * slots, [RowKind.GREEDY] * slots
        self.changed: dict[int, list[int]] = {}
        self.parts: dict[int, KVCache] = {}  # number of places -> their cache, with the lengths of the step
        self.graphs: dict[tuple[int, RowKind], torch.cuda.CUDAGraph] = {}
        self.results: dict[tuple[int, RowKind], Tensor] = {}  # logits of the last step of each graph
        self.latest: tuple[int, RowKind] | None = None  # of `results`
        # By length: a place and ids (1, 1 + length), and the graph that fills the place with them.
        self.prefills: dict[int, tuple[Tensor, torch.cuda.CUDAGraph]] = {}
        self.steps = 0
        entries = LAG + 2
        self.ring = pinned_zeros(entries * slots, self.device).view(entries, slots) if self.by_graph else None
        self.events = [cuda_graph.new_event() for _ in range(entries)] if self.by_graph else []
        self.last: torch.cuda.Event | None = None  # after the newest step

    def fill(self, parts: Sequence[Part]) -> None:
        """Caches ids: (slot, ids, position of the first). Parts of similar length that start at the same position are
        read together."""
        groups: defaultdict[tuple[int, int], list[tuple[int, list[int]]]] = defaultdict(list)
        for slot, ids, begin in parts:
            self._check_length(slot, begin + len(ids))
            if ids:
                groups[begin, self._padded(len(ids))].append((slot, ids))
                self._set_length(slot, begin + len(ids))
        with self._precision(), torch.inference_mode():
            for begin, size in sorted(groups):
                self._fill_group(groups[begin, size], begin, size)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` cached positions of a slot to another."""
        self._check_length(target, length)
        if source == target or not length:
            return
        with torch.inference_mode():
            for tensor in self.cache.tensors:
                tensor[self.places[target], :, :length].copy_(tensor[self.places[source], :, :length])
        self._set_length(target, length)

    def start(self, slot: int, length: int, newest: int, sampling: Sampling, row: int) -> None:
        """The slot holds `length` cached ids, followed by `newest`; its next step is number 0 of `sampling`."""
        self._check_length(slot, length + 1)
        self.lengths[slot], self.kinds[slot] = length, RowKind.of([sampling])
        self.changed[slot] = [newest, length, *RowSampling.column(sampling, row)]

    def step(self, slots: list[int], parts: Sequence[Part] = ()) -> Callable[[], list[int]]:
        """Appends each slot's newest id and chooses its next; the function waits for those ids, in the order of `slots`.

        parts: filled before."""
        if parts:
            started = {slot: self.changed[slot] for slot in slots if slot in self.changed}
            self.fill(parts)
            self.changed |= started
        for slot in slots:
            self._check_length(slot, self.lengths[slot] + 1)
        kind = max(self.kinds[slot] for slot in slots)
        with self._precision(), torch.inference_mode():
            places = self._compact(slots)
            size = max(places) + 1
            if self.by_graph:
                size = self._graph_size(size)
            self._upload(places)
            self._run(size, kind)
            for slot in slots:
                self.lengths[slot] += 1
            if self.ring is None:
                ids = self.newest.tolist()
                return lambda: [ids[place] for place in places]
            entry = self.steps % len(self.ring)
            self.steps += 1
            host, done = self.ring[entry], self.events[entry]
            host[:size].copy_(self.newest[:size], non_blocking=True)
            cuda_graph.record(done, self.device)
            self.last = done

        def wait() -> list[int]:
            done.synchronize()
            ids = host.tolist()
            return [ids[place] for place in places]

        return wait

    def logits(self, slot: int) -> np.ndarray:
        """(vocab_size,) float32 of the slot in the last step, unused ids −inf, before temperature."""
        if self.latest is None:
            raise ValueError("there are no logits before the first step")
        return self.results[self.latest][self.places[slot]].float().numpy(force=True)

    def warm_up(self) -> None:
        """On CUDA, captures the graphs and compiles the operators. Before the first sequence, whose cache it overwrites."""
        if not self.by_graph:
            return
        lengths = range(1, min(self.context_length, self.max_rows) + 1)
        for size in sorted({self._padded(length) for length in lengths}):
            self.fill([(0, [0] * size, 0)])
        part = min(SHORTEST_PREFILL, self.context_length // 2)
        self.fill([(0, [0] * part, part), (self.slots - 1, [0] * part, part)])
        for slot in range(self.slots):
            self._set_length(slot, 0)
        with self._precision(), torch.inference_mode():
            self._upload([])
            for count in sorted({self._graph_size(count) for count in range(1, self.slots + 1)}):
                for kind in RowKind:
                    self._graph(count, kind)

    def close(self) -> None:
        """Frees the graphs when the device has finished with them."""
        if self.last is not None:
            self.last.synchronize()
        self.latest = None
        for held in (self.graphs, self.prefills, self.results):
            held.clear()

    def _check_length(self, slot: int, length: int) -> None:
        if length > self.context_length:
            raise ValueError(f"slot {slot}: {length} ids exceed its cache of {self.context_length}")

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype if self.autocast else None, enabled=self.autocast)

    def _set_length(self, slot: int, length: int) -> None:
        """Notes the cached length of an idle slot."""
        self.lengths[slot] = length
        self.changed[slot] = [0, length, *IDLE]

    def _graph_size(self, count: int) -> int:
        """The number of places of the smallest graph that computes the first `count`."""
        return min(self.slots, 1 << (count - 1).bit_length())

    def _padded(self, length: int) -> int:
        """The length of the graph that fills prompts of `length` ids."""
        return min(self.context_length, max(SHORTEST_PREFILL, 1 << (length - 1).bit_length()))

    def _fill_group(self, group: list[tuple[int, list[int]]], begin: int, size: int) -> None:
        longest = max(len(ids) for _, ids in group)
        host = pinned_zeros(len(group) * (1 + longest), self.device).view(len(group), -1)
        host.copy_(
            torch.tensor([[self.places[slot], *ids, *[0] * (longest - len(ids))] for slot, ids in group])
        )
        table = host.to(self.device, non_blocking=True)
        if not self.by_graph or begin or len(group) > 1 or size > PREFILL_TOKENS:
            self._fill_from(table, begin)
            return
        if size not in self.prefills:
            given = torch.zeros(1, 1 + size, dtype=torch.int64, device=self.device)
            given[:, : 1 + longest].copy_(table)  # warming up fills a place, too
            run = functools.partial(self._fill_from, given, 0)
            cuda_graph.warm_up(run, [], self.device)
            pool = next((graph.pool() for _, graph in self.prefills.values()), None)
            self.prefills[size] = given, cuda_graph.capture(run, self.device, pool)
        given, graph = self.prefills[size]
        given[:, : 1 + longest].copy_(table)  # ids of an earlier prompt beyond that are padding
        graph.replay()

    def _fill_from(self, table: Tensor, begin: int) -> None:
        """Fills places with ids; table: a place and its ids in each row."""
        self.model.prefill(table[:, 1:], self.cache, table[:, 0], begin)

    def _compact(self, slots: list[int]) -> list[int]:
        """The places of active slots, after they have changed places with idle ones if that makes the graph smaller."""
        places = [self.places[slot] for slot in slots]
        size = self._graph_size(len(slots))
        if self._graph_size(max(places) + 1) == size:
            return places
        owners = {place: slot for slot, place in enumerate(self.places)}
        free = iter(sorted(set(range(size)).difference(places)))
        lows, highs, longest = [], [], 0
        for slot, high in zip(slots, places, strict=True):
            if high >= size:
                low = next(free)
                other = owners[low]
                self.places[slot], self.places[other] = low, high
                lows, highs = [*lows, low], [*highs, high]
                longest = max(longest, self.lengths[slot], self.lengths[other])
        host = pinned_zeros(4 * len(lows), self.device).view(2, -1)
        host.copy_(torch.tensor([lows + highs, highs + lows]))
        to, origin = host.to(self.device, non_blocking=True)
        self.table[:, to] = self.table[:, origin]
        if longest:
            for tensor in self.cache.tensors:
                tensor[to, :, :longest] = tensor[origin, :, :longest]
        return [self.places[slot] for slot in slots]

    def _upload(self, places: list[int]) -> None:
        """Copies what has changed to the device: the columns of slots, and which places are active."""
        if not self.changed and places == self.stepping:
            return
        lines = [[self.places[slot], *column] for slot, column in self.changed.items()]
        height = 1 + len(self.table)
        host = pinned_zeros(self.slots + height * len(lines), self.device)
        host[places] = 1
        if lines:
            host[self.slots :].view(height, -1).copy_(torch.tensor(lines).T)
        device = host.to(self.device, non_blocking=True)
        self.active.copy_(device[: self.slots])
        if lines:
            columns = device[self.slots :].view(height, -1)
            self.table.index_copy_(1, columns[0], columns[1:])
        self.changed.clear()
        self.stepping = places

    def _run(self, size: int, kind: RowKind) -> None:
        self.latest = size, kind
        if self.by_graph:
            self._graph(size, kind).replay()
            return
        bound = self.context_length
        if self.device.type == "cpu":
            # Idle slots append, too.
            longest = max(n for n, place in zip(self.lengths, self.places, strict=True) if place < size) + 1
            bound = min(bound, -(-longest // CACHE_STEP) * CACHE_STEP)
        self._advance(size, kind, bound)

    def _graph(self, size: int, kind: RowKind) -> torch.cuda.CUDAGraph:
        graph = self.graphs.get((size, kind))
        if graph is None:
            run = functools.partial(self._advance, size, kind, self.context_length)
            pool = next((graph.pool() for graph in self.graphs.values()), None)
            cuda_graph.warm_up(run, [self.table], self.device)
            graph = self.graphs[size, kind] = cuda_graph.capture(run, self.device, pool)
        return graph

    def _advance(self, size: int, kind: RowKind, bound: int) -> None:
        """One step of the first `size` places, in place on the device."""
        table, active, newest = self.table[:, :size], self.active[:size], self.newest[:size]
        if size not in self.parts:
            ends = torch.zeros(size, dtype=torch.int32, device=self.device)
            self.parts[size] = self.cache.first(size, ends)
        part = self.parts[size]
        part.lengths.copy_(table[1].clamp(max=self.context_length - 1))  # of idle slots, which may be full
        logits = self.model.decode(newest, part, bound)
        if self.model.unused_ids is not None:
            logits.index_fill_(-1, self.model.unused_ids, float("-inf"))
        chosen = sample_rows(logits, RowSampling(kind, table[2:]))
        torch.where(active, chosen, newest, out=newest)
        table[1:3] += active  # lengths, and steps of sampling
        self.results[size, kind] = logits
