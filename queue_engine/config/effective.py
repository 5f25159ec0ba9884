"""Effective settings: the values that a process would start with, and the source of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import SecretStr

from queue_engine.config.base import ProcessSettings, secret_fields, variable_of
from queue_engine.crypto.secret_files import FILE_SUFFIX

MASK = "***"
DEFAULT = "default"
NONE = "-"


class EffectiveSetting(NamedTuple):
    """A setting of a process."""

    variable: str
    value: str
    """The value as in the variable; MASK for a secret that was given, NONE for no value."""
    source: str
    """`environment`, `file <path>` or DEFAULT."""


def effective_settings(
    processes: Iterable[ProcessSettings], environment: Mapping[str, str]
) -> Iterator[EffectiveSetting]:
    """Return each setting of the processes once. `environment` must be the one from which they were read."""
    given = {name.upper(): value for name, value in environment.items() if value}
    seen = set()
    for settings in processes:
        kind = type(settings)
        secrets = frozenset(secret_fields(kind))
        for name in kind.model_fields:
            variable = variable_of(kind, name)
            if variable not in seen:
                seen.add(variable)
                source = _source(variable, given)
                masked = name in secrets and source != DEFAULT
                yield EffectiveSetting(variable, MASK if masked else _written(getattr(settings, name)), source)


def _source(variable: str, given: Mapping[str, str]) -> str:
    if variable in given:
        return "environment"
    file = given.get(variable + FILE_SUFFIX)
    return DEFAULT if file is None else f"file {file}"


def _written(value: Any) -> str:
    """Return the value in the form of its variable."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (tuple, list, frozenset)):
        return ",".join(_written(one) for one in value) or NONE
    return NONE if value in (None, "") else str(value)
