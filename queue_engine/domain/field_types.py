"""Types of fields that several requests share, with their limits. The API parses requests with them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema

from queue_engine.rules.headers import MAX_HEADERS, headers_error
from queue_engine.rules.paths import MAX_PROCESS_URI_CHARACTERS, normalize_process_uri

_SURROGATES = r"\ud800-\udfff"
"""Code points that UTF-8 cannot encode; JSON requests can contain them as escapes."""


@dataclass(frozen=True, slots=True)
class _Matching(AfterValidator):
    """A check that is also part of the schema."""

    pattern: str = ""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"pattern": self.pattern} | handler(schema)


def matching(pattern: str, rule: str) -> Any:
    """Return a validator that requires the whole text to match. `rule` states the pattern in words."""
    compiled = re.compile(pattern)

    def check(text: str) -> str:
        if compiled.fullmatch(text) is None:
            raise ValueError(rule)
        return text

    # Surrogates are left out because some schema readers refuse them in a pattern, and decoded text never has them.
    return _Matching(check, f"^(?:{pattern.replace(_SURROGATES, '')})$")


VISIBLE = matching(r"[!-~]*", "must be visible ASCII characters without spaces")
LINE = matching(rf"[^\x00-\x1f\x7f-\x9f{_SURROGATES}]*", "must not have control characters or lone surrogates")
NO_NUL = matching(rf"[^\x00{_SURROGATES}]*", "must not have a NUL character or lone surrogates")

Port = Annotated[int, Field(ge=1, le=65535)]

MAX_EXECUTION_SECONDS = 2_592_000
MAX_QUEUE_TTL_SECONDS = 31_536_000

MAX_DELAY_SECONDS = 2_592_000
MAX_EPOCH_MS = 2**53 - 1

ExecutionTimeout = Annotated[int, Field(ge=1, le=MAX_EXECUTION_SECONDS)]
QueueTtl = Annotated[float, Field(ge=0.001, le=MAX_QUEUE_TTL_SECONDS, allow_inf_nan=False)]

Delay = Annotated[float, Field(ge=0, le=MAX_DELAY_SECONDS, allow_inf_nan=False)]

_RFC_3339 = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LIKELY_SECONDS = (10**9, 10**11)
_NOT_A_TIME = "must be epoch milliseconds, or a time with its offset such as 2026-01-31T12:00:00Z"


def _epoch_ms(value: object) -> object:
    """Return a time as epoch milliseconds, a fraction of one rounded up so that it is not before the time.

    A number that is a time of 2001 to 5138 in seconds is refused, because as milliseconds it would be long past.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        if _LIKELY_SECONDS[0] <= value < _LIKELY_SECONDS[1]:
            raise ValueError("must be in milliseconds; it looks like seconds")
        return value
    found = _RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(_NOT_A_TIME)
    day, clock, fraction, offset = found.groups()
    try:
        seconds = (datetime.fromisoformat(f"{day}T{clock}{offset.upper()}") - _EPOCH) // timedelta(seconds=1)
    except (ValueError, OverflowError):
        raise ValueError(_NOT_A_TIME) from None
    return seconds * 1000 - (-int((fraction or "").ljust(9, "0")) // 1_000_000)


EpochMs = Annotated[
    int,
    BeforeValidator(_epoch_ms),
    Field(ge=0, le=MAX_EPOCH_MS),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}),
]
"""A time: epoch milliseconds, or text in RFC 3339 with an offset."""

ContainerPath = Annotated[
    str,
    AfterValidator(normalize_process_uri),
    Field(json_schema_extra={"minLength": 1, "maxLength": MAX_PROCESS_URI_CHARACTERS}),
]
"""A path on a container, with a leading slash added."""


MAX_TAGS = 5
MAX_METADATA = 16


def _few_tags(tags: object) -> object:
    """Refuse too many tags before validating each, because building the errors of 100,000 tags takes a second."""
    if isinstance(tags, list) and len(tags) > MAX_TAGS:
        raise ValueError(f"must have at most {MAX_TAGS} tags")
    return tags


def _few_pairs(metadata: object) -> object:
    """Refuse too many pairs before validating each."""
    if isinstance(metadata, dict) and len(metadata) > MAX_METADATA:
        raise ValueError(f"must have at most {MAX_METADATA} pairs")
    return metadata


def _as_set(tags: list[str]) -> list[str]:
    """Return the tags in one order and without repetitions, so that the order of a client's tags means nothing."""
    return sorted(set(tags))


TAG_PATTERN = r"[A-Za-z0-9_.:=@/-]{1,64}"
TAG_RULE = "must be 1–64 of letters, digits and _.:=@/-"

Tag = Annotated[
    str,
    matching(TAG_PATTERN, TAG_RULE),
    Field(json_schema_extra={"minLength": 1, "maxLength": 64}),
]
Tags = Annotated[
    list[Tag],
    BeforeValidator(_few_tags),
    AfterValidator(_as_set),
    Field(json_schema_extra={"maxItems": MAX_TAGS}),
]
FAIRNESS_KEY_PATTERN = r"[A-Za-z0-9_.@-]{1,40}"
FAIRNESS_KEY_RULE = "must be 1–40 of letters, digits and _.@-"

FairnessKey = Annotated[
    str,
    matching(FAIRNESS_KEY_PATTERN, FAIRNESS_KEY_RULE),
    Field(json_schema_extra={"minLength": 1, "maxLength": 40}),
]
"""The name of those whose tasks take turns with the tasks of others."""

Metadata = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=40)], Annotated[str, Field(max_length=256)]],
    BeforeValidator(_few_pairs),
    Field(json_schema_extra={"maxProperties": MAX_METADATA}),
]
"""Pairs of a name and a text of the client's own."""


def _few(headers: object) -> object:
    """Refuse too many headers before validating each, because building the errors of 100,000 headers takes a second."""
    if isinstance(headers, dict) and len(headers) > MAX_HEADERS:
        raise ValueError(f"must have at most {MAX_HEADERS} headers")
    return headers


def _forwardable(headers: dict[str, str]) -> dict[str, str]:
    error = headers_error(headers)
    if error is not None:
        raise ValueError(error)
    return headers


ForwardedHeaders = Annotated[dict[str, str], BeforeValidator(_few), AfterValidator(_forwardable)]
"""Headers for a container, by name."""
