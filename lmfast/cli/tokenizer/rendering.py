"""Renders tokens as text: on coloured backgrounds for a terminal, separated by bars otherwise.

Input: a tokenizer, ids, and optionally a loss mask (bool, same length; None: all carry loss, as in pretraining). Special
tokens are highlighted; tokens without loss are grey without background, so only what is trained on is coloured. Plain text
marks tokens with loss by ▶ and ◀. Incomplete UTF-8 is escaped. html_page.py renders the same documents as HTML.
"""

from dataclasses import dataclass, field

import numpy as np

from lmfast.tokenizer.bpe import Tokenizer

BACKGROUNDS = (24, 58, 22, 53, 60, 94)  # dark colours of the 256-colour palette, for white text
SPECIAL_STYLE = "\x1b[1;97;41m"
SPECIAL_WITHOUT_LOSS = "\x1b[2;1;31m"
WITHOUT_LOSS = "\x1b[2;90m"
RESET = "\x1b[0m"
OPEN, CLOSE, BAR = "⟦", "⟧", "│"
LOSS_BEGINS, LOSS_ENDS = "▶", "◀"


@dataclass(frozen=True)
class Shown:
    """A document to show. ids: int (n,); mask: bool (n,) or None; facts: lines printed below it."""

    title: str
    ids: np.ndarray
    mask: np.ndarray | None = None
    facts: list[str] = field(default_factory=list)


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """The text of a token, with incomplete UTF-8 escaped."""
    return tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


def marked(tokenizer: Tokenizer, ids: list[int], colors: bool, mask: list[bool] | None = None) -> str:
    """The text with its token boundaries marked."""
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
        # A newline inside a style would colour the rest of the line.
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
    """How many tokens carry loss, and how they are marked."""
    how = "coloured" if colors else f"between {LOSS_BEGINS} and {LOSS_ENDS}"
    return f"{int(mask.sum()):,} of {len(mask):,} tokens carry loss ({how})"
