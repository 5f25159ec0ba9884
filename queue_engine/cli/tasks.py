"""`queue-engine tasks …`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite, nan
from pathlib import Path
from typing import Annotated, Any

import typer

from queue_engine.aio import Backoff
from queue_engine.cli.client import ENDPOINTS, Data, NotInTime, Unreachable, WrongUse, advised, read_bounded
from queue_engine.cli.command import (
    EXIT_TASK_FAILED,
    PANEL,
    Endpoint,
    Session,
    camel,
    command,
    options_of,
    secret_in_environment,
)
from queue_engine.cli.downloads import download
from queue_engine.cli.operations import change_command
from queue_engine.cli.output import Column
from queue_engine.cli.task_filters import FILTER_OPTIONS, filters_in
from queue_engine.cli.task_lists import export, note_next, pages_of
from queue_engine.cli.times import duration_ms, length
from queue_engine.domain.tasks import TASK_FIELDS, TaskStatus

commands = typer.Typer()
group = typer.Typer(
    name="tasks",
    rich_help_panel=PANEL,
    no_args_is_help=True,
    help="Submit, show, copy, cancel, retry and delete tasks.",
)
commands.add_typer(group, name="tasks", rich_help_panel=PANEL)

_COLUMNS = (
    Column("TASK", "taskId", "id"),
    Column("STATUS", "status"),
    Column("STATE", "state"),
    Column("TRIES", "attempts", "number", on_terminal=False),
    Column("CREATED", "createdAt", "time"),
    Column("TOOK", "durationMs", "length"),
    Column("DELIVERY", "deliveryStatus", "id"),
    Column("PRIORITY", "priority", optional=True, usual="normal"),
    Column("KEY", "fairnessKey", "id", optional=True),
    Column("ERROR", "error", "message"),
)
_ERROR_COLUMNS = (
    Column("FAILURES", "count", "number"),
    Column("FIRST", "firstAt", "time"),
    Column("LAST", "lastAt", "time"),
    Column("SIGNATURE", "signature", "message"),
)
_DELIVERY_COLUMNS = (
    Column("AT", "at", "time"),
    Column("TRIGGER", "trigger"),
    Column("STATUS", "status", "number"),
    Column("ERROR", "error"),
    Column("TOOK", "durationMs", "length"),
    Column("CONNECT", "connectMs", "length", on_terminal=False),
    Column("TLS", "tlsMs", "length", on_terminal=False),
    Column("SEND", "sendMs", "length", on_terminal=False),
    Column("WAIT", "waitMs", "length", on_terminal=False),
    Column("NEXT", "nextAttemptAt", "time", on_terminal=False),
    Column("RESPONSE", "response", "message"),
)
_ATTEMPT_COLUMNS = (
    Column("TRY", "attempt", "number"),
    Column("OUTCOME", "outcome"),
    Column("WORKER", "workerId", "id"),
    Column("STARTED", "startedAt", "time"),
    Column("ENDED", "endedAt", "time"),
    Column("ERROR", "error", "message"),
)

DEFAULT_MAX_BODY_BYTES = 1024 * 1024
"""The API's default."""
WAIT_SECONDS = 10
"""Time for which one request waits. The shown time is updated after each."""
POLLS = Backoff(0.1, 2.0)
"""Pauses between requests to which the API responds without waiting."""
MAX_SHOWN_CHARACTERS = 4000
"""Maximum length of a printed input or output; `--json` prints all of it."""

Task = Annotated[str, typer.Argument(metavar="TASK", help="Id of a task")]
Timeout = Annotated[
    float | None, typer.Option(min=0, help="Seconds to wait; then exit with 124, while the task continues")
]


STRUCTURED: dict[str, dict[str, Any]] = {
    "process_uri": {},  # has a default here
    "worker_port": {
        "worker_port": Annotated[int, typer.Option("--port", help="Port of the container; by default the exposed port")]
    },
    "headers": {
        "header": Annotated[
            list[str], typer.Option(metavar="NAME:VALUE", help="Header for the container; may be repeated")
        ]
    },
    "metadata": {
        "metadata": Annotated[
            list[str],
            typer.Option(metavar="NAME=TEXT", help="Pair that the task is returned with; may be repeated"),
        ]
    },
    "tags": {"tag": Annotated[list[str], typer.Option(help="Word by which the task is found; may be repeated")]},
    "run_at_ms": {
        "run_at": Annotated[
            str,
            typer.Option(
                "--run-at",
                help="Time before which it does not begin: an ISO time (UTC by default), epoch "
                "milliseconds, or a length of time from now such as 10m",
            ),
        ]
    },
    "delay_seconds": {
        "delay": Annotated[
            str,
            typer.Option(
                help="Time from the submission before which it does not begin: 10m, 2h or 3d, or a number of seconds"
            ),
        ]
    },
    "webhook_auth_key": {
        "webhook_auth_key": Annotated[
            str,
            typer.Option(
                help="Key that is sent to the webhook. Prefer the variable QUEUE_ENGINE_WEBHOOK_AUTH_KEY, which other "
                "users cannot see, or a file named by QUEUE_ENGINE_WEBHOOK_AUTH_KEY_FILE"
            ),
        ]
    },
}
"""Options of the fields that differ from those of the API."""
_SUBMIT_OPTIONS = {
    "task_id": Annotated[str, typer.Option(help="Your id for the task, which makes it safe to submit it again")],
    **options_of(TASK_FIELDS, STRUCTURED),
}


@command(group, "submit", options=_SUBMIT_OPTIONS)
def submit_task(
    session: Session,
    endpoint: Endpoint,
    text: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON", help="The task's input; @FILE reads a file, - reads standard input"),
    ] = None,
    file: Annotated[Path | None, typer.Option("--input-file", help="File with the input; - is standard input")] = None,
    max_body_bytes: Annotated[
        int,
        typer.Option(envvar="QUEUE_ENGINE_MAX_BODY_BYTES", min=1, help="Size limit of the API for a request body"),
    ] = DEFAULT_MAX_BODY_BYTES,
    process_uri: Annotated[str, typer.Option("--path", help="Path of the container that the task is posted to")] = "/",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the task has ended, and show it")] = False,
    timeout: Timeout = None,
    **fields: Any,
) -> None:
    """Submit a task and print its id.

    queue-engine tasks submit echo --path /run --input '{"prompt": "hello"}' --wait
    """
    given = _input(text, file, max_body_bytes)
    endpoint_id = session.api.endpoint_id(endpoint)
    body = _body(session, fields) | {"processUri": process_uri}
    if "workerPort" not in body:
        body["workerPort"] = _exposed_port(session, endpoint_id)
    request = _with_input(body, given)
    if len(request) > max_body_bytes:
        raise WrongUse(f"the request is longer than {max_body_bytes} bytes (--max-body-bytes)")
    done = session.api.send("POST", ENDPOINTS, endpoint_id, "tasks", body=request)
    task_id = str(done.members().get("taskId"))
    if wait:
        _wait(session, endpoint_id, task_id, timeout, has_submitted=True)
    else:
        session.show(done, lambda: session.screen.line(task_id))


@command(group, "clone", options=_SUBMIT_OPTIONS)
def clone_task(
    session: Session,
    endpoint: Endpoint,
    task: Task,
    text: Annotated[
        str | None,
        typer.Option("--input", metavar="JSON", help="Another input; @FILE reads a file, - reads standard input"),
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--input-file", help="File with another input; - is standard input")
    ] = None,
    max_body_bytes: Annotated[
        int,
        typer.Option(envvar="QUEUE_ENGINE_MAX_BODY_BYTES", min=1, help="Size limit of the API for a request body"),
    ] = DEFAULT_MAX_BODY_BYTES,
    process_uri: Annotated[str | None, typer.Option("--path", help="Another path of the container")] = None,
    no_webhook: Annotated[bool, typer.Option("--no-webhook", help="Send the result of the copy to no webhook")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the copy has ended, and show it")] = False,
    timeout: Timeout = None,
    **fields: Any,
) -> None:
    """Submit a copy of a task, with other fields where options name them, and print its id.

    With another path or port the headers are not copied, and with another webhook its key is not.

    queue-engine tasks clone echo hello_1 --input '{"prompt": "hello again"}' --wait
    """
    body = _changes(session, fields, process_uri, no_webhook=no_webhook)
    request = json.dumps(body).encode()
    if text is not None or file is not None:
        request = _with_input(body, _input(text, file, max_body_bytes))
    if len(request) > max_body_bytes:
        raise WrongUse(f"the request is longer than {max_body_bytes} bytes (--max-body-bytes)")
    endpoint_id = session.api.endpoint_id(endpoint)
    done = session.api.send("POST", ENDPOINTS, endpoint_id, "tasks", task, "clone", body=request)
    task_id = str(done.members().get("taskId"))
    if wait:
        _wait(session, endpoint_id, task_id, timeout, has_submitted=True)
    else:
        session.show(done, lambda: session.screen.line(task_id))


def _changes(
    session: Session, fields: Mapping[str, Any], process_uri: str | None, *, no_webhook: bool
) -> dict[str, Any]:
    """Return the changes of a copy. A key in the environment is only for a webhook that is given too."""
    body = _body(session, fields)
    if "webhook" not in fields and "webhook_auth_key" not in fields:
        body.pop("webhookAuthKey", None)
    if process_uri is not None:
        body["processUri"] = process_uri
    if no_webhook and "webhook" in fields:
        raise WrongUse("--no-webhook and --webhook cannot be combined")
    return body | ({"webhook": None} if no_webhook else {})


_MAP_OPTIONS = options_of(TASK_FIELDS, STRUCTURED)


@command(group, "map", options=_MAP_OPTIONS)
def map_tasks(
    session: Session,
    endpoint: Endpoint,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File with one JSON value on each line")],
    max_body_bytes: Annotated[
        int,
        typer.Option(envvar="QUEUE_ENGINE_MAX_BODY_BYTES", min=1, help="Size limit of the API for a request body"),
    ] = DEFAULT_MAX_BODY_BYTES,
    process_uri: Annotated[str, typer.Option("--path", help="Path of the container that tasks are posted to")] = "/",
    window: Annotated[int, typer.Option(min=1, help="Maximum number of tasks that are under way")] = 256,
    ordered: Annotated[bool, typer.Option("--ordered", help="Print results in the order of the lines")] = False,
    batch_id: Annotated[
        str | None, typer.Option(help="Beginning of the tasks' ids; by default made from the file's contents")
    ] = None,
    **fields: Any,
) -> None:
    """Run a task for each line of a file, and print each result as a JSON line. Exits with 4 if a task has failed.

    The same command after an interruption goes on where it was: no task runs again. While the API is away, calls are
    retried for 60 seconds.

    queue-engine tasks map echo inputs.jsonl --path /run > results.jsonl
    """
    from queue_engine.cli.mapped_tasks import Mapped, Outages, read_inputs  # the client takes 0.3 s to import

    inputs, outages = read_inputs(file, max_body_bytes), Outages(session)
    with outages.told():
        endpoint_id = outages.patiently(partial(session.api.endpoint_id, endpoint))
        body = _body(session, fields) | {"processUri": process_uri}
        if "workerPort" not in body:
            body["workerPort"] = outages.patiently(partial(_exposed_port, session, endpoint_id))
        mapped = Mapped(session, outages, endpoint_id, body)
        failed = mapped.run(inputs, window=window, ordered=ordered, batch_id=batch_id or inputs.batch_id)
    if failed:
        raise typer.Exit(EXIT_TASK_FAILED)


@command(group, "wait")
def wait_for_task(session: Session, endpoint: Endpoint, task: Task, timeout: Timeout = None) -> None:
    """Wait until a task has ended, and show it. Exits with 4 if it has failed.

    Lost connections are made again. The command ends with 3 when the API has been away for 30 seconds; the task goes
    on, and the same command waits for it again.
    """
    _wait(session, session.api.endpoint_id(endpoint), task, timeout)


@command(group, "get")
def get_task(
    session: Session,
    endpoint: Endpoint,
    task: Task,
    no_payload: Annotated[
        bool, typer.Option("--no-payload", help="Leave its input and output out, which may be megabytes")
    ] = False,
) -> None:
    """Show a task with its input and output."""
    query = {"payload": "none" if no_payload else None}
    _show(session, session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "tasks", task, query=query))


_Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write it to this file; - is standard output, also if it is a terminal"
    ),
]


@command(group, "input")
def download_input(session: Session, endpoint: Endpoint, task: Task, output: _Output = None) -> None:
    """Print the input of a task as it was submitted, or write it to a file.

    queue-engine tasks input echo hello_1 --output input.json
    """
    download(session, session.api.endpoint_id(endpoint), task, "input", output)


@command(group, "output")
def download_output(session: Session, endpoint: Endpoint, task: Task, output: _Output = None) -> None:
    """Print the output of a task as the container returned it, or write it to a file.

    Other than text is not printed on a terminal, unless the file is -.

    queue-engine tasks output echo hello_1 --output picture.png
    """
    download(session, session.api.endpoint_id(endpoint), task, "output", output)


@command(group, "why")
def tell_why_a_task_waits(session: Session, endpoint: Endpoint, task: Task) -> None:
    """Tell why a task waits, what goes before it, and for how long."""
    found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "tasks", task, query={"payload": "none"})
    members = found.split("input", "output", "headers", "waiting")
    if "waiting" not in members.raw:
        raise Unreachable("the API is of an earlier version, which does not tell why a task waits")
    reason = Data(members.raw["waiting"].encode())
    session.show(reason, lambda: _show_reason(session, members.values, reason))


_LIST_OPTIONS = {name: option for name, option in FILTER_OPTIONS.items() if name != "status"}
_Cursor = Annotated[str | None, typer.Option(help="Continue after this cursor")]


@command(group, "list", options=_LIST_OPTIONS)
def list_tasks(
    session: Session,
    endpoint: Endpoint,
    status: Annotated[str | None, typer.Option(help="PROCESSING, SUCCESS, DELIVERED or FAILED")] = None,
    page: Annotated[int | None, typer.Option(min=1, help="Page number; not with filters other than --status")] = None,
    size: Annotated[int, typer.Option(min=1, help="Number of tasks per page")] = 20,
    cursor: _Cursor = None,
    every: Annotated[bool, typer.Option("--all", help="Print all tasks that match, page by page")] = False,
    **fields: Any,
) -> None:
    """List the tasks of an endpoint, newest first.

    queue-engine tasks list echo --state failed,dead --created-after 2h --all
    """
    filters = filters_in(session, fields)
    endpoint_id = session.api.endpoint_id(endpoint)
    if not (filters or every or cursor):
        query = {"status": status, "pageNumber": page or 1, "pageSize": size}
        found = session.api.get(ENDPOINTS, endpoint_id, "tasks", query=query)
        session.show(found, lambda: _show_page(session, found.members()))
        return
    if page is not None:
        raise WrongUse("--page cannot be combined with filters, --all and --cursor; use --cursor")
    _show_walk(session, endpoint_id, {**filters, "status": status, "pageSize": size}, cursor or "", every=every)


def _show_walk(
    session: Session, endpoint_id: str, query: Mapping[str, str | int | None], cursor: str, *, every: bool
) -> None:
    """Print the tasks of all pages, or of the first page that has any."""
    shown = False
    for found in pages_of(session, endpoint_id, query, cursor):
        page = found.members()
        is_last = page.get("nextCursor") is None
        if page.get("items") or (is_last and not shown):
            shown = True
            session.show(found, partial(session.screen.table, _COLUMNS, page.get("items") or []))
            if not every:
                note_next(session, page)
                return


@command(group, "export", options=_LIST_OPTIONS)
def export_tasks(
    session: Session,
    endpoint: Endpoint,
    status: Annotated[str | None, typer.Option(help="PROCESSING, SUCCESS, DELIVERED or FAILED")] = None,
    include: Annotated[str | None, typer.Option(help="input, output or input,output: print these too")] = None,
    cursor: _Cursor = None,
    **fields: Any,
) -> None:
    """Print the tasks that match as JSON lines, oldest first. Continues after a lost connection.

    queue-engine tasks export echo --state succeeded --include input,output > tasks.ndjson
    """
    query = {**filters_in(session, fields), "status": status, "include": include}
    export(session, session.api.endpoint_id(endpoint), query, cursor or "")


@command(group, "count")
def count_tasks(session: Session, endpoint: Endpoint) -> None:
    """Count the tasks of an endpoint."""
    found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "tasks", "count")
    session.show(found, lambda: session.screen.detail(_flat(found.members())))


def _flat(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Return counts with those inside of another one beside it, as `queuedByPriority.high`."""
    return {
        name if inner is None else f"{name}.{inner}": value
        for name, count in counts.items()
        for inner, value in (count.items() if isinstance(count, Mapping) else ((None, count),))
    }


@command(group, "errors")
def group_errors(
    session: Session,
    endpoint: Endpoint,
    since: Annotated[
        str | None,
        typer.Option(help="Tasks that ended since: 10m, 2h, an ISO time (UTC by default) or epoch milliseconds"),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Tasks that ended before this time")] = None,
) -> None:
    """Group the newest failures of an endpoint by their errors, the most frequent first.

    `tasks list --error-signature` and `tasks retry --error-signature` select the tasks of a group.
    """
    query = {"from": _moment(session, "--since", since), "to": _moment(session, "--until", until)}
    found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "errors", query=query)
    session.show(found, lambda: _show_errors(session, found.members()))


def _moment(session: Session, option: str, text: str | None) -> int | None:
    try:
        return None if text is None else session.screen.moment_ms(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from None


def _show_errors(session: Session, found: Mapping[str, Any]) -> None:
    session.screen.table(_ERROR_COLUMNS, found["groups"])
    if session.screen.terminal:
        session.screen.line(f"{found['lookedAt']} of {found['failures']} failures looked at")


@command(group, "deliveries")
def list_deliveries(session: Session, endpoint: Endpoint, task: Task) -> None:
    """List the attempts to deliver a task's result, oldest first."""
    found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "tasks", task, "deliveries")
    session.show(found, lambda: session.screen.table(_DELIVERY_COLUMNS, [_with_phases(row) for row in found.rows()]))


@command(group, "attempts")
def list_attempts(session: Session, endpoint: Endpoint, task: Task) -> None:
    """List the attempts of a task, oldest first, including a running one.

    TRY is the number of the attempt. A released attempt does not count: the next one has the same number.
    """
    found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), "tasks", task, "attempts")
    session.show(found, lambda: session.screen.table(_ATTEMPT_COLUMNS, found.rows()))


@change_command(group, "cancel")
def cancel_task(session: Session, endpoint_id: str, task: str, _yes: bool) -> None:
    """Cancel a task, or all tasks that match. A waiting task ends at once, a running one when its worker is notified.

    queue-engine tasks cancel echo --state queued --older-than 1h
    """
    _order(session, endpoint_id, task, "cancel")


@change_command(group, "retry")
def retry_task(session: Session, endpoint_id: str, task: str, _yes: bool) -> None:
    """Run an ended task again, as its next attempt, or all tasks that match. Their results are removed.

    queue-engine tasks retry echo --state failed --error-contains "out of memory"
    """
    _order(session, endpoint_id, task, "retry")


@change_command(group, "delete")
def delete_task(session: Session, endpoint_id: str, task: str, yes: bool) -> None:
    """Delete an ended task, with its input and output, or all tasks that match.

    queue-engine tasks delete echo --state cancelled --older-than 7d
    """
    if not yes:
        session.confirm(f"Delete task {task} of endpoint {endpoint_id}?")
    done = session.api.send("DELETE", ENDPOINTS, endpoint_id, "tasks", task)
    session.show(done, lambda: session.screen.line(f"task {task}: deleted"))


def _with_phases(attempt: dict[str, Any]) -> dict[str, Any]:
    """Return a delivery attempt with its phases as members."""
    phases = attempt.get("phases")
    return attempt | phases if isinstance(phases, dict) else attempt


def _order(session: Session, endpoint_id: str, task: str, order: str) -> None:
    done = session.api.send("POST", ENDPOINTS, endpoint_id, "tasks", task, order)
    session.show(done, lambda: session.screen.line(_standing(task, done.members())))


def _standing(task: str, stands: dict[str, Any]) -> str:
    asked = ", cancel requested" if stands.get("cancelRequested") and stands.get("state") == "running" else ""
    return f"task {task}: {stands.get('state')}{asked}"


def _wait(
    session: Session, endpoint_id: str, task_id: str, timeout: float | None, *, has_submitted: bool = False
) -> None:
    """Wait until the task has ended, and show it. Ends the program if it has failed or has not ended in time.

    An API that is away for the first request is an error, because its URL may be wrong, unless it has just accepted the
    task.
    """

    def ask(seconds: int) -> Data:
        return session.api.get(ENDPOINTS, endpoint_id, "tasks", task_id, query={"wait": seconds})

    began, early = session.monotonic(), 0
    found = session.patiently(partial(ask, 0)) if has_submitted else ask(0)
    with session.screen.waiting(f"task {task_id}") as tell:
        while (task := _members(found)).get("status") == TaskStatus.PROCESSING:
            waited = session.monotonic() - began
            left = float("inf") if timeout is None else timeout - waited
            if left <= 0:
                raise NotInTime(f"task {task_id} has not ended after {timeout:g} s; it is {task.get('state')}")
            tell(f"task {task_id}: {task.get('state')}, {length(int(waited * 1000))}")
            # A pause after a response without a wait: the API stops, is at its limit of waits, or knows no waits.
            if early:
                session.pause(min(POLLS.delay_after(early), left))
            asked_at, seconds = session.monotonic(), int(min(WAIT_SECONDS, left))
            found = session.patiently(partial(ask, seconds))
            early = early + 1 if session.monotonic() - asked_at < max(seconds, 1) / 2 else 0
    _show(session, found)
    if task.get("status") == TaskStatus.FAILED:
        raise typer.Exit(EXIT_TASK_FAILED)


def _members(task: Data) -> dict[str, Any]:
    """Return a task without its input, output and headers, which may be large and are not used here."""
    return task.split("input", "output", "headers").values


def _show_reason(session: Session, task: dict[str, Any], reason: Data) -> None:
    if reason.text == b"null":
        session.screen.line(f"task {task.get('taskId')} does not wait: {task.get('state')}")
        return
    waiting = reason.members()
    times = {
        name: session.screen.time(value) if isinstance(value := waiting.get(name), int) else value
        for name in ("since", "until", "asOf")
    }
    session.screen.detail(waiting | times)


def _show(session: Session, found: Data) -> None:
    session.show(found, lambda: session.screen.detail(_readable(found)))


def _readable(found: Data) -> dict[str, Any]:
    task = found.split("input", "output")
    waiting = task.values.get("waiting")
    if isinstance(waiting, dict):
        task.values["waiting"] = f"{waiting.get('code')}: {waiting.get('message')}"
    return task.values | {name: _shortened(text) for name, text in task.raw.items() if text != "null"}


def _shortened(text: str) -> str:
    if len(text) <= MAX_SHOWN_CHARACTERS:
        return text
    return f"{text[:MAX_SHOWN_CHARACTERS]}… ({len(text) - MAX_SHOWN_CHARACTERS} more characters; --json prints all)"


def _show_page(session: Session, page: dict[str, Any]) -> None:
    items = page.get("items")
    session.screen.table(_COLUMNS, items if isinstance(items, list) else [])
    if session.screen.terminal:
        session.screen.line(f"page {page.get('page')} of {page.get('pages')}, {page.get('total')} tasks")


def _input(text: str | None, file: Path | None, limit: int) -> bytes:
    """Return the unchanged JSON text of the input. Raises WrongUse."""
    if (text is None) == (file is None):
        raise WrongUse("give either --input or --input-file")
    source = _source_of(text, file)
    given = _read_input(source, text, file, limit)
    try:
        json.loads(given.decode(), parse_int=str, parse_float=str, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise WrongUse(f"{source}: the input is not JSON: it must be in UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise WrongUse(f"{source}: the input is not JSON: {error}") from None
    return given


def _source_of(text: str | None, file: Path | None) -> str:
    """Return the source of the input for messages: the option, and the file that it names."""
    if text is None:
        return f"--input-file {file}"
    return f"--input {text}" if text == "-" or text.startswith("@") else "--input"


def _read_input(source: str, text: str | None, file: Path | None, limit: int) -> bytes:
    if text is None:
        return read_bounded(source, None if str(file) == "-" else file, limit)
    if text in ("-", "@-"):
        return read_bounded(source, None, limit)
    if text.startswith("@"):
        return read_bounded(source, Path(text[1:]), limit)
    return text.encode("utf-8", "surrogateescape")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _body(session: Session, fields: Mapping[str, Any]) -> dict[str, Any]:
    given = dict(fields)
    if "run_at" in given:
        try:
            given["run_at"] = session.screen.moment_ms(given["run_at"], later=True)
        except ValueError as error:
            raise WrongUse(f"--run-at: {error}") from None
    if "delay" in given:
        given["delay_seconds"] = _seconds("--delay", given.pop("delay"))
    headers, tags, metadata = given.pop("header", ()), given.pop("tag", ()), given.pop("metadata", ())
    body = {camel(name): value for name, value in given.items()}
    if "webhookAuthKey" not in body and (key := secret_in_environment("QUEUE_ENGINE_WEBHOOK_AUTH_KEY")):
        body["webhookAuthKey"] = key
    structured = {
        "headers": {name: text.strip(" ") for name, text in _pairs("--header", headers, ":", "NAME:VALUE").items()},
        "tags": list(tags),
        "metadata": _pairs("--metadata", metadata, "=", "NAME=TEXT"),
    }
    return body | {name: value for name, value in structured.items() if value}


def _seconds(option: str, text: str) -> float:
    """Return a length of time in seconds. Raises WrongUse."""
    if (milliseconds := duration_ms(text)) is not None:
        return milliseconds / 1000
    try:
        seconds = float(text)
    except ValueError:
        seconds = nan
    if not isfinite(seconds):
        raise WrongUse(f"{option}: must be like 10m, 2h or 3d, or a number of seconds")
    return seconds


def _pairs(option: str, texts: Sequence[str], separator: str, form: str) -> dict[str, str]:
    """Return the names and texts of an option that may be repeated. Raises WrongUse."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, found, value = text.partition(separator)
        if not found:
            raise WrongUse(f"{option}: must be {form}")
        if name in pairs:
            raise WrongUse(f"{option}: {name} is given twice")
        pairs[name] = value
    return pairs


def _exposed_port(session: Session, endpoint_id: str) -> Any:
    with advised("give --port, because a key with the role submit cannot read the endpoint's exposed port"):
        expose = session.api.get(ENDPOINTS, endpoint_id).members().get("expose")
    if not isinstance(expose, dict):
        raise WrongUse("--port: is required, because the endpoint exposes no port")
    return expose.get("port")


def _with_input(body: dict[str, Any], given: bytes) -> bytes:
    """Return the body as JSON text. The input is inserted unchanged, so that its numbers lose no digits."""
    members = json.dumps(body).encode()[:-1]
    return members + (b', "input": ' if body else b'"input": ') + given + b"}"
