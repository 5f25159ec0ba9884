"""`quick_init` changes nothing but the time of making an object."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import pytest

from queue_engine.domain.quick import quick_init


@dataclass(frozen=True)
class Plain:
    name: str
    size: int = 3
    names: dict[str, str] = field(default_factory=dict)
    hidden: bytes = field(default=b"", repr=False)


@quick_init
@dataclass(frozen=True)
class Quick:
    name: str
    size: int = 3
    names: dict[str, str] = field(default_factory=dict)
    hidden: bytes = field(default=b"", repr=False)


@pytest.mark.parametrize(
    ("positional", "named"),
    [(("a",), {}), (("a", 4, {"b": "c"}, b"d"), {}), ((), {"name": "a", "hidden": b"d"}), (("a",), {"names": {}})],
)
def test_an_object_has_the_same_values_as_that_of_the_plain_dataclass(positional: Any, named: Any) -> None:
    plain, quick = Plain(*positional, **named), Quick(*positional, **named)

    assert dataclasses.asdict(quick) == dataclasses.asdict(plain) == quick.__dict__
    assert repr(quick) == repr(plain).replace("Plain", "Quick")
    assert quick == Quick(*positional, **named)
    assert dataclasses.replace(quick, size=9).size == 9


def test_a_default_factory_makes_a_value_for_each_object() -> None:
    assert Quick("a").names is not Quick("a").names


def test_an_object_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Quick("a").size = 4  # type: ignore[misc]


@pytest.mark.parametrize(("positional", "named"), [((), {}), (("a", 1, {}, b"", 5), {}), (("a",), {"other": 1})])
def test_wrong_arguments_raise_type_error(positional: Any, named: Any) -> None:
    with pytest.raises(TypeError):
        Quick(*positional, **named)


def test_the_parameters_have_the_names_and_the_order_of_the_fields() -> None:
    assert list(inspect.signature(Quick).parameters) == list(inspect.signature(Plain).parameters)


def test_a_dataclass_with_slots_is_refused() -> None:
    @dataclass(frozen=True, slots=True)
    class Slotted:
        name: str

    with pytest.raises(TypeError, match="slots"):
        quick_init(Slotted)
