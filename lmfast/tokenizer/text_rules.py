"""What a tokenizer.json does to text before its split pattern: added tokens with flags, NFC, a prefix space.

In: text as bytes. Out: pieces of text and special tokens, whose ids `tokenizers` gives: first the added tokens that are
not `normalized` are found, leftmost first and the longest of those that begin together; the text between them becomes
NFC; the `normalized` ones are found in it; each remaining piece gets a space before it unless it begins with one. A token
with `single_word` next to a word character is plain text; `lstrip` and `rstrip` take the whitespace next to a token.
Sources: huggingface/tokenizers added_vocabulary.rs, pre_tokenizers/byte_level.rs.

A tokenizer without any of these has no `RuledText`, and its text is not touched.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import regex

from lmfast.errors import UserError
from lmfast.tokenizer.plain_text import Boundaries, decoded, encoded, straddles

_SPACES = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f"
    "\u205f\u3000"
)
_SPACES_AFTER = re.compile(f"[{_SPACES}]*")
_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")

# Characters that `tokenizers`, whose tables for NFC are those of Unicode 9, does not move or compose: the combining marks
# that are newer, then one of each newer pair.
_NEWER = re.compile(
    "([\u05c8-\u05c9\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b-\u0d3c\u0eba\u1715\u1abf-\u1af0\u1df6-\u1dfa\ua82c"
    "\U00010d24-\U00010d27\U00010d69-\U00010d6d\U00010eab-\U00010eac\U00010ecb-\U00010ecf\U00010ef0-\U00010efb"
    "\U00010efd-\U00010eff\U00010f46-\U00010f50\U00010f82-\U00010f85\U00011070\U0001133b\U000113ce-\U000113d0\U0001145e"
    "\U00011839-\U0001183a\U0001193d-\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011d42"
    "\U00011d44-\U00011d45\U00011d97\U00011f41-\U00011f42\U0001612f\U00016ff0-\U00016ff1\U0001d127-\U0001d128"
    "\U0001d250-\U0001d252\U0001d25b-\U0001d25c\U0001d25f\U0001d280-\U0001d281\U0001e08f\U0001e130-\U0001e136\U0001e2ae"
    "\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef\U0001e5ee-\U0001e5ef\U0001e6e3\U0001e6e6\U0001e6ee-\U0001e6ef\U0001e6f5"
    "\U00011930\U000105d2\U000105da\U000113c9\U000113bb\U000113c2\U000113b8\U0001611e-\U00016120\U00016129\U00016d67])"
)


def nfc(text: str) -> str:
    """NFC as `tokenizers` computes it."""
    if unicodedata.is_normalized("NFC", text):
        return text
    return "".join(unicodedata.normalize("NFC", part) for part in _NEWER.split(text))


@dataclass(frozen=True)
class Flags:
    """How an added token is found, and whether it is special, which only `skip_special_tokens` of other software uses."""

    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True

    @property
    def looks_around(self) -> bool:
        """Whether the characters next to the token matter."""
        return self.single_word or self.lstrip or self.rstrip


@dataclass(frozen=True)
class TextRules:
    """nfc, prefix_space: see the top of this file. flags: of the added tokens that have others than `Flags()`. absent: the
    bytes that the vocabulary lacks, so that text with one is rejected."""

    nfc: bool = False
    prefix_space: bool = False
    flags: Mapping[str, Flags] = field(default_factory=dict[str, Flags])
    absent: bytes = b""

    def ruled_text(self, special_tokens: Mapping[str, int]) -> "RuledText | None":
        """What applies these rules if only these special tokens are found; None if there is nothing to apply."""
        text = RuledText(self, special_tokens)
        return text if self.nfc or self.absent or text.always else None


NO_RULES = TextRules()


class RuledText(Boundaries):
    """Finds special tokens and applies the rules to the text between them; also decides where a text may be cut."""

    def __init__(self, rules: TextRules, special_tokens: Mapping[str, int]):
        flags = {text: rules.flags.get(text, Flags()) for text in special_tokens}
        self._change: Callable[[str], str] = nfc if rules.nfc else lambda text: text
        self._rules = rules
        plain, normalized = (
            {text: (special_tokens[text], of) for text, of in flags.items() if of.normalized == wanted}
            for wanted in (False, True)
        )
        for text in normalized:
            if self._change(text) != text:
                raise UserError(
                    f"added token {text!r} sets normalized, and is not in NFC itself; write it in NFC"
                )
        self._steps = _Finder(plain), _Finder(normalized)
        self.always = (
            rules.prefix_space
            or any(of.looks_around for of in flags.values())
            or _may_overlap(plain, normalized)
        )
        """whether text in NFC needs more than finding special tokens"""
        starts = [encoded(text) for text in plain if not flags[text].looks_around]
        super().__init__(starts)
        longest = max((len(encoded(text)) for text in special_tokens), default=0)
        self.context = 8 * longest + 64  # NFC may shorten text to an eighth

    def applies(self, text: bytes) -> bool:
        """Whether this text needs more than finding special tokens. UserError if it contains an absent byte."""
        absent = self._rules.absent
        if absent and len(text.translate(None, absent)) < len(text):  # four times as fast as a search
            at = next(at for at, byte in enumerate(text) if byte in absent)
            raise UserError(
                f"text: byte {text[at]:#04x} at position {at} is not in this vocabulary; remove it, or use another "
                "tokenizer"
            )
        if text.isascii():
            return self.always
        return self.always or (self._rules.nfc and not unicodedata.is_normalized("NFC", decoded(text)))

    def split(self, text: bytes) -> Iterator[tuple[bytes, int | None]]:
        """(piece of text, None) and (special token with the whitespace it takes, its id) in order."""
        first, second = self._steps
        for piece, token in first.split(decoded(text)):
            if token is not None:
                yield encoded(piece), token
                continue
            for part, token in second.split(self._change(piece)):
                if token is None and self._rules.prefix_space and part[0] != " ":
                    part = " " + part
                yield encoded(part), token

    def forbids(self, text: bytes, cut: int) -> bool:
        """Whether the pieces of the text depend on this cut; the text is as long as `context` on both sides, or complete.

        The cut is where the pattern allows one, or before one of `starts`."""
        left, right = decoded(text[:cut]), decoded(text[cut:])
        around = left[-1:] + right[:1]
        if any(self._change(part) != part for part in (*around, around)):
            return True
        first, second = self._steps
        if first.touches(left, right) or second.touches(self._change(left), self._change(right)):
            return True
        return self._rules.prefix_space and not (
            right.startswith(" ") or any(text.startswith(start, cut) for start in self.starts)
        )


class _Finder:
    """Finds tokens in text. tokens: text → (id, flags)."""

    def __init__(self, tokens: Mapping[str, tuple[int, Flags]]):
        self._tokens = tokens
        longest_first = sorted(tokens, key=len, reverse=True)
        self._expression = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._looks_around = any(flags.looks_around for _, flags in tokens.values())
        strips = [text for text, (_, flags) in tokens.items() if flags.rstrip]
        spaces = [text for text in tokens if text[0] in _SPACES]
        if strips and spaces:
            raise UserError(
                f"added token {strips[0]!r} sets rstrip and {spaces[0]!r} begins with whitespace, which tokenizers encodes "
                "twice; remove one of the two"
            )

    def split(self, text: str) -> Iterator[tuple[str, int | None]]:
        """(piece, None) and (token with the whitespace it takes, its id); no piece is empty."""
        done = 0
        for match in self._expression.finditer(text):
            start, stop = match.span()
            token, flags = self._tokens[match.group()]
            if flags.single_word and (
                _WORD.match(text, max(0, start - 1), start) or _WORD.match(text, stop, stop + 1)
            ):
                continue
            if flags.lstrip:
                start = done + len(text[done:start].rstrip(_SPACES))
            if flags.rstrip:
                stop = _after_spaces(text, stop)
            if done < start:
                yield text[done:start], None
            yield text[start:stop], token
            done = stop
        if done < len(text):
            yield text[done:], None

    def touches(self, left: str, right: str) -> bool:
        """Whether a token lies across the end of `left`, or one with flags next to it or to the whitespace around it."""
        text, cut = left + right, len(left)
        low, high = cut, cut
        if self._looks_around:
            low, high = len(left.rstrip(_SPACES)), _after_spaces(text, cut)
            if low == 0 or high == len(text):
                return True  # the whitespace may continue
        for token, (_, flags) in self._tokens.items():
            if not flags.looks_around:
                if straddles(text, cut, [token]):
                    return True
            elif text.find(token, max(0, low - len(token)), high + len(token)) >= 0:
                return True
        return False


def _after_spaces(text: str, at: int) -> int:
    """Where the whitespace that begins at `at` ends."""
    match = _SPACES_AFTER.match(text, at)
    return match.end() if match else at


def _may_overlap(first: Collection[str], second: Collection[str]) -> bool:
    """Whether occurrences of a token of each of the two sets can share characters."""
    if any(a in b or b in a for a in first for b in second):
        return True
    beginnings, ends = [
        [
            {text[:k] if begin else text[k:] for text in texts for k in range(1, len(text))}
            for texts in (first, second)
        ]
        for begin in (True, False)
    ]
    return not (beginnings[0].isdisjoint(ends[1]) and beginnings[1].isdisjoint(ends[0]))
