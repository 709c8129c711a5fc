"""The structures that lmfast_kernels/cpp/plan.h declares, field by field, and how a model fills them.

Arrays are passed as addresses; `Kept` keeps them alive.
"""

from ctypes import POINTER, Structure, byref, c_double, c_float, c_int64, c_uint64, c_void_p, cast
from functools import cache
from typing import Any, Literal

import numpy as np

from lmfast.errors import UserError
from lmfast.inference.cpu.weights import DecoderWeights
from lmfast.inference.sampling import Sampling
from lmfast_kernels import cpu_build

ACTIVATIONS = ("swiglu", "silu", "relu2")
PACK, READ, PREDICT, SCORE = range(4)


class Matrix(Structure):
    _fields_ = [("weight", c_void_p), ("outputs", c_int64), ("inputs", c_int64), ("panels", c_void_p)]


class Layer(Structure):
    _fields_ = [
        *((name, Matrix) for name in ("qkv", "out", "gate", "up", "down")),
        *((name, c_void_p) for name in ("attention_norm", "ffn_norm", "q_norm", "k_norm", "qkv_bias")),
        *((name, c_void_p) for name in ("value_table", "value_weights")),
        ("span", c_int64),
    ]  # fmt: skip


class SamplingNumbers(Structure):
    _fields_ = [
        ("temperature", c_float),
        ("top_p", c_float),
        ("top_k", c_int64),
        ("key", c_uint64),
        ("row", c_int64),
    ]

    @classmethod
    def of(cls, sampling: Sampling, row: int) -> "SamplingNumbers":
        """row: of the random numbers; see sampling.py."""
        top_p = 1.0 if sampling.top_p is None else sampling.top_p
        return cls(sampling.temperature, top_p, sampling.top_k or 0, sampling.key, row)


SIZES = ("d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "ffn", "vocab", "max_length")
KINDS = ("norm", "rope", "activation", "parallel", "int8", "threads", "batch", "max_rows")

ROWS = ("ids", "positions", "owners", "begins", "steps", "targets", "chosen")
"""arrays of int64 with an element for each row or sequence of a pass"""


class Plan(Structure):
    _fields_ = [
        *((name, c_int64) for name in (*SIZES, *KINDS)),
        ("eps", c_float), ("softcap", c_float),
        ("layers", POINTER(Layer)), ("head", Matrix),
        *((name, c_void_p) for name in ("embedding", "position_table", "final_norm", "cos", "sin")),
        ("samplings", POINTER(SamplingNumbers)), ("unused", c_void_p), ("num_unused", c_int64),
        *((name, c_void_p) for name in ROWS), ("logprobs", c_void_p),
        *((name, c_int64) for name in ("num_rows", "num_sequences", "purpose", "team", "passed")),
        ("sync", c_void_p),
        *((name, c_void_p) for name in ("keys", "values", "stream", "projected", "attended", "delta", "hidden")),
        ("logits", c_void_p), ("parts", c_void_p), ("own", c_void_p),
    ]  # fmt: skip


@cache
def library() -> Any:
    """The decoder library, with its functions declared. Raises UserError where it cannot be used."""
    found = cpu_build.library("decoder")
    if found is None:
        raise UserError(f"the decoder for CPUs cannot be used: {cpu_build.why_not('decoder')}")
    plan, words = POINTER(Plan), c_void_p
    for name, result, arguments in (
        ("plan_bytes", c_int64, []),
        ("layer_bytes", c_int64, []),
        ("padded_width", c_int64, [c_int64]),
        ("lay_out", c_int64, [plan, c_void_p]),
        ("copy_cache", None, [plan, c_int64, c_int64, c_int64]),
        ("work", c_int64, [plan, c_int64, c_int64, c_int64]),
        ("begin_pass", c_int64, [words, c_int64, words, c_int64]),
        ("end_passes", None, [words, c_int64, c_int64]),
        ("pick_id", c_int64, [c_void_p, c_int64, POINTER(SamplingNumbers), c_int64, c_void_p, c_void_p]),
        ("keep_largest", None, [c_void_p, c_int64, c_float, c_int64, c_double, c_void_p]),
    ):  # fmt: skip
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


class Kept:
    """Arrays whose addresses are in a plan."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []

    def address(self, array: np.ndarray | None) -> int | None:
        if array is None:
            return None
        array = np.ascontiguousarray(array)
        self.arrays.append(array)
        return array.ctypes.data

    def bytes(self, count: int) -> int:
        """The address of an uninitialised buffer, aligned to a cache line. NumPy requests huge pages from 4 MB on: 33 MB
        take it 3.5 ms, torch 12 to 20 ms."""
        buffer = np.empty(count + 64, np.uint8)
        self.arrays.append(buffer)
        return (buffer.ctypes.data + 63) // 64 * 64


def make_plan(
    weights: DecoderWeights, batch: int, max_rows: int, threads: int, quantize: Literal["int8"] | None, kept: Kept
) -> Plan:  # fmt: skip
    """A plan with the model's weights and its buffers, to be packed. The caller sets samplings and what a pass reads."""
    config, tensors = weights.config, weights.tensors
    plan = Plan(
        **{name: getattr(config, name) for name in SIZES[:5]},
        ffn=config.ffn_hidden, vocab=config.vocab_size, max_length=config.context_length,
        norm=("pre", "post", "none").index(config.norm), rope=config.position == "rope",
        activation=ACTIVATIONS.index(config.ffn), parallel=config.parallel_block, int8=quantize == "int8",
        threads=threads, batch=batch, max_rows=max_rows,
        eps=config.norm_eps, softcap=config.logit_softcap or 0.0,
    )  # fmt: skip
    layers = (Layer * config.num_layers)(*(_layer(weights, i, kept) for i in range(config.num_layers)))
    kept.arrays.append(layers)
    plan.layers = cast(layers, POINTER(Layer))
    plan.head = _matrix(tensors["embedding.weight" if config.tie_embeddings else "head.weight"], kept)
    plan.embedding = kept.address(tensors["embedding.weight"])
    plan.position_table = kept.address(tensors.get("position_embedding.weight", weights.sinusoids))
    last = f"blocks.{config.num_layers - 1}.ffn_norm.weight" if config.norm == "post" else "final_norm.weight"
    plan.final_norm = kept.address(tensors.get(last))
    plan.cos, plan.sin = map(kept.address, weights.rope)
    if weights.unused_ids is not None:
        plan.unused, plan.num_unused = (
            kept.address(weights.unused_ids.astype(np.int64)),
            len(weights.unused_ids),
        )
    count = library().lay_out(byref(plan), None)
    library().lay_out(byref(plan), kept.bytes(count))
    return plan


def _layer(weights: DecoderWeights, number: int, kept: Kept) -> Layer:
    config = weights.config

    def get(name: str) -> np.ndarray | None:
        return weights.tensors.get(f"blocks.{number}.{name}")

    def matrix(name: str) -> Matrix:
        return _matrix(weights.tensors[f"blocks.{number}.{name}.weight"], kept)

    up = weights.tensors[f"blocks.{number}.feed_forward.up.weight"]
    layer = Layer(
        qkv=matrix("attention.qkv"),
        out=matrix("attention.out"),
        up=_matrix(up[-config.ffn_hidden :], kept),
        down=matrix("feed_forward.down"),
        attention_norm=kept.address(get("attention_norm.weight")),
        ffn_norm=kept.address(get("ffn_norm.weight")),
        q_norm=kept.address(get("attention.q_norm.weight")),
        k_norm=kept.address(get("attention.k_norm.weight")),
        qkv_bias=kept.address(get("attention.qkv.bias")),
        value_table=kept.address(get("attention.value_embedding.weight")),
        value_weights=kept.address(get("attention.value_weight")),
        span=config.layer_window(number) or config.context_length,
    )
    if config.ffn == "swiglu":
        layer.gate = _matrix(up[: config.ffn_hidden], kept)
    return layer


def _matrix(weight: np.ndarray, kept: Kept) -> Matrix:
    return Matrix(kept.address(weight), *weight.shape)
