"""A model's passes by torch, on any device: reads prompts into a KV cache, decodes from it, never waits for the device.

In: a TransformerLM. Out: ids, behind functions that wait for them. On CUDA one step (model, choice of the next ids, their
copy to where the next step reads them) is a CUDA graph, captured once for all lengths: positions, lengths and the number
of the step are tensors. The host runs LAG steps ahead of what it reads back, so neither waits for the other.

What a step costs without the graph is its launches: some 12 kernels a layer, 150 for 12 layers, 5 µs each. With
`compiled`, torch.compile fuses what lies between them; it takes ten seconds and more, and is there for long runs.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from lmfast.inference.sampling import Sampling, sample
from lmfast.model.device import spare_compile_workers
from lmfast.model.kv_cache import KVCache

CACHE_STEP = 128  # on a CPU the cache is read in multiples of so many positions: little is read in vain
LAG = 8  # steps that CUDA is ahead of the ids the host has read; so many are computed in vain after the last stop
COMPILE = {"fullgraph": True, "dynamic": False}


@functools.cache
def _compiled_decode() -> Callable:
    spare_compile_workers()
    return torch.compile(_decode, **COMPILE)


def _decode(model, ids: Tensor, cache: KVCache, max_length: int) -> Tensor:
    return model.decode(ids, cache, max_length)


class TorchDecoder:
    """Sequences of one batch, each as long as the cache holds of it. Ended ones are computed on, in vain."""

    def __init__(self, model, batch: int, sampling: Sampling, compiled: bool = False):
        weight = model.embedding.weight
        self.device = device = weight.device
        kind, dtype = device.type, weight.dtype
        if torch.is_autocast_enabled(kind):
            # Else each step would cast all weights anew: three times the bytes that it has to read.
            dtype = torch.get_autocast_dtype(kind)
            model = model.with_matrices_in(dtype)
        self.model, self.sampling, self.compiled = model, sampling, compiled
        self.cache = KVCache(model.config, batch, model.config.context_length, device, dtype)
        self.lengths = [0] * batch  # as in the cache, known here without asking the device
        self.ids = torch.zeros(batch, dtype=torch.int64, device=device)  # not in the cache yet
        self.number = torch.zeros((), dtype=torch.int64, device=device)  # of the next choice
        self.lag = LAG if kind == "cuda" else 0
        self.graph = None
        if kind == "cuda":
            self.ring = torch.zeros(LAG + 2, batch, dtype=torch.int64).pin_memory()

    def read(self, windows: dict[int, list[int]]) -> None:
        """Begins sequences anew: {sequence: ids}. All but the last id go into the cache at once."""
        rows = list(windows)
        for b, ids in windows.items():
            self.lengths[b] = len(ids) - 1
        longest = max(len(ids) for ids in windows.values()) - 1
        table = torch.zeros(len(rows), longest + 1, dtype=torch.int64)
        for k, ids in enumerate(windows.values()):
            table[k, : len(ids)] = torch.tensor(ids)
        last = torch.tensor([len(ids) - 1 for ids in windows.values()])
        newest = table.gather(1, last[:, None])[:, 0].to(self.device)
        places = torch.tensor(rows).to(self.device)
        if longest:
            whole = rows == list(range(len(self.lengths)))
            self.model.prefill(table[:, :longest].to(self.device), self.cache, None if whole else places)
        self.cache.lengths[places] = last.to(self.device, torch.int32)
        self.ids[places] = newest

    def step(self, rows: list[int], number: int) -> Callable[[], list[int]]:
        """Appends each sequence's newest id and chooses the next; the function returned waits for those of `rows`."""
        for b in range(len(self.lengths)):
            self.lengths[b] += 1
        if self.device.type != "cuda":
            self._advance()
            ids = self.ids.tolist()
            return lambda: [ids[b] for b in rows]
        if self.graph is None:
            self._capture()
        self.graph.replay()
        host = self.ring[number % len(self.ring)]
        host.copy_(self.ids, non_blocking=True)
        done = torch.cuda.Event()
        done.record()

        def wait() -> list[int]:
            done.synchronize()
            ids = host.tolist()
            return [ids[b] for b in rows]

        return wait

    def close(self) -> None:
        self.graph = None

    def _advance(self) -> None:
        """One step, all of it on the device and in place."""
        cache, bound = self.cache, self.cache.max_length
        if self.device.type == "cpu" and not self.compiled:
            longest = min(bound, max(self.lengths))
            bound = min(bound, -(-longest // CACHE_STEP) * CACHE_STEP)
        decode = _compiled_decode() if self.compiled else _decode
        logits = decode(self.model, self.ids, cache, bound)
        # A sequence that fills the cache is read anew before its next step, unless it has ended: that one stays here.
        cache.lengths.clamp_(max=cache.max_length - 1)
        self.ids.copy_(sample(self.model.choices(logits), self.sampling, self.number))
        self.number += 1

    def _capture(self) -> None:
        """Captures `_advance`, after two runs of it that compile kernels and whose effects are taken back."""
        state = self.ids, self.cache.lengths, self.number
        before = [tensor.clone() for tensor in state]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._advance()
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # By default a capture fails when any other thread pins memory, as the one that makes training's batches may
        # while a sample is written, or looks at an event, as NCCL's does.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance()
        self.graph = graph
