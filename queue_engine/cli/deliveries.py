"""`queue-engine deliveries …`."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any

import typer

from queue_engine.cli.client import ENDPOINTS, Data, WrongUse
from queue_engine.cli.command import (
    EXIT_REFUSED,
    PANEL,
    Endpoint,
    Session,
    Yes,
    command,
    secret_in_environment,
)
from queue_engine.cli.operations import change_command
from queue_engine.cli.output import Column
from queue_engine.cli.task_lists import note_next

commands = typer.Typer()
group = typer.Typer(
    no_args_is_help=True, help="Show given-up deliveries and troubled destinations, and send results again."
)
commands.add_typer(group, name="deliveries", rich_help_panel=PANEL)

DELIVERIES = "deliveries"
RECOVER = "recover"
_COLUMNS = (
    Column("TASK", "taskId", "id"),
    Column("STATUS", "status"),
    Column("TRIES", "attempts", "number"),
    Column("GIVEN UP", "givenUpAt", "time"),
    Column("ENDED", "finishedAt", "time", on_terminal=False),
    Column("WEBHOOK", "webhook", on_terminal=False),
    Column("ERROR", "error", "message"),
)
_DESTINATIONS = (
    Column("DESTINATION", "destination", "id"),
    Column("STANDING", "standing"),
    Column("HELD BACK", "waiting", "number"),
    Column("SINCE", "since", "time"),
    Column("NEXT ATTEMPT", "nextAttemptAt", "time"),
    Column("ERROR", "lastError"),
)
_TESTED = ("delivered", "message", "destination", "status", "error", "durationMs", "response")
TEST_SECONDS = 30.0
"""Time for which the API may hold the request for a test."""
_RESULTS = {
    "queued": "is sent now",
    "due": "is already being sent",
    "delivered": "is already delivered (`deliveries redeliver` sends it again)",
}

Task = Annotated[str, typer.Argument(metavar="TASK", help="Id of a task")]


@command(group, "list")
def list_deliveries(
    session: Session,
    endpoint: Endpoint,
    status: Annotated[str | None, typer.Option(help="MAX_RETRIES_EXCEEDED, the default")] = None,
    destination: Annotated[str | None, typer.Option(help="Only those to the scheme, host and port of this URL")] = None,
    page: Annotated[int | None, typer.Option(min=1, help="Page number; not with the options below")] = None,
    size: Annotated[int, typer.Option(min=1, help="Number of deliveries per page")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Continue after this cursor")] = None,
    every: Annotated[bool, typer.Option("--all", help="Print all of them, page by page")] = False,
) -> None:
    """List the deliveries of an endpoint that were given up, newest first.

    queue-engine deliveries list echo --destination https://hooks.example.net --all
    """
    endpoint_id = session.api.endpoint_id(endpoint)
    if destination is None and cursor is None and not every:
        query = {"status": status, "pageNumber": page or 1, "pageSize": size}
        found = session.api.get(ENDPOINTS, endpoint_id, DELIVERIES, query=query)
        session.show(found, lambda: _show_page(session, found.members()))
        return
    if page is not None:
        raise WrongUse("--page cannot be combined with --destination, --cursor and --all; use --cursor")
    query = {"status": status, "destination": destination, "pageSize": size}
    _show_walk(session, endpoint_id, query, cursor or "", every=every)


@command(group, "retry")
def retry_delivery(session: Session, endpoint: Endpoint, task: Task) -> None:
    """Send the result of a task now. A delivered result is not sent again."""
    _send(session, endpoint, task, "retry")


@change_command(group, "redeliver")
def redeliver_result(session: Session, endpoint_id: str, task: str, _yes: bool) -> None:
    """Send the result of a task again, also if it was delivered, or the results of all tasks that match.

    queue-engine deliveries redeliver echo --status DELIVERED --finished-after 2h
    """
    _send(session, endpoint_id, task, "redeliver")


@command(group, "recover")
def recover_deliveries(
    session: Session,
    endpoint: Endpoint,
    since: Annotated[
        str,
        typer.Option(help="Deliveries given up since: 10m, 2h, an ISO time (UTC by default) or epoch milliseconds"),
    ],
    until: Annotated[
        str | None, typer.Option(help="Deliveries given up until; same forms as --since; by default now")
    ] = None,
    yes: Yes = False,
) -> None:
    """Send given-up deliveries again, in the background.

    queue-engine deliveries recover echo --since 12h
    """
    begin, end = _moment(session, "--since", since), None if until is None else _moment(session, "--until", until)
    endpoint_id = session.api.endpoint_id(endpoint)
    if not yes:
        session.confirm(f"Send the deliveries of endpoint {endpoint_id} again that were given up since {since}?")
    asked: dict[str, Any] = {"since": begin} | ({} if end is None else {"until": end})
    body = json.dumps(asked).encode()
    _show_recovery(session, session.api.send("POST", ENDPOINTS, endpoint_id, DELIVERIES, RECOVER, body=body))


@command(group, "recovery")
def show_recovery(session: Session, endpoint: Endpoint) -> None:
    """Show the progress of the latest recovery of given-up deliveries."""
    _show_recovery(session, session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), DELIVERIES, RECOVER))


@command(group, "cancel-recovery")
def cancel_recovery(session: Session, endpoint: Endpoint) -> None:
    """Cancel the recovery of given-up deliveries. Deliveries that are due already are still sent."""
    _show_recovery(
        session, session.api.send("DELETE", ENDPOINTS, session.api.endpoint_id(endpoint), DELIVERIES, RECOVER)
    )


@command(group, "destinations")
def list_destinations(session: Session) -> None:
    """List the destinations of webhooks with which something is wrong, the worst first.

    HELD BACK has the deliveries in delivery processes, and those that were deferred since the pause began. Deliveries
    that wait for their own next attempt are not counted. `queue-engine system` shows how many results wait in all.
    """
    found = session.api.get("v2/destinations")
    session.show(found, lambda: session.screen.table(_DESTINATIONS, found.rows()))


@command(group, "resume")
def resume_destination(
    session: Session,
    destination: Annotated[
        str, typer.Argument(metavar="DESTINATION", help="A destination, as `deliveries destinations` shows it")
    ],
) -> None:
    """End the pause of a destination: the next delivery is sent as a probe within 5 seconds.

    queue-engine deliveries resume https://hooks.example.net:443
    """
    done = session.api.send("POST", "v2/destinations", destination.replace("://", ":", 1), "resume")
    processes = done.members().get("processes")
    text = "is probed within 5 seconds" if processes else "is not paused"
    session.show(done, lambda: session.screen.line(f"destination {destination} {text}"))


@command(group, "test")
def send_test_event(
    session: Session,
    endpoint: Endpoint,
    webhook: Annotated[
        str | None, typer.Option(help="URL of the receiver; by default the webhook of the endpoint")
    ] = None,
) -> None:
    """Send a signed test event to a webhook, as results are sent, and show what came of it.

    The key of the receiver is in QUEUE_ENGINE_WEBHOOK_AUTH_KEY, or in the file that QUEUE_ENGINE_WEBHOOK_AUTH_KEY_FILE
    names. The exit status is 1 if the receiver did not accept the event.
    """
    key = secret_in_environment("QUEUE_ENGINE_WEBHOOK_AUTH_KEY")
    asked = {"webhook": webhook, "webhookAuthKey": key}
    body = json.dumps({name: value for name, value in asked.items() if value is not None}).encode()
    path = (ENDPOINTS, session.api.endpoint_id(endpoint), "webhook-test")
    done = session.api.send("POST", *path, body=body, holds=TEST_SECONDS)
    result = done.members()
    session.show(done, lambda: session.screen.detail({name: result.get(name) for name in _TESTED}))
    if not result.get("delivered"):
        raise typer.Exit(EXIT_REFUSED)


def _show_walk(
    session: Session, endpoint_id: str, query: dict[str, str | int | None], cursor: str, *, every: bool
) -> None:
    """Print the deliveries of all pages, or of the first page that has any."""
    shown = False
    following: str | None = cursor
    while following is not None:
        asked = {**query, "cursor": following}
        found = session.patiently(partial(session.api.get, ENDPOINTS, endpoint_id, DELIVERIES, query=asked))
        page = found.members()
        items, following = page.get("items") or [], page.get("nextCursor")
        if items or (following is None and not shown):
            shown = True
            session.show(found, partial(session.screen.table, _COLUMNS, items))
            if not every:
                note_next(session, page)
                return


def _send(session: Session, endpoint: str, task: str, order: str) -> None:
    endpoint_id = session.api.endpoint_id(endpoint)
    done = session.api.send("POST", ENDPOINTS, endpoint_id, "tasks", task, DELIVERIES, order)
    result = str(done.members().get("result"))
    session.show(done, lambda: session.screen.line(f"task {task}: the result {_RESULTS.get(result, result)}"))


def _show_recovery(session: Session, found: Data) -> None:
    session.show(found, lambda: session.screen.detail(_with_times(session, found.members())))


def _with_times(session: Session, recovery: dict[str, Any]) -> dict[str, Any]:
    """Return a recovery with its period as readable times."""
    period = {name: recovery[name] for name in ("since", "until") if isinstance(recovery.get(name), int)}
    return recovery | {name: session.screen.time(value) for name, value in period.items()}


def _moment(session: Session, option: str, text: str) -> int:
    try:
        return session.screen.moment_ms(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from None


def _show_page(session: Session, page: dict[str, Any]) -> None:
    items = page.get("items")
    session.screen.table(_COLUMNS, items if isinstance(items, list) else [])
    if session.screen.terminal:
        session.screen.line(f"page {page.get('page')} of {page.get('pages')}, {page.get('total')} deliveries")
