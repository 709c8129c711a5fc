"""Text of growing lists of ids: what of it can be sent already, and where a stop string ends it.

The text of an answer is `Tokenizer.decode` of its ids (invalid UTF-8 becomes U+FFFD), cut before the first stop string:
the one that ends first and, of those that end there, the longest. Stop strings are compared as bytes. The text is the
same however the ids are split into calls.
"""

import codecs
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from lmfast.inference.batching import TokenLogprobs


class Token(NamedTuple):
    """An id of the text."""

    id: int
    logprobs: TokenLogprobs
    offset: int
    """index, in the whole text, of the character to which the token's first byte belongs"""


class Piece(NamedTuple):
    """The next part of the text, and the tokens whose first byte belongs to one of its characters."""

    text: str
    tokens: list[Token]


class TextStream:
    """The text of the ids fed so far, in pieces.

    A piece has whole characters, and nothing that may become part of a stop string. `stopped`: a stop string was found;
    ids fed after it are ignored, and so are tokens that begin with it or later.
    """

    def __init__(self, vocab: Mapping[int, bytes], stop: Iterable[str] = ()):
        self.stopped = False
        self._vocab = vocab
        self._stop = [text.encode() for text in stop]
        self._longest = max(map(len, self._stop), default=1)
        self._firsts = {text[0] for text in self._stop}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = b""  # the bytes that are not released, because a stop string may begin with them
        self._released = 0  # bytes given to the decoder
        self._characters = 0  # characters that it returned
        self._fed: deque[tuple[int, int, TokenLogprobs]] = (
            deque()
        )  # (first byte, id, logprobs) of tokens that are not released
        self._waiting: list[Token] = []  # tokens whose first character is not complete

    def feed(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs] = ()) -> Piece:
        """logprobs: one for each id; without them, tokens are not reported."""
        if self.stopped:
            return Piece("", [])
        new = [self._vocab[token] for token in ids]
        if logprobs:
            begin = self._released + len(self._held)
            for token, data, logprob in zip(ids, new, logprobs, strict=True):
                self._fed.append((begin, token, logprob))
                begin += len(data)
        data = self._held + b"".join(new)
        if not self._stop:
            return self._release(data)
        end = self._stop_in(data)
        if end is not None:
            self.stopped = True
            self._held = b""
            return self._release(data[:end], final=True)
        end = self._certain(data)
        self._held = data[end:]
        return self._release(data[:end])

    def finish(self) -> Piece:
        """The rest of the text: what might have become a stop string, and the bytes of an incomplete character."""
        if self.stopped:
            return Piece("", [])
        self.stopped = True
        return self._release(self._held, final=True)

    def _stop_in(self, data: bytes) -> int | None:
        """Where the first stop string begins."""
        found = [(begin + len(text), begin) for text in self._stop if (begin := data.find(text)) >= 0]
        return min(found)[1] if found else None

    def _certain(self, data: bytes) -> int:
        """Where the longest ending begins that is the beginning of a stop string."""
        for begin in range(max(0, len(data) - self._longest + 1), len(data)):
            if data[begin] in self._firsts and any(text.startswith(data[begin:]) for text in self._stop):
                return begin
        return len(data)

    def _release(self, data: bytes, final: bool = False) -> Piece:
        parts, done = [], 0
        while self._fed and self._fed[0][0] < self._released + len(data):
            begin, token, logprobs = self._fed.popleft()
            begin -= self._released
            parts.append(self._decode(data[done:begin]))
            parts.append(self._decode(data[begin : begin + 1]))
            # Its first byte ended a character, or is the last byte that the decoder keeps: those of one incomplete
            # character, or two or three that are invalid together, such as half a surrogate pair.
            kept = self._decoder.getstate()[0].decode("utf-8", "replace")
            self._waiting.append(Token(token, logprobs, self._characters + len(kept) - 1))
            done = begin + 1
        parts.append(self._decode(data[done:], final))
        self._released += len(data)
        ready = 0
        while ready < len(self._waiting) and self._waiting[ready].offset < self._characters:
            ready += 1
        tokens, self._waiting = self._waiting[:ready], self._waiting[ready:]
        return Piece("".join(parts), tokens)

    def _decode(self, data: bytes, final: bool = False) -> str:
        text = self._decoder.decode(data, final)
        self._characters += len(text)
        return text
