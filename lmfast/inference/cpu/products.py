"""Products of a few rows with weight matrices on a CPU, in panels of 16 outputs.

Input: a weight matrix packed once (`pack`) and rows of fp32 inputs. A panel stores 16 outputs as (inputs, 16), so each
thread reads a contiguous part of the matrix, once for up to 16 rows and in order, which suits the prefetcher. Each lane
sums over the inputs in order, however many rows and panels are computed together, so the result of a row does not depend
on the rest of the batch, to the bit. All arrays are int64 addresses, see vector_ir.py.
"""

import llvmlite.binding
from numba import types
from numba.extending import intrinsic

from lmfast.inference.cpu import vector_ir as emit
from lmfast.inference.cpu.vector_ir import BYTES, I64, LANES, ZERO
from lmfast.inference.cpu.vectors import compiled, floats

TILE = 16 * LANES  # floats of scratch memory for `products`
# Floats between rows of inputs: rows a power of two apart would compete for the same cache lines.
ROW_PADDING = LANES
PREFETCH_BYTES = 2048  # prefetch distance: 32 inputs


def packed_size(outputs: int, inputs: int) -> int:
    """Number of floats of a packed matrix, whose last panel is padded with zeros."""
    return -(-outputs // LANES) * LANES * inputs


@compiled
def pack(weight, outputs, inputs, begin, end, panels):
    """Packs the rows `begin` (a multiple of 16) to `end` of a weight matrix (outputs, inputs)."""
    for first in range(begin, end, LANES):
        panel = floats(panels + 4 * first * inputs, LANES * inputs)
        for k in range(0, inputs, LANES):  # in blocks, so that a panel stays in the L1 cache
            last = min(inputs, k + LANES)
            for lane in range(LANES):
                if first + lane < outputs:
                    row = floats(weight + 4 * (first + lane) * inputs, inputs)
                    for i in range(k, last):
                        panel[LANES * i + lane] = row[i]
                else:
                    for i in range(k, last):
                        panel[LANES * i + lane] = 0.0


def _make_tile(rows: int, panels: int):
    @intrinsic
    def tile(typingctx, weight, x, x_stride, inputs, out, out_stride):
        """out[r, 16 p + lane] = row r of x · lane of panel p; strides in bytes."""

        def codegen(context, builder, signature, args):
            weight, x, x_stride, inputs, out, out_stride = args
            panel_size = builder.mul(inputs, I64(BYTES))
            starts = emit.rows(builder, weight, panel_size, panels)
            x_rows = emit.rows(builder, x, x_stride, rows)

            def body(i, totals):
                totals, offset = list(totals), builder.mul(i, I64(LANES))
                addresses = [builder.add(start, offset) for start in starts]
                for address in addresses:
                    emit.prefetch(builder, emit.at(builder, address, PREFETCH_BYTES))
                weights = [emit.load(builder, address) for address in addresses]
                for r, x_row in enumerate(x_rows):
                    value = emit.load_splat(builder, builder.add(x_row, i))
                    for p, vector in enumerate(weights):
                        place = r * panels + p
                        totals[place] = emit.multiply_add(builder, value, vector, totals[place])
                return totals

            totals = [ZERO] * (rows * panels)
            totals = emit.loop(builder, I64(0), builder.shl(inputs, I64(2)), 4, totals, body)
            for r, to in enumerate(emit.rows(builder, out, out_stride, rows)):
                for p in range(panels):
                    emit.store(builder, totals[r * panels + p], emit.at(builder, to, p * BYTES))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), codegen

    return tile


_tile_16, _tile_8, _tile_4, _tile_1 = (_make_tile(rows, 1) for rows in (16, 8, 4, 1))
_tile_1x4 = _make_tile(1, 4)  # with one panel, a single row would wait 4 cycles for each product
# 16 sums and their operands need 32 registers of 16 floats; without AVX-512 there are half as many, or half as wide.
MAX_TILE_ROWS = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 4


@compiled
def panel_products(panel, x, x_stride, inputs, rows, out, out_stride):
    """Computes one panel for all rows but fewer than 4; returns the number of rows done."""
    r = 0
    while r + 4 <= rows:
        left = min(rows - r, MAX_TILE_ROWS)
        here, to = x + r * x_stride, out + r * out_stride
        if left >= 16:
            _tile_16(panel, here, x_stride, inputs, to, out_stride)
            r += 16
        elif left >= 8:
            _tile_8(panel, here, x_stride, inputs, to, out_stride)
            r += 8
        else:
            _tile_4(panel, here, x_stride, inputs, to, out_stride)
            r += 4
    return r


@compiled
def products(panels, x, inputs, rows, begin, end, out, width, scratch):
    """out[r, o] = x[r] · output o, for all rows r and begin (a multiple of 16) <= o < end.

    x (rows, inputs + ROW_PADDING), out (rows, width), scratch: TILE floats."""
    x_stride, out_stride = 4 * (inputs + ROW_PADDING), 4 * width
    o = begin
    while o < end:
        count = min(4, (end - o) // LANES)
        if count == 0:  # part of a panel, which must not write beyond its end
            part_of_panel(
                panels + 4 * o * inputs, x, x_stride, inputs, rows, end - o, out + 4 * o, out_stride, scratch
            )
            return
        done = 0
        for p in range(count):
            panel, to = panels + 4 * (o + LANES * p) * inputs, out + 4 * (o + LANES * p)
            done = panel_products(panel, x, x_stride, inputs, rows, to, out_stride)
        for r in range(done, rows):
            here, to = x + r * x_stride, out + r * out_stride + 4 * o
            panel = panels + 4 * o * inputs
            if count == 4:
                _tile_1x4(panel, here, x_stride, inputs, to, out_stride)
            else:
                for p in range(count):
                    _tile_1(panel + p * BYTES * inputs, here, x_stride, inputs, to + p * BYTES, out_stride)
        o += count * LANES


@compiled
def part_of_panel(panel, x, x_stride, inputs, rows, count, out, out_stride, scratch):
    """The first `count` outputs of a panel."""
    made = floats(scratch, LANES)
    for r in range(rows):
        _tile_1(panel, x + r * x_stride, x_stride, inputs, scratch, 0)
        to = floats(out + r * out_stride, count)
        for lane in range(count):
            to[lane] = made[lane]
