"""What Numba lacks for matrix products at memory speed: dot products of many rows in vector registers, exp2,
atomics between threads; and addresses instead of arrays.

Everything here reads and writes raw memory at int64 addresses: no bounds are checked, the caller keeps the memory
alive. Vectors are plain LLVM IR of 16 floats (one register of AVX-512, two of AVX2, four of NEON); no instruction set
is named, so this runs wherever Numba does.

Every dot product here is summed in one order (16 partial sums down the row, then halves onto halves), however many
rows are done together: a row's result does not depend on what else is in the batch, bit for bit.

Measured (2-core AMD EPYC, Zen 4, one thread, fp32, rows of 256 to 1344, GB/s of weights with one vector / GFLOP/s
with 16), weights from memory, then from the L3 cache:

    torch's linear (MKL)                        8-14 /  33-46      40-55 /  33-46
    4 rows at a time, one vector               10-18               40-69
    one row after the other (`row_dots`)       28-32               54-69
    4 x 4 tiles                                       53-63                55-93
    4 x 4 tiles, 4 rows ahead prefetched              64-76                80-109   (peak 118)

A core's prefetcher follows one stream of short rows and loses four: that is all that keeps MKL from the memory's
28 GB/s. oneDNN's packed weights reached 9-31 GB/s / 63-92, at the price of a copy of the weights.
"""

import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

LANES = 16
FLAGS = {"boundscheck": False, "error_model": "numpy", "nogil": True}
SUMS = FLAGS | {
    "fastmath": {"reassoc", "contract", "nsz", "arcp"}
}  # sums in vectors; infinities and NaN stay
LOG2_E = np.float32(1.4426950408889634)

_FLOAT, _I1, _I8, _I32, _I64 = ir.FloatType(), *(ir.IntType(bits) for bits in (1, 8, 32, 64))
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZERO = ir.Constant(_VECTOR, [0.0] * LANES)
_BYTES = 4 * LANES
_CONTRACT = ("contract",)  # a product and its sum become one fused operation where the machine has it


def _pointer(builder, address, kind):
    return builder.inttoptr(address, kind.as_pointer())


def _load(builder, address):
    load = builder.load(_pointer(builder, address, _VECTOR))
    load.align = 4
    return load


def _load_first(builder, address, mask):
    """A vector of which only the lanes in `mask` are read; the others are zero."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR.as_pointer(), _I32, mask.type, _VECTOR])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
    return builder.call(function, [_pointer(builder, address, _VECTOR), _I32(4), mask, _ZERO])


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _multiply_add(builder, a, b, total):
    return builder.fadd(builder.fmul(a, b, flags=_CONTRACT), total, flags=_CONTRACT)


def _sums(builder, vectors: list):
    """One vector of the sums of `vectors` (a power of two of them, at most LANES), in order.

    A binary tree: each level adds halves of two vectors and leaves half as many, so that 16 sums cost 45 operations
    and not 16 times 8."""
    groups = 1
    while len(vectors) > 1:
        size = LANES // groups
        low = [s * LANES + g * size + i for s in (0, 1) for g in range(groups) for i in range(size // 2)]
        high = [lane + size // 2 for lane in low]
        vectors = [
            builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
        groups *= 2
    total, width = vectors[0], LANES
    while width > groups:
        size = width // groups
        low = [g * size + i for g in range(groups) for i in range(size // 2)]
        high = [lane + size // 2 for lane in low]
        total = builder.fadd(_shuffle(builder, total, total, low), _shuffle(builder, total, total, high))
        width //= 2
    return total


def _loop(builder, begin, end, step: int, carried: list, body):
    """for i in range(begin, end, step): carried = body(i, carried). Returns what is carried at its end."""
    before = builder.basic_block
    head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    i = builder.phi(_I64)
    i.add_incoming(begin, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", i, end), inside, after)
    builder.position_at_end(inside)
    changed = body(i, values)
    i.add_incoming(builder.add(i, _I64(step)), builder.basic_block)
    for phi, value in zip(values, changed, strict=True):
        phi.add_incoming(value, builder.basic_block)
    builder.branch(head)
    builder.position_at_end(after)
    return values


def _prefetch(builder, address):
    kind = ir.FunctionType(ir.VoidType(), [_I8.as_pointer(), _I32, _I32, _I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    builder.call(function, [_pointer(builder, address, _I8), _I32(0), _I32(3), _I32(1)])


class _Dots:
    """Emits the partial sums of some rows of `a` with some rows of `b`, `count` floats each."""

    def __init__(self, builder, count, unroll: int):
        self.builder, self.unroll = builder, unroll
        size = builder.shl(count, _I64(2))
        self.whole = builder.and_(size, _I64(-_BYTES))
        self.unrolled = builder.and_(size, _I64(-_BYTES * unroll))
        self.rest = builder.sub(size, self.whole)
        offsets = ir.Constant(ir.VectorType(_I64, LANES), [4 * lane for lane in range(LANES)])
        one = builder.insert_element(ir.Constant(offsets.type, ir.Undefined), self.rest, _I32(0))
        self.mask = builder.icmp_signed("<", offsets, _shuffle(builder, one, one, [0] * LANES))

    def sums_of(self, a_rows: list, b_rows: list, ahead=None) -> list:
        """The vectors of partial sums, b major. `ahead`: bytes from a row to what is prefetched beside it."""
        builder = self.builder

        def block(offset, totals, load):
            a_vectors = [load(builder.add(row, offset)) for row in a_rows]
            totals, k = list(totals), 0
            for row in b_rows:
                b = load(builder.add(row, offset))
                for a in a_vectors:
                    totals[k] = _multiply_add(builder, a, b, totals[k])
                    k += 1
            return totals

        def several(i, totals):
            for k in range(self.unroll):
                totals = whole(builder.add(i, _I64(k * _BYTES)), totals)
            return totals

        def whole(offset, totals):
            if ahead is not None:
                for row in a_rows:
                    _prefetch(builder, builder.add(builder.add(row, offset), ahead))
            return block(offset, totals, lambda address: _load(builder, address))

        totals = [_ZERO] * (len(a_rows) * len(b_rows))
        if self.unroll > 1:
            totals = _loop(builder, _I64(0), self.unrolled, _BYTES * self.unroll, totals, several)
        begin = self.unrolled if self.unroll > 1 else _I64(0)
        totals = _loop(builder, begin, self.whole, _BYTES, totals, whole)
        before = builder.basic_block
        tail, done = builder.append_basic_block("tail"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed("!=", self.rest, _I64(0)), tail, done)
        builder.position_at_end(tail)
        with_tail = block(self.whole, totals, lambda address: _load_first(builder, address, self.mask))
        builder.branch(done)
        builder.position_at_end(done)
        joined = []
        for without, value in zip(totals, with_tail, strict=True):
            phi = builder.phi(_VECTOR)
            phi.add_incoming(without, before)
            phi.add_incoming(value, tail)
            joined.append(phi)
        return joined


def _store_sums(builder, totals: list, out) -> None:
    total = _sums(builder, totals)
    builder.store(total, _pointer(builder, out, total.type)).align = 4


def _rows(builder, first, stride, count: int) -> list:
    return [builder.add(first, builder.mul(stride, _I64(k))) for k in range(count)]


def _make_row_dots(rows: int):
    @intrinsic
    def row_dots(typingctx, a, a_stride, b, count, out):
        """out[i] = the sum over `count` floats of a's row i times b; rows are `a_stride` bytes apart."""

        def codegen(context, builder, signature, args):
            a, a_stride, b, count, out = args
            dots = _Dots(builder, count, unroll=4)
            totals = []
            for row in _rows(builder, a, a_stride, rows):
                totals += dots.sums_of([row], [b])
            _store_sums(builder, totals, out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), codegen

    return row_dots


def _make_tile_dots(rows: int, columns: int):
    @intrinsic
    def tile_dots(typingctx, a, a_stride, b, b_stride, count, out):
        """out[j * rows + i] = the sum over `count` floats of a's row i times b's row j; strides in bytes."""

        def codegen(context, builder, signature, args):
            a, a_stride, b, b_stride, count, out = args
            ahead = builder.mul(a_stride, _I64(rows))
            dots = _Dots(builder, count, unroll=1)
            totals = dots.sums_of(
                _rows(builder, a, a_stride, rows), _rows(builder, b, b_stride, columns), ahead
            )
            _store_sums(builder, totals, out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return tile_dots


dots_16, dots_1 = _make_row_dots(16), _make_row_dots(1)
dots_4x4, dots_1x4 = _make_tile_dots(4, 4), _make_tile_dots(1, 4)


def _make_view(dtype):
    array_type = types.Array(dtype, 1, "C")

    @intrinsic
    def view(typingctx, address, count):
        """The array of `count` numbers at an address; nobody counts references to it."""

        def codegen(context, builder, signature, args):
            kind = context.get_data_type(dtype)
            array = context.make_array(array_type)(context, builder)
            size = context.get_constant(types.intp, dtype.bitwidth // 8)
            arrayobj.populate_array(array, _pointer(builder, args[0], kind), [args[1]], [size], size, None)
            return array._getvalue()

        return array_type(types.int64, types.int64), codegen

    return view


floats, integers = _make_view(types.float32), _make_view(types.int64)


@intrinsic
def exp2(typingctx, x):
    """2^x of a float32 to 2 units in the last place; below −126 it is 2^−126 (1e-38), above 126 2^126.

    A polynomial, so that loops of it become vector code: libm's exp is called once an element."""

    def codegen(context, builder, signature, args):
        (x,) = args
        for bound, sign in ((-126.0, "<"), (126.0, ">")):
            x = builder.select(builder.fcmp_ordered(sign, x, _FLOAT(bound)), _FLOAT(bound), x)
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOAT, [_FLOAT]), "llvm.rint.f32"
        )
        nearest = builder.call(rint, [x])
        f = builder.fsub(x, nearest)
        # ln(2)^k / k!: what Taylor's series of 2^f gives; |f| <= 1/2 leaves 1e-8 after the seventh power.
        terms = (
            1.5252734e-5,
            1.5403530e-4,
            1.3333558e-3,
            9.6181291e-3,
            5.5504109e-2,
            2.4022651e-1,
            6.9314718e-1,
            1.0,
        )
        total = _FLOAT(terms[0])
        for term in terms[1:]:
            total = _multiply_add(builder, total, f, _FLOAT(term))
        exponent = builder.shl(builder.add(builder.fptosi(nearest, _I32), _I32(127)), _I32(23))
        return builder.fmul(total, builder.bitcast(exponent, _FLOAT))

    return types.float32(types.float32), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Adds to the int64 at `address`; what was there before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _pointer(builder, args[0], _I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at `address`, with all that its writer wrote before it."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(builder, args[0], _I64), "seq_cst", 8)

    return types.int64(types.int64), codegen


_RELAX = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "amd64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
    "arm64": ("llvm.aarch64.hint", [1]),
}


@intrinsic
def relax(typingctx):
    """Tells the core that this thread waits for another."""

    def codegen(context, builder, signature, args):
        name, operands = _RELAX.get(platform.machine().lower(), (None, []))
        if name is not None:
            kind = ir.FunctionType(ir.VoidType(), [_I32] * len(operands))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(function, [_I32(value) for value in operands])
        return context.get_dummy_value()

    return types.void(), codegen
