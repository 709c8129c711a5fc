"""Instruction and preference files: records of the field's usual forms → conversations and preferences.

In: a .json file (one array of records, or one record) or a .jsonl file (a record a line), UTF-8. Forms, detected or
named:
- alpaca (Taori et al. 2023): `instruction`, `input` (may be absent or empty), `output`, and perhaps `system`;
- messages (OpenAI): `messages`, each {"role", "content"};
- sharegpt: `conversations`, each {"from": human | gpt | system, "value"};
- preference: `prompt`, `chosen`, `rejected`, each a string or messages; `chosen` and `rejected` may repeat the prompt's
  messages. In place of `prompt`, Alpaca's `instruction` and `input` do; without either, the prompt is what both
  conversations begin with.
Out: `Message` tuples. A conversation ends with the assistant; a preference is a prompt that ends with the user and two
answers. Refused, with file, number and reason: a record of another form, a role or a text that is none, a conversation
without an answer, two answers that are equal. `skip_bad` counts those instead.
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
"""what JSON may escape and no file of text can hold (a character beyond U+FFFF cut in two)"""


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
    """(conversations, {reason: bad records skipped}) of a file; format: auto, alpaca, messages or sharegpt.

    Raises UserError at the first bad record, unless skip_bad, and where nothing is left.
    """

    def parse(record: dict) -> tuple[Message, ...]:
        kind = _conversation_format(record) if format == "auto" else format
        if kind == "alpaca":
            answer = (Message("assistant", _text(record, "output")),)
            return _checked((*_alpaca_prompt(record), *answer), "assistant")
        name = "messages" if kind == "messages" else "conversations"
        return _checked(_messages(_needed(record, name), name), "assistant")

    return _read(Path(path), parse, skip_bad)


def read_preferences(path: str | Path, skip_bad: bool = False) -> tuple[list[Preference], dict[str, int]]:
    """(preferences, {reason: bad records skipped}) of a file. Raises as above."""
    return _read(Path(path), _preference, skip_bad)


def _read(path: Path, parse: Callable[[dict], Any], skip_bad: bool) -> tuple[list, dict[str, int]]:
    found, bad = [], {}
    for where, record in _records(path):
        try:
            if isinstance(record, _Bad):
                raise record
            if not isinstance(record, dict):
                raise _Bad(f"is {_a(record)}, not an object with named fields")
            found.append(parse(record))
        except _Bad as reason:
            if not skip_bad:
                raise UserError(
                    f"{path}: {where} {reason}; mend it, or leave bad ones out with --skip-bad"
                ) from None
            bad[str(reason)] = bad.get(str(reason), 0) + 1
    if not found:
        skipped = f" ({sum(bad.values())} bad ones were skipped)" if bad else ""
        raise UserError(f"{path}: no usable record in it{skipped}; is it the right file?")
    return found, bad


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """(where, record): records are counted from 1, and by line in a .jsonl, where one that is no JSON is a `_Bad`."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of records; name a .json or .jsonl")
    kind = file_kind(path)
    if kind.packing or kind.form == "parquet":
        raise UserError(f"{path}: records are read from .json and .jsonl; unpack it, or convert it")
    text = read_text(path)
    # A file of lines is told by its name, or by its first record: an object where the other has an array. One object
    # alone may stand on several lines.
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
            f"{path}: not valid JSON ({error}); give a .json array or a .jsonl of objects"
        ) from None
    for number, record in enumerate(found if isinstance(found, list) else [found], 1):
        yield f"record {number}", record


def _is_json(text: str) -> bool:
    """Whether a text is one JSON value; of lines of objects only the first is read to tell."""
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
        raise _Bad("is a preference (chosen, rejected): those are for lmfast.dpo")
    names = ", ".join(list(record)[:8]) + (", …" if len(record) > 8 else "")
    raise _Bad(f"has {names or 'no fields'}, and neither instruction, messages nor conversations")


def _preference(record: dict) -> Preference:
    chosen, rejected = (
        (Message("assistant", answer),)
        if isinstance(answer := _needed(record, name), str)
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
    _checked(prompt, "user")
    chosen, rejected = _freed(chosen, prompt), _freed(rejected, prompt)
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        _checked((*prompt, *answer), "assistant")
        if answer[0].role != "assistant":
            raise _Bad(f"has {name} messages that neither answer nor repeat its prompt")
    if chosen == rejected:
        raise _Bad("has equal chosen and rejected answers")
    return Preference(prompt, chosen, rejected)


def _common_prompt(chosen: tuple[Message, ...], rejected: tuple[Message, ...]) -> tuple[Message, ...]:
    """What two whole conversations begin with, up to a user's message."""
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    while same and chosen[same - 1].role != "user":
        same -= 1
    if not same:
        raise _Bad("has no prompt, and chosen and rejected do not begin with one")
    return chosen[:same]


def _freed(answer: tuple[Message, ...], prompt: tuple[Message, ...]) -> tuple[Message, ...]:
    """An answer without the prompt that it may repeat, with or without its system message."""
    for head in (prompt, prompt[1:] if prompt[0].role == "system" else prompt):
        if answer[: len(head)] == head:
            return answer[len(head) :]
    return answer


def _alpaca_prompt(record: dict) -> tuple[Message, ...]:
    instruction, extra = _text(record, "instruction"), record.get("input") or ""
    if not isinstance(extra, str):
        raise _Bad(f"has an input that is {_a(extra)}, not a text")
    system = (Message("system", _text(record, "system")),) if record.get("system") else ()
    return (*system, Message("user", f"{instruction}\n\n{extra}" if extra.strip() else instruction))


def _messages(value: Any, name: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _Bad(f"has {name} that are no list of messages")
    out = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise _Bad(f"has a message {number} in {name} that is {_a(message)}")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if not isinstance(role, str) or role not in ROLES:
            raise _Bad(
                f"has a message {number} in {name} with the role {role!r}; known are {', '.join(ROLES)}"
            )
        if not isinstance(content, str):
            raise _Bad(f"has a message {number} in {name} without a text")
        out.append(Message(ROLES[role], content))
    return tuple(out)


def _checked(messages: tuple[Message, ...], last: str) -> tuple[Message, ...]:
    """The messages, if a conversation can go so: a system message only at the head, texts that say something."""
    for number, message in enumerate(messages, 1):
        if message.role == "system" and number > 1:
            raise _Bad(f"has a system message at place {number}; it belongs at the head")
        if not message.content.strip() and message.role != "system":
            raise _Bad(f"has an empty {message.role} message at place {number}")
        if half := _HALF_PAIR.search(message.content):
            raise _Bad(
                f"has half a surrogate pair ({half[0]!r}) in the {message.role} message at place {number}"
            )
    if messages[-1].role != last:
        raise _Bad(f"ends with a message of the {messages[-1].role}, not of the {last}")
    if all(message.role != "user" for message in messages):
        raise _Bad("has no user message")
    return messages


def _needed(record: dict, name: str) -> Any:
    if name not in record:
        raise _Bad(f"has no {name}")
    return record[name]


def _text(record: dict, name: str) -> str:
    value = _needed(record, name)
    if not isinstance(value, str):
        raise _Bad(f"has {name} as {_a(value)}, not as a text")
    if not value.strip():
        raise _Bad(f"has an empty {name}")
    return value


def _a(value: Any) -> str:
    """A value's type in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
