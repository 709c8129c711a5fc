"""inspect: how a text was split, token by token, and what a vocabulary holds.

In: a tokenizer, alone or with a text, records, Parquet, a token file, conversations or preferences. Out: the tokens of one
or more documents on stdout (rendering.py) or on a page (html_page.py); then counts, and whether decoding gives back the
source (verifying.py). A reader per kind of data turns a file into `Shown`s; `read` chooses it.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmfast.cli.tokenizer.commands import load_tokenizer, shown
from lmfast.cli.tokenizer.html_page import html_page
from lmfast.cli.tokenizer.inspecting_chat import kind_of_records, read_records, ready_for_chat, verify_records
from lmfast.cli.tokenizer.rendering import Shown, marked, mask_fact
from lmfast.cli.tokenizer.verifying import (
    against_source,
    decoded_before,
    encoded_again,
    open_tokens_of,
    source_of,
    verify_text,
    verify_tokens,
)
from lmfast.counted import counted
from lmfast.data.finding import find_sources
from lmfast.data.sources import documents, plan_shards
from lmfast.data.token_file import TokenFile
from lmfast.errors import UserError
from lmfast.files import check_writable, written_beside
from lmfast.streams import standard_input, standard_output
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.documents import document_spans, open_text
from lmfast.tokenizer.file_kinds import is_plain_text
from lmfast.tokenizer.special_tokens import DOCUMENT_END

DOCUMENTS_ON_A_PAGE = 20


def inspect(arguments: argparse.Namespace) -> None:
    standard_output()
    tokenizer = load_tokenizer(arguments)
    if arguments.input is None:
        print("\n".join(vocabulary_lines(tokenizer, arguments.longest)))
        return
    if arguments.document < 0:
        raise UserError(f"--document {arguments.document}: documents are counted from 0")
    if arguments.source is not None and not is_token_file(arguments.input):
        raise UserError("--source: is for token files; a text is its own source")
    kind = kind_of_records(arguments.input, arguments.text_field)
    if kind is not None:
        tokenizer = ready_for_chat(tokenizer)
    if arguments.verify:
        print(f"{arguments.input}: {verify(tokenizer, arguments, kind)}")
        return
    found = list(read(tokenizer, arguments, kind))
    if arguments.html is not None:
        write_page(tokenizer, arguments, found)
        return
    colors = arguments.color == "always" or (arguments.color == "auto" and standard_output().isatty())
    for document in found:
        if len(found) > 1:
            print(f"── {document.title} ──")
        print_document(tokenizer, document, arguments.limit, colors)


def print_document(tokenizer: Tokenizer, document: Shown, limit: int, colors: bool) -> None:
    mask = None if document.mask is None else document.mask[:limit].tolist()
    print(marked(tokenizer, document.ids[:limit].tolist(), colors, mask))
    if len(document.ids) > limit:
        print(f"… {len(document.ids) - limit:,} more tokens (--limit {len(document.ids)} shows all)")
    print()
    facts = document.facts if document.mask is None else [mask_fact(document.mask, colors), *document.facts]
    print("\n".join(facts))


def write_page(tokenizer: Tokenizer, arguments: argparse.Namespace, found: list[Shown]) -> None:
    path = Path(arguments.html)
    check_writable(path)
    about = (
        f"{arguments.tokenizer or arguments.vocab}: {tokenizer.vocab_size:,} ids, pattern {tokenizer.pattern.name}. "
        f"{counted(len(found), 'document')} from number {arguments.document} on."
    )
    page = html_page(tokenizer, str(arguments.input), about, found, arguments.limit)
    with written_beside(path) as beside:
        beside.write_text(page, encoding="utf-8", errors="backslashreplace")
    print(
        f"{path}: {counted(len(found), 'document')}, {counted(sum(len(document.ids) for document in found), 'token')}"
    )


def is_token_file(name: str) -> bool:
    return Path(name).suffix in (".npy", ".bin", ".ids")


def read(tokenizer: Tokenizer, arguments: argparse.Namespace, kind: str | None) -> Iterator[Shown]:
    """The documents that are asked for, --documents of them from --document on; at least the first of them is there.

    kind: of a file of conversations or preferences (inspecting_chat.py)."""
    first = arguments.document
    many = arguments.documents or (DOCUMENTS_ON_A_PAGE if arguments.html else 1)
    if kind is not None:
        return read_records(tokenizer, arguments.input, kind, arguments.skip_bad, first, many)
    if is_token_file(arguments.input):
        return _of_tokens(tokenizer, arguments.input, first, many, arguments.source)
    if arguments.input == "-" or is_plain_text(Path(arguments.input)):
        return _of_text(tokenizer, arguments.input, first, many)
    return _of_records(tokenizer, arguments.input, first, many, arguments.text_field)


def _no_such_document(name: str, count: int, number: int) -> UserError:
    return UserError(
        f"{name}: has {counted(count, 'document')}, so there is no --document {number} (the first is 0)"
    )


def _of_text(tokenizer: Tokenizer, name: str, first: int, many: int) -> Iterator[Shown]:
    if name == "-":
        with standard_input() as stdin:
            text = np.frombuffer(stdin.buffer.read(), np.uint8)
        if not len(text):
            raise UserError("standard input is empty; there is nothing to show")
        name = "standard input"
    else:
        text = open_text(name)
    spans = document_spans(text)
    mark = DOCUMENT_END.encode()
    if len(spans) > 1 and spans[-1][0] == len(text):
        spans = spans[:-1]  # nothing comes after the last mark
    if first >= len(spans):
        raise _no_such_document(name, len(spans), first)
    for number, (start, end) in enumerate(spans[first : first + many].tolist(), first):
        # The mark that ends it is shown with it.
        close = end + len(mark) if text[end : end + len(mark)].tobytes() == mark else end
        source = text[start:close].tobytes()
        ids = tokenizer.encode_array(source)
        decoded = tokenizer.decode_bytes(ids)
        facts = [*fact_lines(tokenizer, ids, len(decoded)), against_source(decoded, source)]
        yield Shown(f"document {number}", ids, facts=facts)


def _of_records(tokenizer: Tokenizer, name: str, first: int, many: int, field: str) -> Iterator[Shown]:
    """Records, rows and packed texts; special tokens written in them are text."""
    number = -1
    texts = (text for shard in plan_shards(find_sources([name])) for text in documents(shard, field))
    for number, source in enumerate(itertools.islice(texts, first + many)):
        if number < first:
            continue
        ids = tokenizer.encode_array(source, "none")
        decoded = tokenizer.decode_bytes(ids)
        facts = [*fact_lines(tokenizer, ids, len(decoded)), against_source(decoded, source)]
        yield Shown(f"document {number}", ids, facts=facts)
    if number < first:
        raise _no_such_document(name, number + 1, first)


def _of_tokens(tokenizer: Tokenizer, name: str, first: int, many: int, named: str | None) -> Iterator[Shown]:
    file = open_tokens_of(name, tokenizer)
    tokens = file.tokens
    ends = _ends_of_documents(tokens, tokenizer.special_tokens.get(DOCUMENT_END))
    if first >= len(ends):
        raise _no_such_document(name, len(ends), first)
    source = source_of(file, named)
    starts = np.concatenate([[0], ends])
    for number in range(first, min(first + many, len(ends))):
        ids = np.asarray(tokens[starts[number] : ends[number]])
        decoded = tokenizer.decode_bytes(ids)
        if source is None:
            told = encoded_again(tokenizer, ids)
        else:
            at = decoded_before(tokenizer, tokens, int(starts[number]))
            told = against_source(decoded, source[at : at + len(decoded)].tobytes(), at)
        yield Shown(f"document {number}", ids, facts=[*fact_lines(tokenizer, ids, len(decoded)), told])


def _ends_of_documents(tokens: np.ndarray, end_id: int | None) -> np.ndarray:
    """Where each document ends, int64; its end mark belongs to it."""
    if end_id is None:
        return np.array([len(tokens)])
    step = 1 << 24
    found = [np.flatnonzero(tokens[i : i + step] == end_id) + i + 1 for i in range(0, len(tokens), step)]
    return np.unique(np.concatenate([*found, [len(tokens)]]))


def verify(tokenizer: Tokenizer, arguments: argparse.Namespace, kind: str | None) -> str:
    """Whether decoding gives back the whole file; a line."""
    if arguments.input == "-":
        raise UserError("--verify: reads a file twice; name one instead of -")
    if kind is not None:
        return verify_records(tokenizer, arguments.input, kind, arguments.skip_bad)
    if not is_token_file(arguments.input):
        return verify_text(tokenizer, arguments.input, arguments.text_field)
    file: TokenFile = open_tokens_of(arguments.input, tokenizer)
    return verify_tokens(tokenizer, file, source_of(file, arguments.source))


def fact_lines(tokenizer: Tokenizer, ids: np.ndarray, num_bytes: int) -> list[str]:
    """Counts of one document."""
    common = Counter(ids.tolist()).most_common(5)
    return [
        f"{len(ids):,} tokens, {num_bytes:,} bytes, {num_bytes / max(len(ids), 1):.3f} bytes/token",
        "most frequent: " + ", ".join(f"{shown(tokenizer.token_bytes(i))} {n:,}" for i, n in common),
    ]


def vocabulary_lines(tokenizer: Tokenizer, longest: int) -> list[str]:
    special = set(tokenizer.special_tokens.values())
    ordinary = {i: token for i, token in tokenizer.vocab.items() if i not in special}
    lengths = [len(token) for token in ordinary.values()]
    lines = [
        f"{tokenizer.vocab_size:,} ids: {counted(len(ordinary), 'ordinary token')}, "
        f"{counted(len(tokenizer.merges), 'merge')}, pattern "
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
