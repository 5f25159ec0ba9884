"""`queue-engine operations …`, and the bulk forms of `tasks cancel`, `retry` and `delete`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from queue_engine.cli.client import ENDPOINTS, Data, WrongUse
from queue_engine.cli.command import EXIT_TASK_FAILED, PANEL, Endpoint, Session, Yes, command
from queue_engine.cli.output import Column
from queue_engine.cli.task_filters import FILTER_OPTIONS, filters_in

commands = typer.Typer()
group = typer.Typer(no_args_is_help=True, help="Show and cancel bulk operations on tasks.")
commands.add_typer(group, name="operations", rich_help_panel=PANEL)

OPERATIONS = "operations"
ALL_OPERATIONS = "v2/operations"
POLL_SECONDS = 0.5
RUNNING = "running"
_COLUMNS = (
    Column("OPERATION", "operationId", "id"),
    Column("ENDPOINT", "endpointId", "number"),
    Column("ACTION", "action"),
    Column("STATUS", "status"),
    Column("DONE", "done", "number"),
    Column("SKIPPED", "skipped", "number"),
    Column("FAILED", "failed", "number"),
    Column("DRY_RUN", "dryRun"),
    Column("WOULD_CHANGE", "wouldChange", "number", optional=True),
    Column("STARTED", "startedAt", "time"),
    Column("ENDED", "endedAt", "time"),
)

OperationId = Annotated[str, typer.Argument(metavar="OPERATION", help="Id of an operation")]
OptionalTask = Annotated[
    str | None, typer.Argument(metavar="TASK", help="Id of a task; without it, all tasks that match the options")
]
OlderThan = Annotated[
    str | None,
    typer.Option(
        help="Only tasks that were submitted before this time: 10m, 2h (ago), or an ISO time (UTC by default)"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Find and count the tasks, and change none")]
Detached = Annotated[bool, typer.Option("--no-wait", help="Print the id of the operation, and do not wait for its end")]
EveryEndpoint = Annotated[
    str | None, typer.Argument(metavar="ENDPOINT", help="Id or name of an endpoint; by default all endpoints")
]
ChangeOne = Callable[[Session, str, str, bool], None]
"""Changes a task: called with the session, the endpoint's id, the task's id, and True for `--yes`."""


@command(group, "list")
def list_operations(
    session: Session,
    endpoint: EveryEndpoint = None,
    page: Annotated[int, typer.Option(min=1, help="Page number")] = 1,
    size: Annotated[int, typer.Option(min=1, help="Number of operations per page")] = 20,
) -> None:
    """List operations, newest first."""
    query = {"pageNumber": page, "pageSize": size}
    if endpoint is None:
        found = session.api.get(ALL_OPERATIONS, query=query)
    else:
        found = session.api.get(ENDPOINTS, session.api.endpoint_id(endpoint), OPERATIONS, query=query)
    session.show(found, lambda: _show_page(session, found.members()))


@command(group, "get")
def get_operation(
    session: Session,
    endpoint: Endpoint,
    operation: OperationId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the operation has ended")] = False,
) -> None:
    """Show an operation and its counts. With --wait, exits with 4 if it has failed."""
    endpoint_id = session.api.endpoint_id(endpoint)
    found = _read(session, endpoint_id, operation)
    _show(session, _ended(session, endpoint_id, found) if wait else found)


@command(group, "cancel")
def cancel_operation(session: Session, endpoint: Endpoint, operation: OperationId) -> None:
    """Cancel an operation. Tasks that it has not come to are not changed."""
    endpoint_id = session.api.endpoint_id(endpoint)
    _show(session, session.api.send("POST", ENDPOINTS, endpoint_id, OPERATIONS, operation, "cancel"))


def change_command(of: typer.Typer, action: str) -> Callable[[ChangeOne], ChangeOne]:
    """Register a command that changes one task, with the decorated function, or all tasks that match its options.

    The help of the command is the docstring of the function.
    """

    def register(change: ChangeOne) -> ChangeOne:
        def run(
            session: Session,
            endpoint: Endpoint,
            task: OptionalTask = None,
            older_than: OlderThan = None,
            dry_run: DryRun = False,
            detached: Detached = False,
            yes: Yes = False,
            **fields: Any,
        ) -> None:
            selected = _Selected(fields, older_than, dry_run, detached)
            if task is None:
                _change_all(session, endpoint, action, selected, yes=yes)
            else:
                selected.check_none()
                change(session, session.api.endpoint_id(endpoint), task, yes)

        run.__doc__ = change.__doc__
        command(of, action, options=FILTER_OPTIONS)(run)
        return change

    return register


@dataclass(frozen=True)
class _Selected:
    """The options of a command that changes all tasks that match."""

    fields: Mapping[str, Any]
    """Options of filters."""
    older_than: str | None
    dry_run: bool
    detached: bool

    def check_none(self) -> None:
        """Raise WrongUse if one of them is given, because the command has the id of a task."""
        flags = {"older_than": self.older_than, "dry_run": self.dry_run, "no_wait": self.detached}
        given = [*self.fields, *(name for name, value in flags.items() if value)]
        if given:
            option = given[0].replace("_", "-")
            raise WrongUse(f"--{option} is for several tasks; it cannot be used with the id of a task")


def _change_all(session: Session, endpoint: str, action: str, selected: _Selected, *, yes: bool) -> None:
    """Change all tasks that match, after the user has seen their number and agreed."""
    filters = _filters(session, selected)
    endpoint_id = session.api.endpoint_id(endpoint)
    if not yes and not selected.dry_run:
        count = _ended(session, endpoint_id, _begin(session, endpoint_id, action, filters, dry_run=True)).members()
        session.confirm(f"{action.capitalize()} {count.get('done')} tasks of endpoint {endpoint_id}?")
    began = _begin(session, endpoint_id, action, filters, dry_run=selected.dry_run)
    if selected.detached:
        session.show(began, lambda: session.screen.line(str(began.members().get("operationId"))))
    else:
        _show(session, _ended(session, endpoint_id, began))


def _filters(session: Session, selected: _Selected) -> dict[str, str | int]:
    filters, older_than = filters_in(session, selected.fields), selected.older_than
    if older_than is not None:
        if "createdBefore" in filters:
            raise WrongUse("--older-than cannot be used with --created-before")
        try:
            filters["createdBefore"] = session.screen.moment_ms(older_than)
        except ValueError as error:
            raise WrongUse(f"--older-than: {error}") from None
    if not filters:
        raise WrongUse("give the id of a task, or at least one filter such as --state")
    return filters


def _begin(session: Session, endpoint_id: str, action: str, filters: Mapping[str, str | int], *, dry_run: bool) -> Data:
    """Begin an operation. Its id is made here, so that a request that is repeated begins nothing twice."""
    asked = {"action": action, "filter": filters, "dryRun": dry_run, "operationId": uuid.uuid4().hex}
    body = json.dumps(asked).encode()
    return session.patiently(lambda: session.api.send("POST", ENDPOINTS, endpoint_id, OPERATIONS, body=body))


def _read(session: Session, endpoint_id: str, operation: str) -> Data:
    return session.patiently(lambda: session.api.get(ENDPOINTS, endpoint_id, OPERATIONS, operation))


def _ended(session: Session, endpoint_id: str, found: Data) -> Data:
    """Wait until an operation has ended, with a progress bar on a terminal. After Ctrl-C the operation goes on."""
    from queue_engine.client.progress import OperationProgress  # the client takes 0.3 s to import

    operation = found.members()
    with OperationProgress(shown=session.screen.terminal) as bar:
        while operation.get("status") == RUNNING:
            bar.show(operation.get("progress", 0.0), operation.get("done", 0), dry_run=bool(operation.get("dryRun")))
            session.pause(POLL_SECONDS)
            found = _read(session, endpoint_id, str(operation.get("operationId")))
            operation = found.members()
        bar.show(1.0, operation.get("done", 0), dry_run=bool(operation.get("dryRun")))
    return found


def _show(session: Session, found: Data) -> None:
    operation = found.members()
    session.show(found, lambda: session.screen.detail(_as_told(operation)))
    if operation.get("status") == "failed" or operation.get("failed"):
        raise typer.Exit(EXIT_TASK_FAILED)


def _as_told(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the members of an operation. The `done` tasks of a dry run would be changed, and were not."""
    if not operation.get("dryRun"):
        return operation
    return {"would be changed" if name == "done" else name: value for name, value in operation.items()}


def _counted(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the list. A dry run has its count in a column of its own."""
    if not row.get("dryRun"):
        return row | {"dryRun": None}
    return row | {"dryRun": "yes", "done": None, "wouldChange": row.get("done")}


def _show_page(session: Session, page: dict[str, Any]) -> None:
    items = page.get("items")
    rows = [_counted(row) for row in items] if isinstance(items, list) else []
    session.screen.table(_COLUMNS, rows)
    if session.screen.terminal:
        session.screen.line(f"page {page.get('page')} of {page.get('pages')}, {page.get('total')} operations")
