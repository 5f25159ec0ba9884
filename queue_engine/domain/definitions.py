"""Fields that are defined once.

A field of a frozen dataclass is annotated with its type, its limits as pydantic takes them, and a definition:

    max_busy_seconds: Annotated[float, Field(ge=0, le=86_400), Setting("How long …", for_scripts=True)] = 900.0

Request models, views, the stored form, options of the command line and reference pages are made from `definitions_of`.
A field whose value is a plain number, text, enum word or boolean needs no further code. A structured field has a row
in the tables of the modules that read, show or store it.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

D = TypeVar("D", bound="Definition")


@dataclass(frozen=True)
class Definition:
    """Properties of a field besides name, type, limits and default. An empty name stands for the field's own name."""

    text: str
    """The description in the API's schema, the command line help and the reference."""
    _: KW_ONLY
    asked: str = ""
    """Name in requests, in snake case."""
    shown: str = ""
    """Name in responses, in snake case; by default the name in requests."""
    stored: str = ""
    """Name in the store."""
    option: str = ""
    """Flag of the command line; by default derived from the name in requests."""


@dataclass(frozen=True)
class Defined(Generic[D]):
    """A field of a dataclass with its definition."""

    name: str
    rule: Any
    """The type with its limits, in pydantic's form."""
    kind: type
    """The type without limits, items and None."""
    nullable: bool
    required: bool
    default: Any
    definition: D

    @property
    def asked(self) -> str:
        return self.definition.asked or self.name

    @property
    def shown(self) -> str:
        return self.definition.shown or self.asked

    @property
    def stored(self) -> str:
        return self.definition.stored or self.name

    @property
    def option(self) -> str:
        return self.definition.option or f"--{self.asked.replace('_', '-')}"

    def or_default(self, value: Any) -> Any:
        """Return the parsed value of a request's `value`. Null and an empty optional text mean the default."""
        if value is None or (self.nullable and value == ""):
            return self.default
        return value


def definitions_of(owner: type, kind: type[D]) -> tuple[Defined[D], ...]:
    """Return the fields of dataclass `owner` that have a definition of this kind, in their order."""
    hints = get_type_hints(owner, include_extras=True)
    fields = ((field, hints[field.name]) for field in dataclasses.fields(owner))
    return tuple(
        _defined(field, hint, definition)
        for field, hint in fields
        for definition in getattr(hint, "__metadata__", ())
        if isinstance(definition, kind)
    )


def _defined(field: dataclasses.Field[Any], hint: Any, definition: D) -> Defined[D]:
    limits = tuple(one for one in hint.__metadata__ if one is not definition)
    type_ = hint.__origin__
    kinds = [_plain(one) for one in _alternatives(type_)]
    return Defined(
        name=field.name,
        rule=Annotated[(type_, *limits)] if limits else type_,
        kind=next(one for one in kinds if one is not type(None)),
        nullable=type(None) in kinds,
        required=field.default is MISSING and field.default_factory is MISSING,
        default=field.default_factory() if field.default_factory is not MISSING else field.default,
        definition=definition,
    )


def _alternatives(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)


def _plain(type_: Any) -> Any:
    if hasattr(type_, "__metadata__"):
        return _plain(type_.__origin__)
    return get_origin(type_) or type_
