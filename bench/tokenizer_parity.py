"""Published tokenizers compared with their own software: `python -m bench.tokenizer_parity FOLDER [NAME …]`.

In: what `python -m bench.tokenizer_files FOLDER` downloads, or other tokenizer.json and .tiktoken files and Kimi's
folders. Each text is encoded and decoded by lmfast and by `tokenizers` (tiktoken for ranks): real text, source code, many
languages, special tokens with spaces around them, and random strings of assigned characters. Texts with bytes that the
vocabulary lacks, which lmfast rejects, are counted apart. Out: a table (file × strings × differences), and
bench/results/tokenizer_parity.json.
"""

import random
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import tiktoken
import tokenizers
from tiktoken.load import load_tiktoken_bpe

from bench import machine
from bench.results import RESULTS, Row, Run, write
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.kimi import RANKS
from tests.tokenizer import sample_text

RANDOM = 10_000
PIECE = 2_000  # characters of a piece of real text
# What a .tiktoken file does not contain.
PATTERNS = {
    "whisper": "gpt2",
    "qwen3_6": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
    "qwen": "qwen2",
}
Encode = Callable[[str], list[int]]
Decode = Callable[[list[int]], str]


def compared(path: Path) -> tuple[Tokenizer, Encode, Decode]:
    """(ours, their encode, their decode)."""
    if path.suffix == ".json":
        whole = tokenizers.Tokenizer.from_file(str(path))
        return (
            Tokenizer.load(path),
            lambda text: whole.encode(text, add_special_tokens=False).ids,
            lambda ids: whole.decode(ids, skip_special_tokens=False),
        )
    if path.is_dir():
        ranks, ours = path / RANKS, Tokenizer.load(path)
    else:
        pattern = next(pattern for name, pattern in PATTERNS.items() if path.stem.startswith(name))
        ranks, ours = path, Tokenizer.load(path, pattern, ["<|endoftext|>"])
    theirs = tiktoken.Encoding(
        path.stem,
        pat_str=ours.pattern.regex,
        mergeable_ranks=load_tiktoken_bpe(str(ranks)),
        special_tokens=ours.special_tokens,
    )
    return ours, lambda text: theirs.encode(text, allowed_special="all"), theirs.decode


def texts(special_tokens: list[str]) -> Iterator[str]:
    """All texts for a tokenizer."""
    for name in sample_text.NAMES:
        path = sample_text.SHARED / name
        if name in sample_text.GENERATED or path.exists():
            text = sample_text.sample(name).decode("utf-8", "replace")[: 200 * PIECE]
            yield from (text[at : at + PIECE] for at in range(0, len(text), PIECE))
    for path in sorted(Path(machine.ROOT, "lmfast").rglob("*.py")):
        yield path.read_text(encoding="utf-8")
    rng = random.Random(0)
    for token in special_tokens[:2000]:
        spaces = [rng.choice(("", " ", "  ", "\n", "\t \u00a0", "x")) for _ in range(3)]
        yield f"{spaces[0]}{token}{spaces[1]}{token}{spaces[2]}"
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    common = [
        *sample_text.PROSE,
        *sample_text.SCRIPTS,
        *map(chr, range(0x20)),
        "\u0301",
        "\u0323",
        "\u3099",
        "  ",
    ]
    for _ in range(RANDOM):
        size = rng.randint(1, 60)
        alphabet = rng.choices(assigned, k=8) + rng.choices(common, k=24) + special_tokens[:3]
        yield "".join(rng.choices(alphabet, k=size))


def measured(path: Path) -> Row:
    began = time.perf_counter()
    ours, encode, decode = compared(path)
    seconds = time.perf_counter() - began
    strings = characters = wrong_ids = wrong_text = rejected = 0
    first = ""
    for text in texts(list(ours.special_tokens)):
        if not set(text.encode()).isdisjoint(ours.rules.absent):
            rejected += 1
            continue
        strings += 1
        characters += len(text)
        ids = encode(text)
        mine = ours.encode(text)
        if mine != ids or ours.encode(text.encode()) != ids:
            wrong_ids += 1
            first = first or repr(text[:60])
        wrong_text += ours.decode(ids) != decode(ids)
    shown = f"{strings:,} strings, {characters:,} characters, {wrong_ids} other ids, {wrong_text} other decoded texts"
    if rejected:
        shown += f"; {rejected} more contain bytes that it lacks"
    wrong = f"first difference: {first}" if wrong_ids else f"{wrong_text} decoded texts" if wrong_text else ""
    data = {
        "pattern": ours.pattern.name,
        "characters": characters,
        "differences": wrong_ids,
        "decoded_differences": wrong_text,
        "rejected": rejected,
        "load_seconds": round(seconds, 2),
    }
    return Row(path.name, strings, shown, wrong=wrong, data=data)


def main(folder: str, *names: str) -> int:
    """The table; 1 if there is a difference."""
    began, rows = time.perf_counter(), []
    for path in sorted(Path(folder).iterdir()):
        if (path.suffix in (".json", ".tiktoken") or (path / RANKS).exists()) and (
            not names or path.stem in names
        ):
            rows.append(measured(path))
            print(rows[-1].line, flush=True)
    versions = {"tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__}
    run = Run("tokenizer_parity", machine.describe(), rows, settings=versions)
    run.seconds = round(time.perf_counter() - began, 1)
    if not names:
        write(RESULTS / "tokenizer_parity.json", run)
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m bench.tokenizer_parity FOLDER [NAME …]")
    sys.exit(main(*sys.argv[1:]))
