"""Memory that several threads read and write at once: what the table of pretokens is shared by.

All work on one uint64 (or int64) element of an array that begins at a multiple of 8 bytes. `load_acquire` and
`store_release` order what stands around them, for the compiler and for processors that need it; on x86 they are plain
moves.
"""

import platform

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lmfast.tokenizer.compiled.intrinsics import address_of

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


def _same_at_once(builder, array, wanted):
    """Both words as one vector, which is read in one piece on x86 with AVX; x86 keeps the order of loads itself."""
    pair = ir.IntType(128)
    same = builder.icmp_unsigned(
        "==", builder.load(array(0, pair), align=16), builder.load(wanted(0, pair), align=16)
    )
    builder.fence("acquire", "singlethread")
    return same


def _same_in_order(builder, array, wanted):
    """The second word, which a writer writes last, and then the first: read the other way round, the zero of an empty
    row and the second word of the key that another thread just put there would be a key that begins with eight NULs."""
    second = builder.load_atomic(array(1, _WORD), ordering="acquire", align=8)
    first = builder.load_atomic(array(0, _WORD), ordering="acquire", align=8)
    return builder.and_(
        builder.icmp_unsigned("==", second, builder.load(wanted(1, _WORD), align=8)),
        builder.icmp_unsigned("==", first, builder.load(wanted(0, _WORD), align=8)),
    )


def pair_comparison(compare):
    @intrinsic
    def same_pair(typingctx, array, index, wanted, position):
        """Whether array[index : index + 2] is wanted[position : position + 2], uint64 at multiples of 16 bytes, read
        before everything that the program reads after it. Where another thread writes to `array`, its second word must be
        the last: then a pair that is half written is not the same."""

        def codegen(context, builder, signature, args):
            def words_of(kind, value, at):
                def word(offset, element):
                    place = builder.add(at, ir.Constant(_WORD, offset))
                    return address_of(context, builder, kind, value, place, element)

                return word

            return compare(
                builder,
                words_of(signature.args[0], args[0], args[1]),
                words_of(signature.args[2], args[2], args[3]),
            )

        return types.boolean(array, types.int64, wanted, types.int64), codegen

    return same_pair


same_pair = pair_comparison(_same_at_once if platform.machine() in ("x86_64", "AMD64") else _same_in_order)
