"""Chat format: messages → ids and loss mask.

    <|endoftext|> <|system|> text <|end|> <|user|> text <|end|> <|assistant|> text <|end|>

Each text is encoded separately, between its two special tokens, so the mask does not depend on merges across them, and
generation (`render_prompt`) sees exactly the ids seen in training. Only the assistant's texts and their <|end|> carry
loss. Special tokens spelled out in a text are plain text, so a message cannot impersonate another role. <|endoftext|>
starts a conversation, because the base model has learned it as the start of a document, and serves as padding; <|end|>
is never padding, so its loss is never masked.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.tokenizer.special_tokens import DOCUMENT_END

if TYPE_CHECKING:
    from lmfast.tokenizer.bpe import Tokenizer

BOS = DOCUMENT_END
END = "<|end|>"
ROLE_TOKENS = {"user": "<|user|>", "assistant": "<|assistant|>", "system": "<|system|>"}
CHAT_SPECIALS = (*ROLE_TOKENS.values(), END)


class Rendered(NamedTuple):
    """ids (n,) int32; loss (n,) bool: whether predicting that id carries loss."""

    ids: np.ndarray
    loss: np.ndarray


def has_chat_tokens(tokenizer: "Tokenizer") -> bool:
    return all(text in tokenizer.special_tokens for text in (BOS, *CHAT_SPECIALS))


def ending_ids(tokenizer: "Tokenizer") -> frozenset[int]:
    """The ids that end generated text: <|endoftext|>, and <|end|> if the tokenizer has the chat tokens. May be empty."""
    ends = (BOS, END) if has_chat_tokens(tokenizer) else (BOS,)
    return frozenset(tokenizer.special_tokens[text] for text in ends if text in tokenizer.special_tokens)


def add_chat_tokens(tokenizer: "Tokenizer") -> "Tokenizer":
    """A copy of the tokenizer with the chat tokens appended; existing ids do not change."""
    specials = dict(tokenizer.special_tokens)
    for text in (BOS, *CHAT_SPECIALS):
        specials.setdefault(text, max([*tokenizer.vocab, *specials.values()]) + 1)
    return tokenizer.with_ids(tokenizer.vocab, specials)


def shares_ids(tokenizer: "Tokenizer", fingerprint: str) -> bool:
    """Whether `fingerprint` is that of `tokenizer`, or of the tokenizer that `add_chat_tokens` extended to it.

    In both cases, ids encoded with it mean the same."""
    before = tokenizer
    while before.fingerprint() != fingerprint:
        vocab, specials = dict(before.vocab), dict(before.special_tokens)
        last = max(vocab)
        text = next((text for text in (BOS, *CHAT_SPECIALS) if specials.get(text) == last), None)
        if text is None:
            return False
        del vocab[last], specials[text]
        before = tokenizer.with_ids(vocab, specials)
    return True


def render(messages: Sequence[Message], tokenizer: "Tokenizer") -> Rendered:
    """A conversation as ids and loss mask. Raises UserError if the tokenizer has no chat tokens."""
    if not has_chat_tokens(tokenizer):
        raise UserError(
            f"{tokenizer!r}: has no chat tokens ({', '.join(CHAT_SPECIALS)}); use a run of lmfast sft, which adds them"
        )
    special = tokenizer.special_tokens
    ids, loss = [[special[BOS]]], [[False]]
    for message in messages:
        text = tokenizer.encode(message.content, allowed_special="none")
        ids.append([special[ROLE_TOKENS[message.role]], *text, special[END]])
        loss.append([False] + [message.role == "assistant"] * (len(text) + 1))
    return Rendered(np.concatenate(ids).astype(np.int32), np.concatenate(loss).astype(bool))


def render_prompt(messages: Sequence[Message], tokenizer: "Tokenizer") -> list[int]:
    """The ids of a conversation up to the start of the assistant's next message."""
    return [*render(messages, tokenizer).ids.tolist(), tokenizer.special_tokens[ROLE_TOKENS["assistant"]]]


def render_answer(prompt: Sequence[Message], answer: Sequence[Message], tokenizer: "Tokenizer") -> Rendered:
    """Prompt and answer; only the assistant's texts in the answer carry loss, not those in the prompt."""
    before = len(render(prompt, tokenizer).ids)
    rendered = render([*prompt, *answer], tokenizer)
    rendered.loss[:before] = False
    return rendered


def truncate(rendered: Rendered, length: int) -> Rendered | None:
    """The first `length` ids, or None if none of them carries loss."""
    kept = Rendered(rendered.ids[:length], rendered.loss[:length])
    return kept if kept.loss.any() else None
