"""Each operator forward and backward, compared with PyTorch's: eager, as the model's commands call it.

On a CPU the operators are PyTorch itself (lmfast_kernels/backend.py), so these entries show what the references cost; on
CUDA they are the Triton kernels, and the same entries compare them with PyTorch's. Entries for peers that exist only on CUDA
skip elsewhere with the reason. Results are compared with the peer's before anything is timed.

Bytes are those of the tensors that must be read or written once; FLOPs of attention count causal work once; the fraction
is of the copy bandwidth or the matrix rate measured in this session.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import lmfast_kernels
from bench.measuring import Work


@dataclass(frozen=True)
class Shape:
    """(batch, seq) tokens of width d_model, heads of 64, a vocabulary."""

    batch: int
    seq: int
    d_model: int
    d_ff: int
    vocab: int

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def heads(self) -> int:
        return self.d_model // 64


SHAPES = {
    "quick": Shape(2, 256, 256, 704, 4096),
    "default": Shape(4, 512, 512, 1408, 8192),
    "full": Shape(8, 1024, 768, 2048, 32768),
    "cuda": Shape(8, 2048, 2048, 5632, 50304),
}


@pytest.fixture(scope="module")
def shape(mode, device) -> Shape:
    return SHAPES["cuda" if device.type == "cuda" else mode]


@pytest.fixture(scope="module")
def dtype(device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@pytest.fixture
def randn(device, dtype):
    """Random tensors that require gradients, with a separate seed."""
    generator = torch.Generator(device=device).manual_seed(0)

    def make(*sizes: int) -> torch.Tensor:
        x = torch.randn(sizes, generator=generator, device=device, dtype=torch.float32).to(dtype)
        return x.requires_grad_()

    return make


@pytest.fixture(params=["forward", "backward"])
def direction(request) -> str:
    return request.param


def nbytes(*tensors: torch.Tensor) -> int:
    return sum(x.numel() * x.element_size() for x in tensors)


def outputs(function, inputs) -> tuple[torch.Tensor, ...]:
    out = function(*inputs)
    return out if isinstance(out, tuple) else (out,)


def call(function, inputs, direction: str):
    """What is timed: a forward pass without a graph, a backward pass through a graph that is kept, or both."""
    if direction == "forward":

        def forward():
            with torch.no_grad():
                function(*inputs)

        return forward
    if direction == "both":
        return lambda: torch.autograd.grad(function(*inputs), inputs)
    out = [x for x in outputs(function, inputs) if x.requires_grad]
    upstream = [torch.ones_like(x) for x in out]
    wanted = [x for x in inputs if x.requires_grad]
    return lambda: torch.autograd.grad(out, wanted, upstream, retain_graph=True)


def agree(ours, theirs, inputs) -> None:
    """Outputs and gradients of both are the same within what the dtype allows."""
    tolerance = (
        {"rtol": 2e-2, "atol": 2e-2} if inputs[0].dtype == torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-3}
    )
    found = []
    for function in (ours, theirs):
        out = outputs(function, inputs)
        wanted = [x for x in inputs if x.requires_grad]
        grads = torch.autograd.grad(
            [x for x in out if x.requires_grad], wanted, [torch.ones_like(x) for x in out if x.requires_grad]
        )
        found.append([*out, *grads])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a.float(), b.float(), **tolerance)


def bench(measure, direction, inputs, ours, theirs, name, tokens, moved, flops=None, matrix=None) -> None:
    """`moved` bytes and `flops` of (forward, the other direction); the peer is PyTorch's way to the same result."""
    agree(ours, theirs, inputs)
    i = direction != "forward"
    work = Work(
        tokens=tokens,
        bytes=moved[i],
        flops=None if flops is None else flops[i],
        ceiling=f"matmul {str(matrix).removeprefix('torch.')}" if flops else "copy",
    )
    measure(call(ours, inputs, direction), work, {name: call(theirs, inputs, direction)})


def test_rms_norm(shape, randn, direction, measure):
    x, weight = randn(shape.tokens, shape.d_model), randn(shape.d_model)

    def theirs(x, weight):
        return F.rms_norm(x, weight.shape, weight, 1e-5)

    moved = (2 * nbytes(x), 3 * nbytes(x))
    bench(
        measure, direction, [x, weight], lambda x, w: lmfast_kernels.rms_norm(x, w, 1e-5), theirs, "F.rms_norm",
        shape.tokens, moved,
    )  # fmt: skip


def test_rms_norm_residual(shape, randn, direction, measure):
    x, weight, residual = (
        randn(shape.tokens, shape.d_model),
        randn(shape.d_model),
        randn(shape.tokens, shape.d_model),
    )

    def theirs(x, weight, residual):
        total = x + residual
        return F.rms_norm(total, weight.shape, weight, 1e-5), total

    moved = (4 * nbytes(x), 4 * nbytes(x))
    bench(
        measure, direction, [x, weight, residual], lambda x, w, r: lmfast_kernels.rms_norm(x, w, 1e-5, r), theirs,
        "add + F.rms_norm", shape.tokens, moved,
    )  # fmt: skip


def test_swiglu(shape, randn, direction, measure):
    gate, up = randn(shape.tokens, shape.d_ff), randn(shape.tokens, shape.d_ff)
    moved = (3 * nbytes(gate), 5 * nbytes(gate))
    bench(
        measure, direction, [gate, up], lmfast_kernels.swiglu, lambda gate, up: F.silu(gate) * up, "F.silu * up",
        shape.tokens, moved,
    )  # fmt: skip


def test_rope(shape, randn, direction, device, measure):
    from lmfast.model.config import ModelConfig
    from lmfast.model.rope import rope_tables

    config = ModelConfig(vocab_size=1, context_length=shape.seq, head_dim=64).resolved()
    q, k = (randn(shape.batch, shape.heads, shape.seq, 64) for _ in range(2))
    cos, sin = (torch.tensor(table, device=device) for table in rope_tables(config))

    def ours(q, k):
        return tuple(lmfast_kernels.rope(q, k, cos, sin))

    def theirs(q, k):
        def turned(x):
            a, b = x.float().chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

        return turned(q), turned(k)

    moved = (4 * nbytes(q), 4 * nbytes(q))
    bench(measure, direction, [q, k], ours, theirs, "chunk and cat", shape.tokens, moved)


SDPA = {"default": None, "flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION"}


@pytest.mark.parametrize("peer", SDPA)
def test_attention(shape, randn, direction, device, dtype, peer, measure):
    """Causal, compared with PyTorch's choice and, on CUDA, each of its fast backends."""
    if SDPA[peer] and device.type != "cuda":
        pytest.skip(f"SDPA's {peer} backend: no CUDA device")
    q, k, v = (randn(shape.batch, shape.heads, shape.seq, 64) for _ in range(3))

    def theirs(q, k, v):
        if not SDPA[peer]:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, SDPA[peer])):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    forward = 2 * shape.batch * shape.heads * shape.seq * shape.seq * 64
    moved = (
        4 * nbytes(q),
        8 * nbytes(q),
    )  # q, k, v, out; the backward pass reads those and dout, and writes dq, dk, dv
    bench(
        measure, direction, [q, k, v], lmfast_kernels.attention, theirs, f"SDPA {peer}",
        shape.tokens, moved, flops=(forward, 2.5 * forward), matrix=dtype,
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 16])
def test_decode_attention(shape, randn, device, batch, measure):
    """One new token per sequence over a full cache; only the speed of reading the cache matters."""
    length = 4 * shape.seq
    with torch.no_grad():
        q = randn(batch, shape.heads, 64).detach()
        k, v = (randn(batch, max(1, shape.heads // 4), length, 64).detach() for _ in range(2))
    lengths = torch.full((batch,), length, dtype=torch.int32, device=device)

    def theirs():
        return F.scaled_dot_product_attention(q[:, :, None], k, v, enable_gqa=True)

    ours = lmfast_kernels.decode_attention(q, k, v, lengths)
    torch.testing.assert_close(ours.float(), theirs()[:, :, 0].float(), rtol=2e-2, atol=2e-2)
    measure(
        lambda: lmfast_kernels.decode_attention(q, k, v, lengths),
        Work(tokens=batch, bytes=nbytes(k, v), ceiling="read"),
        {"SDPA": theirs},
    )


@pytest.mark.parametrize("direction", ["forward", "both"])
def test_linear_cross_entropy(shape, randn, direction, device, dtype, measure):
    """The loss from hidden states, compared with a matrix product and F.cross_entropy.

    Ours makes the gradients in the forward pass, so a backward pass alone would show nothing."""
    hidden, weight = randn(shape.tokens, shape.d_model), randn(shape.vocab, shape.d_model)
    with torch.no_grad():
        weight /= shape.d_model**0.5
    targets = torch.randint(0, shape.vocab, (shape.tokens,), device=device)

    def ours(hidden, weight):
        return lmfast_kernels.linear_cross_entropy(hidden, weight, targets)[0] / shape.tokens

    def theirs(hidden, weight):
        return F.cross_entropy((hidden @ weight.t()).float(), targets)

    forward = 2 * shape.tokens * shape.d_model * shape.vocab
    moved = (nbytes(hidden, weight), 2 * nbytes(hidden, weight))
    bench(
        measure, direction, [hidden, weight], ours, theirs, "matmul + F.cross_entropy",
        shape.tokens, moved, flops=(forward, 3 * forward), matrix=dtype,
    )  # fmt: skip
