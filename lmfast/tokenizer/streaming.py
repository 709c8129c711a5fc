"""Cuts a stream of text into pieces that can be encoded independently.

In: an iterable of `str` or bytes, cut anywhere. Out: bytes, in order; encoding them one by one gives the ids of the whole
text. Pieces end at a safe cut (chunks.py), about every 64 KiB, or later if there is none: a run of one
letter is one piece, and with a custom pattern, whose safe cuts are unknown, pieces end at special tokens only.
"""

from collections.abc import Iterable, Iterator

from lmfast.tokenizer.patterns import Pattern
from lmfast.tokenizer.plain_text import Boundaries, last_cut

PIECE_BYTES = 1 << 16
NEAR_BYTES = 1 << 10  # before the end of a piece: searched for a cut in plain Python


def safe_pieces(chunks: Iterable[str | bytes], boundaries: Boundaries, pattern: Pattern) -> Iterator[bytes]:
    """The text of all chunks, cut where pretokens and special tokens do not depend on the other side of the cut."""
    buffer = bytearray()
    enough = PIECE_BYTES
    for chunk in chunks:
        buffer += chunk.encode("utf-8", "surrogatepass") if isinstance(chunk, str) else chunk
        if len(buffer) < enough:
            continue
        cut = _last_cut(bytes(buffer), boundaries, pattern)
        if cut:
            yield bytes(buffer[:cut])
            del buffer[:cut]
        # If there was no cut, search again when the buffer has doubled, so that the total work stays linear.
        enough = max(PIECE_BYTES, 2 * len(buffer))
    if buffer:
        yield bytes(buffer)


def _last_cut(text: bytes, boundaries: Boundaries, pattern: Pattern) -> int:
    """A safe cut near the end of the text that stays safe whatever follows; 0 if there is none.

    A special token that begins before the cut may end after the text, so cuts closer to the end than `context` are
    excluded, as are those whose next bytes are not available yet.
    """
    latest = len(text) - max(4, boundaries.context)
    cut = last_cut(text, latest, boundaries, pattern, NEAR_BYTES)
    return cut or _distant_cut(text, latest, boundaries, pattern)


def _distant_cut(text: bytes, latest: int, boundaries: Boundaries, pattern: Pattern) -> int:
    """`_last_cut` for text without a cut near its end, by the compiled search."""
    import numpy as np

    from lmfast.tokenizer.chunks import SpecialTokens, next_cut

    specials = SpecialTokens(boundaries.starts, boundaries)
    data = np.frombuffer(text, np.uint8)
    back = 8 * NEAR_BYTES
    while True:
        start = max(1, latest - back)
        cut = next_cut(data, start, specials, pattern)
        if cut <= latest:
            return cut
        if start == 1:
            return 0
        back *= 8
