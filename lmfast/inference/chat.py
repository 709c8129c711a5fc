"""A conversation with a model: messages in, streamed answers out.

Turns are rendered as in training (lmfast/data/chat.py) and answered up to one of `ending_ids` or max_tokens. If the history
leaves too little of the context for an answer, the oldest turns are dropped, but never the system message. Rejects
tokenizers without chat tokens, and messages that are too long for the context.
"""

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import Any

from lmfast.data.batches import derive_seed
from lmfast.data.chat import ending_ids, has_chat_tokens, render_prompt
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.inference.decode import stream
from lmfast.inference.sampling import Sampling

DEFAULT_SAMPLING = Sampling(temperature=0.8, top_p=0.95)


class Chat:
    """A conversation with `model`. history: the messages so far."""

    def __init__(
        self,
        model,
        tokenizer,
        *,
        system: str | None = None,
        max_tokens: int = 256,
        sampling: Sampling = DEFAULT_SAMPLING,
        **options: Any,
    ):
        """options: as in `lmfast.inference.decode.continue_prompts`."""
        if not has_chat_tokens(tokenizer):
            raise UserError(
                "the model is not a chat model (its tokenizer has no <|user|>); fine-tune it with lmfast sft first"
            )
        self.model, self.tokenizer = model, tokenizer
        self.max_tokens, self.sampling = max_tokens, sampling
        self.options: dict[str, Any] = {**options, "stop_ids": ending_ids(tokenizer)}
        self.history: list[Message] = [Message("system", system)] if system else []
        self.turns = 0
        self.forgotten = 0
        """number of messages dropped because the context was full"""

    def say(self, text: str) -> Generator[str, None, None]:
        """Yields the answer in pieces as it is generated, then adds both turns to the history, even if interrupted.

        Raises UserError, without changing the history, if the message is too long for the context.
        """
        before = list(self.history), self.forgotten
        self.history.append(Message("user", text))
        try:
            prompt = self._prompt()
        except UserError:
            self.history, self.forgotten = before
            raise
        self.turns += 1
        answer = []
        try:
            for piece in self.tokenizer.decode_stream(self._ids(prompt)):
                answer.append(piece)
                yield piece
        finally:
            self.history.append(Message("assistant", "".join(answer)))

    def _prompt(self) -> list[int]:
        """The ids of the history, leaving max_tokens of the context, but at most half, for the answer."""
        context = self.model.config.context_length
        limit = context - min(self.max_tokens, context // 2)
        first = 1 if self.history[0].role == "system" else 0
        while len(prompt := render_prompt(self.history, self.tokenizer)) > limit:
            if len(self.history) - first <= 1:
                raise UserError(
                    f"a message of {len(prompt)} tokens leaves no space for an answer in a context of {context}; shorten it"
                )
            # Drop a message together with its answer.
            count = 2 if self.history[first + 1].role == "assistant" else 1
            del self.history[first : first + count]
            self.forgotten += count
        return prompt

    def _ids(self, prompt: list[int]) -> Iterator[int]:
        space = self.model.config.context_length - len(prompt)
        sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, self.turns))
        steps = stream(self.model, [prompt], min(self.max_tokens, space), sampling, **self.options)
        return (token for (token,) in steps if token is not None)
