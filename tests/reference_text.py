"""Tables, defaults and limits as text, for all reference pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

MADE = "<!-- Made by `make docs` from the definitions in the code. Do not edit. -->"


def shown_default(value: Any) -> str:
    """Return a default as it may be given; a dash for none."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, frozenset):
        value = sorted(value)
    if isinstance(value, (tuple, list)):
        value = ",".join(_plain(one) for one in value)
    return "–" if value in (None, "", PydanticUndefined) else f"`{_plain(value)}`"


def limits_of(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the type of a value and its limits, in a few words."""
    kinds = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    resolved = (definitions[kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind for kind in kinds)
    return "; ".join(dict.fromkeys(_limits_of_one(kind) for kind in resolved))


_KINDS = {"array": "list", "number": "number", "integer": "integer", "boolean": "true or false", "object": "object"}
_LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "minLength": "≥ {} characters",
    "maxLength": "≤ {} characters",
    "minItems": "≥ {} items",
    "maxItems": "≤ {} items",
}


def _limits_of_one(schema: dict[str, Any]) -> str:
    words = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    if words:
        return ", ".join(f"`{word}`" for word in words)
    kind = _KINDS.get(schema.get("type", ""), "text")
    return ", ".join([kind, *(text.format(_plain(schema[name])) for name, text in _LIMITS.items() if name in schema)])


def _plain(value: Any) -> str:
    """Write a whole number without a fraction."""
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
