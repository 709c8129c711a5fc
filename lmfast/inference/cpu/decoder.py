"""A model's passes on a CPU in compiled code, by a team of threads: reads prompts into a KV cache, decodes from it.

In: a TransformerLM on the CPU in fp32. Out: ids. Refused (`unsupported_reason`): what the compiled pass does not know; then
torch_decoder.py serves, which knows everything that the model does.
"""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lmfast.inference.cpu import kernels, team
from lmfast.inference.cpu import plan as places
from lmfast.inference.cpu.products import ROW_PADDING, TILE, packed_size
from lmfast.inference.sampling import Sampling
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.compiled.code_cache import enable_cache

READ_ROWS = 64  # tokens a pass reads of prompts: their activations stay within a core's L2 cache
SPIN_LIMIT = 20_000  # looks for the next pass, some 0.3 ms, before a thread of the team sleeps

# The settings of a model that the pass knows. Any other must be at its default.
_KNOWN = {
    "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff", "rope_theta", "norm",
    "position", "ffn", "qk_norm", "value_embeddings", "zero_init", "logit_softcap", "tie_embeddings", "parallel_block",
    "dropout", "sliding_window", "window_pattern",
}  # fmt: skip


def unsupported_reason(model: TransformerLM) -> str | None:
    """Why the compiled pass cannot stand for this model, as it is now; None where it can."""
    if model.embedding.weight.device.type != "cpu":
        return "it is not on the CPU"
    if torch.is_autocast_enabled("cpu") or any(p.dtype != torch.float32 for p in model.parameters()):
        return "it does not compute in float32"
    if model.training and model.config.dropout:
        return "it drops out"
    for field in dataclasses.fields(ModelConfig):
        if field.name not in _KNOWN and getattr(model.config, field.name) != field.default:
            return f"its {field.name} is not known there"
    return None


class CpuDecoder:
    """Sequences of one batch, each as long as the cache holds of it.

    Threads are started at once and end with `close`. The matrices are packed then: 15 to 25 ms for 70 MB, and their memory
    once more; embeddings are read where the model has them, so it must not be moved meanwhile."""

    lag = 0

    def __init__(self, model: TransformerLM, batch: int, sampling: Sampling, threads: int | None = None):
        enable_cache(kernels.work, package=Path(__file__).resolve().parent.parent)
        self.threads = threads = threads or torch.get_num_threads()
        self.batch, self.capacity = batch, max(batch, READ_ROWS)
        self.longest = model.config.context_length
        self.kept = []  # whatever the plan has addresses of
        self.logits = np.zeros((batch, model.config.vocab_size), np.float32)  # by rows of a step
        self.plan = self._make_plan(model, sampling)
        self.rows = np.zeros((5, self.capacity + 1), np.int64)
        self.sync = np.zeros(team.SYNC_WORDS, np.int64)
        self.lengths, self.newest = np.zeros((2, batch), np.int64)  # newest: not in the cache yet
        self.seen = self.passed = 0
        self.wakers = [threading.Event() for _ in range(threads - 1)]
        self.team = [threading.Thread(target=self._serve, args=(t,), daemon=True) for t in range(1, threads)]
        for thread in self.team:
            thread.start()
        self._run(places.PACK)

    def read(self, windows: dict[int, list[int]]) -> None:
        """Begins sequences anew: {sequence: ids}. All but the last id go into the cache at once."""
        todo = []
        for b, ids in windows.items():
            self.lengths[b], self.newest[b] = len(ids) - 1, ids[-1]
            if len(ids) > 1:
                todo.append((b, ids[:-1], 0))
        while todo:
            parts, capacity = [], self.capacity
            while todo and capacity:
                b, ids, begin = todo.pop()
                part = ids[begin : begin + capacity]
                parts.append((b, part, begin))
                capacity -= len(part)
                if begin + len(part) < len(ids):
                    todo.append((b, ids, begin + len(part)))
            self._place(parts)
            self._run(places.READ)

    def step(self, rows: list[int], number: int) -> Callable[[], list[int]]:
        """Appends the newest id of each of some sequences and chooses its next; the function returned tells those."""
        count, sequences = len(rows), np.array(rows)
        self.rows[places.IDS, :count] = self.newest[sequences]
        self.rows[places.POSITIONS, :count] = self.lengths[sequences]
        self.rows[places.OWNERS, :count] = sequences
        self.rows[places.BEGINS, : count + 1] = np.arange(count + 1)
        longest = int(sequences[self.lengths[sequences].argmax()])
        self._check_length(longest, int(self.lengths[longest]) + 1)
        self.plan[places.NUM_ROWS] = self.plan[places.SEQUENCES] = count
        self.plan[places.STEP] = number
        self._run(places.PREDICT)
        chosen = self.rows[places.PICKS, :count]
        self.lengths[sequences] += 1
        self.newest[sequences] = chosen
        ids = chosen.tolist()
        return lambda: ids

    def close(self) -> None:
        team.end_passes(self.sync)
        for waker in self.wakers:
            waker.set()
        for thread in self.team:
            thread.join()

    def _place(self, parts: list[tuple[int, list[int], int]]) -> None:
        """The rows of a pass that reads: (sequence, ids, position of the first)."""
        rows, count = self.rows, 0
        for s, (b, ids, begin) in enumerate(parts):
            self._check_length(b, begin + len(ids))
            rows[places.OWNERS, s], rows[places.BEGINS, s] = b, count
            end = count + len(ids)
            rows[places.IDS, count:end] = ids
            rows[places.POSITIONS, count:end] = np.arange(begin, begin + len(ids))
            count = end
        rows[places.BEGINS, len(parts)] = count
        self.plan[places.NUM_ROWS], self.plan[places.SEQUENCES] = count, len(parts)

    def _check_length(self, b: int, length: int) -> None:
        """Compiled code checks no bounds: here they are."""
        if length > self.longest:
            raise ValueError(f"sequence {b} of {length} ids is longer than its cache")

    def _run(self, purpose: int) -> None:
        self.plan[places.PURPOSE] = purpose
        if self.team and team.begin_pass(self.sync):
            for waker in self.wakers:
                waker.set()
        self.seen, self.passed = self._work(0, self.seen, self.passed, False)

    def _serve(self, t: int) -> None:
        seen, passed, waker, woken = 0, 0, self.wakers[t - 1], False
        while True:
            seen, passed = self._work(t, seen, passed, woken)
            if seen < 0:
                return
            waker.wait()
            waker.clear()
            woken = True

    def _work(self, t: int, seen: int, passed: int, woken: bool) -> tuple[int, int]:
        return kernels.work(self.plan, self.rows, self.sync, t, self.threads, seen, passed, SPIN_LIMIT, woken)

    def _make_plan(self, model, sampling: Sampling) -> np.ndarray:
        matrices, packings = self._plan_matrices(model)
        norms, head_norms, eps = _norms(model)
        unused = torch.zeros(0, dtype=torch.int64) if model.unused_ids is None else model.unused_ids
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        softcap = model.config.logit_softcap or 0.0
        config = model.config
        cache = (
            config.num_layers * 2 * self.batch * config.num_kv_heads * config.context_length * config.head_dim
        )
        values = _sizes(config) | {
            places.BATCH: self.batch,
            places.MAX_ROWS: self.capacity,
            places.TOP_K: sampling.top_k or 0,
            places.KEY: sampling.key,
            places.CACHE: self._allocate(cache),
            places.NUM_PACKINGS: len(packings),
            places.NUM_UNUSED: len(unused),
        }
        tensors = self._scratch(config) | {
            places.MATRICES: matrices,
            places.EMBEDDING: model.embedding.weight,
            places.PACKINGS: packings,
            places.UNUSED: unused,
            places.NORMS: norms,
            places.HEAD_NORMS: head_norms,
            places.COS: model.rope_cos,
            places.SIN: model.rope_sin,
            places.LOGITS: torch.from_numpy(self.logits),
            places.NUMBERS: torch.tensor([eps, sampling.temperature, top_p, softcap]),
        }
        plan = np.zeros(places.PLAN_WORDS, np.int64)
        for place, value in values.items():
            plan[place] = value
        for place, tensor in tensors.items():
            plan[place] = self._address(tensor)
        return plan

    def _plan_matrices(self, model) -> tuple[torch.Tensor, torch.Tensor]:
        """(MATRICES, PACKINGS) of a plan, with memory for the packed weights."""
        config, layers = model.config, model.config.num_layers
        matrices = torch.zeros(layers + 1, places.COLUMNS, dtype=torch.int64)
        packings: list[list[int]] = []
        up_parts = 2 if config.ffn == "swiglu" else 1
        for i, block in enumerate(model.blocks):
            attention, feed_forward = block.attention, block.feed_forward
            for k, matrix, parts in (
                (places.QKV, attention.qkv, 1),
                (places.OUT, attention.out, 1),
                (places.UP_MATRIX, feed_forward.up, up_parts),
                (places.DOWN, feed_forward.down, 1),
            ):
                matrices[i, k] = self._plan_packing(matrix.weight, parts, packings)
            if attention.value_embedding is not None:
                matrices[i, places.VALUE_TABLE] = self._address(attention.value_embedding.weight)
                matrices[i, places.VALUE_WEIGHTS] = self._address(attention.value_weight)
        windows = [config.layer_window(i) or config.context_length for i in range(layers)]
        matrices[:layers, places.SPAN] = torch.tensor(windows)
        matrices[layers, places.QKV] = self._plan_packing(model.head.weight, 1, packings)
        panels = self._allocate(sum(packed_size(*job[places.OUTPUTS : places.PANELS]) for job in packings))
        matrices[:, : places.DOWN + 1] += panels
        jobs = torch.tensor(packings)
        jobs[:, places.PANELS] += panels
        return matrices, jobs

    def _scratch(self, config) -> dict[int, torch.Tensor]:
        """What a pass writes, by place."""
        threads, rows = self.threads, self.capacity
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        d_model, ffn = config.d_model, config.ffn_hidden
        return {
            places.STREAM: torch.zeros(rows, d_model),
            places.NORMED: torch.zeros(threads, rows, d_model + ROW_PADDING),
            places.PROJECTED: torch.zeros(rows, heads + 2 * kv_heads, head_dim),
            places.ATTENDED: torch.zeros(rows, heads * head_dim + ROW_PADDING),
            places.DELTA: torch.zeros(rows, d_model),
            places.UP: torch.zeros(rows, 2 * ffn),
            places.HIDDEN: torch.zeros(rows, ffn + ROW_PADDING),
            places.SCRATCH: torch.zeros(threads, TILE + head_dim + config.context_length + ROW_PADDING),
            places.PROBABILITIES: torch.zeros(threads, config.vocab_size),
        }

    def _plan_packing(self, weight: torch.Tensor, parts: int, packings: list[list[int]]) -> int:
        """A line of `packings` for each part of a matrix (outputs, inputs); bytes from the first panel of all to its own."""
        outputs, inputs = weight.shape[0] // parts, weight.shape[1]
        source, size = self._address(weight), 4 * packed_size(outputs, inputs)
        begin = packings[-1][places.PANELS] + 4 * packed_size(*packings[-1][1:3]) if packings else 0
        for part in range(parts):
            packings.append([source + part * 4 * outputs * inputs, outputs, inputs, begin + part * size])
        return begin

    def _allocate(self, count: int) -> int:
        """Room for `count` floats that nobody has written yet, at a multiple of 64 bytes: a vector across two cache
        lines is read twice. From 4 MB on NumPy asks for huge pages: 33 MB are there in 3.5 ms, torch takes 12 to 20."""
        capacity = np.empty(count + 16, np.float32)
        self.kept.append(capacity)
        return (capacity.ctypes.data + 63) // 64 * 64

    def _address(self, tensor: torch.Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()


def _sizes(config) -> dict[int, int]:
    """A model's sizes and arrangement, by place."""
    return {
        places.D_MODEL: config.d_model,
        places.NUM_LAYERS: config.num_layers,
        places.NUM_HEADS: config.num_heads,
        places.NUM_KV_HEADS: config.num_kv_heads,
        places.HEAD_DIM: config.head_dim,
        places.FFN: config.ffn_hidden,
        places.VOCAB: config.vocab_size,
        places.MAX_LENGTH: config.context_length,
        places.NORM: ("pre", "post", "none").index(config.norm),
        places.ROPE: config.position == "rope",
        places.ACTIVATION: ("swiglu", "silu", "relu2").index(config.ffn),
        places.QK_NORM: config.qk_norm,
        places.PARALLEL: config.parallel_block,
    }


def _norms(model) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(NORMS, HEAD_NORMS, eps) of a plan; zeros where the model has none."""
    config = model.config
    norms = torch.zeros(2 * config.num_layers + 1, config.d_model)
    head_norms = torch.zeros(config.num_layers, 2, config.head_dim)
    eps = 0.0
    for i, block in enumerate(model.blocks):
        if config.norm != "none":
            eps = block.attention_norm.eps
            norms[2 * i] = block.attention_norm.weight.detach()
            if block.ffn_norm is not None:
                norms[2 * i + 1] = block.ffn_norm.weight.detach()
        if config.qk_norm:
            eps = block.attention.q_norm.eps
            for k, norm in enumerate((block.attention.q_norm, block.attention.k_norm)):
                head_norms[i, k] = norm.weight.detach()
    if model.final_norm is not None:
        norms[2 * config.num_layers] = model.final_norm.weight.detach()
    return norms, head_norms, eps
