"""Decodes on a CPU in compiled code, on a team of threads: reads prompts into a KV cache and generates from it.

In: a TransformerLM on the CPU in fp32. Out: ids. For a model that the compiled pass does not support
(`unsupported_reason`), the caller uses torch_decoder.py, which supports every model.
"""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lmfast.inference.cpu import kernels, team
from lmfast.inference.cpu import plan as slots
from lmfast.inference.cpu.attendance import Attendance, ways_of
from lmfast.inference.cpu.products import ROW_PADDING, TILE, packed_size
from lmfast.inference.sampling import Sampling
from lmfast.model.config import ModelConfig
from lmfast.model.transformer import TransformerLM
from lmfast.tokenizer.compiled.code_cache import enable_cache

READ_ROWS = 64  # prompt tokens per pass: their activations fit a core's L2 cache
SPIN_LIMIT = 20_000  # polls for the next pass, about 0.3 ms, before a thread sleeps

# Model settings that the pass supports. All others must have their default.
_SUPPORTED = {
    "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff",
    "rope_theta", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor", "rope_original_context", "norm",
    "norm_eps", "position", "ffn", "qk_norm", "qkv_bias", "value_embeddings", "zero_init", "logit_softcap",
    "tie_embeddings", "parallel_block", "dropout", "sliding_window", "window_pattern",
}  # fmt: skip


def unsupported_reason(model: TransformerLM) -> str | None:
    """Why the compiled pass does not support this model in its present state; None if it does."""
    if model.embedding.weight.device.type != "cpu":
        return "it is not on the CPU"
    if torch.is_autocast_enabled("cpu") or any(p.dtype != torch.float32 for p in model.parameters()):
        return "it does not compute in float32"
    if model.training and model.config.dropout:
        return "it is in training mode, with dropout"
    for field in dataclasses.fields(ModelConfig):
        if field.name not in _SUPPORTED and getattr(model.config, field.name) != field.default:
            return f"its {field.name} is not supported there"
    return None


class CpuDecoder:
    """Decodes a batch of sequences, each up to the model's context length.

    The constructor starts the threads, which `close` ends, and packs the matrices: 15 to 25 ms for 70 MB, and a second
    copy in memory. Embeddings are read from the model's own memory, so it must not be moved until `close`."""

    lag = 0

    def __init__(self, model: TransformerLM, batch: int, sampling: Sampling, threads: int | None = None):
        enable_cache(kernels.work, package=Path(__file__).resolve().parent.parent)
        self.threads = threads = threads or torch.get_num_threads()
        self.batch, self.capacity = batch, max(batch, READ_ROWS)
        self.max_length = model.config.context_length
        self.kept = []  # arrays whose addresses are in the plan
        self.logits = np.zeros((batch, model.config.vocab_size), np.float32)  # one row per row of a step
        self.plan = self._make_plan(model, sampling)
        self.rows = np.zeros((5, self.capacity + 1), np.int64)
        self.sync = np.zeros(team.sync_words(threads), np.int64)
        self.lengths, self.newest = np.zeros((2, batch), np.int64)  # newest: last ids, not cached yet
        self.passes = 0
        self.wakers = [threading.Event() for _ in range(threads - 1)]
        self.attendance = Attendance(self.sync, self.wakers, ways_of(model.config, threads))
        self.team = [threading.Thread(target=self._serve, args=(t,), daemon=True) for t in range(1, threads)]
        for thread in self.team:
            thread.start()
        self._run(slots.PACK)

    def read(self, windows: dict[int, list[int]]) -> None:
        """Starts sequences over: {sequence: ids}. Caches all ids but the last."""
        pending = []
        for b, ids in windows.items():
            self.lengths[b], self.newest[b] = len(ids) - 1, ids[-1]
            if len(ids) > 1:
                pending.append((b, ids[:-1], 0))
        while pending:
            parts, capacity = [], self.capacity
            while pending and capacity:
                b, ids, begin = pending.pop()
                part = ids[begin : begin + capacity]
                parts.append((b, part, begin))
                capacity -= len(part)
                if begin + len(part) < len(ids):
                    pending.append((b, ids, begin + len(part)))
            self._fill_rows(parts)
            self._run(slots.READ)

    def step(self, rows: list[int], number: int) -> Callable[[], list[int]]:
        """Appends the newest id of each sequence in `rows` and chooses the next; the function returned returns those."""
        count, sequences = len(rows), np.array(rows)
        self.rows[slots.IDS, :count] = self.newest[sequences]
        self.rows[slots.POSITIONS, :count] = self.lengths[sequences]
        self.rows[slots.OWNERS, :count] = sequences
        self.rows[slots.BEGINS, : count + 1] = np.arange(count + 1)
        longest = int(sequences[self.lengths[sequences].argmax()])
        self._check_length(longest, int(self.lengths[longest]) + 1)
        self.plan[slots.NUM_ROWS] = self.plan[slots.SEQUENCES] = count
        self.plan[slots.STEP] = number
        self._run(slots.PREDICT)
        chosen = self.rows[slots.PICKS, :count]
        self.lengths[sequences] += 1
        self.newest[sequences] = chosen
        ids = chosen.tolist()
        return lambda: ids

    def close(self) -> None:
        team.end_passes(self.sync, self.passes + 1, np.arange(self.threads))
        for waker in self.wakers:
            waker.set()
        for thread in self.team:
            thread.join()

    def _fill_rows(self, parts: list[tuple[int, list[int], int]]) -> None:
        """Sets the rows of a pass that reads prompts, from (sequence, ids, position of the first id)."""
        rows, count = self.rows, 0
        for s, (b, ids, begin) in enumerate(parts):
            self._check_length(b, begin + len(ids))
            rows[slots.OWNERS, s], rows[slots.BEGINS, s] = b, count
            end = count + len(ids)
            rows[slots.IDS, count:end] = ids
            rows[slots.POSITIONS, count:end] = np.arange(begin, begin + len(ids))
            count = end
        rows[slots.BEGINS, len(parts)] = count
        self.plan[slots.NUM_ROWS], self.plan[slots.SEQUENCES] = count, len(parts)

    def _check_length(self, b: int, length: int) -> None:
        """Raises ValueError for a sequence longer than its cache; compiled code does not check bounds."""
        if length > self.max_length:
            raise ValueError(f"sequence {b}: {length} ids exceed its cache of {self.max_length}")

    def _run(self, purpose: int) -> None:
        self.passes += 1
        self.plan[slots.PURPOSE] = purpose
        self.plan[slots.TEAM] = self.attendance.begin((purpose, int(self.plan[slots.NUM_ROWS])))
        if self.team and team.begin_pass(self.sync, self.passes, self.attendance.ranks):
            for waker in self.wakers:
                waker.set()
        self._work(0, 0)
        self.attendance.end()

    def _serve(self, t: int) -> None:
        done, waker = 0, self.wakers[t - 1]
        while (done := self._work(t, done)) >= 0:
            waker.wait()
            waker.clear()

    def _work(self, t: int, done: int) -> int:
        return kernels.work(self.plan, self.rows, self.sync, t, done, SPIN_LIMIT)

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
            slots.BATCH: self.batch,
            slots.MAX_ROWS: self.capacity,
            slots.TOP_K: sampling.top_k or 0,
            slots.KEY: sampling.key,
            slots.CACHE: self._allocate(cache),
            slots.NUM_PACKINGS: len(packings),
            slots.NUM_UNUSED: len(unused),
        }
        tensors = self._scratch(config) | {
            slots.MATRICES: matrices,
            slots.EMBEDDING: model.embedding.weight,
            slots.PACKINGS: packings,
            slots.UNUSED: unused,
            slots.NORMS: norms,
            slots.HEAD_NORMS: head_norms,
            slots.COS: model.rope_cos,
            slots.SIN: model.rope_sin,
            slots.LOGITS: torch.from_numpy(self.logits),
            slots.NUMBERS: torch.tensor([eps, sampling.temperature, top_p, softcap]),
        }
        plan = np.zeros(slots.PLAN_WORDS, np.int64)
        for slot, value in values.items():
            plan[slot] = value
        for slot, tensor in tensors.items():
            plan[slot] = self._address(tensor)
        return plan

    def _plan_matrices(self, model) -> tuple[torch.Tensor, torch.Tensor]:
        """(MATRICES, PACKINGS) of a plan; allocates the memory of the packed weights."""
        config, layers = model.config, model.config.num_layers
        matrices = torch.zeros(layers + 1, slots.COLUMNS, dtype=torch.int64)
        packings: list[list[int]] = []
        up_parts = 2 if config.ffn == "swiglu" else 1
        for i, block in enumerate(model.blocks):
            attention, feed_forward = block.attention, block.feed_forward
            for k, matrix, parts in (
                (slots.QKV, attention.qkv, 1),
                (slots.OUT, attention.out, 1),
                (slots.UP_MATRIX, feed_forward.up, up_parts),
                (slots.DOWN, feed_forward.down, 1),
            ):
                matrices[i, k] = self._plan_packing(matrix.weight, parts, packings)
            if attention.value_embedding is not None:
                matrices[i, slots.VALUE_TABLE] = self._address(attention.value_embedding.weight)
                matrices[i, slots.VALUE_WEIGHTS] = self._address(attention.value_weight)
            if attention.qkv.bias is not None:
                matrices[i, slots.QKV_BIAS] = self._address(attention.qkv.bias)
        windows = [config.layer_window(i) or config.context_length for i in range(layers)]
        matrices[:layers, slots.SPAN] = torch.tensor(windows)
        matrices[layers, slots.QKV] = self._plan_packing(model.head.weight, 1, packings)
        panels = self._allocate(sum(packed_size(*job[slots.OUTPUTS : slots.PANELS]) for job in packings))
        matrices[:, : slots.DOWN + 1] += panels
        jobs = torch.tensor(packings)
        jobs[:, slots.PANELS] += panels
        return matrices, jobs

    def _scratch(self, config) -> dict[int, torch.Tensor]:
        """The buffers that a pass writes, by slot."""
        threads, rows = self.threads, self.capacity
        heads, kv_heads, head_dim = config.num_heads, config.num_kv_heads, config.head_dim
        d_model, ffn = config.d_model, config.ffn_hidden
        return {
            slots.STREAM: torch.zeros(rows, d_model),
            slots.NORMED: torch.zeros(threads, rows, d_model + ROW_PADDING),
            slots.PROJECTED: torch.zeros(rows, heads + 2 * kv_heads, head_dim),
            slots.ATTENDED: torch.zeros(rows, heads * head_dim + ROW_PADDING),
            slots.DELTA: torch.zeros(rows, d_model),
            slots.UP: torch.zeros(rows, 2 * ffn),
            slots.HIDDEN: torch.zeros(rows, ffn + ROW_PADDING),
            slots.SCRATCH: torch.zeros(threads, TILE + head_dim + config.context_length + ROW_PADDING),
            slots.PROBABILITIES: torch.zeros(threads, config.vocab_size),
        }

    def _plan_packing(self, weight: torch.Tensor, parts: int, packings: list[list[int]]) -> int:
        """Appends each part of a matrix (outputs, inputs) to `packings`; returns the byte offset of its first panel."""
        outputs, inputs = weight.shape[0] // parts, weight.shape[1]
        source, size = self._address(weight), 4 * packed_size(outputs, inputs)
        begin = packings[-1][slots.PANELS] + 4 * packed_size(*packings[-1][1:3]) if packings else 0
        for part in range(parts):
            packings.append([source + part * 4 * outputs * inputs, outputs, inputs, begin + part * size])
        return begin

    def _allocate(self, count: int) -> int:
        """Address of an uninitialised buffer of `count` floats, aligned to 64 bytes: a vector across two cache lines takes
        two reads. NumPy requests huge pages from 4 MB on: 33 MB take it 3.5 ms, torch 12 to 20 ms."""
        buffer = np.empty(count + 16, np.float32)
        self.kept.append(buffer)
        return (buffer.ctypes.data + 63) // 64 * 64

    def _address(self, tensor: torch.Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()


def _sizes(config) -> dict[int, int]:
    """A model's sizes and architecture, by slot."""
    return {
        slots.D_MODEL: config.d_model,
        slots.NUM_LAYERS: config.num_layers,
        slots.NUM_HEADS: config.num_heads,
        slots.NUM_KV_HEADS: config.num_kv_heads,
        slots.HEAD_DIM: config.head_dim,
        slots.FFN: config.ffn_hidden,
        slots.VOCAB: config.vocab_size,
        slots.MAX_LENGTH: config.context_length,
        slots.NORM: ("pre", "post", "none").index(config.norm),
        slots.ROPE: config.position == "rope",
        slots.ACTIVATION: ("swiglu", "silu", "relu2").index(config.ffn),
        slots.QK_NORM: config.qk_norm,
        slots.PARALLEL: config.parallel_block,
    }


def _norms(model) -> tuple[torch.Tensor, torch.Tensor, float]:
    """(NORMS, HEAD_NORMS, eps) of a plan; zeros for norms that the model lacks."""
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
