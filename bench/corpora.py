"""Generates the benchmark texts: the same recipe gives the same kind of text everywhere.

A: like TinyStories, a few thousand distinct pretokens: stories of the built-in grammar, drawn repeatedly,
   every other one with a sentence about a person with a rare name.
B: a heavy tail, hundreds of thousands of distinct pretokens: the sources and docs of the Python installation,
   with lines of made-up words, numbers and letters of several scripts between them.

In: a name and a size in bytes. Out: the path of a file of at least that size, built once and kept under
`.benchmarks/corpora/` (or $LMFAST_BENCH_CORPORA), with its size and sha256 in a JSON file. A is the same on every
machine; B depends on what is installed, which the sha256 shows. Both are valid UTF-8 with <|endoftext|> between documents.
"""

import hashlib
import json
import os
import random
import sysconfig
import unicodedata
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

from lmfast.files import atomic_write
from lmfast.tokenizer.special_tokens import DOCUMENT_END

RECIPE = 2  # part of the files' names: another recipe makes other files
BASE_BYTES = 16_000_000  # of stories that corpus A draws from
NUM_NAMES = 2_700
MAX_FILE_BYTES = 400_000  # of one source file, so that no generated table fills the corpus
HELD_OUT = 50  # of this many files one is not in the corpus
SUFFIXES = ("py", "txt", "rst", "md", "pyi", "h")
# First and last code point of what rare words are made of; Devanagari brings combining marks.
SCRIPTS = {
    "latin": (0x61, 0x7A),
    "greek": (0x3B1, 0x3C9),
    "cyrillic": (0x430, 0x44F),
    "arabic": (0x627, 0x64A),
    "devanagari": (0x905, 0x94D),
    "kana": (0x3042, 0x3093),
    "cjk": (0x4E00, 0x5FFF),
    "hangul": (0xAC00, 0xBFFF),
}


def folder() -> Path:
    """Where corpora are kept; `bench.compare` gives both commits the same one."""
    default = Path(__file__).resolve().parent.parent / ".benchmarks" / "corpora"
    return Path(os.environ.get("LMFAST_BENCH_CORPORA") or default)


def corpus(name: str, num_bytes: int) -> Path:
    """The path of corpus "A" or "B" of at least `num_bytes`, built now if it does not exist."""
    path = folder() / f"{name}-{num_bytes}-v{RECIPE}.txt"
    if not path.exists():
        write(path, {"A": stories, "B": sources}[name](), num_bytes)
    return path


def held_out(name: str, num_bytes: int = 2_000_000) -> Path:
    """A text of the same kind that shares only words and, in A, sentences with the corpus."""
    path = folder() / f"{name}-held-out-{num_bytes}-v{RECIPE}.txt"
    if not path.exists():
        pieces = {"A": lambda: stories(seed=2), "B": lambda: sources(held_out=True)}[name]()
        write(path, pieces, num_bytes)
    return path


def facts(path: Path) -> dict:
    """{bytes, sha256} of a corpus, from when it was built."""
    return json.loads(path.with_suffix(".json").read_text())


def write(path: Path, pieces: Iterator[str], num_bytes: int) -> None:
    """Writes whole pieces until there are `num_bytes`; both files appear under their names when they are complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with atomic_write(path) as temporary:
        with temporary.open("wb") as file:
            for piece in pieces:
                data = piece.encode()
                file.write(data)
                digest.update(data)
                size += len(data)
                if size >= num_bytes:
                    break
        path.with_suffix(".json").write_text(json.dumps({"bytes": size, "sha256": digest.hexdigest()}))


def repeated(path: Path, times: int) -> Path:
    """A file of `path`'s text N times: more bytes, and the same distinct pretokens."""
    target = path.with_name(f"{path.stem}-x{times}.txt")
    if not target.exists():
        with path.open("rb") as source, atomic_write(target) as temporary, temporary.open("wb") as file:
            for _ in range(times):
                at = 0
                while sent := os.sendfile(file.fileno(), source.fileno(), at, 1 << 30):
                    at += sent
    return target


def zipf(n: int) -> list[float]:
    """Cumulative weights of n ranks, 1/(rank + 10)."""
    return list(accumulate(1 / (rank + 10) for rank in range(n)))


def rare_names(rng: random.Random, n: int) -> list[str]:
    """n different names such as `Tovari`, in order of rank."""
    syllables = [a + b for a in "bdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "il")]
    names: dict[str, None] = {}
    while len(names) < n:
        names["".join(rng.choices(syllables, k=rng.choice((2, 2, 3)))).capitalize()] = None
    return list(names)


def stories(base_bytes: int = BASE_BYTES, seed: int = 1) -> Iterator[str]:
    """Corpus A, one document at a time."""
    from lmfast.data.stories.corpus import generate_stories

    rng = random.Random(seed)
    base: list[str] = []
    size = 0
    for story in generate_stories(seed):
        base.append(story.text)
        size += len(story.text)
        if size >= base_bytes:
            break
    names, weights = rare_names(random.Random(1), NUM_NAMES), zipf(NUM_NAMES)
    while True:
        text = rng.choice(base)
        if rng.random() < 0.5:
            first, second = rng.choices(names, cum_weights=weights, k=2)
            text += f"\n{first} heard of it and told {second}."
        yield f"{text}\n{DOCUMENT_END}\n"


def rare_line(rng: random.Random, num_words: int) -> str:
    """Made-up words, three in four Latin, and numbers of two to nine digits."""
    words = []
    for _ in range(num_words):
        first, last = SCRIPTS["latin" if rng.random() < 0.75 else rng.choice(list(SCRIPTS))]
        letters = [chr(rng.randint(first, last)) for _ in range(rng.randint(3, 11))]
        number = str(rng.randrange(10 ** rng.randint(2, 9)))
        words.append(number if rng.random() < 0.2 else "".join(letters))
    return " ".join(words) + "\n"


def source_files(roots: list[Path]) -> list[Path]:
    """Text files below the roots, each once, sorted by their paths there: wherever Python is installed."""
    found = {}
    for root in sorted({root.resolve() for root in roots}, key=lambda root: len(root.parts)):
        for directory, _, names in os.walk(root):
            for name in names:
                file = Path(directory, name)
                if name.rpartition(".")[2] in SUFFIXES and file.is_file():
                    found.setdefault(file, file.relative_to(root).as_posix())
    return sorted(found, key=lambda file: (found[file], file))


def assigned(text: str) -> str:
    """The text without code points that Python's Unicode has no category for: whether one is a letter depends on the
    Unicode version that a package was built with, so two tokenizers may differ and both be correct."""
    if text.isascii():
        return text
    unknown = {ord(char): None for char in set(text) if unicodedata.category(char) == "Cn"}
    return text.translate(unknown) if unknown else text


def sources(roots: list[Path] | None = None, held_out: bool = False) -> Iterator[str]:
    """Corpus B, a file and a line of rare words at a time; after the last file, starts again with the first.

    Every fiftieth file is kept for the held-out text."""
    rng = random.Random(3 if held_out else 2)
    files = source_files(
        roots or [Path(sysconfig.get_paths()[key]) for key in ("stdlib", "purelib", "platlib")]
    )
    files = files[::HELD_OUT] if held_out else [file for i, file in enumerate(files) if i % HELD_OUT]
    rng.shuffle(files)
    while True:
        for file in files or [None]:
            data = b"" if file is None else file.read_bytes()[:MAX_FILE_BYTES]
            yield assigned(data.decode("utf-8", "replace"))
            yield rare_line(rng, max(3, len(data) // 600))
            if rng.random() < 0.3:
                yield f"{DOCUMENT_END}\n"
