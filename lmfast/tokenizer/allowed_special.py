"""Which special tokens a call recognises in its text, and which it rejects: `allowed_special`, `disallowed_special`.

In: a tokenizer's special tokens and the argument of the call. Rejects (UserError) a string other than "all" or "none",
texts that are not special tokens of this tokenizer, and text that contains a disallowed one.
"""

from collections.abc import Collection, Iterable
from typing import Literal

from lmfast.errors import UserError

AllowedSpecial = Literal["all", "none"] | Collection[str]
DisallowedSpecial = Literal["all"] | Collection[str]


def allowed_texts(special_tokens: Collection[str], allowed: AllowedSpecial) -> set[str]:
    """The special tokens to recognise; the others are plain text."""
    if allowed in ("all", "none"):
        return set(special_tokens) if allowed == "all" else set()
    if isinstance(allowed, str):
        raise UserError(f"allowed_special={allowed!r}: give 'all', 'none' or a set of special tokens")
    _check_known(special_tokens, allowed, "allowed_special")
    return set(allowed)


def reject_disallowed(
    data: bytes, special_tokens: Collection[str], allowed: set[str], disallowed: DisallowedSpecial
) -> None:
    """Raises UserError if `data` contains a disallowed special token; "all": any that is not in `allowed`."""
    if disallowed == "all":
        disallowed = set(special_tokens) - allowed
    elif isinstance(disallowed, str):
        raise UserError(f"disallowed_special={disallowed!r}: give 'all' or a collection of special tokens")
    _check_known(special_tokens, disallowed, "disallowed_special")
    for text in disallowed:
        at = data.find(text.encode())
        if at >= 0:
            raise UserError(
                f"the text contains the special token {text!r} at byte {at}; remove it from the text, or from "
                "disallowed_special to encode it"
            )


def _check_known(special_tokens: Collection[str], texts: Iterable[str], name: str) -> None:
    for text in texts:
        if text not in special_tokens:
            known = ", ".join(map(repr, special_tokens)) or "none"
            raise UserError(f"{name}: {text!r} is not a special token of this tokenizer (it has {known})")
