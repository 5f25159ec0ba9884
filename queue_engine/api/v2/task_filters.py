"""Parse the filters of lists of tasks, from a query or from a body."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import Any

from pydantic.alias_generators import to_camel

from queue_engine.api.http.mistyped import first_mistyped
from queue_engine.api.http.operations import in_query
from queue_engine.api.http.queries import Query, shown_name
from queue_engine.api.v2.task_views import TaskDetailView
from queue_engine.api.v2.times import epoch_ms
from queue_engine.domain.definitions import Defined
from queue_engine.domain.errors import InvalidRequest
from queue_engine.domain.task_filters import TASK_FILTERS, FilterKind, TaskFilter, TaskFilters
from queue_engine.domain.tasks import TaskState

FILTERS = {to_camel(one.asked): one for one in TASK_FILTERS}
"""The filters by their names in requests."""
_FIELDS = frozenset(to_camel(name) for name in TaskDetailView.model_fields)
_ONLY_BY_CURSOR = FILTERS.keys() - {"status"}


def is_cursor_list(query: Query) -> bool:
    """Return True if the query asks for a list by cursor: it has `cursor`, or a filter that pages do not have."""
    return "cursor" in query.names or not _ONLY_BY_CURSOR.isdisjoint(query.names)


def refuse_no_filter(query: Query, known: AbstractSet[str]) -> None:
    """Raise InvalidRequest for a field of tasks that is no filter: its list would have all tasks."""
    for name in sorted((query.names & _FIELDS) - known - FILTERS.keys()):
        raise InvalidRequest(name, f"is a field of tasks and not a filter; the filters are {', '.join(FILTERS)}")


def refuse_filters(query: Query) -> None:
    """Raise InvalidRequest for a filter of a request that counts all tasks."""
    if (found := first_mistyped(sorted(query.names), frozenset(FILTERS))) is not None:
        name, meant = found
        raise InvalidRequest(
            shown_name(name),
            f"is not a parameter of this request, which counts all tasks; {meant} is a filter of lists",
        )


def filters_in(query: Query) -> TaskFilters:
    """Return the filters of a query. Raises InvalidRequest."""
    given = {name: value for name in FILTERS if (value := query.one(name)) is not None}
    return filters_of(given)


def filters_of(given: Mapping[str, Any]) -> TaskFilters:
    """Return filters from their names in requests and their values. Raises InvalidRequest for the first wrong one.

    A value of a body is text as in a query, a number for a time, or a list for states.
    """
    for name in given:
        if name not in FILTERS:
            raise InvalidRequest(shown_name(name), f"is not a filter; the filters are {', '.join(FILTERS)}")
    return TaskFilters(**{FILTERS[name].name: _value(name, FILTERS[name], value) for name, value in given.items()})


def _value(name: str, one: Defined[TaskFilter], value: Any) -> Any:
    kind = one.definition.kind
    if kind is FilterKind.STATES and isinstance(value, list) and all(isinstance(word, str) for word in value):
        value = ",".join(value)
    if kind is FilterKind.TIME and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise InvalidRequest(name, "must be a string")
    if kind is FilterKind.TIME:
        return epoch_ms(name, value)
    try:
        return one.definition.parse(value)
    except ValueError as error:
        raise InvalidRequest(name, str(error)) from None


def filter_parameters() -> list[dict[str, object]]:
    """Return the parameters of the filters."""
    return [in_query(name, one.definition.text, _schema(one)) for name, one in FILTERS.items()]


def _schema(one: Defined[TaskFilter]) -> dict[str, Any]:
    kind = one.definition.kind
    if kind is FilterKind.WORD and issubclass(one.kind, StrEnum):
        return {"type": "string", "enum": [word.value for word in one.kind]}
    if kind is FilterKind.STATES:
        word = "|".join(TaskState)
        return {"type": "string", "pattern": f"^(?:{word})(?:,(?:{word}))*$"}
    if kind is FilterKind.TIME:
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "format": "date-time"}]}
    return {"type": "string", **(one.definition.schema or {})}
