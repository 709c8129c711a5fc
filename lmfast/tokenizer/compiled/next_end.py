"""The plain scanners: the end of one pretoken, character by character, trying the alternatives of its pattern in order.

In: text as uint8 with `PADDING` readable bytes after it, a pretoken's start, the text's end, and `scanner_classes`.
Out: the end of the pretoken. A byte that is not part of a valid UTF-8 character counts as one character of
class "other" (neither letter, number nor space), as it does for `regex` in text decoded with `surrogateescape`.
"""

import numpy as np
from numba import njit

from lmfast.tokenizer.compiled.intrinsics import load_u64, trailing_zeros
from lmfast.tokenizer.patterns import (
    CLASS,
    IN_SCRIPT,
    LETTER,
    LOWER,
    MARK,
    NUMBER,
    OTHER,
    PUNCTUATION,
    SPACE,
    UPPER,
)

_APOSTROPHE, _BLANK, _NEWLINE, _RETURN, _SLASH = (ord(c) for c in "' \n\r/")


@njit
def multibyte_at(data, i, end, classes):
    """class | length << 8 of the character at i, whose first byte is not ASCII."""
    first = data[i]
    if first < 0xC2 or first > 0xF4 or i + 1 >= end:
        return OTHER | 1 << 8
    second = np.int64(data[i + 1])
    if second & 0xC0 != 0x80:
        return OTHER | 1 << 8
    if first < 0xE0:
        return np.int64(classes[(first & 0x1F) << 6 | (second & 0x3F)]) | 2 << 8
    if i + 2 >= end or data[i + 2] & 0xC0 != 0x80:
        return OTHER | 1 << 8
    third = np.int64(data[i + 2]) & 0x3F
    if first < 0xF0:
        point = np.int64(first & 0x0F) << 12 | (second & 0x3F) << 6 | third
        if point < 0x800 or 0xD800 <= point < 0xE000:  # overlong, or a surrogate
            return OTHER | 1 << 8
        return np.int64(classes[point]) | 3 << 8
    if i + 3 >= end or data[i + 3] & 0xC0 != 0x80:
        return OTHER | 1 << 8
    point = np.int64(first & 0x07) << 18 | (second & 0x3F) << 12 | third << 6 | (np.int64(data[i + 3]) & 0x3F)
    if point < 0x10000 or point > 0x10FFFF:
        return OTHER | 1 << 8
    return np.int64(classes[point]) | 4 << 8


@njit(inline="always")
def char_at(data, i, end, classes):
    """class | length << 8 of the character at i."""
    if data[i] < 0x80:
        return np.int64(classes[data[i]]) | 1 << 8
    return multibyte_at(data, i, end, classes)


@njit(inline="always")
def is_letter(kind):
    return (kind == UPPER) | (kind == LOWER) | (kind == LETTER)


@njit(inline="always")
def ascii_letters(data, i):
    """The number of leading ASCII letters in the 8 bytes at i.

    SWAR: with bit 5 set a letter is in 0x61..0x7A; adding 0x1F carries letters and higher values into bit
    7, adding 0x05 only values above 'z'. Bytes from 0x80 up are masked out."""
    word = load_u64(data, i)
    low = (word | np.uint64(0x2020202020202020)) & np.uint64(0x7F7F7F7F7F7F7F7F)
    at_least_a = low + np.uint64(0x1F1F1F1F1F1F1F1F)
    above_z = low + np.uint64(0x0505050505050505)
    letters = at_least_a & ~above_z & ~word & np.uint64(0x8080808080808080)
    return trailing_zeros(letters ^ np.uint64(0x8080808080808080)) >> 3


@njit
def letters_end(data, i, end, classes):
    """End of the run of letters that begins at i (i itself if there is none)."""
    while i < end:
        run = ascii_letters(data, i)
        i += run
        if run == 8:
            continue
        if i >= end or data[i] < 0x80:
            break
        char = multibyte_at(data, i, end, classes)
        if not is_letter(char & 0xFF):
            break
        i += char >> 8
    return min(i, end)


@njit
def others_end(data, i, end, classes):
    """End of the run of characters that are neither letter, number nor space."""
    while i < end:
        char = char_at(data, i, end, classes)
        kind = char & CLASS
        if kind != OTHER and kind != MARK:
            break
        i += char >> 8
    return i


@njit
def numbers_end(data, i, end, classes, limit):
    """End of the run of at most `limit` numbers."""
    while i < end and limit > 0:
        char = char_at(data, i, end, classes)
        if char & CLASS != NUMBER:
            break
        i += char >> 8
        limit -= 1
    return i


@njit
def spaces_end(data, i, end, classes):
    """(end of the run of whitespace at i, start of its last character, after its last newline or -1)."""
    last = i
    newline = -1
    while i < end:
        char = char_at(data, i, end, classes)
        if char & 0xFF != SPACE:
            break
        last = i
        i += char >> 8
        if data[last] == _NEWLINE or data[last] == _RETURN:
            newline = i
    return i, last, newline


@njit(inline="always")
def _blank_run(stop, last, i, end):
    """`\\s+(?!\\S)|\\s+` for whitespace i..stop whose last character begins at `last`."""
    if stop < end and last > i:
        return last
    return stop


@njit(inline="always")
def contraction(data, i, end):
    """The length of the contraction (`'s 't 'd 'm 'll 've 're`) at the apostrophe at i, or 0."""
    if i + 1 >= end:
        return 0
    one = data[i + 1]
    if one == ord("s") or one == ord("t") or one == ord("d") or one == ord("m"):
        return 2
    if i + 2 >= end:
        return 0
    two = data[i + 2]
    if (one == ord("l") and two == ord("l")) or ((one == ord("v") or one == ord("r")) and two == ord("e")):
        return 3
    return 0


@njit(inline="always")
def contraction_any_case(data, i, end):
    """The same with (?i:...), which also matches U+017F, the long s."""
    if i + 1 >= end:
        return 0
    one = data[i + 1] | 0x20
    if one == ord("s") or one == ord("t") or one == ord("d") or one == ord("m"):
        return 2
    if i + 2 >= end:
        return 0
    if data[i + 1] == 0xC5 and data[i + 2] == 0xBF:
        return 3
    two = data[i + 2] | 0x20
    if (one == ord("l") and two == ord("l")) or ((one == ord("v") or one == ord("r")) and two == ord("e")):
        return 3
    return 0


@njit
def next_end_gpt2(data, i, end, classes):
    """`'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`"""
    if data[i] == _APOSTROPHE:
        length = contraction(data, i, end)
        if length:
            return i + length
    first = i
    kind = char_at(data, i, end, classes) & 0xFF
    if data[i] == _BLANK and i + 1 < end:
        after = char_at(data, i + 1, end, classes) & 0xFF
        if after != SPACE:
            first = i + 1
            kind = after
    if is_letter(kind):
        return letters_end(data, first, end, classes)
    if kind == NUMBER:
        return numbers_end(data, first, end, classes, end)
    if kind != SPACE:
        return others_end(data, first, end, classes)
    stop, last, _ = spaces_end(data, i, end, classes)
    return _blank_run(stop, last, i, end)


@njit
def next_end_starcoder(data, i, end, classes):
    """patterns.STARCODER: gpt2's, with every number separate, before which whitespace is not split."""
    if data[i] == _APOSTROPHE:
        length = contraction(data, i, end)
        if length:
            return i + length
    char = char_at(data, i, end, classes)
    first, kind = i, char & 0xFF
    if kind == NUMBER:
        return i + (char >> 8)
    if data[i] == _BLANK and i + 1 < end:
        after = char_at(data, i + 1, end, classes) & 0xFF
        if after != SPACE and after != NUMBER:
            first, kind = i + 1, after
    if is_letter(kind):
        return letters_end(data, first, end, classes)
    if kind != SPACE:
        return others_end(data, first, end, classes)
    stop, last, _ = spaces_end(data, i, end, classes)
    if stop < end and char_at(data, stop, end, classes) & 0xFF == NUMBER:
        return stop
    return _blank_run(stop, last, i, end)


@njit
def next_end_cl100k(data, i, end, classes):
    """`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|` and `_tail_cl100k`."""
    return _cl100k(data, i, end, classes, 3)


@njit
def next_end_qwen2(data, i, end, classes):
    """The same with single numbers."""
    return _cl100k(data, i, end, classes, 1)


@njit(inline="always")
def _cl100k(data, i, end, classes, numbers):
    if data[i] == _APOSTROPHE:
        length = contraction_any_case(data, i, end)
        if length:
            return i + length
    char = char_at(data, i, end, classes)
    kind = char & 0xFF
    if is_letter(kind):
        return letters_end(data, i, end, classes)
    if kind == NUMBER:
        return numbers_end(data, i, end, classes, numbers)
    after = i + (char >> 8)
    prefix = data[i] != _NEWLINE and data[i] != _RETURN and after < end
    if prefix and is_letter(char_at(data, after, end, classes) & 0xFF):
        return letters_end(data, after, end, classes)
    return _tail_cl100k(data, i, end, classes, kind, False)


@njit
def _tail_cl100k(data, i, end, classes, kind, slashes):
    """` ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`, with `slashes` [\\r\\n/]* for o200k."""
    first = i
    if data[i] == _BLANK and i + 1 < end:
        kind = char_at(data, i + 1, end, classes) & CLASS
        first = i + 1
    if kind in (OTHER, MARK):
        i = others_end(data, first, end, classes)
        while i < end and (data[i] == _NEWLINE or data[i] == _RETURN or (slashes and data[i] == _SLASH)):
            i += 1
        return i
    stop, last, newline = spaces_end(data, i, end, classes)
    if newline >= 0:
        return newline
    return _blank_run(stop, last, i, end)


@njit
def _cased_word(data, i, end, classes):
    """(`[U]*[D]+` from i or -1, end of `[U]*`), where U is upper, title, modifier, other letter or mark and
    D is lower, modifier, other letter or mark.

    U* matches as much as possible; if no lower-case letter follows, it backtracks to the last character that is also in
    D, and D+ then matches exactly that one, since an upper-case letter or the end of the run follows."""
    last_shared = -1
    while i < end:
        char = char_at(data, i, end, classes)
        kind = char & 0xFF
        if kind in (LETTER, MARK):
            last_shared = i + (char >> 8)
        elif kind != UPPER:
            break
        i += char >> 8
    upper_end = i
    while i < end:
        if i + 8 <= end and ascii_lower_run(data, i) == 8:
            i += 8
            continue
        char = char_at(data, i, end, classes)
        kind = char & 0xFF
        if kind != LOWER and kind != LETTER and kind != MARK:
            break
        i += char >> 8
    if i > upper_end:
        return i, upper_end
    return last_shared, upper_end


@njit(inline="always")
def ascii_lower_run(data, i):
    """8 if the 8 bytes at i are all a..z."""
    word = load_u64(data, i)
    at_least_a = (word & np.uint64(0x7F7F7F7F7F7F7F7F)) + np.uint64(0x1F1F1F1F1F1F1F1F)
    above_z = (word & np.uint64(0x7F7F7F7F7F7F7F7F)) + np.uint64(0x0505050505050505)
    lower = at_least_a & ~above_z & ~word & np.uint64(0x8080808080808080)
    return trailing_zeros(lower ^ np.uint64(0x8080808080808080)) >> 3


@njit
def next_end_o200k(data, i, end, classes):
    """patterns.O200K, which splits words where the case changes."""
    return _o200k(data, i, end, classes, True)


@njit
def next_end_kimi(data, i, end, classes):
    """patterns.KIMI: runs of Han script, else o200k's without slashes, whose words contain no Han (IN_SCRIPT)."""
    first = i
    while i < end:
        char = char_at(data, i, end, classes)
        if char & IN_SCRIPT == 0:
            break
        i += char >> 8
    if i > first:
        return i
    return _o200k(data, i, end, classes, False)


@njit(inline="always")
def _o200k(data, i, end, classes, slashes):
    """`[^\\r\\n\\p{L}\\p{N}]?` is greedy, so a mark is tried first as the prefix and then as part of the word."""
    char = char_at(data, i, end, classes)
    kind = char & 0xFF
    if kind == NUMBER:
        return numbers_end(data, i, end, classes, 3)
    after = i + (char >> 8)
    prefix = not is_letter(kind) and data[i] != _NEWLINE and data[i] != _RETURN
    word = -1
    upper_after = after
    if prefix:
        word, upper_after = _cased_word(data, after, end, classes)
    if word < 0 and (is_letter(kind) or kind == MARK):
        word, upper = _cased_word(data, i, end, classes)
        if word < 0:
            word = upper
    elif word < 0 and upper_after > after:
        word = upper_after
    if word > 0:
        if word < end and data[word] == _APOSTROPHE:
            word += contraction_any_case(data, word, end)
        return word
    return _tail_cl100k(data, i, end, classes, kind, slashes)


@njit
def next_end_deepseek(data, i, end, classes):
    """patterns.DEEPSEEK: `\\p{N}{1,3}`, and between these and where IN_SCRIPT changes
    `[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|` and whitespace."""
    char = char_at(data, i, end, classes)
    kind, after = char & 0xFF, i + (char >> 8)
    if kind == NUMBER:
        return numbers_end(data, i, end, classes, 3)
    word, mark = kind & IN_SCRIPT | LETTER, kind & IN_SCRIPT | PUNCTUATION
    if kind == word:
        return _run_end(data, after, end, classes, word)
    next_kind = char_at(data, after, end, classes) & 0xFF if after < end else -1
    if kind == mark:
        if data[i] < 0x80 and after < end and ascii_letters(data, after) > 0:
            while after < end and ascii_letters(data, after) == 8:
                after += 8
            return min(after + np.int64(ascii_letters(data, after)), end)
        return _punctuation_end(data, after, end, classes, mark)
    if next_kind == word and data[i] != _NEWLINE and data[i] != _RETURN:
        return _run_end(data, after, end, classes, word)
    if data[i] == _BLANK and next_kind == PUNCTUATION:
        return _punctuation_end(data, after, end, classes, PUNCTUATION)
    if kind == SPACE:
        stop, last, newline = spaces_end(data, i, end, classes)
        if newline >= 0:
            return newline
        if stop < end:
            next_kind = char_at(data, stop, end, classes) & 0xFF
            if next_kind != NUMBER and next_kind < IN_SCRIPT:
                return _blank_run(stop, last, i, end)
        return stop
    last = i  # what none of the alternatives matches, except before a word, whose prefix it is
    while after < end:
        char = char_at(data, after, end, classes)
        if char & 0xFF != kind:
            return last if char & 0xFF == word and last > i else after
        last = after
        after += char >> 8
    return after


@njit
def _run_end(data, i, end, classes, kind):
    """End of the run of this class at i."""
    while i < end:
        if kind == LETTER:
            i = letters_end(data, i, end, classes)
            if i >= end:
                break
        char = char_at(data, i, end, classes)
        if char & 0xFF != kind:
            break
        i += char >> 8
    return i


@njit
def _punctuation_end(data, i, end, classes, kind):
    """End of the run of this class at i and, unless it is IN_SCRIPT, of the newlines after it."""
    i = _run_end(data, i, end, classes, kind)
    if kind == PUNCTUATION:
        while i < end and (data[i] == _NEWLINE or data[i] == _RETURN):
            i += 1
    return i
