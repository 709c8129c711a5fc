"""A conversation with a model: messages in, streamed answers out.

Turns are rendered as in training (lmfast/data/chat.py) and answered up to one of `ending_ids` or max_tokens. If the history
leaves too little of the context for an answer, the oldest turns are dropped, but never the system message. Rejects
tokenizers without chat tokens, and messages that are too long for the context.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lmfast.data.batches import derive_seed
from lmfast.data.chat import ending_ids, has_chat_tokens, render, render_prompt
from lmfast.data.chat_records import Message
from lmfast.errors import UserError
from lmfast.inference.decode import stream
from lmfast.inference.sampling import Sampling
from lmfast.tokenizer.bpe import Tokenizer

DEFAULT_SAMPLING = Sampling(temperature=0.8, top_p=0.95)


class FittedPrompt(NamedTuple):
    """A conversation as ids that leave space for an answer, and its messages without those that were dropped."""

    ids: list[int]
    messages: list[Message]
    dropped: int


def require_chat_tokens(tokenizer: Tokenizer) -> None:
    """Raises UserError if the tokenizer is not that of a chat model."""
    if not has_chat_tokens(tokenizer):
        raise UserError(
            "the model is not a chat model (its tokenizer has no <|user|>); fine-tune it with lmfast sft first"
        )


def fit_prompt(
    messages: Sequence[Message], tokenizer: Tokenizer, context_length: int, max_tokens: int
) -> FittedPrompt:
    """The ids of a conversation that ends with the user's message, leaving max_tokens of the context, but at most half,
    for the answer. Drops the oldest turns if it is too long, but never the system message.

    Raises UserError if the last message alone is too long."""
    limit = context_length - min(max_tokens, context_length // 2)

    def length(message: Message) -> int:
        return len(render([message], tokenizer).ids) - 1  # without <|endoftext|>

    first = dropped = 1 if messages[0].role == "system" else 0
    total = 2 + sum(map(length, messages[:first]))  # 2: <|endoftext|> and <|assistant|>
    lengths: dict[int, int] = {}  # of the newest messages, as many as are too long together
    for i in range(len(messages) - 1, first - 1, -1):
        lengths[i] = length(messages[i])
        total += lengths[i]
        if total > limit:
            break
    while total > limit or dropped not in lengths:
        if len(messages) - dropped <= 1:
            raise UserError(
                f"a message of {total} tokens leaves no space for an answer in a context of {context_length}; shorten it"
            )
        # Drop a message together with its answer.
        end = dropped + (2 if messages[dropped + 1].role == "assistant" else 1)
        total -= sum(lengths.get(i, 0) for i in range(dropped, end))
        dropped = end
    kept = [*messages[:first], *messages[dropped:]]
    return FittedPrompt(render_prompt(kept, tokenizer), kept, dropped - first)


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
        require_chat_tokens(tokenizer)
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
        prompt, self.history, dropped = fit_prompt(
            [*self.history, Message("user", text)],
            self.tokenizer,
            self.model.config.context_length,
            self.max_tokens,
        )
        self.forgotten += dropped
        self.turns += 1
        answer = []
        try:
            for piece in self.tokenizer.decode_stream(self._ids(prompt)):
                answer.append(piece)
                yield piece
        finally:
            self.history.append(Message("assistant", "".join(answer)))

    def _ids(self, prompt: list[int]) -> Iterator[int]:
        space = self.model.config.context_length - len(prompt)
        sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, self.turns))
        steps = stream(self.model, [prompt], min(self.max_tokens, space), sampling, **self.options)
        return (token for (token,) in steps if token is not None)
