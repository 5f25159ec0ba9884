"""`queue-engine endpoints …`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from queue_engine.cli.client import ENDPOINTS, CommandError, Data, Query, WrongUse, read_bounded
from queue_engine.cli.command import PANEL, Endpoint, Session, Yes, camel, command, options_of
from queue_engine.cli.output import Column, safe
from queue_engine.domain.endpoints import SETTINGS, ServiceMode

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Create, show, change and delete endpoints.")
commands.add_typer(group, name="endpoints", rich_help_panel=PANEL)

_COLUMNS = (
    Column("ID", "id", "number"),
    Column("NAME", "name", "id"),
    Column("STATUS", "status"),
    Column("WORKERS", "runningWorkers", "number"),
    Column("DESIRED", "totalWorkers", "number"),
    Column("QUEUED", "queuedTasks", "number"),
    Column("RUNNING", "runningTasks", "number"),
    Column("MODE", "serviceMode"),
    Column("CREATED", "createdAt", "time", on_terminal=False),
)

MAX_FILE_BYTES = 16 * 1024 * 1024
_NEVER = "never"
_CREATE_DEFAULTS: dict[str, Any] = {"serviceMode": ServiceMode.QUEUE.value, "workers": 1, "containerVolumeInGb": 20}

File = Annotated[
    Path | None, typer.Option("--file", help="File with a JSON object of the API's fields; options override them")
]


def _text(name: str) -> str:
    """Return the description of a setting."""
    return next(one.definition.text for one in SETTINGS if one.name == name)


STRUCTURED: dict[str, dict[str, Any]] = {
    "resources": {
        "resource": Annotated[
            list[str],
            typer.Option(metavar="REGION:GPU[:COUNT]", help=f"{_text('resources')}; may be repeated"),
        ]
    },
    "plain_variables": {
        "env": Annotated[
            list[str],
            typer.Option(
                metavar="NAME[=VALUE]",
                help="Variable of the container; without =VALUE, it is copied from your environment. May be repeated",
            ),
        ],
        "env_plain": Annotated[
            list[str],
            typer.Option(metavar="NAME[=VALUE]", help="The same for a value that is not secret: logs show it unmasked"),
        ],
    },
    "expose": {
        "port": Annotated[int, typer.Option(help=_text("expose"))],
        "protocol": Annotated[str, typer.Option(help="Protocol of the port: http (default) or tcp")],
    },
    "rate_limit": {
        "rate_limit": Annotated[
            str,
            typer.Option(
                metavar="PER_SECOND[:BURST]",
                help="Limit of the attempts that begin, retries included; burst 1 by default",
            ),
        ]
    },
    "retry_on": {
        "retry_on": Annotated[
            list[str],
            typer.Option(metavar="WORD", help="An outcome that is retried; may be repeated. `never` disables retries"),
        ]
    },
    "retry_delays_seconds": {
        "retry_delay": Annotated[
            list[float],
            typer.Option(metavar="SECONDS", help="Delay after the first attempt, the second, … the last one repeats"),
        ]
    },
}
"""Options of structured settings, from which `_requested` makes the API's fields."""
_CREATION = options_of(SETTINGS, STRUCTURED)
_CHANGE = options_of((one for one in SETTINGS if not one.definition.fixed), STRUCTURED)


@command(group, "list")
def list_endpoints(
    session: Session,
    status: Annotated[list[str] | None, typer.Option(help="Only these statuses; may be repeated")] = None,
    page: Annotated[int | None, typer.Option(min=1, help="Page number")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Number of endpoints per page")] = None,
) -> None:
    """List endpoints, newest first: all, or those on a page."""
    statuses = ",".join(status) if status else None
    found = session.api.get(ENDPOINTS, query={"statusList": statuses, "pageNumber": page, "pageSize": size})
    session.show(found, lambda: session.screen.table(_COLUMNS, found.rows()))


@command(group, "get")
def get_endpoint(session: Session, endpoint: Endpoint) -> None:
    """Show an endpoint with its configuration."""
    _show(session, session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint)))


@command(group, "create", options=_CREATION)
def create_endpoint(session: Session, file: File = None, **fields: Any) -> None:
    """Create an endpoint from options, a file or both. By default one worker with 20 GB, in mode QUEUE.

    queue-engine endpoints create --name echo --image python:3.11 --resource here:CPU --port 8000
    --command "python3 deploy/examples/echo_server.py"
    """
    body = _CREATE_DEFAULTS | _read_object(file)
    requested = body | _requested(fields, body)
    created = _send(session, "POST", requested)
    _show(session, created)
    _warn_of_same_name(session, created.members())
    if requested.get("workers") and not requested.get("initializationCommand"):
        _warn_without_command(session, created.members())


@command(group, "update", options=_CHANGE)
def update_endpoint(
    session: Session,
    endpoint: Endpoint,
    file: File = None,
    clear: Annotated[
        list[str] | None, typer.Option(metavar="FIELD", help="Set this field of the API to null; may be repeated")
    ] = None,
    **fields: Any,
) -> None:
    """Change an endpoint. Fields that are not set keep their value; --env and --env-plain replace all variables."""
    endpoint_id = session.api.endpoint_id(endpoint)
    body = _read_object(file) | dict.fromkeys(clear or ())
    body |= _requested(fields, _exposed(session, endpoint_id, fields) | body)
    _show(session, _send(session, "PATCH", body, endpoint_id))


@command(group, "start")
def start_endpoint(session: Session, endpoint: Endpoint) -> None:
    """Start the workers of a stopped endpoint."""
    _order(session, endpoint, "POST", "start", says="starting")


@command(group, "stop")
def stop_endpoint(session: Session, endpoint: Endpoint) -> None:
    """Stop an endpoint's workers. Its queued tasks wait."""
    _order(session, endpoint, "POST", "stop", says="stopping")


@command(group, "pause")
def pause_endpoint(session: Session, endpoint: Endpoint) -> None:
    """Pause an endpoint's queue: its workers finish their tasks and begin no further ones."""
    _order(session, endpoint, "POST", "pause", says="paused")


@command(group, "resume")
def resume_endpoint(session: Session, endpoint: Endpoint) -> None:
    """Let the workers of a paused endpoint begin tasks again."""
    _order(session, endpoint, "POST", "resume", says="resumed")


@command(group, "delete")
def delete_endpoint(
    session: Session,
    endpoint: Endpoint,
    yes: Yes = False,
) -> None:
    """Delete an endpoint. Its queued tasks fail, and its data is removed."""
    endpoint_id = session.api.endpoint_id(endpoint)
    if not yes:
        session.confirm(f"Delete endpoint {_described(session, endpoint_id)}?")
    waiting = _waiting_results(session, endpoint_id)
    _order(session, endpoint_id, "DELETE", says="deleting")
    if waiting and not session.as_json:
        results, are, their = ("1 result", "is", "its") if waiting == 1 else (f"{waiting} results", "are", "their")
        session.screen.line(
            f"{results} {are} sent or given up before the endpoint is removed: after about 22 h of attempts, or 3 days "
            f"when {their} receiver is paused. `queue-engine system` counts all waiting results"
        )


@command(group, "rotate-secret")
def rotate_secret(session: Session, endpoint: Endpoint) -> None:
    """Replace the secret that signs an endpoint's webhooks, and show the new one. It is shown only once.

    For 24 hours, webhooks are signed with the replaced secret too.
    """
    endpoint_id = session.api.endpoint_id(endpoint)
    _show(session, session.api.send("POST", ENDPOINTS, endpoint_id, "webhook-secret", "rotate"))


@command(group, "scale")
def scale_endpoint(
    session: Session,
    endpoint: Endpoint,
    workers: Annotated[int, typer.Argument(min=0, help="Desired number of workers")],
) -> None:
    """Change the desired number of workers of an endpoint."""
    says = f"{workers} worker{'' if workers == 1 else 's'} desired"
    _order(session, endpoint, "PUT", "workers", query={"count": workers}, says=says)


def _warn_of_same_name(session: Session, created: Mapping[str, Any]) -> None:
    """Print a warning if other endpoints have the name of a new one, because commands refuse such a name."""
    try:
        named = session.api.endpoints_named(str(created.get("name")))
    except CommandError:  # the endpoint is created and shown
        return
    others = [str(row.get("id")) for row in named if str(row.get("id")) != str(created.get("id"))]
    if others:
        known = f"another endpoint, {others[0]}, has" if len(others) == 1 else f"the endpoints {', '.join(others)} have"
        typer.echo(
            f"warning: {known} the name {safe(str(created.get('name')))}: name this one by its id, {created.get('id')}",
            err=True,
        )


def _show(session: Session, found: Data) -> None:
    session.show(found, lambda: session.screen.detail(found.members()))


def _send(session: Session, method: str, body: Mapping[str, Any], *path: str) -> Data:
    return session.api.send(method, ENDPOINTS, *path, body=json.dumps(body).encode())


def _warn_without_command(session: Session, created: Mapping[str, Any]) -> None:
    """Print a warning for workers without a command where they are processes.

    The API does not know the backends of its controllers, but offers the example worker only where they are processes.
    """
    try:
        templates = session.api.get("v2/templates").rows()
    except CommandError:  # the endpoint is created and shown
        return
    if any(one.get("id") == "example-worker" for one in templates):
        typer.echo(
            "warning: workers run as processes here and no image is started, so they do not come up without a command. "
            f"Give it one: queue-engine endpoints update {created.get('id')} --command COMMAND",
            err=True,
        )


def _order(session: Session, endpoint: str, method: str, *path: str, says: str, query: Query | None = None) -> None:
    """Send a request whose effect takes time and shows in the endpoint's status."""
    endpoint_id = session.api.endpoint_id(endpoint)
    done = session.api.send(method, ENDPOINTS, endpoint_id, *path, query=query)
    session.show(done, lambda: session.screen.line(f"endpoint {endpoint_id}: {says}"))


def _described(session: Session, endpoint_id: str) -> str:
    endpoint = session.api.get(ENDPOINTS, endpoint_id).members()
    waiting = endpoint.get("queuedTasks")
    return f"{endpoint_id} ({endpoint.get('name')}, {waiting} tasks queued)"


def _waiting_results(session: Session, endpoint_id: str) -> int:
    """Return how many results wait for their delivery; 0 if an API of an earlier version does not tell it."""
    waiting = session.api.get(ENDPOINTS, endpoint_id, "tasks", "count").members().get("waitingDeliveries")
    return waiting if isinstance(waiting, int) else 0


def _read_object(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    source = f"--file {file}"
    try:
        value = json.loads(read_bounded(source, file, MAX_FILE_BYTES))
    except UnicodeDecodeError:
        raise WrongUse(f"{source}: is not JSON: it must be in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{source}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WrongUse(f"{source}: must be a JSON object")
    return value


def _requested(fields: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the API's fields for the options. `base` has the `expose` that port and protocol are merged into."""
    given = dict(fields)
    resources, variables, plain = given.pop("resource", ()), given.pop("env", ()), given.pop("env_plain", ())
    port, protocol = given.pop("port", None), given.pop("protocol", None)
    rate_limit = given.pop("rate_limit", None)
    retry_on, retry_delays = given.pop("retry_on", ()), given.pop("retry_delay", ())
    body = {camel(name): value for name, value in given.items()}
    if retry_on:
        body["retryOn"] = [] if list(retry_on) == [_NEVER] else list(retry_on)
    if retry_delays:
        body["retryDelaysSeconds"] = list(retry_delays)
    if rate_limit is not None:
        body["rateLimit"] = _rate_limit(rate_limit)
    if resources:
        body["resources"] = [_resource(text) for text in resources]
    if variables or plain:
        plain_variables = [variable | {"secret": False} for variable in _variables("--env-plain", plain)]
        body["environmentVars"] = _variables("--env", variables) + plain_variables
    if port is not None or protocol is not None:
        body["expose"] = _expose(base.get("expose"), port, protocol)
    return body


def _exposed(session: Session, endpoint_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the endpoint's `expose` if only port or protocol may be changed, so that the other one keeps its value."""
    if "port" not in fields and "protocol" not in fields:
        return {}
    return {"expose": session.api.get(ENDPOINTS, endpoint_id).members().get("expose")}


def _expose(base: Any, port: int | None, protocol: str | None) -> dict[str, Any]:
    known: dict[str, Any] = {"protocol": "http"} | (base if isinstance(base, dict) else {})
    given = {"port": port, "protocol": protocol}
    return known | {name: value for name, value in given.items() if value is not None}


def _resource(text: str) -> dict[str, Any]:
    region, _, rest = text.partition(":")
    gpu_type, _, count = rest.partition(":")
    if not region or not gpu_type or not (count or "1").isdecimal():
        raise WrongUse(f"--resource {text}: must be REGION:GPU or REGION:GPU:COUNT")
    return {"region": region, "gpuType": gpu_type, "gpuCount": int(count or 1)}


def _rate_limit(text: str) -> dict[str, Any]:
    per_second, _, burst = text.partition(":")
    try:
        return {"perSecond": float(per_second), "burst": int(burst or 1)}
    except ValueError:
        raise WrongUse(f"--rate-limit {text}: must be PER_SECOND or PER_SECOND:BURST") from None


def _variables(option: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    variables: list[dict[str, Any]] = []
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals and name not in os.environ:
            raise WrongUse(f"{option} {name}: has no value, and your environment has no variable of this name")
        variables.append({"key": name, "value": value if equals else os.environ[name]})
    return variables
