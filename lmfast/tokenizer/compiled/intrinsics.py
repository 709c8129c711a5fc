"""Intrinsics that Numba lacks for processing text at memory speed: unaligned 64-bit loads, bit scans, classes of 64
bytes at once, 16-byte keys.

All functions read and write raw memory without checking bounds. A function that loads at `i` may read
`i + 64` bytes and one more vector, so every buffer passed to compiled code must be readable for
`PADDING` bytes after the text (see chunks.padded).

The vector code is plain LLVM IR on <64 x i8>, which takes one compare per class with AVX-512, two with AVX2 and four
with SSE2; it names no instruction set, so it runs wherever Numba does.
"""

import sys

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

PADDING = 160  # bytes that must be readable after the text: a block of 64, its neighbour, a 16-byte key

_BYTE = ir.IntType(8)
_WORD = ir.IntType(64)
_BLOCK = ir.VectorType(_BYTE, 64)
_FLAGS = ir.VectorType(ir.IntType(1), 64)


def element_pointer(context, builder, array_type, array, index, element: ir.Type):
    """Pointer to byte offset index * itemsize in an array, cast to `element`."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), element.as_pointer())


def _splat(value: int) -> ir.Constant:
    return ir.Constant(_BLOCK, [value & 0xFF] * 64)


@intrinsic
def load_u64(typingctx, array, index):
    """The 8 bytes that begin at element `index` of an array of any integer type, as a uint64.

    Also the fast way to read a uint64 array: Numba's own indexing first checks for a negative index,
    which made the counting loop a third slower."""

    def codegen(context, builder, signature, args):
        load = builder.load(element_pointer(context, builder, signature.args[0], args[0], args[1], _WORD))
        load.align = 1
        return load

    return types.uint64(array, types.int64), codegen


@intrinsic
def store_u64(typingctx, array, index, value):
    """Writes a uint64 over the 8 bytes that begin at element `index` of an array of any integer type."""

    def codegen(context, builder, signature, args):
        store = builder.store(
            args[2], element_pointer(context, builder, signature.args[0], args[0], args[1], _WORD)
        )
        store.align = 1
        return context.get_dummy_value()

    return types.void(array, types.int64, types.uint64), codegen


@intrinsic
def count_ones(typingctx, value):
    """How many bits of a uint64 are set, as int64."""

    def codegen(context, builder, signature, args):
        function = builder.module.declare_intrinsic("llvm.ctpop.i64", fnty=ir.FunctionType(_WORD, [_WORD]))
        return builder.call(function, [args[0]])

    return types.int64(types.uint64), codegen


@intrinsic
def least_of_8(typingctx, array, index):
    """The least of the 8 uint64 that begin at element `index`."""

    def codegen(context, builder, signature, args):
        kind = ir.VectorType(_WORD, 8)
        load = builder.load(element_pointer(context, builder, signature.args[0], args[0], args[1], kind))
        load.align = 8
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_WORD, [kind]), "llvm.vector.reduce.umin.v8i64"
        )
        return builder.call(function, [load])

    return types.uint64(array, types.int64), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Prefetches the cache line of element `index`; never faults."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1], _BYTE)
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer()] + [ir.IntType(32)] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        small = ir.IntType(32)
        builder.call(function, [pointer, small(0), small(3), small(1)])
        return context.get_dummy_value()

    return types.void(array, types.int64), codegen


def _bit_scan(name: str):
    """cttz or ctlz of a uint64 as int64; of zero it is 64."""

    @intrinsic
    def scan(typingctx, value):
        def codegen(context, builder, signature, args):
            function = builder.module.declare_intrinsic(
                name, fnty=ir.FunctionType(_WORD, [_WORD, ir.IntType(1)])
            )
            return builder.call(function, [args[0], ir.Constant(ir.IntType(1), 0)])

        return types.int64(types.uint64), codegen

    return scan


trailing_zeros = _bit_scan("llvm.cttz.i64")
leading_zeros = _bit_scan("llvm.ctlz.i64")


@intrinsic
def byte_classes(typingctx, array, index):
    """Six uint64 for the 64 bytes at `index`, bit k for byte k: ASCII letters, ASCII digits, ASCII
    whitespace, spaces (0x20), bytes from 0x80 up, apostrophes."""

    def codegen(context, builder, signature, args):
        pointer = element_pointer(context, builder, signature.args[0], args[0], args[1], _BLOCK)
        block = builder.load(pointer)
        block.align = 1

        def mask(flags):
            return builder.bitcast(flags, _WORD)

        def within(vector, first, count):
            return builder.icmp_unsigned("<", builder.sub(vector, _splat(first)), _splat(count))

        letters = within(builder.or_(block, _splat(0x20)), ord("a"), 26)
        digits = within(block, ord("0"), 10)
        blank = builder.icmp_unsigned("==", block, _splat(0x20))
        space = builder.or_(within(block, 9, 5), blank)
        high = builder.icmp_signed("<", block, _splat(0))
        quote = builder.icmp_unsigned("==", block, _splat(ord("'")))
        masks = [mask(flags) for flags in (letters, digits, space, blank, high, quote)]
        return context.make_tuple(builder, signature.return_type, masks)

    return types.UniTuple(types.uint64, 6)(array, types.int64), codegen


@intrinsic
def byte_matches(typingctx, array, index, wanted):
    """uint64: bit k where byte index+k equals `wanted`."""

    def codegen(context, builder, signature, args):
        block = builder.load(element_pointer(context, builder, signature.args[0], args[0], args[1], _BLOCK))
        block.align = 1
        lanes = ir.VectorType(ir.IntType(32), 64)
        seed = builder.insert_element(ir.Constant(_BLOCK, ir.Undefined), args[2], ir.IntType(32)(0))
        wide = builder.shuffle_vector(seed, ir.Constant(_BLOCK, ir.Undefined), ir.Constant(lanes, [0] * 64))
        return builder.bitcast(builder.icmp_unsigned("==", block, wide), _WORD)

    return types.uint64(array, types.int64, types.uint8), codegen


U0, U1, U8, U32, U56, U64 = (np.uint64(n) for n in (0, 1, 8, 32, 56, 64))
ALL_ONES = np.uint64(0xFFFFFFFFFFFFFFFF)
_MIX_LOW = np.uint64(0x9E3779B97F4A7C15)
_MIX_HIGH = np.uint64(0xD6E8FEB86659FD93)

MAX_PACKED = 15  # bytes of a pretoken that fit in a key together with their number
LONG_MARK = np.uint64(16) << U56  # top byte of the high word if the key is a hash instead of the bytes


@njit(inline="always")
def packed_key(data, start, length):
    """(low, high): the 1 to 15 bytes at `start`, zero-padded, and their number in the top byte.

    Without the length "a" and "a\\0" would have the same key. Both masks are always computed, because a branch on the
    word in which the bytes end was mispredicted for one pretoken in ten."""
    bits = np.uint64(length) << np.uint64(3)
    low_bits = min(bits, U64)
    low = load_u64(data, start) & (ALL_ONES >> (U64 - low_bits))
    high = load_u64(data, start + 8) & ((U1 << (bits - low_bits)) - U1)
    return low, high | (np.uint64(length) << U56)


@njit(inline="always")
def key_hash(low, high):
    """A 64-bit hash of a key; tables use its top bits, which are well mixed.

    One multiplication: the length, at the top of the high word, is rotated down so that it affects them too. A
    second round of mixing saved 4 % of the probes and took 0.3 ns per pretoken."""
    return (low ^ (high << np.uint64(29) | high >> np.uint64(35))) * _MIX_LOW


@njit
def long_hash(data, start, length):
    """A 64-bit hash of a pretoken of 16 bytes or more, eight bytes per step."""
    mixed = np.uint64(length) * _MIX_HIGH
    i = 0
    while i + 8 <= length:
        mixed = (mixed ^ load_u64(data, start + i)) * _MIX_LOW
        mixed ^= mixed >> U32
        i += 8
    if i < length:
        rest = load_u64(data, start + i) & ((U1 << (np.uint64(length - i) << np.uint64(3))) - U1)
        mixed = (mixed ^ rest) * _MIX_LOW
        mixed ^= mixed >> U32
    return mixed


@njit
def pretoken_key(data, start, length):
    """(low, high) of a pretoken of any length: its bytes if they fit, else a hash. Hot loops write this branch out."""
    if length <= MAX_PACKED:
        return packed_key(data, start, length)
    return long_hash(data, start, length), LONG_MARK | np.uint64(length)


@njit
def same_bytes(left, i, right, j, length):
    """Whether `length` bytes at left[i:] and right[j:] are equal; both must be readable for 8 bytes more."""
    k = 0
    while k + 8 <= length:
        if load_u64(left, i + k) != load_u64(right, j + k):
            return False
        k += 8
    if k < length:
        mask = (U1 << (np.uint64(length - k) << np.uint64(3))) - U1
        return ((load_u64(left, i + k) ^ load_u64(right, j + k)) & mask) == U0
    return True


def aligned_words(count: int) -> np.ndarray:
    """`count` zeroed uint64, aligned to a cache line so that no 32-byte row crosses one."""
    words = np.zeros(count + 8, np.uint64)
    skip = (-words.ctypes.data % 64) // 8
    return words[skip : skip + count]


_MADV_HUGEPAGE = 14
_HUGE_PAGE = 1 << 21

if sys.platform == "linux":
    _madvise = types.ExternalFunction("madvise", types.int32(types.intp, types.intp, types.int32))

    @njit
    def advise_huge_pages(array):
        """Requests huge pages for a new array of several megabytes, as NumPy does for its arrays and Numba does not."""
        address = array.ctypes.data
        begin = (address + _HUGE_PAGE - 1) & ~(_HUGE_PAGE - 1)
        end = (address + array.size * array.itemsize) & ~(_HUGE_PAGE - 1)
        if end > begin:
            _madvise(begin, end - begin, _MADV_HUGEPAGE)

else:

    @njit
    def advise_huge_pages(array):
        """No effect outside Linux."""
