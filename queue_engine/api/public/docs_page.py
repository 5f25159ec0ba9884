"""`/docs`: the OpenAPI document as a page, for servers and browsers without the internet.

The page is rendered here, so it needs no script and its Content-Security-Policy can forbid all of them.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from typing import Any

from queue_engine.api.http.operations import ROLES

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "code{font-size:90%;background:#f2f2f2;padding:.1em .3em}h2{margin-top:2em}"
    "details{border:1px solid #ddd;border-radius:4px;margin:.5em 0;padding:.5em 1em}summary{cursor:pointer}"
    "table{border-collapse:collapse;width:100%;margin:.5em 0}"
    "th,td{text-align:left;vertical-align:top;border-top:1px solid #eee;padding:.3em .6em .3em 0}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(document: dict[str, Any]) -> str:
    """Return the page for an OpenAPI document. All texts are escaped."""
    title = escape(document["info"]["title"])
    sections = "".join(_section(document, tag) for tag in document["tags"])
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title} {escape(document['info']['version'])}</h1><p>{_prose(document['info']['description'])}</p>"
        '<p>As an OpenAPI document: <a href="openapi.json">openapi.json</a>. Operations on <code>/v2</code> need the '
        f"header <code>X-Api-Key</code> or <code>Authorization: Bearer</code>.</p>{sections}</html>"
    )


def _section(document: dict[str, Any], tag: dict[str, str]) -> str:
    operations = "".join(
        _operation(document, method, path, operation)
        for path, methods in (document["paths"] | document["webhooks"]).items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    )
    return f"<h2>{escape(tag['name'])}</h2><p>{_prose(tag['description'])}</p>{operations}"


def _operation(document: dict[str, Any], method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [f"<summary><code>{method.upper()} {escape(path)}</code> {escape(operation['summary'])}</summary>"]
    if roles := operation.get(ROLES):
        parts.append(f"<p>Roles: {_prose(', '.join(roles))}</p>")
    parameters = [
        (parameter["name"], _kind(parameter["schema"]), parameter["description"])
        for parameter in operation.get("parameters", [])
    ]
    parts.append(_table("Parameter", parameters))
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        parts.append(_table("Body", _members(document, schema)))
    responses = [(status, "", response["description"]) for status, response in operation["responses"].items()]
    parts.append(_table("Answer", responses))
    success = operation["responses"].get("200", {}).get("content", {}).get("application/json", {}).get("schema", {})
    parts.append(_table("Data", _data_members(document, success)))
    return f"<details>{''.join(parts)}</details>"


def _data_members(document: dict[str, Any], envelope: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the members of `data` in a successful response."""
    data = _resolved(document, envelope).get("properties", {}).get("data", {})
    return _members(document, data.get("items", data))


def _members(document: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    resolved = _resolved(document, schema)
    required = resolved.get("required", ())
    return [
        (name, _kind(member) + ("" if name in required else ", optional"), member.get("description", ""))
        for name, member in resolved.get("properties", {}).items()
    ]


def _resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that `schema` refers to, or `schema` itself."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


def _kind(schema: dict[str, Any]) -> str:
    """Return a short name of a schema: `integer`, `array of ResourceView`, `string or null`."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if schema.get("type") == "array":
        return f"array of {_kind(schema.get('items', {}))}"
    return str(schema.get("type", "any"))


def _table(heading: str, rows: list[tuple[str, str, str]]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code><td>{escape(kind)}<td>{_prose(text)}" for name, kind, text in rows
    )
    return f"<table><tr><th>{escape(heading)}<th><th>{cells}</table>"


def _prose(text: str) -> str:
    """Return HTML for text with `code` in backquotes."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
