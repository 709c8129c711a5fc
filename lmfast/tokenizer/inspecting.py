"""inspect: how a text was split, token by token, and what a vocabulary holds.

In: a text or a token file and a tokenizer, or a tokenizer alone. Out: the tokens of one document on stdout, each on a
colour of its own in a terminal and between bars elsewhere, special tokens marked; then counts, and whether decoding
gives back the source. A token file's source is not there, so its text is decoded and encoded again.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from lmfast.data.token_file import open_tokens
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.commands import DOCUMENT_END, documents_of, load_tokenizer, open_text, shown

BACKGROUNDS = (24, 58, 22, 53, 60, 94)  # of 256 colours; dark, so that white text stands on them
SPECIAL_STYLE = "\x1b[1;97;41m"
OPEN, CLOSE, BAR = "⟦", "⟧", "│"


def inspect(arguments: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(arguments)
    if arguments.input is None:
        print("\n".join(vocabulary_lines(tokenizer, arguments.longest)))
        return
    if arguments.document < 0:
        raise UserError(f"--document {arguments.document}: documents are counted from 0")
    if Path(arguments.input).suffix in (".npy", ".bin", ".ids"):
        ids, source = _document_of_tokens(arguments.input, tokenizer, arguments.document), None
    else:
        source = _document_of_text(arguments.input, arguments.document)
        ids = tokenizer.encode_array(source)
    colors = arguments.color == "always" or (arguments.color == "auto" and sys.stdout.isatty())
    print(marked(tokenizer, ids[: arguments.limit].tolist(), colors))
    if len(ids) > arguments.limit:
        print(f"… {len(ids) - arguments.limit:,} more tokens (--limit {len(ids)} shows all)")
    print()
    print("\n".join(fact_lines(tokenizer, ids, source)))


def _document_of_text(name: str, number: int) -> bytes:
    if name == "-":
        text = np.frombuffer(sys.stdin.buffer.read(), np.uint8)
        if not len(text):
            raise UserError("standard input is empty; there is nothing to show")
        name = "standard input"
    else:
        text = open_text(name)
    spans = documents_of(text)
    mark = DOCUMENT_END.encode()
    if len(spans) > 1 and spans[-1][0] == len(text):
        spans = spans[:-1]  # nothing comes after the last mark
    if number >= len(spans):
        raise UserError(
            f"{name}: has {len(spans)} documents, so there is no --document {number} (the first is 0)"
        )
    start, end = spans[number].tolist()
    # The mark that ends it is shown with it.
    close = end + len(mark) if text[end : end + len(mark)].tobytes() == mark else end
    return text[start:close].tobytes()


def _document_of_tokens(name: str, tokenizer: Tokenizer, number: int) -> np.ndarray:
    tokens = open_tokens(name, tokenizer.vocab_size).tokens
    end_id = tokenizer.special_tokens.get(DOCUMENT_END)
    if end_id is None:
        ends = np.array([len(tokens)])
    else:
        step = 1 << 24
        ends = [np.flatnonzero(tokens[i : i + step] == end_id) + i + 1 for i in range(0, len(tokens), step)]
        ends = np.concatenate([*ends, [len(tokens)]])
    if len(ends) > 1 and ends[-2] == len(tokens):
        ends = ends[:-1]
    if number >= len(ends):
        raise UserError(
            f"{name}: has {len(ends)} documents, so there is no --document {number} (the first is 0)"
        )
    return np.asarray(tokens[ends[number - 1] if number else 0 : ends[number]])


def marked(tokenizer: Tokenizer, ids: list[int], colors: bool) -> str:
    """The text with its tokens set apart. Characters whose bytes are spread over tokens show as escapes."""
    special = set(tokenizer.special_tokens.values())
    out = []
    for position, token in enumerate(ids):
        text = tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")
        if colors:
            style = SPECIAL_STYLE if token in special else f"\x1b[97;48;5;{BACKGROUNDS[position % 6]}m"
            # A newline inside a background would colour the rest of the line.
            out.append(f"{style}{text.replace(chr(10), '⏎' + chr(27) + '[0m' + chr(10) + style)}\x1b[0m")
        else:
            out.append(f"{OPEN}{text}{CLOSE}" if token in special else text)
    return "".join(out) if colors else BAR.join(out)


def fact_lines(tokenizer: Tokenizer, ids: np.ndarray, source: bytes | None) -> list[str]:
    decoded = tokenizer.decode_bytes(ids)
    lines = [
        f"{len(ids):,} tokens, {len(decoded):,} bytes, {len(decoded) / max(len(ids), 1):.3f} bytes/token"
    ]
    common = Counter(ids.tolist()).most_common(5)
    lines.append("most frequent: " + ", ".join(f"{shown(tokenizer.token_bytes(i))} {n:,}" for i, n in common))
    if source is not None:
        at = _first_difference(decoded, source)
        lines.append(
            "decoding gives back the source: yes"
            if at is None
            else f"decoding differs from the source at byte {at}"
        )
    else:
        again = tokenizer.encode_array(decoded)
        at = _first_difference(again.tolist(), ids.tolist())
        lines.append(
            "decoding and encoding again gives back the ids: yes"
            if at is None
            else f"encoding the decoded text gives other ids from position {at}"
        )
    return lines


def _first_difference(a, b) -> int | None:
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def vocabulary_lines(tokenizer: Tokenizer, longest: int) -> list[str]:
    special = set(tokenizer.special_tokens.values())
    ordinary = {i: token for i, token in tokenizer.vocab.items() if i not in special}
    lengths = [len(token) for token in ordinary.values()]
    lines = [
        f"{tokenizer.vocab_size:,} ids: {len(ordinary):,} ordinary tokens, {len(tokenizer.merges):,} merges, pattern "
        f"{tokenizer.pattern.name}, {tokenizer.dtype} token files",
        "special tokens: "
        + (", ".join(f"{text!r} {i}" for text, i in tokenizer.special_tokens.items()) or "none"),
        f"bytes a token: mean {np.mean(lengths):.2f}, median {np.median(lengths):.0f}, longest {max(lengths)}",
        f"{sum(token[:1] == b' ' for token in ordinary.values()):,} begin with a blank, "
        f"{sum(not _is_text(token) for token in ordinary.values()):,} are not whole UTF-8",
        "longest tokens:",
    ]
    by_length = sorted(ordinary.items(), key=lambda item: (-len(item[1]), item[0]))
    lines += [f"  {i:>7} {len(token):>4} bytes  {shown(token, 100)}" for i, token in by_length[:longest]]
    return lines


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
