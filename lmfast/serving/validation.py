"""From a request body to a checked pydantic model, or an ApiError that describes the first problem.

Input: bytes of a JSON object. Rejects what is not JSON (also NaN, lone surrogates, invalid UTF-8, nesting of more than 200
levels and integers of more than 4,300 digits), then what the model rejects. Of equal names in an object the last counts.

The description of a field is what an error message says its value must be, such as "a number from 0 to 2".
"""

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, from_json

from lmfast.serving.errors import (
    ApiError,
    invalid_request,
    invalid_value,
    missing_parameter,
    unknown_parameter,
    unsupported_parameter,
)

TAG = "#"
"""first character of the tags of alternatives (a string or a list), which are not part of a parameter's path"""


class Checked(BaseModel):
    """A JSON object with these fields and no others; nothing is converted ("5" is not 5, true is not 1)."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    unsupported: ClassVar[frozenset[str]] = frozenset()
    """names of fields that accept only values that change nothing"""


Model = TypeVar("Model", bound=Checked)

# What items of lists and values of objects must be, by the type of pydantic's error; fields have descriptions.
EXPECTED = {
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "int_type": "an integer",
    "greater_than_equal": "an integer of at least 0",
    "less_than": "an integer below 2^31",
    "list_type": "a list",
    "too_short": "a list that is not empty",
    "model_type": "an object",
}


def read_object(body: bytes) -> dict[str, Any]:
    try:
        found = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise invalid_request(f"the request body is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise invalid_request("the request body must be a JSON object of parameters")
    return found


def checked(model: type[Model], values: dict[str, Any]) -> Model:
    """Validates parameters. null means not set, except for required ones. Raises ApiError."""
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for name in values:
        if name not in fields:
            raise unknown_parameter(name, fields)
    given = {name: value for name, value in values.items() if value is not None or fields[name].is_required()}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise _as_api_error(model, error.errors(include_url=False)[0]) from None


def path(location: tuple[int | str, ...]) -> str:
    """A parameter's name.

    >>> path(("messages", 2, "content"))
    'messages[2].content'
    """
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in _without_tags(location)]
    return "".join(parts).removeprefix(".")


def _without_tags(location: tuple[int | str, ...]) -> list[int | str]:
    return [part for part in location if not (isinstance(part, str) and part.startswith(TAG))]


def _as_api_error(model: type[Checked], error: ErrorDetails) -> ApiError:
    location, value = _without_tags(error["loc"]), error["input"]
    param = path(error["loc"])
    owner, description = _described(model, location)
    if error["type"] == "extra_forbidden":
        return unknown_parameter(param, _names(owner))
    expected = description or EXPECTED.get(error["type"]) or error["msg"].removeprefix("Input should be ")
    if error["type"] == "missing":
        return missing_parameter(param, expected)
    if not owner.unsupported.isdisjoint(location):
        return unsupported_parameter(param, value, expected)
    return invalid_value(param, value, expected)


def _described(model: type[Checked], location: list[int | str]) -> tuple[type[Checked], str | None]:
    """(the innermost model that contains the location, the description of the field that the location ends with)."""
    description = None
    for part in location:
        if isinstance(part, int):
            description = None
            continue
        field = next(
            (field for name, field in model.model_fields.items() if part in (field.alias, name)), None
        )
        if field is None:
            return model, None
        description = field.description
        inner = next(_models(field.annotation), None)
        if part is not location[-1] and inner is not None:
            model = inner
    return model, description


def _models(annotation: Any) -> Iterator[type[Checked]]:
    """The models within an annotation such as list[Message] | None."""
    if isinstance(annotation, type) and issubclass(annotation, Checked):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _names(model: type[Checked]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
