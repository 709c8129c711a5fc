"""The parameters of requests: `parse(CompletionParameters, body)` and `parse(ChatParameters, body)`.

Input: the bytes of a request. Output: a model whose values are checked as far as they do not depend on the served model
(context length, vocabulary, name). Raises ApiError with status 400 for anything else, one problem at a time.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Discriminator, Field, Tag, WithJsonSchema

from lmfast.data.chat_records import Message
from lmfast.inference.sampling import Sampling
from lmfast.serving.errors import invalid_request, unsupported_parameter
from lmfast.serving.neutral_parameters import NeutralChat, NeutralCompletion, NeutralMessage, Off
from lmfast.serving.validation import TAG, Checked, checked, read_object

MAX_PROMPTS, MAX_STOPS, MAX_CHOICES, MAX_LOGPROBS = 64, 16, 128, 20
LARGE_TOP_K = 1 << 30  # larger than any vocabulary


class StreamOptions(Checked):
    include_usage: bool = Field(False, description="true or false")
    include_obfuscation: Off = False


def _by_type(value: Any) -> str:
    return f"{TAG}list" if isinstance(value, list) else f"{TAG}text"


def _by_item_type(value: Any) -> str:
    """Lists of strings, ids and lists of ids are told apart by their first element."""
    if not isinstance(value, list):
        return f"{TAG}text"
    first = value[0] if value else ""
    return (
        f"{TAG}lists" if isinstance(first, list) else f"{TAG}texts" if isinstance(first, str) else f"{TAG}ids"
    )


StopText = Annotated[str, Field(min_length=1)]
Stop = Annotated[
    Annotated[StopText, Tag(f"{TAG}text")]
    | Annotated[list[StopText], Field(max_length=MAX_STOPS), Tag(f"{TAG}list")],
    Discriminator(_by_type),
]
TopK = Annotated[int, WithJsonSchema({"anyOf": [{"const": -1}, {"type": "integer", "minimum": 1}]})]
Ids = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1)]
Prompt = Annotated[
    Annotated[str, Tag(f"{TAG}text")]
    | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS), Tag(f"{TAG}texts")]
    | Annotated[Ids, Tag(f"{TAG}ids")]
    | Annotated[list[Ids], Field(min_length=1, max_length=MAX_PROMPTS), Tag(f"{TAG}lists")],
    Discriminator(_by_item_type),
]


class Parameters(Checked):
    """What both endpoints have."""

    model: str | None = Field(None, description="the name of the served model")
    temperature: float = Field(1.0, ge=0, le=2, description="a number from 0 to 2, where 0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="a number above 0 and at most 1")
    top_k: TopK = Field(-1, description="an integer of at least 1, or -1 to keep all tokens")
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63, description="an integer from -2^63 to 2^63 - 1")
    given_stop: Stop | None = Field(
        None,
        alias="stop",
        description=f"a string, or a list of at most {MAX_STOPS} strings, none of them empty",
    )
    n: int = Field(1, ge=1, le=MAX_CHOICES, description=f"an integer from 1 to {MAX_CHOICES}")
    stream: bool = Field(False, description="true or false")
    stream_options: StreamOptions | None = Field(
        None, description='an object such as {"include_usage": true}'
    )
    user: str | None = Field(None, description="a string")
    ignore_eos: bool = Field(False, description="true or false")

    def model_post_init(self, context: Any, /) -> None:
        if self.top_k < 1 and self.top_k != -1:
            expected = type(self).model_fields["top_k"].description
            raise invalid_request(f"top_k is {self.top_k}; it must be {expected}", "top_k")
        if self.stream_options is not None and not self.stream:
            raise invalid_request(
                "stream_options is set, but stream is not true; set it, or remove stream_options",
                "stream_options",
            )

    def sampling(self, seed: int) -> Sampling:
        """seed: used if the request has none."""
        top_k = None if self.top_k == -1 else min(self.top_k, LARGE_TOP_K)
        return Sampling(self.temperature, top_k, self.top_p, seed if self.seed is None else self.seed)

    @property
    def stop(self) -> list[str]:
        if self.given_stop is None:
            return []
        return [self.given_stop] if isinstance(self.given_stop, str) else self.given_stop

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionParameters(Parameters, NeutralCompletion):
    """POST /v1/completions."""

    prompt: Prompt = Field(
        description=f"a string, a list of ids, or a list of 1 to {MAX_PROMPTS} strings or lists of ids"
    )
    max_tokens: int = Field(16, ge=1, description="an integer of at least 1")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description=f"an integer from 0 to {MAX_LOGPROBS}"
    )
    best_of: int | None = Field(None, description="null, or equal to n")

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.best_of is not None and self.best_of != self.n:
            raise unsupported_parameter("best_of", self.best_of, f"n, which is {self.n}")

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]  # pyright: ignore[reportReturnType]  # all are integers if the first is
        return self.prompt  # pyright: ignore[reportReturnType]  # list is invariant

    @property
    def top_logprobs(self) -> int | None:
        """How many alternatives each token has; None: no log probabilities."""
        return self.logprobs

    @property
    def truncation(self) -> Literal["auto", "disabled"]:
        return "disabled"


class TextPart(Checked):
    type: Literal["text"] = Field(description='"text"')
    text: str = Field(description="a string")


class MessageParameter(NeutralMessage):
    role: Literal["system", "developer", "user", "assistant"] = Field(
        description='"system", "developer", "user" or "assistant"'
    )
    content: Annotated[
        Annotated[str, Tag(f"{TAG}text")] | Annotated[list[TextPart], Field(min_length=1), Tag(f"{TAG}list")],
        Discriminator(_by_type),
    ] = Field(description='a string, or a list of {"type": "text", "text": …}')

    def message(self) -> Message:
        content = self.content
        text = content if isinstance(content, str) else "\n".join(part.text for part in content)
        return Message("system" if self.role == "developer" else self.role, text)


class ChatParameters(Parameters, NeutralChat):
    """POST /v1/chat/completions."""

    given_messages: list[MessageParameter] = Field(
        alias="messages", min_length=1, description="a list of one or more messages"
    )
    given_max_tokens: int | None = Field(
        None, alias="max_tokens", ge=1, description="an integer of at least 1"
    )
    max_completion_tokens: int | None = Field(None, ge=1, description="an integer of at least 1")
    logprobs: bool = Field(False, description="true or false")
    given_top_logprobs: int | None = Field(
        None,
        alias="top_logprobs",
        ge=0,
        le=MAX_LOGPROBS,
        description=f"an integer from 0 to {MAX_LOGPROBS}",
    )
    truncation: Literal["auto", "disabled"] = Field("disabled", description='"auto" or "disabled"')

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        for number, message in enumerate(self.given_messages):
            if number and message.role in ("system", "developer"):
                param = f"messages[{number}].role"
                raise invalid_request(
                    f'{param} is "{message.role}"; the system message must be the first', param
                )
        last = len(self.given_messages) - 1
        if self.given_messages[last].role != "user":
            param, role = f"messages[{last}].role", self.given_messages[last].role
            raise invalid_request(f'{param} is "{role}"; the last message must be the user\'s', param)
        if self.given_top_logprobs is not None and not self.logprobs:
            raise invalid_request(
                "top_logprobs is set, but logprobs is not true; set it, or remove top_logprobs",
                "top_logprobs",
            )
        if None not in (self.given_max_tokens, self.max_completion_tokens):
            raise invalid_request(
                "max_tokens and max_completion_tokens are both set; remove max_tokens", "max_tokens"
            )

    @property
    def messages(self) -> list[Message]:
        return [message.message() for message in self.given_messages]

    @property
    def max_tokens(self) -> int | None:
        """None: as many as the context allows."""
        return self.given_max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top_logprobs(self) -> int | None:
        """How many alternatives each token has; None: no log probabilities."""
        return (self.given_top_logprobs or 0) if self.logprobs else None


AnyParameters = TypeVar("AnyParameters", CompletionParameters, ChatParameters)


def parse(cls: type[AnyParameters], body: bytes) -> AnyParameters:
    """The parameters in the body of a request. Raises ApiError."""
    return checked(cls, read_object(body))
