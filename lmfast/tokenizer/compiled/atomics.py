"""Atomic memory operations for tables that several threads share.

Each works on one uint64 (or int64) element of an array aligned to 8 bytes. `load_acquire` and
`store_release` order the accesses around them, for the compiler and for processors that reorder; on x86 they are plain
moves.
"""

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lmfast.tokenizer.compiled.intrinsics import element_pointer

_WORD = ir.IntType(64)


@intrinsic
def load_acquire(typingctx, array, index):
    """array[index], read before all later reads of the program."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1], _WORD)
        return builder.load_atomic(pointer, ordering="acquire", align=8)

    return types.uint64(array, types.int64), codegen


@intrinsic
def store_release(typingctx, array, index, value):
    """array[index] = value, visible to other threads after all earlier writes."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1], _WORD)
        builder.store_atomic(args[2], pointer, ordering="release", align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), codegen


@intrinsic
def compare_swap(typingctx, array, index, expected, value):
    """Writes `value` if the element is `expected`; returns whether it did."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1], _WORD)
        swapped = builder.cmpxchg(pointer, args[2], args[3], ordering="acq_rel", failordering="acquire")
        return builder.extract_value(swapped, 1)

    return types.boolean(array, types.int64, types.uint64, types.uint64), codegen


@intrinsic
def fetch_add(typingctx, array, index, amount):
    """Adds to an int64 element; returns its previous value."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1], _WORD)
        return builder.atomic_rmw("add", pointer, args[2], ordering="monotonic")

    return types.int64(array, types.int64, types.int64), codegen


def _same_at_once(builder, array, wanted):
    """Compares both words as one vector, which x86 with AVX reads at once; x86 does not reorder loads."""
    pair = ir.IntType(128)
    same = builder.icmp_unsigned(
        "==", builder.load(array(0, pair), align=16), builder.load(wanted(0, pair), align=16)
    )
    builder.fence("acquire", "singlethread")
    return same


def _same_in_order(builder, array, wanted):
    """Compares the second word, which a writer writes last, and then the first. In the opposite order, the zero of an
    empty row and the second word of the key that another thread has just written could match a key that begins with
    eight NULs."""
    second = builder.load_atomic(array(1, _WORD), ordering="acquire", align=8)
    first = builder.load_atomic(array(0, _WORD), ordering="acquire", align=8)
    return builder.and_(
        builder.icmp_unsigned("==", second, builder.load(wanted(1, _WORD), align=8)),
        builder.icmp_unsigned("==", first, builder.load(wanted(0, _WORD), align=8)),
    )


def pair_comparison(compare):
    @intrinsic
    def same_pair(typingctx, array, index, wanted, position):
        """Whether array[index : index + 2] equals wanted[position : position + 2], uint64 aligned to 16 bytes, read
        before all later reads of the program. A thread that writes to `array` must write the second word last, so that
        a partly written pair is never equal."""

        def codegen(context, builder, signature, args):
            def pointers(kind, value, at):
                def pointer(offset, element):
                    position = builder.add(at, ir.Constant(_WORD, offset))
                    return element_pointer(context, builder, kind, value, position, element)

                return pointer

            return compare(
                builder,
                pointers(signature.args[0], args[0], args[1]),
                pointers(signature.args[2], args[2], args[3]),
            )

        return types.boolean(array, types.int64, wanted, types.int64), codegen

    return same_pair


same_pair = pair_comparison(_same_at_once if platform.machine() in ("x86_64", "AMD64") else _same_in_order)
