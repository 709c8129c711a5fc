"""`inspect` for conversations and preferences: the tokens and the loss mask that SFT and DPO train on.

Input: a file of records (lmfast/data/chat_records.py) and a tokenizer. Output: one `Shown` per conversation and two per
preference (chosen and rejected answer after the same prompt), rendered by chat.py as for training. Adds the chat tokens to
a tokenizer without them, as `lmfast sft` does. Verifies that decoding restores the messages and their special tokens.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lmfast.cli.tokenizer.rendering import Shown
from lmfast.cli.tokenizer.verifying import ROUND_TRIPS, compare_with_source
from lmfast.counted import counted
from lmfast.data.chat import (
    BOS,
    END,
    ROLE_TOKENS,
    Rendered,
    add_chat_tokens,
    has_chat_tokens,
    render,
    render_answer,
)
from lmfast.data.chat_records import Message, Preference, read_conversations, read_preferences
from lmfast.errors import UserError
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.file_kinds import RECORD_SUFFIXES

_CONVERSATION_FIELDS = {"messages", "conversations", "instruction"}
_PREFERENCE_FIELDS = {"chosen", "rejected"}


def record_kind(name: str, field: str) -> str | None:
    """ "conversations" or "preferences" if the first record of a .json or .jsonl file is one, otherwise None.

    Records with the text field `field` are plain documents."""
    path = Path(name)
    if path.suffix.lower() not in RECORD_SUFFIXES or not path.is_file():
        return None
    first = _first_record(path)
    if first is None or field in first:
        return None
    if first.keys() >= _PREFERENCE_FIELDS:
        return "preferences"
    return "conversations" if first.keys() & _CONVERSATION_FIELDS else None


def _first_record(path: Path) -> dict | None:
    """The first record of JSON lines or of an array, or None; the reader reports errors."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = next((line for line in file if line.strip()), "")
        text = (
            line if line.lstrip().startswith("{") and path.suffix.lower() != ".json" else line + file.read()
        )
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(found, list):
        found = found[0] if found else None
    return found if isinstance(found, dict) else None


def with_chat_tokens(tokenizer: Tokenizer) -> Tokenizer:
    return tokenizer if has_chat_tokens(tokenizer) else add_chat_tokens(tokenizer)


def read_records(
    tokenizer: Tokenizer, name: str, kind: str, skip_bad: bool, first: int, many: int
) -> Iterator[Shown]:
    """At most `many` records, starting at index `first` (from 0), without bad ones."""
    records = _records(name, kind, skip_bad)
    if first >= len(records):
        raise UserError(
            f"{name}: has {counted(len(records), 'record')}; --document {first} must be below {len(records)}"
        )
    for number, record in enumerate(records[first : first + many], first):
        versions = record_versions(record, tokenizer)
        for version, rendered, source in versions:
            decoded = tokenizer.decode_bytes(rendered.ids)
            facts = [
                f"{len(rendered.ids):,} tokens, {len(decoded):,} bytes, "
                f"{len(decoded) / len(rendered.ids):.3f} bytes/token",
                compare_with_source(decoded, source),
            ]
            yield Shown(f"record {number}{version}", rendered.ids, rendered.loss, facts)


def _records(name: str, kind: str, skip_bad: bool) -> list:
    reader = read_preferences if kind == "preferences" else read_conversations
    records, bad = reader(name, skip_bad=skip_bad)
    for reason, count in bad.items():
        print(f"{name}: skipped {counted(count, 'record')} that {reason}", file=sys.stderr)
    return records


def record_versions(
    record: Sequence[Message] | Preference, tokenizer: Tokenizer
) -> list[tuple[str, Rendered, bytes]]:
    """[(label, ids and mask, expected decoded text)]: one for a conversation, two for a preference."""
    if not isinstance(record, Preference):
        return [("", render(record, tokenizer), conversation_text(record))]
    return [
        (
            f" {which}",
            render_answer(record.prompt, answer, tokenizer),
            conversation_text([*record.prompt, *answer]),
        )
        for which, answer in (("chosen", record.chosen), ("rejected", record.rejected))
    ]


def conversation_text(messages: Sequence[Message]) -> bytes:
    """A conversation as text with its special tokens."""
    text = BOS + "".join(f"{ROLE_TOKENS[role]}{content}{END}" for role, content in messages)
    return text.encode("utf-8", "surrogatepass")


def verify_records(tokenizer: Tokenizer, name: str, kind: str, skip_bad: bool) -> str:
    """One line: whether the ids of every record decode to its messages, and how many tokens carry loss."""
    tokens = loss = 0
    for number, record in enumerate(_records(name, kind, skip_bad)):
        for version, rendered, source in record_versions(record, tokenizer):
            verdict = compare_with_source(tokenizer.decode_bytes(rendered.ids), source)
            if verdict != ROUND_TRIPS:
                return f"record {number}{version}: {verdict}"
            tokens += len(rendered.ids)
            loss += int(np.count_nonzero(rendered.loss))
    return f"{ROUND_TRIPS}; {loss:,} of {tokens:,} tokens carry loss"
