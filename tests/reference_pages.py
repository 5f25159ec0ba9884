"""The reference pages that are made from definitions: `python -m tests.reference_pages` (`make docs`) writes them.

A test fails when a page differs from the definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from queue_engine.api.v2.endpoint_requests import CreateEndpoint
from queue_engine.api.v2.submissions import SubmitTask
from queue_engine.cli.command import options_of
from queue_engine.cli.endpoints import STRUCTURED
from queue_engine.config.base import ProcessSettings, secret_fields, variable_of
from queue_engine.config.shared import SharedSettings
from queue_engine.config.variables import PROCESSES
from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import SETTINGS, Setting
from queue_engine.domain.tasks import TASK_FIELDS, TaskField
from tests import reference_cli, reference_helm, reference_http, reference_metrics
from tests.reference_text import MADE, limits_of, shown_default, table

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "reference"


def pages() -> dict[str, Callable[[], str]]:
    """Return a function that makes the text of each page, by the name of its file."""
    return {
        "configuration.md": _configuration,
        "endpoint-settings.md": _endpoint_settings,
        "task-fields.md": _task_fields,
        "http-api.md": reference_http.http_api,
        "errors.md": reference_http.errors,
        "cli.md": reference_cli.command_line,
        "metrics.md": reference_metrics.metrics_page,
        "helm-values.md": reference_helm.helm_values,
    }


def write(folder: Path = FOLDER) -> None:
    """Write all pages."""
    folder.mkdir(exist_ok=True)
    for name, make in pages().items():
        (folder / name).write_text(make())


_CONFIGURATION = f"""# Configuration

{MADE}

Each process reads environment variables. At start, a process reports a value that breaks its limits and a variable that
no process reads. A *secret* may be in a file instead: the variable with `_FILE` at the end of its name holds the path
of the file. Setting both variables is an error.

## The engine

{{engine}}

Commands for people also read `QUEUE_ENGINE_URL`, `QUEUE_ENGINE_API_KEY` (secret) and `QUEUE_ENGINE_WEBHOOK_AUTH_KEY`
(secret).

## The agent

The controller passes the variables marked *shared* to the agents that it starts. An agent that is started by hand reads
`QUEUE_ENGINE_…` if the `WORKER_AGENT_…` variable is not set.

{{agent}}
"""


def _configuration() -> str:
    engine = {name: settings for name, settings in PROCESSES.items() if name != "worker-agent"}
    agent = PROCESSES["worker-agent"]
    return _CONFIGURATION.format(
        engine=table(
            ("variable", "default", "limits", "processes", "meaning"),
            (_engine_row(name, engine) for name in _names((SharedSettings, *engine.values()))),
        ),
        agent=table(
            ("variable", "default", "limits", "meaning"),
            (_agent_row(agent, name) for name in _names((SharedSettings, agent))),
        ),
    )


_ENDPOINT_SETTINGS = f"""# Settings of an endpoint

{MADE}

`POST /v2/serverless` creates an endpoint with these settings. `PATCH` changes settings, and `GET` returns them. In a
change, an omitted setting keeps its value, and null clears it or restores its default. If a change replaces workers,
they are replaced one at a time. The options are those of `queue-engine endpoints create` and `update`.

{{settings}}
"""


def _endpoint_settings() -> str:
    schema = CreateEndpoint.model_json_schema()
    head = ("setting", "default", "limits", "option", "a change", "meaning")
    return _ENDPOINT_SETTINGS.format(settings=table(head, (_setting_row(one, schema) for one in SETTINGS)))


def _setting_row(setting: Defined[Setting], schema: dict[str, Any]) -> Sequence[str]:
    name = to_camel(setting.asked)
    shown = "" if setting.shown == setting.asked else f" (shown as `{to_camel(setting.shown)}`)"
    return (
        f"`{name}`{shown}",
        "required" if setting.required else shown_default(setting.default),
        limits_of(schema["properties"][name], schema["$defs"]),
        ", ".join(f"`--{one}`" for one in _options(setting)),
        _consequence(setting.definition),
        setting.definition.text,
    )


def _options(setting: Defined[Setting]) -> Sequence[str]:
    options = options_of([setting], STRUCTURED)
    return [one.replace("_", "-") for one in options] if setting.name in STRUCTURED else [setting.option.lstrip("-")]


def _consequence(setting: Setting) -> str:
    if setting.fixed:
        return "is not possible"
    return "replaces the workers" if setting.renews_workers else "replaces no worker"


_TASK_FIELDS = f"""# Fields of a task

{MADE}

`POST /v2/serverless/{{{{id}}}}/tasks` accepts these fields. The options are those of `queue-engine tasks submit`.

{{fields}}
"""


def _task_fields() -> str:
    schema = SubmitTask.model_json_schema()
    fields = {to_camel(one.asked): one for one in TASK_FIELDS}
    rows = (_field_row(name, fields.get(name), schema) for name in schema["properties"])
    return _TASK_FIELDS.format(fields=table(("field", "limits", "option", "shown", "meaning"), rows))


def _field_row(name: str, field: Defined[TaskField] | None, schema: dict[str, Any]) -> Sequence[str]:
    required = ", required" if name in schema["required"] else ""
    member = schema["properties"][name]
    return (
        f"`{name}`",
        ("any JSON" if name == "input" else limits_of(member, schema.get("$defs", {}))) + required,
        f"`--{name}`" if name == "input" else f"`{field.option}`" if field else "`--task-id`",
        _where_shown(field),
        member["description"],
    )


def _where_shown(field: Defined[TaskField] | None) -> str:
    if field is not None and field.name == "headers":
        return "in the detail, where values that may be secrets are `***`"
    if field is not None and field.definition.is_in_detail:
        return "in the detail"
    return "yes" if field is None or field.definition.is_shown else "no"


def _engine_row(name: str, processes: dict[str, type[ProcessSettings]]) -> Sequence[str]:
    having = [process for process, settings in processes.items() if name in settings.model_fields]
    settings = processes[having[0]]
    field = settings.model_fields[name]
    # `up` reads only its own settings, and hands all others to its processes.
    where = "all" if {*having, "up"} == {*processes} else ", ".join(having)
    return (_variable(settings, name), _default(field), _limits(settings, name), where, field.description or "")


def _agent_row(agent: type[ProcessSettings], name: str) -> Sequence[str]:
    field = agent.model_fields[name]
    shared = " *Shared.*" if name in SharedSettings.model_fields else ""
    return (_variable(agent, name), _default(field), _limits(agent, name), f"{field.description}.{shared}")


def _names(kinds: Iterable[type[ProcessSettings]]) -> list[str]:
    return list(dict.fromkeys(name for kind in kinds for name in kind.model_fields))


def _variable(settings: type[ProcessSettings], name: str) -> str:
    return f"`{variable_of(settings, name)}`" + (" (secret)" if name in secret_fields(settings) else "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default_factory not in (None, dict):
        return "made at start"
    return shown_default(field.default)


def _limits(settings: type[ProcessSettings], name: str) -> str:
    schema = settings.model_json_schema(mode="validation")
    return limits_of(schema["properties"][name], schema.get("$defs", {}))


if __name__ == "__main__":
    write()
