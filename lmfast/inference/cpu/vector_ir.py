"""Emits LLVM IR on vectors of 16 floats at int64 addresses, for Numba's intrinsics.

A vector is one register of AVX-512, two of AVX2, or four of NEON; the IR is portable, so it runs wherever Numba does. The
code accesses raw memory without bounds checks; the caller keeps the memory alive. The first argument of every function is
LLVM's builder; addresses and counts are its int64 values.
"""

from llvmlite import ir
from numba.core import cgutils

LANES = 16
BYTES = 4 * LANES
FLOAT, I1, I8, I32, I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (1, 8, 32, 64))
VECTOR = ir.VectorType(FLOAT, LANES)
MASK = ir.VectorType(I1, LANES)
ZERO = ir.Constant(VECTOR, [0.0] * LANES)
_CONTRACT = ("contract",)  # allows fused multiply-add


def pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def at(builder, address, offset: int):
    """The address plus `offset` bytes."""
    return builder.add(address, I64(offset)) if offset else address


def load(builder, address):
    value = builder.load(pointer(builder, address, VECTOR))
    value.align = 4
    return value


def store(builder, vector, address):
    builder.store(vector, pointer(builder, address, vector.type)).align = 4


def splat(builder, value):
    """A vector of 16 copies of a value."""
    vector = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, I32(0))
    return shuffle(builder, one, one, [0] * LANES)


def load_splat(builder, address):
    value = builder.load(pointer(builder, address, FLOAT))
    value.align = 4
    return splat(builder, value)


def first_lanes(builder, count):
    """A mask of the first `count` lanes."""
    lanes = ir.Constant(ir.VectorType(I64, LANES), list(range(LANES)))
    return builder.icmp_signed("<", lanes, splat(builder, count))


def load_masked(builder, address, mask, otherwise=ZERO):
    """Loads only the lanes in `mask`; the others are `otherwise`."""
    kind = ir.FunctionType(VECTOR, [VECTOR.as_pointer(), I32, MASK, VECTOR])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
    return builder.call(function, [pointer(builder, address, VECTOR), I32(4), mask, otherwise])


def store_masked(builder, vector, address, mask):
    """Stores only the lanes in `mask`."""
    kind = ir.FunctionType(ir.VoidType(), [VECTOR, VECTOR.as_pointer(), I32, MASK])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
    builder.call(function, [vector, pointer(builder, address, VECTOR), I32(4), mask])


def shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


def multiply_add(builder, a, b, total):
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), total, flags=_CONTRACT)


def greater(builder, a, b):
    """The lane-wise maximum; b if either is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def lane_sums(builder, vectors: list):
    """A vector of the sums of `vectors` (a power of two, at most LANES), in order.

    A binary tree: each level adds halves of two vectors, so that 16 sums take 45 operations instead of 16 × 8."""
    groups = 1
    while len(vectors) > 1:
        size = LANES // groups
        low = [s * LANES + g * size + i for s in (0, 1) for g in range(groups) for i in range(size // 2)]
        high = [lane + size // 2 for lane in low]
        vectors = [
            builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        groups *= 2
    total, width = vectors[0], LANES
    while width > groups:
        size = width // groups
        low = [g * size + i for g in range(groups) for i in range(size // 2)]
        high = [lane + size // 2 for lane in low]
        total = builder.fadd(shuffle(builder, total, total, low), shuffle(builder, total, total, high))
        width //= 2
    return total


def loop(builder, begin, end, step: int, carried: list, body) -> list:
    """Emits `for i in range(begin, end, step): carried = body(i, carried)`; returns the final `carried`."""
    before = builder.basic_block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(I64)
    i.add_incoming(begin, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
    builder.position_at_end(inside)
    changed = body(i, values)
    i.add_incoming(builder.add(i, I64(step)), builder.basic_block)
    for phi, value in zip(values, changed, strict=True):
        phi.add_incoming(value, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def when(builder, condition, values: list, body) -> list:
    """body() if the condition holds, otherwise `values`."""
    before = builder.basic_block
    inside, after = builder.append_basic_block("then"), builder.append_basic_block("after")
    builder.cbranch(condition, inside, after)
    builder.position_at_end(inside)
    changed, end = body(), builder.basic_block
    builder.branch(after)
    builder.position_at_end(after)
    joined = []
    for without, value in zip(values, changed, strict=True):
        phi = builder.phi(value.type)
        phi.add_incoming(without, before)
        phi.add_incoming(value, end)
        joined.append(phi)
    return joined


def prefetch(builder, address):
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [pointer(builder, address, I8), I32(0), I32(3), I32(1)])


def rows(builder, first, stride, count: int) -> list:
    """Addresses of `count` rows, `stride` bytes apart."""
    return [builder.add(first, builder.mul(stride, I64(k))) for k in range(count)]
