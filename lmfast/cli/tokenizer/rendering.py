"""Tokens set apart for the eye: on coloured grounds in a terminal, between bars in plain text.

In: a tokenizer, ids, and for training data with a loss mask which ids carry loss (bool, as long as the ids; None: all do,
as in pretraining). Out: text. Special tokens stand out; tokens without loss are grey and bare, so that what a model learns
from is what is coloured. In plain text ▶ opens what carries loss and ◀ closes it. Bytes that are no whole character show
as escapes. `Shown` is one document with its facts; html_page.py puts the same on a page.
"""

from dataclasses import dataclass, field

import numpy as np

from lmfast.tokenizer.bpe import Tokenizer

BACKGROUNDS = (24, 58, 22, 53, 60, 94)  # of 256 colours; dark, so that white text stands on them
SPECIAL_STYLE = "\x1b[1;97;41m"
SPECIAL_WITHOUT_LOSS = "\x1b[2;1;31m"
WITHOUT_LOSS = "\x1b[2;90m"
RESET = "\x1b[0m"
OPEN, CLOSE, BAR = "⟦", "⟧", "│"
LOSS_BEGINS, LOSS_ENDS = "▶", "◀"


@dataclass(frozen=True)
class Shown:
    """A document to be shown. title: what it is called; ids: int (n,); mask: bool (n,) or None; facts: lines below it."""

    title: str
    ids: np.ndarray
    mask: np.ndarray | None = None
    facts: list[str] = field(default_factory=list)


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token; bytes that are no whole character as escapes."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


def marked(tokenizer: Tokenizer, ids: list[int], colors: bool, mask: list[bool] | None = None) -> str:
    """The text with its tokens set apart."""
    return _colored(tokenizer, ids, mask) if colors else _plain(tokenizer, ids, mask)


def _colored(tokenizer: Tokenizer, ids: list[int], mask: list[bool] | None) -> str:
    special = set(tokenizer.special_tokens.values())
    out = []
    for position, token in enumerate(ids):
        loss = mask is None or mask[position]
        if token in special:
            style = SPECIAL_STYLE if loss else SPECIAL_WITHOUT_LOSS
        else:
            style = f"\x1b[97;48;5;{BACKGROUNDS[position % 6]}m" if loss else WITHOUT_LOSS
        # A newline inside a background would colour the rest of the line.
        text = token_text(tokenizer, token).replace("\n", f"⏎{RESET}\n{style}")
        out.append(f"{style}{text}{RESET}")
    return "".join(out)


def _plain(tokenizer: Tokenizer, ids: list[int], mask: list[bool] | None) -> str:
    special = set(tokenizer.special_tokens.values())
    out, before = [], None
    for position, token in enumerate(ids):
        text = token_text(tokenizer, token)
        loss = mask is not None and mask[position]
        if position:
            out.append(f"{LOSS_ENDS}" if before and not loss else "")
            out.append(BAR)
        if loss and not before:
            out.append(LOSS_BEGINS)
        out.append(f"{OPEN}{text}{CLOSE}" if token in special else text)
        before = loss
    return "".join(out) + (LOSS_ENDS if before else "")


def mask_fact(mask: np.ndarray, colors: bool) -> str:
    """How much carries loss, and how that is shown."""
    how = "colours; the rest is grey" if colors else f"{LOSS_BEGINS}…{LOSS_ENDS}"
    return f"{int(mask.sum()):,} of {len(mask):,} tokens carry loss (shown by {how})"
