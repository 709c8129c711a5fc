"""Parameters that OpenAI's API has and this server does not support, with the values that change nothing.

Clients send these values because they are defaults. null counts as not set; any other value is an error.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, WithJsonSchema

from lmfast.serving.validation import Checked


def _check_false(value: bool) -> bool:
    if value:
        raise ValueError
    return value


# Literal[False] would accept 0, which equals False.
Off = Annotated[
    bool, AfterValidator(_check_false), WithJsonSchema({"const": False}), Field(description="false")
]
Nothing = Annotated[None, Field(description="null")]
EmptyList = Annotated[list[Any], Field(max_length=0, description="null or []")]
Zero = Annotated[float, Field(ge=0, le=0, description="0")]
EmptyObject = Annotated[dict[str, Any], Field(max_length=0, description="null or {}")]


Model = TypeVar("Model", bound=Checked)


def unsupported(model: type[Model]) -> type[Model]:
    """Marks all fields of a model as unsupported, for error messages; not those that a subclass adds."""
    model.unsupported = frozenset(model.model_fields)
    return model


class NeutralSampling(Checked):
    presence_penalty: Zero = 0.0
    frequency_penalty: Zero = 0.0
    logit_bias: EmptyObject = Field(default_factory=dict)


@unsupported
class NeutralCompletion(NeutralSampling):
    echo: Off = False
    suffix: Nothing = None


@unsupported
class NeutralMessage(Checked):
    name: Nothing = None
    refusal: Nothing = None
    audio: Nothing = None
    function_call: Nothing = None
    tool_calls: EmptyList | None = Field(None, description="null or []")
    annotations: EmptyList | None = Field(None, description="null or []")


@unsupported
class ResponseFormat(Checked):
    type: Literal["text"] = Field(description='"text"')


@unsupported
class NeutralChat(NeutralSampling):
    tools: EmptyList = Field(default_factory=list)
    tool_choice: Literal["none", "auto"] = Field("none", description='"none" or "auto"')
    parallel_tool_calls: bool = Field(True, description="true or false")  # there are no tool calls
    functions: EmptyList = Field(default_factory=list)
    function_call: Literal["none", "auto"] = Field("none", description='"none" or "auto"')
    response_format: ResponseFormat = Field(ResponseFormat(type="text"), description='{"type": "text"}')
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] = Field(
        ["text"], description='["text"]'
    )
    audio: Nothing = None
    prediction: Nothing = None
    moderation: Nothing = None
    web_search_options: Nothing = None
    reasoning_effort: Literal["none"] = Field("none", description='"none"')
    verbosity: Literal["medium"] = Field("medium", description='"medium"')
    store: Off = False
    service_tier: Literal["auto", "default"] = Field("auto", description='"auto" or "default"')
    prompt_cache_options: Nothing = None
    prompt_cache_retention: Nothing = None
    # Labels and hints, which never change an answer: any value of the right type.
    metadata: dict[str, str] = Field(default_factory=dict, description="an object of strings")
    prompt_cache_key: str = Field("", description="a string")
    safety_identifier: str = Field("", description="a string")
