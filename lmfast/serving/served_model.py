"""What the API knows of the model it serves: its name and tokenizer, and how prompts become ids.

Prompts that do not fit the context or the limits raise ApiError. Does not import torch.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lmfast.counted import counted
from lmfast.data.chat import ending_ids, has_chat_tokens, render_prompt
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.inference.chat import fit_prompt, require_chat_tokens
from lmfast.serving.errors import context_length_exceeded, invalid_request, model_not_found, shown
from lmfast.tokenizer.bpe import Tokenizer
from lmfast.tokenizer.special_tokens import DOCUMENT_END


@dataclass(frozen=True)
class ServedModel:
    """max_prompt: the most ids of a prompt, below the context length."""

    name: str
    tokenizer: Tokenizer
    context_length: int
    vocab_size: int
    max_prompt: int
    created: int = field(default_factory=lambda: int(time.time()))

    @functools.cached_property
    def stop_ids(self) -> frozenset[int]:
        return ending_ids(self.tokenizer)

    @functools.cached_property
    def is_chat_model(self) -> bool:
        return has_chat_tokens(self.tokenizer)

    @functools.cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.tokenizer.vocab.values()))

    def require(self, name: str | None) -> None:
        """Raises ApiError if a request names another model."""
        if name is not None and name != self.name:
            raise model_not_found(name, self.name)

    def describe(self) -> dict[str, Any]:
        """The model's entry in /v1/models."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "lmfast",
            "max_model_len": self.context_length,
            "chat": self.is_chat_model,
        }

    def prompt_ids(self, prompt: str | Sequence[int], param: str) -> list[int]:
        """Of text, as `lmfast generate` encodes it, or of ids, which are checked. param: for messages."""
        if isinstance(prompt, str):
            self._reject_long_text(prompt, param)
            ids = self.tokenizer.encode(prompt) or self._beginning(param)
        else:
            ids = list(prompt)
            for token in ids if len(ids) <= self.max_prompt else ():  # longer ones are refused
                if token not in self.tokenizer.vocab or token >= self.vocab_size:
                    raise invalid_request(f"{param}: {token} is not an id of the model's vocabulary", param)
        return ids

    def chat_ids(
        self, messages: Sequence[Message], max_tokens: int | None, truncates: bool
    ) -> tuple[list[int], int]:
        """(ids of a conversation up to the answer, number of messages dropped).

        truncates: drop the oldest turns of a conversation that is too long."""
        try:
            require_chat_tokens(self.tokenizer)
        except UserError as error:
            raise invalid_request(str(error)) from None
        if not truncates:
            if 2 * len(messages) >= self.context_length:  # each has two special tokens
                raise context_length_exceeded(
                    "messages",
                    f"messages has {len(messages)} messages, more than a context of {self.context_length} tokens can hold; "
                    "drop some",
                )
            self._reject_long_text("".join(message.content for message in messages), "messages")
            return render_prompt(messages, self.tokenizer), 0
        self._reject_long_text(messages[-1].content, f"messages[{len(messages) - 1}]")
        wanted = self.context_length if max_tokens is None else max_tokens
        try:
            fitted = fit_prompt(messages, self.tokenizer, self.context_length, wanted)
        except UserError as error:
            raise context_length_exceeded("messages", str(error)) from None
        return fitted.ids, fitted.dropped

    def answer_length(self, prompt: Sequence[int], max_tokens: int | None, param: str, shorten: bool) -> int:
        """The most ids of an answer: max_tokens, or what the context leaves. Raises ApiError if that is too little.

        shorten: give less than max_tokens rather than raise."""
        space = self.context_length - len(prompt)
        if len(prompt) > self.max_prompt or space < 1:
            limit = min(self.max_prompt, self.context_length - 1)
            raise context_length_exceeded(
                param, f"{param}: {counted(len(prompt), 'token')}, and the limit is {limit}; shorten it"
            )
        if max_tokens is None or (shorten and max_tokens > space):
            return space
        if max_tokens > space:
            raise context_length_exceeded(
                "max_tokens",
                f"{param}: {counted(len(prompt), 'token')}, and max_tokens is {shown(max_tokens)}, but the context is "
                f"{self.context_length}; use at most {space}",
            )
        return max_tokens

    def _beginning(self, param: str) -> list[int]:
        """The id that starts a text."""
        token = self.tokenizer.special_tokens.get(DOCUMENT_END)
        if token is None:
            raise invalid_request(
                f"{param} is empty, and the tokenizer has no <|endoftext|> to start a text from", param
            )
        return [token]

    def _reject_long_text(self, text: str, param: str) -> None:
        """Raises ApiError for text with more bytes than the context can hold, before it is encoded."""
        most = self.context_length * self._longest_token
        if len(text) > most:
            raise context_length_exceeded(
                param,
                f"{param} has {len(text)} characters, more than a context of {self.context_length} tokens can hold; "
                "shorten it",
            )
