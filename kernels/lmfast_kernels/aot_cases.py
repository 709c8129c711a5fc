"""The launches that aot.py compiles: calls of operators on meta tensors, over the sizes and dtypes that matter.

sm_90 also gets the candidates of the sweeps that bench/ times. Not covered: fp16, except a few cases, because it shares
bf16's configurations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from lmfast_kernels.attention_backward import attention_backward
from lmfast_kernels.attention_forward import attention_forward
from lmfast_kernels.attention_tiles import CANDIDATES, Tile, use_tiles
from lmfast_kernels.decode_attention import _decode
from lmfast_kernels.decode_linear import CANDIDATES as LINEAR_CANDIDATES
from lmfast_kernels.decode_linear import _product
from lmfast_kernels.fp8_cast import _cast
from lmfast_kernels.fp8_cross_entropy import _loss as fp8_loss
from lmfast_kernels.fp8_feed_forward import _gradient as fp8_swiglu_backward
from lmfast_kernels.fp8_feed_forward import _hidden as fp8_swiglu
from lmfast_kernels.fp8_feed_forward import _maxima as fp8_swiglu_maxima
from lmfast_kernels.fp8_linear import CAPABILITY, E4M3, E5M2
from lmfast_kernels.linear_cross_entropy import LOSS_CANDIDATES, _loss
from lmfast_kernels.rms_norm import BACKWARD_CANDIDATES, NARROW_BACKWARD_CANDIDATES
from lmfast_kernels.rms_norm import _backward as rms_norm_backward
from lmfast_kernels.rms_norm import _forward as rms_norm_forward
from lmfast_kernels.rope import _rope
from lmfast_kernels.rope_append import _rope_append
from lmfast_kernels.split_heads import _join_heads
from lmfast_kernels.swiglu import _backward as swiglu_backward
from lmfast_kernels.swiglu import _forward as swiglu_forward
from lmfast_kernels.tuning import use_config

ARCHITECTURES = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0), "sm_89": (8, 9), "sm_120": (12, 0)}
FP8_ARCHITECTURES = tuple(name for name, found in ARCHITECTURES.items() if found >= CAPABILITY)
SWEPT = ("sm_90",)  # the architectures for which bench/ times the candidates of a sweep


@dataclass(frozen=True)
class Case:
    """One call of an operator's body: `launch` calls it on meta tensors."""

    operator: str
    label: str
    launch: Callable[[], object]
    tf32: bool = False
    architectures: tuple[str, ...] = tuple(ARCHITECTURES)
    kernel: str | None = None  # compile only this one of the launched kernels


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _pointwise_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for width in (64, 768, 1600, 4096, 8192, 16384, 65536):
            for residual in (False, True):
                x, weight = _meta(4096, width, dtype=dtype), _meta(width, dtype=torch.float32)
                rstd, extra = _meta(4096, dtype=torch.float32), x if residual else None
                label = f"{name} width {width}{' + residual' if residual else ''}"
                yield Case(
                    "rms_norm", label, lambda x=x, w=weight, r=extra: rms_norm_forward.body(x, w, r, 1e-5)
                )
                yield Case(
                    "rms_norm",
                    label,
                    lambda x=x, w=weight, rstd=rstd, r=extra: rms_norm_backward.body(x, x, w, rstd, r),
                )
        for width in (1344, 2560, 3072):
            halves = _meta(4096, 2 * width, dtype=dtype).chunk(2, dim=-1)
            yield Case("swiglu", f"{name} width {width}", lambda h=halves: swiglu_forward.body(*h))
            yield Case("swiglu", f"{name} width {width}", lambda h=halves: swiglu_backward.body(h[0], *h))
        for head_dim in (16, 64, 80, 128, 256):
            q, k = _meta(4, 1024, 12, head_dim, dtype=dtype), _meta(4, 1024, 4, head_dim, dtype=dtype)
            table, places = _meta(2048, head_dim // 2, dtype=torch.float32), _meta(4, 1024, dtype=torch.int64)
            yield Case(
                "rope",
                f"{name} head_dim {head_dim}",
                lambda q=q, k=k, t=table, p=places: _rope.body(
                    q.transpose(1, 2), k.transpose(1, 2), t, t, p, True
                ),
            )
            yield Case(
                "split_heads",
                f"{name} head_dim {head_dim}",
                lambda q=q, k=k, t=table: _join_heads.body(
                    q.transpose(1, 2), k.transpose(1, 2), k.transpose(1, 2), t, t
                ),
            )


def _with_config(name: str, parameters: dict[str, int], launch: Callable[[], object]) -> Callable[[], object]:
    def launch_with_config() -> None:
        with use_config(name, **parameters):
            launch()

    return launch_with_config


def _text(parameters: dict[str, int]) -> str:
    return " ".join(f"{name.removeprefix('num_')}={value}" for name, value in parameters.items())


def _rms_norm_cases() -> Iterator[Case]:
    """The heads of a fused projection, and the candidates of a sweep of the backward."""
    weight, rstd = _meta(64, dtype=torch.float32), _meta(4 * 1024 * 12, dtype=torch.float32)
    heads = _meta(4, 1024, 36, 64)[:, :, :12]
    yield Case(
        "rms_norm",
        "bfloat16, 12 heads of 64 with gaps",
        lambda: rms_norm_forward.body(heads, weight, None, 1e-5),
    )
    yield Case(
        "rms_norm",
        "bfloat16, 12 heads of 64 with gaps",
        lambda: rms_norm_backward.body(heads, heads, weight, rstd, None),
    )
    for width, candidates in ((768, NARROW_BACKWARD_CANDIDATES), (4096, BACKWARD_CANDIDATES)):
        x, w, r = _meta(4096, width), _meta(width, dtype=torch.float32), _meta(4096, dtype=torch.float32)
        for candidate in candidates:
            for ds in (None, x):
                launch = lambda x=x, w=w, r=r, ds=ds: rms_norm_backward.body(x, x, w, r, ds)  # noqa: E731
                label = f"sweep {width}{' + residual' if ds is not None else ''}: {_text(candidate)}"
                yield Case(
                    "rms_norm",
                    label,
                    _with_config("rms_norm_backward", candidate, launch),
                    architectures=SWEPT,
                )


def _attend(
    dtype: torch.dtype, head_dim: int, seq: int, ids: bool = False, kv_heads: int = 4, window: int = 0
) -> None:
    q, k = _meta(2, seq, 16, head_dim, dtype=dtype), _meta(2, seq, kv_heads, head_dim, dtype=dtype)
    q, k = q.transpose(1, 2), k.transpose(1, 2)
    document_ids = _meta(2, seq, dtype=torch.int64) if ids else None
    scale = head_dim**-0.5
    _, lse = attention_forward.body(q, k, k, document_ids, True, scale, window)
    attention_backward.body(q, q, k, k, q, lse, document_ids, True, scale, window)


def _attention_cases() -> Iterator[Case]:
    variants: dict[str, dict[str, Any]] = {
        "": {"seq": 4096, "kv_heads": 16},
        ", grouped": {"seq": 4096},
        ", window": {"seq": 4096, "kv_heads": 16, "window": 1024},
        ", grouped, ragged, ids": {"seq": 4001, "ids": True},
    }
    for head_dim in (16, 32, 64, 80, 96, 128, 256):
        for text, options in variants.items():
            label = f"bfloat16 head_dim {head_dim}{text}"
            yield Case("attention", label, lambda d=head_dim, o=options: _attend(torch.bfloat16, d, **o))
    yield Case("attention", "float16 head_dim 64", lambda: _attend(torch.float16, 64, 4096, kv_heads=16))
    for head_dim in (16, 32, 64, 128, 256):
        for tf32 in (False, True) if head_dim <= 64 else (True,):
            label = f"float32{' (tf32)' if tf32 else ''} head_dim {head_dim}, grouped, ragged"
            yield Case("attention", label, lambda d=head_dim: _attend(torch.float32, d, 4001), tf32)


def _attend_with(kernel: str, tile: Tile, head_dim: int) -> None:
    with use_tiles(**{kernel: tile}):
        _attend(torch.bfloat16, head_dim, 4096, kv_heads=16)


def _tile_cases() -> Iterator[Case]:
    """One kernel with each tile that bench/ times on an H100 (attention_tiles.py), except the first of each list, the
    default, which other cases compile.
    """
    for head_dim, kernels in CANDIDATES.items():
        for kernel, tiles in kernels.items():
            for tile in tiles[1:]:
                yield Case(
                    "attention",
                    f"bfloat16 head_dim {head_dim}, {kernel} tile {','.join(map(str, tile))}",
                    lambda k=kernel, t=tile, d=head_dim: _attend_with(k, t, d),
                    architectures=SWEPT,
                    kernel=f"_attention_{kernel}_kernel",
                )


def _decode_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        for head_dim in (32, 64, 80, 128, 256):
            for heads, kv_heads, batch in ((12, 12, 1), (32, 8, 1), (32, 8, 64)):
                q, cache = _meta(batch, heads, head_dim, dtype=dtype), (batch, kv_heads, 8192, head_dim)
                cache, lengths = _meta(*cache, dtype=dtype), _meta(batch, dtype=torch.int32)
                name = str(dtype).removeprefix("torch.")
                yield Case(
                    "decode_attention",
                    f"{name} head_dim {head_dim}, {heads}/{kv_heads} heads, batch {batch}",
                    lambda q=q, c=cache, n=lengths: _decode.body(q, c, c, n, 0),
                )


def _append_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        for head_dim in (64, 80, 128, 256):
            for batch, heads, kv_heads in ((1, 12, 12), (16, 32, 8)):
                projected = _meta(batch, heads + 2 * kv_heads, head_dim, dtype=dtype)
                q, k, v = projected.split([heads, kv_heads, kv_heads], 1)
                table = _meta(1024, head_dim // 2, dtype=torch.float32)
                cache, lengths = (
                    _meta(batch, kv_heads, 1024, head_dim, dtype=dtype),
                    _meta(batch, dtype=torch.int32),
                )
                name = str(dtype).removeprefix("torch.")
                yield Case(
                    "rope_append",
                    f"{name} head_dim {head_dim}, {heads}/{kv_heads} heads, batch {batch}",
                    lambda q=q, k=k, v=v, t=table, n=lengths, c=cache: _rope_append.body(
                        q, k, v, t, t, n, c, c
                    ),
                )


def _decode_linear_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        for rows in (1, 4):
            for width, columns in ((768, 768), (768, 2304), (2560, 768), (8192, 1024)):
                x, weight = _meta(rows, width, dtype=dtype), _meta(columns, width, dtype=dtype)
                both, norm = _meta(rows, 2 * width, dtype=dtype), _meta(width, dtype=torch.float32)
                name = str(dtype).removeprefix("torch.")
                for prologue, arguments in {
                    "plain": (x, weight, None, None, 0.0, False),
                    "norm": (x, weight, norm, x, 1e-5, False),
                    "swiglu": (both, weight, None, None, 0.0, True),
                }.items():
                    label = f"{name} {rows} x {width} x {columns}, {prologue}"
                    yield Case("decode_linear", label, lambda a=arguments: _product.body(*a))
    x, weight, norm = _meta(1, 768), _meta(2304, 768), _meta(768, dtype=torch.float32)
    for candidate in LINEAR_CANDIDATES:
        launch = _with_config(
            "decode_linear", candidate, lambda: _product.body(x, weight, norm, x, 1e-5, False)
        )
        yield Case("decode_linear", "candidate, bfloat16 1 x 768 x 2304, norm", launch, architectures=SWEPT)


def _loss_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        for vocab in (4096, 10000, 32000, 50257, 50304, 151936):
            for softcap in (None, 30.0):
                hidden, weight = _meta(2048, 768, dtype=dtype), _meta(vocab, 768, dtype=dtype)
                targets, name = _meta(2048, dtype=torch.int64), str(dtype).removeprefix("torch.")
                yield Case(
                    "linear_cross_entropy",
                    f"{name} vocabulary {vocab}{', softcap' if softcap else ''}",
                    lambda h=hidden, w=weight, t=targets, c=softcap: _loss.body(
                        h, w, t, -100, c, 1e-4, h.dtype, True
                    ),
                )
    hidden, weight, targets = _meta(2048, 768), _meta(50304, 768), _meta(2048, dtype=torch.int64)

    def launch() -> None:
        _loss.body(hidden, weight, targets, -100, None, 0.0, torch.bfloat16, True)

    for candidate in LOSS_CANDIDATES:
        yield Case(
            "linear_cross_entropy",
            f"sweep: {_text(candidate)}",
            _with_config("loss", candidate, launch),
            architectures=SWEPT,
        )


def _fp8_loss_cases() -> Iterator[Case]:
    for vocab in (4096, 32000, 50304):
        for softcap in (None, 30.0):
            rows, width, one = 2048, 768, _meta(dtype=torch.float32)
            weight8, weight8t = _meta(vocab, width, dtype=E4M3), _meta(width, vocab, dtype=E4M3)
            operands = (
                _meta(rows, width, dtype=E4M3),
                _meta(width, rows, dtype=E4M3),
                one,
                weight8,
                weight8t,
                one,
            )
            dtypes = torch.bfloat16, torch.bfloat16, torch.float32
            yield Case(
                "linear_cross_entropy",
                f"fp8 vocabulary {vocab}{', softcap' if softcap else ''}",
                lambda o=operands, c=softcap, d=dtypes: fp8_loss.body(
                    *o, _meta(2048, dtype=torch.int64), -100, c, 1e-4, *d
                ),
                architectures=FP8_ARCHITECTURES,
            )


def _fp8_cast_cases() -> Iterator[Case]:
    one = _meta(dtype=torch.float32)
    for width in (768, 4096):
        x = _meta(4096, width)
        for dtype in (E4M3, E5M2):
            yield Case(
                "fp8_cast", f"bfloat16 {width} to {dtype}", lambda x=x, d=dtype: _cast.body(x, one, d, 448.0),
                architectures=FP8_ARCHITECTURES,
            )  # fmt: skip


def _fp8_feed_forward_cases() -> Iterator[Case]:
    for width in (1344, 2560, 3072):
        both, dhidden, scale = _meta(4096, 2 * width), _meta(4096, width), _meta(dtype=torch.float32)
        label = f"bfloat16 width {width}"
        for launch in (
            lambda b=both: fp8_swiglu_maxima.body(b),
            lambda b=both, s=scale: fp8_swiglu.body(b, s),
            lambda d=dhidden, b=both, s=scale: fp8_swiglu_backward.body(d, b, s),
        ):
            yield Case("fp8_feed_forward", label, launch, architectures=FP8_ARCHITECTURES)


def cases(only: str | None = None) -> list[Case]:
    """Every case, or those of one operator."""
    everything = [
        *_pointwise_cases(),
        *_rms_norm_cases(),
        *_attention_cases(),
        *_tile_cases(),
        *_decode_cases(),
        *_append_cases(),
        *_decode_linear_cases(),
        *_loss_cases(),
        *_fp8_loss_cases(),
        *_fp8_cast_cases(),
        *_fp8_feed_forward_cases(),
    ]
    return [case for case in everything if only in (None, case.operator)]
