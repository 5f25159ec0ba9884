"""The values of the Helm charts: their reference page, and the part of the schema that is made from the settings.

`python -m tests.reference_helm` (`make docs`) writes the schema's part. tests/reference_pages.py writes the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from queue_engine.config.base import ProcessSettings, secret_fields, variable_of
from queue_engine.config.variables import PROCESSES
from tests.reference_text import MADE, limits_of, shown_default, table

CHARTS = Path(__file__).resolve().parents[1] / "deploy" / "helm"
ENGINE_CHART, WORKERS_CHART = CHARTS / "queue-engine", CHARTS / "queue-engine-workers"

SET_BY_CHART = frozenset(
    {
        *("HOST", "PORT", "METRICS_HOST", "METRICS_PORT", "API_METRICS", "TLS_CERT", "TLS_KEY", "WEBHOOK_CA"),
        *("BACKEND", "AGENT_URL", "AGENT_CA", "AGENT_IMAGE", "CATALOGUE_FILE", "CLUSTERS_FILE"),
        *("KUBERNETES_NAMESPACE", "KUBERNETES_SERVICE_ACCOUNT", "KUBERNETES_POD_SECURITY"),
    }
)
"""Settings that the chart derives from other values. They are named without their prefix, as are those below."""
OF_A_HOST = frozenset(
    {
        *(
            "AGENT_HOST",
            "AGENT_PORT",
            "API_PROCESSES",
            "OWN_PORTS",
            "WEBHOOK_LOOPBACK",
            "WORK_DIR",
            "GPUS",
            "WORKER_UIDS",
        ),
        *("PROCESS_BACKEND_SHARED", "END_WORKERS", "KUBERNETES_CONTEXT", "ALB_LOCAL_AGENTS"),
    }
)
"""Settings of processes and workers on one machine, and those of the Docker backend."""

_KEPT = ("type", "enum", "const", "minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


def settings_schema() -> dict[str, Any]:
    """Return the schema of each variable that `settings` may have."""
    found: dict[str, Any] = {}
    for name in ("api", "delivery", "controller"):
        settings = PROCESSES[name]
        found |= {variable_of(settings, field): _schema_of(settings, field) for field in _free_fields(settings)}
    return dict(sorted(found.items()))


def with_settings(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of the chart with the settings of the code."""
    properties = schema["properties"]
    settings = properties["settings"] | {"properties": settings_schema()}
    return {**schema, "properties": {**properties, "settings": settings}}


def schema_text(schema: Mapping[str, Any]) -> str:
    """Return a schema as its file has it."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def schema_of(chart: Path) -> dict[str, Any]:
    """Return the schema of a chart's values."""
    found: dict[str, Any] = json.loads((chart / "values.schema.json").read_text())
    return found


def values_of(chart: Path) -> dict[str, Any]:
    """Return the default values of a chart."""
    found: dict[str, Any] = msgspec.yaml.decode((chart / "values.yaml").read_bytes())
    return found


_PAGE = f"""# Values of the Helm charts

{MADE}

A value that a chart does not know, or that breaks its limits, is refused with its name.
[Kubernetes](../operations/kubernetes.md) shows how the charts are used.

## queue-engine

{{engine}}

Values below `workers` are those of the chart `queue-engine-workers`. There `account.create` is `false`, because the
controller has an account of its own.

## queue-engine-workers

{{workers}}
"""


def helm_values() -> str:
    """Return the reference page."""
    return _PAGE.format(engine=_table(ENGINE_CHART), workers=_table(WORKERS_CHART))


def leaves(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every value that has a description, with its path. An object with a description is one value."""
    for name, member in schema.get("properties", {}).items():
        if "description" in member:
            yield (*path, name), member
        else:
            yield from leaves(member, (*path, name))


def value_at(values: Any, path: Sequence[str]) -> Any:
    """Return the value at a path. Raises KeyError if there is none."""
    for name in path:
        values = values[name]
    return values


def _table(chart: Path) -> str:
    schema, values = schema_of(chart), values_of(chart)
    rows = [
        (f"`{'.'.join(path)}`", _shown(value_at(values, path)), _limits(member, schema["definitions"]), _text(member))
        for path, member in leaves(schema)
        if path not in (("global",), ("workers",))
    ]
    return table(("value", "default", "limits", "meaning"), rows)


def _text(member: Mapping[str, Any]) -> str:
    return str(member["description"])


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"`{json.dumps(value)}`" if value else "–"
    return shown_default(value)


def _limits(member: dict[str, Any], definitions: dict[str, Any]) -> str:
    named = {f"#/definitions/{name}": one for name, one in definitions.items()}
    kinds = [named[one["$ref"]] for one in member.get("allOf", ())] or [member]
    shown = {name: value for name, value in kinds[0].items() if name != "enum" or "" not in value}
    return limits_of(shown if "enum" not in kinds[0] else {"enum": [one for one in kinds[0]["enum"] if one]}, {})


def _free_fields(settings: type[ProcessSettings]) -> list[str]:
    taken = {*SET_BY_CHART, *OF_A_HOST}
    secret = secret_fields(settings)
    names = [name for name in settings.model_fields if not name.startswith("docker_")]
    return [name for name in names if name not in secret and name.upper() not in taken]


def _schema_of(settings: type[ProcessSettings], name: str) -> dict[str, Any]:
    """Return the type and limits of a setting. A list is given as text, separated by commas."""
    schema = settings.model_json_schema(mode="validation")
    member = schema["properties"][name]
    kinds = [one for one in member.get("anyOf", [member]) if one.get("type") != "null"]
    kind = next((one for one in kinds if one.get("type") in ("integer", "number", "boolean")), kinds[0])
    found = {key: kind[key] for key in _KEPT if key in kind}
    return found if found.get("type") in ("integer", "number", "boolean") or "enum" in found else {"type": "string"}


def write() -> None:
    """Write the part of the schema that is made from the settings."""
    path = ENGINE_CHART / "values.schema.json"
    path.write_text(schema_text(with_settings(schema_of(ENGINE_CHART))))


if __name__ == "__main__":
    write()
