"""The built-in corpus: short children's stories, any size from any seed, with their exact probability.

In: a size in bytes and a seed. Out: a text file, a story after a story as `text\n<|endoftext|>\n`, and beside it
`<file>.json` with the floor: the bits of all choices behind the stories over the bytes of their text. Bytes of
`<|endoftext|>` are left out and the line breaks around it counted; what follows a story is certain, so the floor
compares exactly with a model's bits per byte that counts the loss of `<|endoftext|>` but not its bytes
(DESIGN.md, decision 11). Refused: a size below one byte, a text that is no story of this grammar.

The sentences are in sentences.py and the two plots files, the words in words.py; grammar.py expands and parses
them. A text determines its choices (tests/data/stories/test_corpus.py), so
the floor is the entropy of the source itself and no model can beat it on average.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lmfast.data.stories.grammar import Choice, Expansion, Grammar, draws, parse_rules
from lmfast.data.stories.plots_family import FAMILY_PLOTS
from lmfast.data.stories.plots_friends import FRIEND_PLOTS
from lmfast.data.stories.sentences import SENTENCES
from lmfast.data.stories.words import WORDS
from lmfast.errors import UserError
from lmfast.files import atomic_write
from lmfast.tokenizer.special_tokens import DOCUMENT_END

_SEPARATOR = f"\n{DOCUMENT_END}\n"
_SEPARATOR_TEXT_BYTES = len(_SEPARATOR) - len(DOCUMENT_END)
_WORD = re.compile(rb"[A-Za-z]+(?:['-][A-Za-z]+)*")
_WRITE_BYTES = 1 << 20

Story = Expansion  # text, bits, choices; the text is ASCII


@dataclass(frozen=True)
class StoriesSummary:
    """What a file of stories holds. `bits` / (`bytes` − the bytes of its `<|endoftext|>`) = `bits_per_byte`."""

    path: str
    bytes: int
    stories: int
    words: int
    bits: float
    bits_per_byte: float
    seed: int
    grammar: str  # grammar_version() at the time of writing


@functools.cache
def grammar() -> Grammar:
    """The grammar of the built-in corpus."""
    return Grammar(WORDS, parse_rules(SENTENCES + FAMILY_PLOTS + FRIEND_PLOTS))


@functools.cache
def grammar_version() -> str:
    """A hash of every word, weight and template: files of one version and seed are the same to the byte."""
    source = json.dumps([grammar().words, grammar().templates, grammar().counts], sort_keys=True)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def generate_stories(seed: int) -> Iterator[Story]:
    """Endless stories of one seed, the same on every platform; other seeds give other stories."""
    draw = draws(seed).__next__
    expand = grammar().expand
    while True:
        yield expand("story", draw)


def parse_story(text: str) -> tuple[Choice, ...]:
    """The choices behind a story (without separator), in the order of its text: (rule, index of the alternative).

    ValueError says from which character on the text is no story of this grammar.
    """
    return grammar().parse("story", text).choices


def story_bits(text: str) -> float:
    """−log2 of the story's probability: the sum of its choices' bits."""
    return grammar().parse("story", text).bits


def write_stories(
    path: str | os.PathLike,
    num_bytes: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> StoriesSummary:
    """Write whole stories of `seed` to `path` until there are at least `num_bytes`; `<path>.json` gets the summary.

    Both are written beside under a temporary name first; memory does not grow with `num_bytes`. `progress` is called
    with (bytes written, num_bytes) about once a megabyte.
    """
    path = Path(path)
    if num_bytes < 1:
        raise UserError(f"{path}: cannot write {num_bytes} bytes of stories; ask for at least 1")
    path.parent.mkdir(parents=True, exist_ok=True)
    written = stories = words = 0
    bits = 0.0
    source = generate_stories(seed)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        while written < num_bytes:
            pending: list[str] = []
            size = 0
            for story in source:
                pending.append(story.text)
                size += len(story.text) + len(_SEPARATOR)
                bits += story.bits
                if size >= _WRITE_BYTES or written + size >= num_bytes:
                    break
            block = (_SEPARATOR.join(pending) + _SEPARATOR).encode("ascii")
            file.write(block)
            written += len(block)
            stories += len(pending)
            words += len(_WORD.findall(block)) - len(pending)  # endoftext is no word
            if progress is not None:
                progress(written, num_bytes)
    text_bytes = written - stories * len(DOCUMENT_END)
    summary = StoriesSummary(
        str(path), written, stories, words, bits, bits / text_bytes, seed, grammar_version()
    )
    described = {name: value for name, value in asdict(summary).items() if name != "path"}
    with atomic_write(path.with_name(f"{path.name}.json")) as temporary:
        temporary.write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return summary


def bits_per_byte(path: str | os.PathLike) -> float:
    """The floor of a file of stories, from the text itself: every story is parsed (about 1 MB a second).

    ValueError names the file and the story that is none of this grammar. The summary that write_stories returns,
    and leaves in `<path>.json`, has the same number at no cost.
    """
    bits, text_bytes = 0.0, 0
    for number, text in enumerate(_read_stories(Path(path)), start=1):
        try:
            bits += story_bits(text)
        except ValueError as error:
            raise ValueError(f"{path}: story {number}: {error}") from None
        text_bytes += len(text) + _SEPARATOR_TEXT_BYTES
    if text_bytes == 0:
        raise UserError(f"{path}: holds no story; write some with write_stories")
    return bits / text_bytes


def _read_stories(path: Path) -> Iterator[str]:
    lines: list[str] = []
    with open(path, encoding="utf-8", newline="\n") as file:
        for line in file:
            if line.rstrip("\n") == DOCUMENT_END:
                yield "".join(lines).removesuffix("\n")
                lines = []
            else:
                lines.append(line)
    if lines:
        raise UserError(f"{path}: ends within a story; the last line must be {DOCUMENT_END}")
