"""`lmfast tokenizer inspect`: shows the tokens of a text, or the contents of a vocabulary.

Input: a tokenizer, alone or with a text, records, Parquet, a token file, conversations or preferences. Output: the tokens of
one or more documents on standard output (rendering.py) or on a page (html_page.py), counts, and whether decoding restores
the source (verifying.py). `read` selects the reader for the kind of file; readers yield `Shown` objects.
"""

import argparse
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lmfast.cli.tokenizer.commands import load_tokenizer, quote_token
from lmfast.cli.tokenizer.html_page import html_page
from lmfast.cli.tokenizer.inspecting_chat import read_records, record_kind, verify_records, with_chat_tokens
from lmfast.cli.tokenizer.rendering import Shown, marked, mask_fact
from lmfast.cli.tokenizer.verifying import (
    compare_reencoded,
    compare_with_source,
    find_source,
    open_matching_tokens,
    source_offset,
    verify_text,
    verify_tokens,
)
from lmfast.counted import counted
from lmfast.data.finding import find_sources
from lmfast.data.sources import documents, plan_shards
from lmfast.data.token_file import TokenFile
from lmfast.errors import UserError
from lmfast.files import atomic_write, check_writable
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
        raise UserError(f"--document is {arguments.document}; it must be at least 0")
    if arguments.source is not None and not is_token_file(arguments.input):
        raise UserError("--source applies only to token files; remove it")
    kind = record_kind(arguments.input, arguments.text_field)
    if kind is not None:
        tokenizer = with_chat_tokens(tokenizer)
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
        f"{counted(len(found), 'document')}, starting at number {arguments.document}."
    )
    page = html_page(tokenizer, str(arguments.input), about, found, arguments.limit)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    print(
        f"{path}: {counted(len(found), 'document')}, {counted(sum(len(document.ids) for document in found), 'token')}"
    )


def is_token_file(name: str) -> bool:
    return Path(name).suffix in (".npy", ".bin", ".ids")


def read(tokenizer: Tokenizer, arguments: argparse.Namespace, kind: str | None) -> Iterator[Shown]:
    """The selected documents, --documents of them starting at --document. Raises UserError if the first does not exist.

    kind: "conversations" or "preferences" for a file of these (inspecting_chat.py)."""
    first = arguments.document
    many = arguments.documents or (DOCUMENTS_ON_A_PAGE if arguments.html else 1)
    if kind is not None:
        return read_records(tokenizer, arguments.input, kind, arguments.skip_bad, first, many)
    if is_token_file(arguments.input):
        return _token_documents(tokenizer, arguments.input, first, many, arguments.source)
    if arguments.input == "-" or is_plain_text(Path(arguments.input)):
        return _text_documents(tokenizer, arguments.input, first, many)
    return _record_documents(tokenizer, arguments.input, first, many, arguments.text_field)


def _no_such_document(name: str, count: int, number: int) -> UserError:
    return UserError(
        f"{name}: has {counted(count, 'document')}; --document {number} must be below {count} (the first is 0)"
    )


def _text_documents(tokenizer: Tokenizer, name: str, first: int, many: int) -> Iterator[Shown]:
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
        spans = spans[:-1]  # the text ends with a separator
    if first >= len(spans):
        raise _no_such_document(name, len(spans), first)
    for number, (start, end) in enumerate(spans[first : first + many].tolist(), first):
        # Include the separator that ends the document.
        close = end + len(mark) if text[end : end + len(mark)].tobytes() == mark else end
        source = text[start:close].tobytes()
        ids = tokenizer.encode_array(source)
        decoded = tokenizer.decode_bytes(ids)
        facts = [*fact_lines(tokenizer, ids, len(decoded)), compare_with_source(decoded, source)]
        yield Shown(f"document {number}", ids, facts=facts)


def _record_documents(tokenizer: Tokenizer, name: str, first: int, many: int, field: str) -> Iterator[Shown]:
    """Records, rows and compressed texts; special tokens in them are plain text."""
    number = -1
    texts = (text for shard in plan_shards(find_sources([name])) for text in documents(shard, field))
    for number, source in enumerate(itertools.islice(texts, first + many)):
        if number < first:
            continue
        ids = tokenizer.encode_array(source, "none")
        decoded = tokenizer.decode_bytes(ids)
        facts = [*fact_lines(tokenizer, ids, len(decoded)), compare_with_source(decoded, source)]
        yield Shown(f"document {number}", ids, facts=facts)
    if number < first:
        raise _no_such_document(name, number + 1, first)


def _token_documents(
    tokenizer: Tokenizer, name: str, first: int, many: int, named: str | None
) -> Iterator[Shown]:
    file = open_matching_tokens(name, tokenizer)
    tokens = file.tokens
    ends = _document_ends(tokens, tokenizer.special_tokens.get(DOCUMENT_END))
    if first >= len(ends):
        raise _no_such_document(name, len(ends), first)
    source = find_source(file, named)
    starts = np.concatenate([[0], ends])
    for number in range(first, min(first + many, len(ends))):
        ids = np.asarray(tokens[starts[number] : ends[number]])
        decoded = tokenizer.decode_bytes(ids)
        if source is None:
            verdict = compare_reencoded(tokenizer, ids)
        else:
            at = source_offset(tokenizer, tokens, int(starts[number]))
            verdict = compare_with_source(decoded, source[at : at + len(decoded)].tobytes(), at)
        yield Shown(f"document {number}", ids, facts=[*fact_lines(tokenizer, ids, len(decoded)), verdict])


def _document_ends(tokens: np.ndarray, end_id: int | None) -> np.ndarray:
    """End position of each document, int64, including its <|endoftext|>."""
    if end_id is None:
        return np.array([len(tokens)])
    step = 1 << 24
    found = [np.flatnonzero(tokens[i : i + step] == end_id) + i + 1 for i in range(0, len(tokens), step)]
    return np.unique(np.concatenate([*found, [len(tokens)]]))


def verify(tokenizer: Tokenizer, arguments: argparse.Namespace, kind: str | None) -> str:
    """One line: whether decoding restores the whole file."""
    if arguments.input == "-":
        raise UserError("--verify reads its input twice; give a file instead of -")
    if kind is not None:
        return verify_records(tokenizer, arguments.input, kind, arguments.skip_bad)
    if not is_token_file(arguments.input):
        return verify_text(tokenizer, arguments.input, arguments.text_field)
    file: TokenFile = open_matching_tokens(arguments.input, tokenizer)
    return verify_tokens(tokenizer, file, find_source(file, arguments.source))


def fact_lines(tokenizer: Tokenizer, ids: np.ndarray, num_bytes: int) -> list[str]:
    """Token counts of one document, as lines."""
    common = Counter(ids.tolist()).most_common(5)
    return [
        f"{len(ids):,} tokens, {num_bytes:,} bytes, {num_bytes / max(len(ids), 1):.3f} bytes/token",
        "most frequent: " + ", ".join(f"{quote_token(tokenizer.token_bytes(i))} {n:,}" for i, n in common),
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
        f"bytes per token: mean {np.mean(lengths):.2f}, median {np.median(lengths):.0f}, longest {max(lengths)}",
        f"{sum(token[:1] == b' ' for token in ordinary.values()):,} begin with a space, "
        f"{sum(not _is_text(token) for token in ordinary.values()):,} are not valid UTF-8",
        "longest tokens:",
    ]
    by_length = sorted(ordinary.items(), key=lambda item: (-len(item[1]), item[0]))
    lines += [
        f"  {i:>7} {len(token):>4} bytes  {quote_token(token, 100)}" for i, token in by_length[:longest]
    ]
    return lines


def _is_text(token: bytes) -> bool:
    try:
        token.decode()
    except UnicodeDecodeError:
        return False
    return True
