"""Readers of instruction and preference files in the usual formats.

Input: a UTF-8 .json file (an array of records, or one record) or .jsonl file (one record per line). Formats:
- alpaca (Taori et al. 2023): `instruction`, `input` (optional), `output`, `system` (optional);
- messages (OpenAI): `messages`, each {"role", "content"};
- sharegpt: `conversations`, each {"from": human | gpt | system, "value"};
- preference: `prompt`, `chosen`, `rejected`, each a string or messages. `chosen` and `rejected` may repeat the prompt.
  `instruction` and `input` may replace `prompt`; without either, the prompt is the common start of both conversations.
Output: tuples of `Message`. Rejects, with file, number and reason: unknown formats, invalid roles and texts, conversations
that do not end with the assistant, equal answers. `skip_bad` skips and counts them instead.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lmfast.errors import UserError
from lmfast.files import read_text
from lmfast.tokenizer.file_kinds import file_kind

ROLES = {
    **{"user": "user", "human": "user", "prompter": "user"},
    **{"assistant": "assistant", "gpt": "assistant", "model": "assistant"},
    "system": "system",
}
CONVERSATION_FORMATS = ("alpaca", "messages", "sharegpt")
_HALF_PAIR = re.compile("[\ud800-\udfff]")
"""surrogates, which JSON can escape but UTF-8 cannot encode"""


class Message(NamedTuple):
    """One turn: role is user, assistant or system."""

    role: str
    content: str


class Preference(NamedTuple):
    """Two answers to one prompt; the answers are the messages that follow it."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


class _Bad(ValueError):
    """Why a record cannot be used."""


def read_conversations(
    path: str | Path, format: str = "auto", skip_bad: bool = False
) -> tuple[list[tuple[Message, ...]], dict[str, int]]:
    """(conversations, {reason: number of records skipped}) of a file; format: auto, alpaca, messages or sharegpt.

    Raises UserError at the first bad record, unless skip_bad is set, and if no record is usable.
    """

    def parse(record: dict) -> tuple[Message, ...]:
        kind = _conversation_format(record) if format == "auto" else format
        if kind == "alpaca":
            answer = (Message("assistant", _text(record, "output")),)
            return _check((*_alpaca_prompt(record), *answer), "assistant")
        name = "messages" if kind == "messages" else "conversations"
        return _check(_messages(_required(record, name), name), "assistant")

    return _read(Path(path), parse, skip_bad)


def read_preferences(path: str | Path, skip_bad: bool = False) -> tuple[list[Preference], dict[str, int]]:
    """(preferences, {reason: number of records skipped}) of a file. Raises like `read_conversations`."""
    return _read(Path(path), _preference, skip_bad)


def _read(path: Path, parse: Callable[[dict], Any], skip_bad: bool) -> tuple[list, dict[str, int]]:
    found, bad = [], {}
    for where, record in _records(path):
        try:
            if isinstance(record, _Bad):
                raise record
            if not isinstance(record, dict):
                raise _Bad(f"is {_json_type(record)}, not an object with named fields")
            found.append(parse(record))
        except _Bad as reason:
            if not skip_bad:
                raise UserError(
                    f"{path}: {where} {reason}; fix it, or skip bad records with --skip-bad"
                ) from None
            bad[str(reason)] = bad.get(str(reason), 0) + 1
    if not found:
        skipped = f" ({sum(bad.values())} bad ones skipped)" if bad else ""
        raise UserError(f"{path}: contains no usable record{skipped}; is it the right file?")
    return found, bad


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(location, record) pairs, numbered from 1; an invalid line of a .jsonl file is a `_Bad`."""
    if not path.is_file():
        wrong = "is a directory" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {wrong}; give a .json or .jsonl file of records")
    kind = file_kind(path)
    if kind.packing or kind.form == "parquet":
        raise UserError(f"{path}: records must be .json or .jsonl; decompress or convert the file")
    text = read_text(path)
    # JSON lines are recognised by suffix, or by starting with an object that is not the whole file.
    if (kind.form == "records" and path.suffix.lower() != ".json") or not (
        text.lstrip().startswith("[") or _is_json(text)
    ):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", _line(line)
        return
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not valid JSON ({error}); use a JSON array, or one object per line (.jsonl)"
        ) from None
    for number, record in enumerate(found if isinstance(found, list) else [found], 1):
        yield f"record {number}", record


def _is_json(text: str) -> bool:
    """Whether a text is a single JSON value. For lines of objects, parsing stops after the first."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _line(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Bad(f"is not valid JSON ({error})")


def _conversation_format(record: dict) -> str:
    for name, kind in (("messages", "messages"), ("conversations", "sharegpt"), ("instruction", "alpaca")):
        if name in record:
            return kind
    if "chosen" in record and "rejected" in record:
        raise _Bad("is a preference (chosen, rejected), which lmfast dpo reads")
    names = ", ".join(list(record)[:8]) + (", …" if len(record) > 8 else "")
    raise _Bad(f"has {names or 'no fields'} instead of instruction, messages or conversations")


def _preference(record: dict) -> Preference:
    chosen, rejected = (
        (Message("assistant", answer),)
        if isinstance(answer := _required(record, name), str)
        else _messages(answer, name)
        for name in ("chosen", "rejected")
    )
    if "prompt" in record:
        prompt = record["prompt"]
        prompt = (Message("user", prompt),) if isinstance(prompt, str) else _messages(prompt, "prompt")
    elif "instruction" in record:
        prompt = _alpaca_prompt(record)
    else:
        prompt = _common_prompt(chosen, rejected)
    _check(prompt, "user")
    chosen, rejected = _without_prompt(chosen, prompt), _without_prompt(rejected, prompt)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _check((*prompt, *answer), "assistant")
        if answer[0].role != "assistant":
            raise _Bad(f"has {name} messages that neither answer nor repeat the prompt")
    if chosen == rejected:
        raise _Bad("has identical chosen and rejected answers")
    return Preference(prompt, chosen, rejected)


def _common_prompt(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages that two conversations start with, up to a user message."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    while same and chosen[same - 1].role != "user":
        same -= 1
    if not same:
        raise _Bad("has no prompt, and chosen and rejected do not start with the same one")
    return chosen[:same]


def _without_prompt(answer: tuple[Message, ...], prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """Removes a repeated prompt, with or without its system message, from an answer."""
    for head in (prompt, prompt[1:] if prompt[0].role == "system" else prompt):
        if answer[: len(head)] == head:
            return answer[len(head) :]
    return answer


def _alpaca_prompt(record: dict) -> tuple[Message, ...]:
    instruction, extra = _text(record, "instruction"), record.get("input") or ""
    if not isinstance(extra, str):
        raise _Bad(f"has an input that is {_json_type(extra)}, not a string")
    system = (Message("system", _text(record, "system")),) if record.get("system") else ()
    return (*system, Message("user", f"{instruction}\n\n{extra}" if extra.strip() else instruction))


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _Bad(f"has {name} that are not a list of messages")
    out = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise _Bad(f"has {name} whose message {number} is {_json_type(message)}")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            raise _Bad(
                f"has {name} whose message {number} has the role {role!r}; known roles are {', '.join(ROLES)}"
            )
        if not isinstance(content, str):
            raise _Bad(f"has {name} whose message {number} has no text")
        out.append(Message(ROLES[role], content))
    return tuple(out)


def _check(messages: tuple[Message, ...], last: str) -> tuple[Message, ...]:
    """Returns the messages if they form a conversation: system message first, no empty texts, `last` speaks last."""
    for number, message in enumerate(messages, 1):
        if message.role == "system" and number > 1:
            raise _Bad(f"has a system message in position {number}; it must come first")
        if not message.content.strip() and message.role != "system":
            raise _Bad(f"has an empty {message.role} message in position {number}")
        if half := _HALF_PAIR.search(message.content):
            raise _Bad(
                f"has half a surrogate pair ({half[0]!r}) in the {message.role} message in position {number}"
            )
    if messages[-1].role != last:
        raise _Bad(f"ends with a message from the {messages[-1].role}, not from the {last}")
    if all(message.role != "user" for message in messages):
        raise _Bad("has no user message")
    return messages


def _required(record: dict, name: str) -> Any:
    if name not in record:
        raise _Bad(f"has no {name}")
    return record[name]


def _text(record: dict, name: str) -> str:
    value = _required(record, name)
    if not isinstance(value, str):
        raise _Bad(f"has {name} as {_json_type(value)}, not as a string")
    if not value.strip():
        raise _Bad(f"has an empty {name}")
    return value


def _json_type(value: Any) -> str:
    """The JSON type of a value, with its article."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
