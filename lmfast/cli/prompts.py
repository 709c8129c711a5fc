"""The prompts of `lmfast generate`: from the command line, a file or a pipe.

Rejects (UserError) text that is not UTF-8, and a file without prompts.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from lmfast.cli.arguments import unescape
from lmfast.errors import UserError
from lmfast.files import read_text
from lmfast.streams import input_is_piped, standard_input


def take_prompts(argv: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """(other arguments, prompts). Accepts `--prompt a b`, `--prompt a --prompt b` and `--prompt=--a`."""
    rest, prompts, taking = [], [], False
    for word in argv:
        name, equals, value = word.partition("=")
        if name in ("--prompt", "--prompts"):
            prompts += [value] if equals else []
            taking = not equals
        elif taking and not word.startswith("--"):
            prompts.append(word)
        else:
            taking = False
            rest.append(word)
    return rest, tuple(prompts)


def read_prompts(given: Sequence[str], file: str | None, separator: str) -> list[str]:
    """All prompts: those given, those of the file, and without any those piped in, or an empty one."""
    prompts = list(given)
    for prompt in prompts:
        reject_surrogates(f"prompt {prompt!r}", prompt)
    if file is not None:
        found = _split(_read(file), separator)
        if not found:
            raise UserError(f"{file}: contains no prompt; write one per line")
        prompts += found
    elif not prompts and input_is_piped():
        print("reading prompts from standard input (for none: </dev/null or --prompt '')", file=sys.stderr)
        prompts = _split(_read("-"), separator)
    return prompts or [""]


def _read(name: str) -> str:
    """The text of a prompt file, or of standard input for -."""
    if name != "-":
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such prompt file; check the path")
        return read_text(path)
    with standard_input() as stdin:
        text = stdin.read()
    reject_surrogates("standard input", text)
    return text.removeprefix("\ufeff")


def _split(text: str, separator: str) -> list[str]:
    r"""Splits a text into prompts; drops blank ones and the line breaks around each.

    >>> _split("a\n\nb\n", r"\n"), _split("a\nb\n---\nc\n", "---"), _split("a\n\nb\n", "")
    (['a', 'b'], ['a\nb', 'c'], ['a\n\nb'])
    """
    parts = text.split(unescape(separator)) if separator else [text]
    return [part.strip("\r\n") for part in parts if part.strip()]


def reject_surrogates(what: str, text: str) -> None:
    """Raises UserError for input that was not UTF-8: in the C locale, Python decodes such bytes as surrogates."""
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(f"{what}: not UTF-8 text; convert it first")
