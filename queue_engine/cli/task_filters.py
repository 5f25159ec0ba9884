"""The filters of tasks as options of commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from queue_engine.cli.client import WrongUse
from queue_engine.cli.command import camel, options_of
from queue_engine.domain.task_filters import TASK_FILTERS, FilterKind

if TYPE_CHECKING:
    from queue_engine.cli.command import Session

_TIME_FORMS = "10m, 2h (ago), an ISO time (UTC by default) or epoch milliseconds"
_TIMES = {one.asked: one for one in TASK_FILTERS if one.definition.kind is FilterKind.TIME}


def _as_text(help_text: str, flag: str) -> Any:
    return Annotated[str, typer.Option(flag, help=help_text)]


FILTER_OPTIONS: dict[str, Any] = options_of(
    TASK_FILTERS,
    {
        one.name: {
            one.asked: _as_text(
                f"{one.definition.text}: {_TIME_FORMS}" if one.asked in _TIMES else one.definition.text, one.option
            )
        }
        for one in TASK_FILTERS
    },
)
"""Options of a command that takes filters. All are texts, so that the API's error names the valid values."""


def filters_in(session: Session, fields: Mapping[str, Any]) -> dict[str, str | int]:
    """Return the filters among the options of a command, by their names in requests. Raises WrongUse."""
    return {camel(name): _value(session, name, fields[name]) for name in FILTER_OPTIONS if name in fields}


def _value(session: Session, name: str, text: str) -> str | int:
    if name not in _TIMES:
        return text
    try:
        return session.screen.moment_ms(text)
    except ValueError as error:
        raise WrongUse(f"{_TIMES[name].option}: {error}") from None
