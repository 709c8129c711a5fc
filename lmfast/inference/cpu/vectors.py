"""Numba intrinsics for attention and norms at memory speed: dot products with many rows, weighted sums of rows, maximum,
exp2, atomics, and views of raw memory at int64 addresses (see vector_ir.py).

Dot products are summed in the same order (16 partial sums along the row, then pairwise) however many rows are computed
together. Rows are read one after another, because the prefetcher follows one stream well, but not four.
"""

import platform
import sys

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj

from lmfast.inference.cpu import vector_ir as emit
from lmfast.inference.cpu.vector_ir import BYTES, FLOAT, I32, I64, LANES, VECTOR, ZERO, multiply_add, pointer

compiled = njit(boundscheck=False, error_model="numpy", nogil=True)
compiled_sums = njit(  # allows vectorised sums, but respects infinities and NaN
    boundscheck=False, error_model="numpy", nogil=True, fastmath={"reassoc", "contract", "nsz", "arcp"}
)
LOG2_E = np.float32(1.4426950408889634)


def _row_sums(builder, row, b, count, ahead, unroll: int):
    """The vector of partial sums of the dot product of a row with b, `count` floats each."""
    size = builder.shl(count, I64(2))
    whole, unrolled = builder.and_(size, I64(-BYTES)), builder.and_(size, I64(-BYTES * unroll))

    def block(i, total):
        here = builder.add(row, i)
        emit.prefetch(builder, builder.add(here, ahead))
        return multiply_add(builder, emit.load(builder, here), emit.load(builder, builder.add(b, i)), total)

    def several(i, totals):
        (total,) = totals
        for k in range(unroll):
            total = block(emit.at(builder, i, k * BYTES), total)
        return [total]

    totals = emit.loop(builder, I64(0), unrolled, BYTES * unroll, [ZERO], several)
    totals = emit.loop(builder, unrolled, whole, BYTES, totals, lambda i, totals: [block(i, totals[0])])

    def rest():
        mask = emit.first_lanes(builder, builder.and_(count, I64(LANES - 1)))
        a = emit.load_masked(builder, builder.add(row, whole), mask)
        return [multiply_add(builder, a, emit.load_masked(builder, builder.add(b, whole), mask), totals[0])]

    return emit.when(builder, builder.icmp_signed("<", whole, size), totals, rest)[0]


def _make_row_dots(rows: int):
    @intrinsic
    def row_dots(typingctx, a, stride, b, count, out, ahead):
        """out[i] = row i of a · b, `count` floats each; rows are `stride` bytes apart, prefetched `ahead` bytes ahead."""

        def codegen(context, builder, signature, args):
            a, stride, b, count, out, ahead = args
            totals = [
                _row_sums(builder, row, b, count, ahead, unroll=4)
                for row in emit.rows(builder, a, stride, rows)
            ]
            emit.store(builder, emit.lane_sums(builder, totals), out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return row_dots


dots_16, dots_1 = _make_row_dots(16), _make_row_dots(1)


def _make_weighted_rows(vectors: int, masked: bool = False):
    """For `vectors` vectors of each row; masked: only some lanes are used."""
    phases = max(1, 8 // vectors)  # independent sums; a single one would wait 4 cycles for each product

    @intrinsic
    def weighted_rows(typingctx, weights, a, stride, count, scale, out, lanes, after):
        """out = scale · sum over `count` rows of weights[i] · row i of a. lanes: lanes used of a masked vector.

        Prefetches 16 rows ahead, and at the end the memory at `after`."""

        def codegen(context, builder, signature, args):
            weights, a, stride, count, scale, out, lanes, after = args
            mask = emit.first_lanes(builder, lanes) if masked else None

            def value(row, v):
                address = emit.at(builder, row, v * BYTES)
                return emit.load_masked(builder, address, mask) if masked else emit.load(builder, address)

            def add(i, totals, number, ahead=None):
                totals = list(totals)
                for p in range(number):
                    k = builder.add(i, I64(p))
                    weight = emit.load_splat(builder, builder.add(weights, builder.shl(k, I64(2))))
                    row = builder.add(a, builder.mul(stride, k))
                    if ahead is not None:
                        for v in range(vectors):
                            emit.prefetch(builder, emit.at(builder, builder.add(row, ahead), v * BYTES))
                    for v in range(vectors):
                        place = p * vectors + v
                        totals[place] = multiply_add(builder, weight, value(row, v), totals[place])
                return totals

            whole = builder.and_(count, I64(-phases))
            totals = [ZERO] * (vectors * phases)
            # Up to `most`, prefetch the row 16 further; from there on, the memory at `after`.
            most = builder.and_(builder.sub(count, I64(16)), I64(-phases))
            most = builder.select(builder.icmp_signed(">", most, I64(0)), most, I64(0))
            ahead = builder.mul(stride, I64(16))
            beyond = builder.sub(after, builder.add(a, builder.mul(stride, most)))
            totals = emit.loop(builder, I64(0), most, phases, totals, lambda i, t: add(i, t, phases, ahead))
            totals = emit.loop(builder, most, whole, phases, totals, lambda i, t: add(i, t, phases, beyond))
            totals = emit.loop(builder, whole, count, 1, totals, lambda i, t: add(i, t, 1))
            while len(totals) > vectors:
                half = len(totals) // 2
                totals = [builder.fadd(x, y) for x, y in zip(totals[:half], totals[half:], strict=True)]
            factor = emit.splat(builder, scale)
            for v, total in enumerate(totals):
                scaled, address = builder.fmul(total, factor), emit.at(builder, out, v * BYTES)
                if masked:
                    emit.store_masked(builder, scaled, address, mask)
                else:
                    emit.store(builder, scaled, address)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, types.float32, *[types.int64] * 3), codegen

    return weighted_rows


weighted_rows_4, weighted_rows_2, weighted_rows_1 = (_make_weighted_rows(vectors) for vectors in (4, 2, 1))
weighted_rows_part = _make_weighted_rows(1, masked=True)


@intrinsic
def largest(typingctx, address, count):
    """The largest of `count` floats; −inf where all are NaN."""

    def codegen(context, builder, signature, args):
        address, count = args
        lowest = ir.Constant(VECTOR, [float("-inf")] * LANES)
        mask = emit.first_lanes(builder, count)
        size = builder.shl(count, I64(2))
        beyond = builder.sub(size, I64(BYTES))
        last = builder.select(
            builder.icmp_signed(">", beyond, I64(0)), beyond, I64(0)
        )  # overlaps the one before

        def take(i, tops):
            return [emit.greater(builder, emit.load(builder, builder.add(address, i)), tops[0])]

        tops = [emit.greater(builder, emit.load_masked(builder, address, mask, lowest), lowest)]
        (top,) = emit.loop(builder, I64(BYTES), beyond, BYTES, tops, take)
        top = emit.greater(builder, emit.load_masked(builder, builder.add(address, last), mask, lowest), top)
        width = LANES
        while width > 1:
            width //= 2
            turned = emit.shuffle(builder, top, top, [(lane + width) % LANES for lane in range(LANES)])
            top = emit.greater(builder, top, turned)
        return builder.extract_element(top, I32(0))

    return types.float32(types.int64, types.int64), codegen


def _make_view(dtype):
    array_type = types.Array(dtype, 1, "C")

    @intrinsic
    def view(typingctx, address, count):
        """The array of `count` numbers at an address, without reference counting."""

        def codegen(context, builder, signature, args):
            kind = context.get_data_type(dtype)
            array = context.make_array(array_type)(context, builder)
            size = context.get_constant(types.intp, dtype.bitwidth // 8)
            arrayobj.populate_array(array, pointer(builder, args[0], kind), [args[1]], [size], size, None)
            return array._getvalue()

        return array_type(types.int64, types.int64), codegen

    return view


floats, integers = _make_view(types.float32), _make_view(types.int64)


@intrinsic
def exp2(typingctx, x):
    """2^x of a float32 to 2 ulp, with x clamped to [−126, 126].

    A polynomial, so that loops are vectorised; libm's exp would be called once per element."""

    def codegen(context, builder, signature, args):
        (x,) = args
        for bound, sign in ((-126.0, "<"), (126.0, ">")):
            x = builder.select(builder.fcmp_ordered(sign, x, FLOAT(bound)), FLOAT(bound), x)
        rint = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(FLOAT, [FLOAT]), "llvm.rint.f32"
        )
        nearest = builder.call(rint, [x])
        f = builder.fsub(x, nearest)
        # ln(2)^k / k!, the Taylor series of 2^f; for |f| <= 1/2 the error after the seventh power is 1e-8.
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
        total = FLOAT(terms[0])
        for term in terms[1:]:
            total = multiply_add(builder, total, f, FLOAT(term))
        exponent = builder.shl(builder.add(builder.fptosi(nearest, I32), I32(127)), I32(23))
        return builder.fmul(total, builder.bitcast(exponent, FLOAT))

    return types.float32(types.float32), codegen


@intrinsic
def atomic_add(typingctx, address, value):
    """Adds to the int64 at `address`; returns the previous value."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", pointer(builder, args[0], I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def atomic_load(typingctx, address):
    """The int64 at `address`, sequentially consistent."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(pointer(builder, args[0], I64), "seq_cst", 8)

    return types.int64(types.int64), codegen


@intrinsic
def atomic_store(typingctx, address, value):
    """Stores an int64 at `address`, sequentially consistent."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], pointer(builder, args[0], I64), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


_RELAX = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "amd64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [1]),
    "arm64": ("llvm.aarch64.hint", [1]),
}


@intrinsic
def relax(typingctx):
    """Hints to the core that this thread is spinning."""

    def codegen(context, builder, signature, args):
        name, operands = _RELAX.get(platform.machine().lower(), (None, []))
        if name is not None:
            kind = ir.FunctionType(ir.VoidType(), [I32] * len(operands))
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            builder.call(function, [I32(value) for value in operands])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nanoseconds(typingctx):
    """The system's monotonic clock."""

    def codegen(context, builder, signature, args):
        if sys.platform == "win32":  # 100 ns, on every version that Python supports
            name, before = "QueryPerformanceCounter", []
        else:
            name, before = "clock_gettime", [I32(6 if sys.platform == "darwin" else 1)]
        place = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
        kind = ir.FunctionType(I32, [value.type for value in before] + [place.type])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [*before, place])
        first, second = (builder.load(builder.gep(place, [I32(0), I32(i)], inbounds=True)) for i in range(2))
        if sys.platform == "win32":
            return builder.mul(first, I64(100))
        return builder.add(builder.mul(first, I64(10**9)), second)

    return types.int64(), codegen
