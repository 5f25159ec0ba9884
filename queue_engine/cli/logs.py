"""`queue-engine logs`: the log lines of a worker, or of all workers of an endpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import typer

from queue_engine.cli.client import ENDPOINTS, Data, Unreachable, WrongUse
from queue_engine.cli.command import PANEL, POLL_SECONDS, Endpoint, Session, command

commands = typer.Typer()

PAGE_SIZE = 1000
_TOKENS = {
    "searchAfterTime": "nextSearchAfterTime",
    "searchAfterOffset": "nextSearchAfterOffset",
    "cursor": "nextCursor",
}
"""Parameters that continue after a page, and the members of the page that they are."""

Line = dict[str, Any]
Page = dict[str, Any]


@command(commands, "logs", panel=PANEL)
def show_logs(
    session: Session,
    endpoint: Endpoint,
    worker: Annotated[
        str | None,
        typer.Argument(
            metavar="WORKER", help="Id of a worker, as `workers list` shows it; without it, the logs of all workers"
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue with new lines until Ctrl-C")] = False,
    last: Annotated[int | None, typer.Option("--lines", "-n", min=0, help="Only this number of newest lines")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only lines since: 10m, 2h, an ISO time (UTC by default) or epoch milliseconds"),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only lines until; same forms as --since")] = None,
    grep: Annotated[str | None, typer.Option(help="Only lines that contain this text, in any case")] = None,
    times: Annotated[bool, typer.Option(help="Print each line with its time")] = True,
) -> None:
    """Print a worker's log lines, or those of all workers of an endpoint, merged by time, oldest first.

    With --json, print one JSON object per line.
    """
    if follow and until:
        raise WrongUse("--follow and --until cannot be combined")
    log = _Log(session, session.api.endpoint_id(endpoint), worker, grep)
    begin, end = _moment(session, "--since", since), _moment(session, "--until", until)
    for line in _chosen(log, begin, end, last, follow):
        _print(session, line, times)


def _chosen(log: _Log, begin: int | None, end: int | None, last: int | None, follow: bool) -> Iterator[Line]:
    if last is None:
        yield from log.walk("Forward", begin, end, follow=follow)
        return
    # Get the newest line even for `--lines 0`, because following continues after it.
    recent = list(islice(log.walk("Backward", begin, end), max(last, 1)))[::-1]
    yield from recent[len(recent) - min(last, len(recent)) :]
    if not follow:
        return
    newest = recent[-1] if recent else None
    for line in log.walk("Forward", newest["timestamp"] if newest else begin, None, follow=True):
        if newest is None or _place(line) > _place(newest):
            yield line


class _Log:
    """The log of a worker, or of all workers, read page by page."""

    def __init__(self, session: Session, endpoint_id: str, worker: str | None, keyword: str | None) -> None:
        self._session = session
        of_worker = () if worker is None else ("workers", worker)
        self._path = (ENDPOINTS, endpoint_id, *of_worker, "logs")
        self._keyword = keyword

    def walk(self, direction: str, begin: str | int | None, end: int | None, *, follow: bool = False) -> Iterator[Line]:
        """Yield every line once, in this direction.

        With `follow`, continue forever, and retry while the API is unavailable.
        """
        query: Page = {"pageSize": PAGE_SIZE, "direction": direction, "keyword": self._keyword}
        query |= {"startTime": begin, "endTime": end}
        page = _read(self._ask(query))
        while True:
            yield from page["logs"]
            moved = _move_on(query, page)
            if not (page.get("hasMore") and moved):
                if not follow:
                    return
                self._session.pause(POLL_SECONDS)
            page = _read(self._session.patiently(lambda: self._ask(query)) if follow else self._ask(query))

    def _ask(self, query: Page) -> Data:
        return self._session.api.get(*self._path, query=query)


def _read(data: Data) -> Page:
    page = data.members()
    lines = page.get("logs")
    if not isinstance(lines, list) or not all(isinstance(line, dict) and "timestamp" in line for line in lines):
        raise Unreachable("the response is not the expected page of lines")
    return page


def _move_on(query: Page, page: Page) -> bool:
    """Move `query` to the position after `page`; return False if it is already there."""
    tokens = {name: page.get(following) for name, following in _TOKENS.items() if following in page}
    if not tokens or None in tokens.values() or tokens.items() <= query.items():
        return False
    query.update(tokens)
    return True


def _place(line: Line) -> tuple[str, int, str]:
    """Return the position of a line in its log: its time, its number within the millisecond, and its worker."""
    return str(line["timestamp"]), int(line.get("offset") or 0), str(line.get("workerId") or "")


def _moment(session: Session, option: str, text: str | None) -> int | None:
    try:
        return None if text is None else session.screen.moment_ms(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from None


def _print(session: Session, line: Line, times: bool) -> None:
    if session.as_json:
        session.screen.json(json.dumps(line).encode())
    elif times:
        session.screen.line(f"{session.screen.iso_time(str(line['timestamp']))}  {_told(line)}")
    else:
        session.screen.line(_told(line))


def _told(line: Line) -> str:
    """Return the text of a line, behind its worker if the lines are of all workers."""
    return f"{line['workerId']}  {line.get('log')}" if "workerId" in line else str(line.get("log"))
