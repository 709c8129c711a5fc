"""Messages → ids and loss mask.

    <|endoftext|> <|system|> text <|end|> <|user|> text <|end|> <|assistant|> text <|end|>

A conversation is rendered segment by segment: each text is encoded alone, between its two special tokens, so a mask
never depends on where a tokenizer would have merged, and what the model reads when it talks (`render_prompt`) is to the
id what it read in training. Only the assistant's texts and their <|end|> carry loss. A text that spells a special token
is plain text: nobody speaks in another's name. One <|endoftext|> begins a conversation (the base model has learnt it
as the start of a document), and fills rows up; <|end|> ends turns and nothing else, so that its loss is never masked
away as padding.
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
    """ids (n,) int32 and, for each, whether predicting it carries loss, (n,) bool."""

    ids: np.ndarray
    loss: np.ndarray


def has_chat_tokens(tokenizer: "Tokenizer") -> bool:
    return all(text in tokenizer.special_tokens for text in (BOS, *CHAT_SPECIALS))


def ending_ids(tokenizer: "Tokenizer") -> frozenset[int]:
    """The ids that end a text which a run with this tokenizer writes, whoever asks for it: <|endoftext|> ends documents,
    and <|end|> ends turns where the tokenizer has the chat's tokens. Empty where it has neither."""
    ends = (BOS, END) if has_chat_tokens(tokenizer) else (BOS,)
    return frozenset(tokenizer.special_tokens[text] for text in ends if text in tokenizer.special_tokens)


def add_chat_tokens(tokenizer: "Tokenizer") -> "Tokenizer":
    """A tokenizer with the chat's special tokens at the end of its ids; the ids it had stay as they are."""
    specials = dict(tokenizer.special_tokens)
    for text in (BOS, *CHAT_SPECIALS):
        specials.setdefault(text, max([*tokenizer.vocab, *specials.values()]) + 1)
    return tokenizer.with_ids(tokenizer.vocab, specials)


def shares_ids(tokenizer: "Tokenizer", fingerprint: str) -> bool:
    """Whether ids of the tokenizer with this fingerprint mean the same here: it is `tokenizer`, or what it was before
    `add_chat_tokens`."""
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
    """A conversation as ids and loss mask. Raises UserError where the tokenizer has no chat tokens."""
    if not has_chat_tokens(tokenizer):
        raise UserError(
            f"{tokenizer!r}: no chat tokens ({', '.join(CHAT_SPECIALS)}); lmfast.sft adds them to a model"
        )
    special = tokenizer.special_tokens
    ids, loss = [[special[BOS]]], [[False]]
    for message in messages:
        text = tokenizer.encode(message.content, allowed_special="none")
        ids.append([special[ROLE_TOKENS[message.role]], *text, special[END]])
        loss.append([False] + [message.role == "assistant"] * (len(text) + 1))
    return Rendered(np.concatenate(ids).astype(np.int32), np.concatenate(loss).astype(bool))


def render_prompt(messages: Sequence[Message], tokenizer: "Tokenizer") -> list[int]:
    """The ids after which the assistant's next text begins."""
    return [*render(messages, tokenizer).ids.tolist(), tokenizer.special_tokens[ROLE_TOKENS["assistant"]]]


def render_answer(prompt: Sequence[Message], answer: Sequence[Message], tokenizer: "Tokenizer") -> Rendered:
    """Prompt and answer; only the answer's assistant texts carry loss, whatever the assistant said before."""
    before = len(render(prompt, tokenizer).ids)
    rendered = render([*prompt, *answer], tokenizer)
    rendered.loss[:before] = False
    return rendered


def truncate(rendered: Rendered, length: int) -> Rendered | None:
    """The first `length` ids; None where none of them would carry loss, so that the caller must count it."""
    kept = Rendered(rendered.ids[:length], rendered.loss[:length])
    return kept if kept.loss.any() else None
