"""Filters of lists of tasks. Each is defined once, by a field of `TaskFilters`.

The API's query parameters, the stored form, the options of the command line and the reference are made from the
definitions. `match_tasks.lua` has a row for each stored name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from queue_engine.domain.definitions import Definition, definitions_of
from queue_engine.domain.field_types import FAIRNESS_KEY_PATTERN, FAIRNESS_KEY_RULE, TAG_PATTERN, TAG_RULE
from queue_engine.domain.tasks import TERMINAL_STATES, DeliveryStatus, TaskState, TaskStatus
from queue_engine.rules.webhook_urls import MAX_URL_CHARACTERS, InvalidWebhook, parse_webhook

MAX_SEARCHED_TEXT = 256
"""Maximum length of a text that is searched for."""
SEARCHED_INPUT_BYTES = 64 * 1024
"""Number of bytes from the beginning of an input that are searched."""

_WORKER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
_ID_PREFIX = r"[A-Za-z0-9_]{1,255}"


class FilterKind(StrEnum):
    """The form of a filter's value."""

    STATES = "states"
    """States of tasks, separated by commas."""
    WORD = "word"
    """A word of an enumeration, in any case."""
    TIME = "time"
    """A time: epoch milliseconds, or ISO 8601."""
    TEXT = "text"


@dataclass(frozen=True)
class TaskFilter(Definition):
    """Definition of a filter: see queue_engine/domain/definitions.py."""

    kind: FilterKind = FilterKind.TEXT
    parse: Callable[[str], Any] = str
    """Function from the text of a value to the value, except for times. Raises ValueError with the rule."""
    schema: Mapping[str, Any] | None = None
    """Limits of a text, for OpenAPI."""


def _parse_states(text: str) -> frozenset[TaskState]:
    try:
        return frozenset(TaskState(word.strip(" ").lower()) for word in text.split(","))
    except ValueError:
        raise ValueError(f"must be one or more of {', '.join(TaskState)}, separated by commas") from None


def _word_of(kind: type[StrEnum]) -> Callable[[str], Any]:
    def parse(text: str) -> StrEnum:
        try:
            return kind(text.strip(" ").upper())
        except ValueError:
            raise ValueError(f"must be one of {', '.join(kind)}") from None

    return parse


def _text_of(pattern: str, rule: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(rule)
        return text

    return parse


def _parse_searched(text: str) -> str:
    if not 1 <= len(text) <= MAX_SEARCHED_TEXT or "\x00" in text:
        raise ValueError(f"must be 1 to {MAX_SEARCHED_TEXT} characters long, without NUL characters")
    return text


def _parse_destination(text: str) -> str:
    try:
        return parse_webhook(text).destination
    except InvalidWebhook:
        raise ValueError("must be a URL such as https://hooks.example.com") from None


_SEARCHED = {"minLength": 1, "maxLength": MAX_SEARCHED_TEXT}


@dataclass(frozen=True)
class TaskFilters:
    """Properties that a task must have, all of them. Times are epoch milliseconds of the store's clock."""

    status: Annotated[
        TaskStatus | None,
        TaskFilter("Only tasks with this status, in any case", kind=FilterKind.WORD, parse=_word_of(TaskStatus)),
    ] = None
    state: Annotated[
        frozenset[TaskState],
        TaskFilter(
            "Only tasks in this state, or in one of several that are separated by commas",
            kind=FilterKind.STATES,
            parse=_parse_states,
        ),
    ] = frozenset()
    created_after: Annotated[
        int | None,
        TaskFilter("Only tasks that were accepted at this time or later", kind=FilterKind.TIME),
    ] = None
    created_before: Annotated[
        int | None, TaskFilter("Only tasks that were accepted before this time", kind=FilterKind.TIME)
    ] = None
    finished_after: Annotated[
        int | None, TaskFilter("Only tasks that ended at this time or later", kind=FilterKind.TIME)
    ] = None
    finished_before: Annotated[
        int | None, TaskFilter("Only tasks that ended before this time", kind=FilterKind.TIME)
    ] = None
    tag: Annotated[
        str | None,
        TaskFilter(
            "Only tasks with this tag",
            parse=_text_of(TAG_PATTERN, TAG_RULE),
            schema={"pattern": f"^{TAG_PATTERN}$"},
        ),
    ] = None
    fairness_key: Annotated[
        str | None,
        TaskFilter(
            "Only tasks with this fairness key",
            parse=_text_of(FAIRNESS_KEY_PATTERN, FAIRNESS_KEY_RULE),
            schema={"pattern": f"^{FAIRNESS_KEY_PATTERN}$"},
        ),
    ] = None
    worker_id: Annotated[
        str | None,
        TaskFilter(
            "Only tasks whose latest attempt was made by this worker",
            parse=_text_of(_WORKER, "must be the id of a worker"),
            schema={"pattern": f"^{_WORKER}$"},
            stored="worker",
        ),
    ] = None
    error_contains: Annotated[
        str | None,
        TaskFilter(
            "Only tasks that ended with an error that contains this text, in the same case",
            parse=_parse_searched,
            schema=_SEARCHED,
        ),
    ] = None
    error_signature: Annotated[
        str | None,
        TaskFilter(
            "Only tasks that ended with an error of this signature, as the groups of errors have it",
            parse=_parse_searched,
            schema=_SEARCHED,
        ),
    ] = None
    delivery_status: Annotated[
        DeliveryStatus | None,
        TaskFilter(
            "Only tasks with this delivery status, in any case", kind=FilterKind.WORD, parse=_word_of(DeliveryStatus)
        ),
    ] = None
    destination: Annotated[
        str | None,
        TaskFilter(
            "Only tasks whose webhook has the scheme, host and port of this URL",
            parse=_parse_destination,
            schema={"minLength": 1, "maxLength": MAX_URL_CHARACTERS},
        ),
    ] = None
    id_prefix: Annotated[
        str | None,
        TaskFilter(
            "Only tasks whose id begins with this text",
            parse=_text_of(_ID_PREFIX, "must be 1 to 255 characters of A-Z, a-z, 0-9 and _"),
            schema={"pattern": f"^{_ID_PREFIX}$"},
        ),
    ] = None
    input: Annotated[
        str | None,
        TaskFilter(
            f"Only tasks whose input, as the JSON text that was submitted, contains this text in its first "
            f"{SEARCHED_INPUT_BYTES // 1024} KiB, in the same case",
            parse=_parse_searched,
            schema=_SEARCHED,
        ),
    ] = None

    @property
    def is_empty(self) -> bool:
        """True if every task matches."""
        return self == _NONE

    @property
    def states(self) -> frozenset[TaskState]:
        """The states that a matching task may be in."""
        states = self.state or frozenset(TaskState)
        has_error = self.error_contains is not None or self.error_signature is not None
        if has_error or self.finished_after is not None or self.finished_before is not None:
            states &= TERMINAL_STATES
        if has_error:
            states -= {TaskState.SUCCEEDED}
        return states if self.status is None else states & STATES_BY_STATUS[self.status]

    @property
    def delivery_statuses(self) -> frozenset[DeliveryStatus]:
        """The delivery statuses that a matching task may have."""
        statuses = frozenset(DeliveryStatus)
        if self.status is TaskStatus.DELIVERED:
            statuses = frozenset({DeliveryStatus.SUCCESS})
        elif self.status is TaskStatus.SUCCESS:
            statuses -= {DeliveryStatus.SUCCESS}
        return statuses if self.delivery_status is None else statuses & {self.delivery_status}

    def to_dict(self) -> dict[str, Any]:
        """Return the filters that are set, by their stored names, as values of JSON."""
        values = ((one.stored, getattr(self, one.name), one.default) for one in TASK_FILTERS)
        return {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value, default in values
            if value != default
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Return the filters of a `to_dict`.

        Raises UnknownFilter for those that only a later version has: without one of them, other tasks would match too.
        """
        unknown = sorted(stored.keys() - {one.stored for one in TASK_FILTERS})
        if unknown:
            raise UnknownFilter(f"the filter {unknown[0]} is of a later version of the engine")
        values: dict[str, Any] = {}
        for one in TASK_FILTERS:
            if one.stored in stored:
                try:
                    values[one.name] = _restored(one.kind, stored[one.stored])
                except ValueError:
                    message = f"the filter {one.stored} has a value of a later version of the engine"
                    raise UnknownFilter(message) from None
        return cls(**values)

    @classmethod
    def known_in(cls, stored: Mapping[str, Any]) -> Self:
        """Return the filters of a `to_dict` that this version has, to show them. They may match further tasks."""
        values: dict[str, Any] = {}
        for one in TASK_FILTERS:
            if one.stored in stored:
                with suppress(ValueError):
                    values[one.name] = _restored(one.kind, stored[one.stored])
        return cls(**values)


class UnknownFilter(ValueError):
    """Stored filters have a filter, or a value, that only a later version has."""


def _restored(kind: type, value: Any) -> Any:
    if kind is frozenset:
        return frozenset(TaskState(word) for word in value)
    return kind(value) if issubclass(kind, StrEnum) else value


STATES_BY_STATUS: Mapping[TaskStatus, frozenset[TaskState]] = {
    TaskStatus.PROCESSING: frozenset(TaskState) - TERMINAL_STATES,
    TaskStatus.SUCCESS: frozenset({TaskState.SUCCEEDED}),
    TaskStatus.DELIVERED: frozenset({TaskState.SUCCEEDED}),
    TaskStatus.FAILED: TERMINAL_STATES - {TaskState.SUCCEEDED},
}
"""The states of tasks with a status."""

TASK_FILTERS = definitions_of(TaskFilters, TaskFilter)
_NONE = TaskFilters()
