"""A model's passes on a CPU in compiled code, by a team of threads: reads prompts into a KV cache, decodes from it.

In: a TransformerLM on the CPU in fp32. Out: ids. Refused (`why_not`): what the compiled pass does not know; then
torch_decoder.py serves, which knows everything that the model does.
"""

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lmfast.inference import cpu_kernels as kernels
from lmfast.inference import cpu_team
from lmfast.inference.sampling import Sampling
from lmfast.model.config import ModelConfig
from lmfast.model.kv_cache import KVCache
from lmfast.tokenizer.intrinsics import enable_cache

READ_ROWS = 64  # tokens a pass reads of prompts: their activations stay within a core's L2 cache
PATIENCE = 20_000  # looks for the next pass, some 0.3 ms, before a thread of the team sleeps

# The settings of a model that the pass knows. Any other must be at its default.
_KNOWN = {
    "vocab_size", "context_length", "d_model", "num_layers", "num_heads", "num_kv_heads", "d_ff", "rope_theta", "norm",
    "position", "ffn", "qk_norm", "value_embeddings", "zero_init", "logit_softcap", "tie_embeddings", "parallel_block",
    "dropout",
}  # fmt: skip


def why_not(model) -> str | None:
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

    Threads are started at once and end with `close`. Weights are read where the model has them, so it must not be
    moved meanwhile; norms are copied."""

    lag = 0

    def __init__(self, model, batch: int, sampling: Sampling, threads: int | None = None):
        enable_cache(kernels.work, package=Path(__file__).resolve().parent)
        self.threads = threads = threads or torch.get_num_threads()
        self.batch, self.room = batch, -(-max(batch, READ_ROWS) // 4) * 4
        self.longest = model.config.context_length
        self.kept = [model]  # whatever the plan has addresses of
        self.logits = torch.zeros(
            batch, model.config.vocab_size
        ).numpy()  # (batch, vocab_size), by rows of a step
        self.plan = self._make_plan(model, sampling)
        self.rows = np.zeros((5, self.room + 1), np.int64)
        self.sync = np.zeros(cpu_team.SYNC_WORDS, np.int64)
        self.lengths, self.newest = [0] * batch, [0] * batch  # newest: not in the cache yet
        self.seen = self.passed = 0
        self.wakers = [threading.Event() for _ in range(threads - 1)]
        self.team = [threading.Thread(target=self._serve, args=(t,), daemon=True) for t in range(1, threads)]
        for thread in self.team:
            thread.start()

    def read(self, windows: dict[int, list[int]]) -> None:
        """Begins sequences anew: {sequence: ids}. All but the last id go into the cache at once."""
        todo = []
        for b, ids in windows.items():
            self.lengths[b], self.newest[b] = len(ids) - 1, ids[-1]
            if len(ids) > 1:
                todo.append((b, ids[:-1], 0))
        while todo:
            parts, room = [], self.room
            while todo and room:
                b, ids, begin = todo.pop()
                part = ids[begin : begin + room]
                parts.append((b, part, begin))
                room -= len(part)
                if begin + len(part) < len(ids):
                    todo.append((b, ids, begin + len(part)))
            self._place(parts)
            self._run(predict=False)

    def step(self, rows: list[int], number: int) -> Callable[[], list[int]]:
        """Appends the newest id of each of some sequences and chooses its next; the function returned tells those."""
        self._place([(b, [self.newest[b]], self.lengths[b]) for b in rows])
        self.plan[kernels.STEP] = number
        self._run(predict=True)
        ids = self.rows[kernels.PICKS, : len(rows)].tolist()
        for b, token in zip(rows, ids, strict=True):
            self.lengths[b] += 1
            self.newest[b] = token
        return lambda: ids

    def close(self) -> None:
        cpu_team.end_passes(self.sync)
        for waker in self.wakers:
            waker.set()
        for thread in self.team:
            thread.join()

    def _place(self, parts: list[tuple[int, list[int], int]]) -> None:
        """The rows of a pass: (sequence, ids, position of the first). Compiled code checks no bounds: here they are."""
        rows, count = self.rows, 0
        for s, (b, ids, begin) in enumerate(parts):
            if begin + len(ids) > self.longest:
                raise ValueError(f"sequence {b} of {begin + len(ids)} ids is longer than its cache")
            rows[kernels.OWNERS, s], rows[kernels.BEGINS, s] = b, count
            end = count + len(ids)
            rows[kernels.IDS, count:end] = ids
            rows[kernels.POSITIONS, count:end] = np.arange(begin, begin + len(ids))
            count = end
        rows[kernels.BEGINS, len(parts)] = count
        self.plan[kernels.NUM_ROWS], self.plan[kernels.SEQUENCES] = count, len(parts)

    def _run(self, predict: bool) -> None:
        self.plan[kernels.PREDICT] = predict
        if self.team and cpu_team.begin_pass(self.sync):
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
        return kernels.work(self.plan, self.rows, self.sync, t, self.threads, seen, passed, PATIENCE, woken)

    def _make_plan(self, model, sampling: Sampling) -> np.ndarray:
        config, threads, rows = model.config, self.threads, self.room
        layers, heads, kv_heads, ffn = (
            config.num_layers,
            config.num_heads,
            config.num_kv_heads,
            config.ffn_hidden,
        )
        d_model, head_dim, vocab_size = config.d_model, config.head_dim, config.vocab_size
        context = config.context_length
        norms, head_norms = torch.zeros(2 * layers + 1, d_model), torch.zeros(layers, 2, head_dim)
        matrices = torch.zeros(layers + 1, kernels.COLUMNS, dtype=torch.int64)
        eps = 0.0
        for i, block in enumerate(model.blocks):
            modules = block.attention.qkv, block.attention.out, block.feed_forward.up, block.feed_forward.down
            for k, matrix in enumerate(modules):
                matrices[i, k] = self._address(matrix.weight)
            if block.attention.value_embedding is not None:
                matrices[i, kernels.VALUE_TABLE] = self._address(block.attention.value_embedding.weight)
                matrices[i, kernels.VALUE_WEIGHTS] = self._address(block.attention.value_weight)
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
            norms[2 * layers] = model.final_norm.weight.detach()
        matrices[layers, 0] = self._address(model.head.weight)
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        cache = KVCache(config, self.batch, context, torch.device("cpu"), torch.float32)
        plan = np.zeros(kernels.PLAN_WORDS, np.int64)
        for place, value in {
            kernels.D_MODEL: d_model,
            kernels.NUM_LAYERS: layers,
            kernels.NUM_HEADS: heads,
            kernels.NUM_KV_HEADS: kv_heads,
            kernels.HEAD_DIM: head_dim,
            kernels.FFN: ffn,
            kernels.VOCAB: vocab_size,
            kernels.BATCH: self.batch,
            kernels.MAX_LENGTH: context,
            kernels.MAX_ROWS: rows,
            kernels.NORM: ("pre", "post", "none").index(config.norm),
            kernels.ROPE: config.position == "rope",
            kernels.ACTIVATION: ("swiglu", "silu", "relu2").index(config.ffn),
            kernels.QK_NORM: config.qk_norm,
            kernels.PARALLEL: config.parallel_block,
            kernels.TOP_K: sampling.top_k or 0,
            kernels.KEY: sampling.key,
        }.items():
            plan[place] = value
        for place, tensor in {
            kernels.MATRICES: matrices,
            kernels.EMBEDDING: model.embedding.weight,
            kernels.NORMS: norms,
            kernels.HEAD_NORMS: head_norms,
            kernels.COS: model.rope_cos,
            kernels.SIN: model.rope_sin,
            kernels.CACHE: cache.storage,
            kernels.STREAM: torch.zeros(rows, d_model),
            kernels.NORMED: torch.zeros(threads, rows, d_model),
            kernels.PROJECTED: torch.zeros(rows, heads + 2 * kv_heads, head_dim),
            kernels.ATTENDED: torch.zeros(rows, heads, head_dim),
            kernels.DELTA: torch.zeros(rows, d_model),
            kernels.UP: torch.zeros(rows, 2 * ffn),
            kernels.HIDDEN: torch.zeros(rows, ffn),
            kernels.SCRATCH: torch.zeros(threads, 16 + head_dim + context),
            kernels.LOGITS: torch.from_numpy(self.logits),
            kernels.CHANCES: torch.zeros(threads, vocab_size),
            kernels.NUMBERS: torch.tensor([eps, sampling.temperature, top_p, config.logit_softcap or 0.0]),
        }.items():
            plan[place] = self._address(tensor)
        return plan

    def _address(self, tensor: torch.Tensor) -> int:
        tensor = tensor.detach().contiguous()
        self.kept.append(tensor)
        return tensor.data_ptr()
