"""The built-in corpus: short children's stories of any size and seed, with their exact probability.

Input: a size in bytes and a seed. Output: a text file of stories, each `text\n<|endoftext|>\n`, and `<file>.json` with the
floor: the bits of all random choices divided by the bytes of the text. The bytes of `<|endoftext|>` do not count, but the
line breaks around it do. What follows a story is certain, so the floor is comparable with a model's bits per byte, which
includes the loss of `<|endoftext|>` but not its bytes. Rejects sizes below one byte and texts that the grammar cannot
produce.

Sentences are in sentences.py and the two plots files, words in words.py; grammar.py expands and parses them. A text
determines its choices (tests/data/stories/test_corpus.py), so the floor is the entropy of the source, and no model can
beat it on average.
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
    """Statistics of a file of stories. `bits_per_byte` = `bits` / (`bytes` − bytes of `<|endoftext|>`)."""

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
    """A hash of all words, weights and templates: files of the same version and seed are identical."""
    source = json.dumps([grammar().words, grammar().templates, grammar().counts], sort_keys=True)
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def generate_stories(seed: int) -> Iterator[Story]:
    """Endless stories for a seed, the same on every platform."""
    draw = draws(seed).__next__
    expand = grammar().expand
    while True:
        yield expand("story", draw)


def parse_story(text: str) -> tuple[Choice, ...]:
    """The choices behind a story (without separator), in text order: (rule, index of the alternative).

    Raises ValueError with the position of the first character that the grammar cannot produce.
    """
    return grammar().parse("story", text).choices


def story_bits(text: str) -> float:
    """−log2 of the probability of a story: the sum of the bits of its choices."""
    return grammar().parse("story", text).bits


def write_stories(
    path: str | os.PathLike,
    num_bytes: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> StoriesSummary:
    """Writes stories of `seed` to `path` until there are at least `num_bytes`, and the summary to `<path>.json`.

    Both files are written atomically; memory does not grow with `num_bytes`. `progress` is called with (bytes written,
    num_bytes) about once per megabyte.
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
            words += len(_WORD.findall(block)) - len(pending)  # not counting endoftext
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
    """The floor of a file of stories, computed by parsing every story (about 1 MB per second).

    `write_stories` returns the same number, and writes it to `<path>.json`, at no cost. Raises ValueError with the file
    and the story that the grammar cannot produce.
    """
    bits, text_bytes = 0.0, 0
    for number, text in enumerate(_read_stories(Path(path)), start=1):
        try:
            bits += story_bits(text)
        except ValueError as error:
            raise ValueError(f"{path}: story {number}: {error}") from None
        text_bytes += len(text) + _SEPARATOR_TEXT_BYTES
    if text_bytes == 0:
        raise UserError(f"{path}: contains no story; write some with write_stories")
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
        raise UserError(f"{path}: the last story is incomplete; the last line must be {DOCUMENT_END}")
