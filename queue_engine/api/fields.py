"""Field types that requests share, and what their errors say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    GetPydanticSchema,
    ValidationError,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.process_uri import MAX_PROCESS_URI_CHARACTERS, normalize_process_uri
from queue_engine.domain.webhooks import MAX_URL_CHARACTERS, Webhook, parse_webhook

MAX_FAULTS_CHARACTERS = 2000
"""Length of the message that names the faults of one body."""
_NULL_WEBHOOK = ("webhook", "must be a string")

M = TypeVar("M", bound="RequestModel")

_SURROGATES = r"\ud800-\udfff"
"""What UTF-8 cannot hold, and comes in as escapes."""


class RequestModel(BaseModel):  # type: ignore[pydantic-alias]
    """A JSON object from a client: nothing is coerced, unknown members are ignored, errors repeat no value."""

    # Made by `model_validate` only, so no call can miss an alias.
    model_config = ConfigDict(  # type: ignore[pydantic-alias]
        strict=True, frozen=True, extra="ignore", alias_generator=to_camel, hide_input_in_errors=True
    )


def validated(model: type[M], values: dict[str, Any]) -> M:
    """`values` as a new `model`. Raises InvalidRequest, which names the fields that break a rule.

    An optional field that is null counts as absent; a webhook does not, so that a client that lost its URL is told.
    """
    webhook_is_null = values.get("webhook", "") is None
    given = {name: value for name, value in values.items() if value is not None}
    try:
        made = model.model_validate(given)
    except ValidationError as error:
        raise _invalid(([_NULL_WEBHOOK] if webhook_is_null else []) + _faults_of(error)) from None
    if webhook_is_null:
        raise _invalid([_NULL_WEBHOOK])
    return made


def validated_changes(model: type[M], values: dict[str, Any]) -> M:
    """`values` as changes of something that is there: null means null. Raises InvalidRequest as `validated` does."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _invalid(_faults_of(error)) from None


def _faults_of(error: ValidationError) -> list[tuple[str, str]]:
    """Return field and rule of each fault."""
    return [(_path_of(one["loc"]), _rule_of(one)) for one in error.errors(include_url=False, include_input=False)]


def _invalid(faults: Sequence[tuple[str, str]]) -> InvalidRequest:
    """Return one error for all faults. Those that would make the message too long are counted only."""
    (field, text), *others = faults
    for told, fault in enumerate(others):
        more = f"; {fault[0]}: {fault[1]}"
        if len(text) + len(more) > MAX_FAULTS_CHARACTERS:
            return InvalidRequest(field, f"{text}; and {len(others) - told} more")
        text += more
    return InvalidRequest(field, text)


@dataclass(frozen=True, slots=True)
class _Matching(AfterValidator):
    """A check that the schema tells too."""

    pattern: str = ""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"pattern": self.pattern} | handler(schema)


def matching(pattern: str, rule: str) -> Any:
    """The whole text must match; `rule` says so in words."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(rule)
        return text

    # Readers of the schema may refuse surrogates in a pattern, and no decoded text has them.
    return _Matching(check, f"^(?:{pattern.replace(_SURROGATES, '')})$")


_WEBHOOK_SCHEMA = core_schema.no_info_after_validator_function(parse_webhook, core_schema.str_schema(strict=True))

Port = Annotated[int, Field(ge=1, le=65535)]

MAX_EXECUTION_SECONDS = 2_592_000
MAX_QUEUE_TTL_SECONDS = 31_536_000

ExecutionTimeout = Annotated[int, Field(ge=1, le=MAX_EXECUTION_SECONDS)]
QueueTtl = Annotated[float, Field(ge=0.001, le=MAX_QUEUE_TTL_SECONDS, allow_inf_nan=False)]

ContainerPath = Annotated[
    str,
    AfterValidator(normalize_process_uri),
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_PROCESS_URI_CHARACTERS}),
]
"""A path on a container; a leading slash is added."""

WebhookUrl = Annotated[Webhook, GetPydanticSchema(lambda _source, _handler: _WEBHOOK_SCHEMA)]

OptionalWebhook = Annotated[
    WebhookUrl | None,
    WithJsonSchema({"type": "string", "format": "uri", "minLength": 1, "maxLength": MAX_URL_CHARACTERS}),
]
"""Absent or a URL, never null: see `validated`."""

VISIBLE = matching(r"[!-~]*", "must be visible ASCII characters without spaces")
LINE = matching(rf"[^\x00-\x1f\x7f-\x9f{_SURROGATES}]*", "must not have control characters or lone surrogates")
NO_NUL = matching(rf"[^\x00{_SURROGATES}]*", "must not have a NUL character or lone surrogates")

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
    "value_error": "{error}",
}


def _rule_of(error: ErrorDetails) -> str:
    template = _RULES.get(error["type"])
    return error["msg"] if template is None else template.format(**error.get("ctx", {}))


def _path_of(location: tuple[int | str, ...]) -> str:
    """`resources[0].gpuCount`. Names that the client made up are cut and escaped."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part != "[key]":
            path += f".{ascii(part[:64])[1:-1]}"
    return path.removeprefix(".") or "body"
