"""`lmfast generate --chat`: answers the lines of standard input."""

import contextlib
import sys
from typing import TYPE_CHECKING

from lmfast.cli.opening import OpenRun
from lmfast.cli.prompts import reject_surrogates
from lmfast.errors import UserError
from lmfast.inference.chat import Chat
from lmfast.inference.sampling import Sampling
from lmfast.streams import standard_input
from lmfast.tokenizer.bpe import Tokenizer

if TYPE_CHECKING:
    from lmfast.generate import GenerateSettings


def talk(settings: "GenerateSettings", sampling: Sampling, run: OpenRun, tokenizer: Tokenizer) -> None:
    """Answers the lines of standard input.

    Reports and skips messages that are too long; with piped input their answer is an empty line and the command exits
    with an error at the end. On a terminal, Ctrl-C interrupts an answer, or ends the chat at the prompt.
    """

    def begin() -> Chat:
        return Chat(
            run.model, tokenizer, system=settings.system, max_tokens=settings.max_tokens, sampling=sampling,
            **run.options,
        )  # fmt: skip

    with standard_input() as stdin:
        asking = stdin.isatty()
    chat, lines, skipped = begin(), 0, 0
    while True:
        if asking:
            print("> ", end="", file=sys.stderr, flush=True)
        with standard_input() as stdin:
            line = stdin.readline()
        lines += 1
        reject_surrogates("standard input", line)
        text = line.strip()
        if not line or text == "/exit":
            break
        if text == "/reset":
            chat = begin()
        elif text:
            known = chat.forgotten
            try:
                with contextlib.closing(chat.say(text)) as answer:
                    for piece in answer:
                        print(piece, end="", flush=True)
                print(flush=True)
            except KeyboardInterrupt:
                if not asking:
                    raise
                print(flush=True)
            except UserError as error:
                skipped += 1
                print(f"error: {'' if asking else f'line {lines}: '}{error}", file=sys.stderr)
                if not asking:
                    print(flush=True)
            if chat.forgotten > known:
                print(
                    f"(the context is full; dropped the first {chat.forgotten} messages)",
                    file=sys.stderr,
                )
    if skipped and not asking:
        raise UserError(f"standard input: skipped {skipped} of {lines - 1} lines; shorten them")
