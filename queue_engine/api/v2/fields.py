"""Field types that requests share, and their error messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    create_model,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, core_schema

from queue_engine.domain.field_errors import FieldError
from queue_engine.rules.webhook_urls import MAX_URL_CHARACTERS, Webhook, parse_webhook

_BROKEN = object()
_NULL_WEBHOOK = ("webhook", "must be a string")

IN_ANY_CASE = BeforeValidator(lambda value: value.upper() if isinstance(value, str) else value)
"""Accepts the values of a type in capitals in any case."""

M = TypeVar("M", bound="RequestModel")


class RequestModel(BaseModel):  # type: ignore[pydantic-alias]
    """A JSON object from a client: nothing is coerced, unknown members are ignored, errors repeat no value."""

    # Only `model_validate` creates these, so no call can miss an alias.
    model_config = ConfigDict(  # type: ignore[pydantic-alias]
        strict=True, frozen=True, extra="ignore", alias_generator=to_camel, hide_input_in_errors=True
    )


@cache
def names_of(model: type[RequestModel]) -> frozenset[str]:
    """Return the names of the members that `model` reads, all spellings included."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        alias = field.validation_alias or name
        names.update(alias.choices if isinstance(alias, AliasChoices) else (alias,))  # type: ignore[arg-type]
    return frozenset(names)


def parsed(
    model: type[M], values: dict[str, Any], new_context: Callable[[], object] = lambda: None
) -> tuple[M, list[FieldError]]:
    """Return `values` as a new `model`, and the errors in its fields.

    With errors, the model has only the valid fields, so that further checks can run on them. An invalid field is
    treated as absent; an invalid required field leaves no attribute. `new_context` returns the context of the
    validators.

    An optional field that is null counts as absent. A null webhook is an error, because its client may have lost the
    URL.
    """
    given = {name: value for name, value in values.items() if value is not None}
    made, errors = parsed_changes(model, given, new_context)
    if values.get("webhook", "") is None:
        errors.insert(0, _NULL_WEBHOOK)
    return made, errors


def parsed_changes(
    model: type[M], values: dict[str, Any], new_context: Callable[[], object] = lambda: None
) -> tuple[M, list[FieldError]]:
    """Return `values` as changes of something that exists, as `parsed` does, but without treating null as absent."""
    try:
        return model.model_validate(values, context=new_context()), []
    except ValidationError as error:
        return _part_that_parses(model, values, new_context()), _field_errors(error)


def _part_that_parses(model: type[M], values: dict[str, Any], context: object) -> M:
    """Return a `model` without the fields of `values` that break a rule."""
    found = _tolerant(model).model_validate(values, context=context)
    fields = {name: getattr(found, name) for name in found.model_fields_set}
    fields = {name: value for name, value in fields.items() if value is not _BROKEN}
    return cast(M, model.model_construct(**fields))  # pydantic's plugin gives it the type of M's bound


@cache
def _tolerant(model: type[RequestModel]) -> type[RequestModel]:
    """Return `model` with no field required, and with `_BROKEN` for a value that breaks a rule."""
    fields: dict[str, Any] = {
        name: (
            Annotated[field.rebuild_annotation(), WrapValidator(_or_broken)],
            Field(None, validation_alias=field.validation_alias),
        )
        for name, field in model.model_fields.items()
    }
    return create_model(model.__name__, __base__=RequestModel, **fields)


def _or_broken(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    try:
        return validate(value)
    except ValidationError:
        return _BROKEN


def _field_errors(error: ValidationError) -> list[FieldError]:
    return [(_path_of(one["loc"]), _rule_of(one)) for one in error.errors(include_url=False, include_input=False)]


_WEBHOOK_SCHEMA = core_schema.no_info_after_validator_function(parse_webhook, core_schema.str_schema(strict=True))

WebhookUrl = Annotated[Webhook, GetPydanticSchema(lambda _source, _handler: _WEBHOOK_SCHEMA)]

OptionalWebhook = Annotated[
    WebhookUrl | None,
    WithJsonSchema({"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_CHARACTERS}),
]
"""A URL, or absent; null is an error (see `parsed`)."""

_RULES = {
    "missing": "is required",
    "int_type": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "string_unicode": "must be text without lone surrogates",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must be at least {min_length} characters long",
    "string_too_long": "must be at most {max_length} characters long",
    "too_short": "must have {min_length} items or more",
    "too_long": "must have {max_length} items or fewer",
    "enum": "must be {expected}",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}


def _rule_of(error: ErrorDetails) -> str:
    template = _RULES.get(error["type"])
    if template is None:
        return error["msg"]
    limits = {name: _without_fraction(value) for name, value in error.get("ctx", {}).items()}
    return template.format(**limits)


def _without_fraction(value: Any) -> Any:
    """Return a whole float as an integer, so that a message says 30 and not 30.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _path_of(location: tuple[int | str, ...]) -> str:
    """Return a path such as `resources[0].gpuCount`. Names from the client are cut and escaped."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{ascii(part[:64])[1:-1]}"
    return path.removeprefix(".") or "body"
