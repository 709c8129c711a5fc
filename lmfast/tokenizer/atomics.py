"""Memory that several threads read and write at once: what the table of pretokens is shared by.

All work on one uint64 (or int64) element of an array that begins at a multiple of 8 bytes. `load_acquire` and
`store_release` order what stands around them, for the compiler and for processors that need it; on x86 they are plain
moves.
"""

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lmfast.tokenizer.intrinsics import address_of

_WORD = ir.IntType(64)


@intrinsic
def load_acquire(typingctx, array, index):
    """array[index], read before everything that the program reads after it."""

    def codegen(context, builder, signature, args):
        pointer = address_of(context, builder, signature.args[0], args[0], args[1], _WORD)
        return builder.load_atomic(pointer, ordering="acquire", align=8)

    return types.uint64(array, types.int64), codegen


@intrinsic
def store_release(typingctx, array, index, value):
    """array[index] = value, seen by other threads after everything that was written before it."""

    def codegen(context, builder, signature, args):
        pointer = address_of(context, builder, signature.args[0], args[0], args[1], _WORD)
        builder.store_atomic(args[2], pointer, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), codegen


@intrinsic
def compare_swap(typingctx, array, index, expected, value):
    """Writes `value` where `expected` stands; whether it did."""

    def codegen(context, builder, signature, args):
        pointer = address_of(context, builder, signature.args[0], args[0], args[1], _WORD)
        swapped = builder.cmpxchg(pointer, args[2], args[3], ordering="acq_rel", failordering="acquire")
        return builder.extract_value(swapped, 1)

    return types.boolean(array, types.int64, types.uint64, types.uint64), codegen


@intrinsic
def fetch_add(typingctx, array, index, amount):
    """Adds to an int64 element; what stood there before."""

    def codegen(context, builder, signature, args):
        pointer = address_of(context, builder, signature.args[0], args[0], args[1], _WORD)
        return builder.atomic_rmw("add", pointer, args[2], ordering="monotonic")

    return types.int64(array, types.int64, types.int64), codegen


_FENCE = (
    "singlethread" if platform.machine() in ("x86_64", "AMD64") else None
)  # x86 keeps the order of loads itself


@intrinsic
def same_pair(typingctx, array, index, wanted, position):
    """Whether array[index : index + 2] is wanted[position : position + 2], uint64 at multiples of 16 bytes, read before
    everything that the program reads after it. Read in halves while another thread writes, it is not the same."""

    def codegen(context, builder, signature, args):
        pair = ir.IntType(128)
        one, other = (
            builder.load(address_of(context, builder, kind, value, at, pair), align=16)
            for kind, value, at in (
                (signature.args[0], args[0], args[1]),
                (signature.args[2], args[2], args[3]),
            )
        )
        same = builder.icmp_unsigned("==", one, other)
        builder.fence("acquire", _FENCE)
        return same

    return types.boolean(array, types.int64, wanted, types.int64), codegen
