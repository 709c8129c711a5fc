"""Text that comes in pieces of any size → pieces that can be encoded alone.

In: an iterable of `str` or bytes. Out: bytes, in order; encoding them one by one gives the ids of the whole text.
Pieces end at a safe cut (chunks.py), about every 64 KiB. Where there is none the piece grows: one run of a
letter comes as one piece, and with a pattern of one's own, whose safe cuts nobody knows, pieces end at special
tokens only.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lmfast.tokenizer.chunks import SpecialTokens, next_cut
from lmfast.tokenizer.patterns import Pattern

PIECE_BYTES = 1 << 16


def safe_pieces(
    chunks: Iterable[str | bytes], special_tokens: Sequence[bytes], pattern: Pattern
) -> Iterator[bytes]:
    """The text of all chunks, cut where pretokens and special tokens do not depend on the other side."""
    specials = SpecialTokens(special_tokens)
    buffer = bytearray()
    enough = PIECE_BYTES
    for chunk in chunks:
        buffer += chunk.encode("utf-8", "surrogatepass") if isinstance(chunk, str) else chunk
        if len(buffer) < enough:
            continue
        cut = _last_cut(bytes(buffer), specials, pattern)
        if cut:
            yield bytes(buffer[:cut])
            del buffer[:cut]
        # Where nothing could be cut, look again when there is twice as much: the work stays linear.
        enough = max(PIECE_BYTES, 2 * len(buffer))
    if buffer:
        yield bytes(buffer)


def _last_cut(text: bytes, specials: SpecialTokens, pattern: Pattern) -> int:
    """A safe cut near the end of the text that stays safe whatever follows; 0 where there is none.

    A special token that begins before the cut may end beyond the text, so cuts closer to the end than the longest
    special token are left out, and so are those whose next bytes are not there yet.
    """
    data = np.frombuffer(text, np.uint8)
    latest = len(text) - max([4, *map(len, specials.tokens)])
    back = 1 << 10
    while True:
        start = max(1, latest - back)
        cut = next_cut(data, start, specials, pattern)
        if cut <= latest:
            return cut
        if start == 1:
            return 0
        back *= 8
