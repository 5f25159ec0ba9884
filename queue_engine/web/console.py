"""The console as a part of the application: its routes, and the API under `/console/api`.

    /console/api/serverless/7/tasks   the operation /v2/serverless/7/tasks, with a session in place of an API key
    /console/session                  log in, log out
    /console/assets/<name>            a file with a hash in its name
    /console/…                        the page, which shows the view that the path names

The API under `/console/api` is no second set of handlers: the request gets the path of the operation, and a mark by
which the session is looked at. No other path has the mark, so cookies mean nothing to `/v2`, `/e` and `/metrics`.
"""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from queue_engine.api.http.operations import DescribedRoute
from queue_engine.api.http.services import CONSOLE
from queue_engine.web.files import Files
from queue_engine.web.origins import Origins
from queue_engine.web.sessions import SessionRoutes, console_route

API_PATH = "/console/api/"
_API_RAW = API_PATH.encode()
_OPERATIONS = "/v2/"
_ODD_PATH = re.compile(r"[\x00-\x1f\x7f\\]|(?:^|/)\.{1,2}(?:/|$)")
"""Control characters, backslashes, and the names `.` and `..`, which no view has."""


class Console:
    """The web console."""

    def __init__(self, files: Files, origins: Origins, sessions: SessionRoutes) -> None:
        self._files = files
        self._origins = origins
        self._sessions = sessions

    def routes(self) -> list[DescribedRoute]:
        """Return the routes besides those of the API."""
        return [
            *self._sessions.routes(),
            console_route("GET", "/console/assets/{name}", self._show_file, name="show_file", right=None),
            console_route("GET", "/console", self._show_page, name="show_console", right=None),
            console_route("GET", "/console/{view:path}", self._show_page, name="show_view", right=None),
        ]

    def scope_of(self, scope: Scope) -> Scope:
        """Return the scope that routes are matched with: that of an operation for a path under `/console/api`."""
        if not scope["path"].startswith(API_PATH):
            return scope
        raw_path: bytes = scope["raw_path"]
        if not raw_path.startswith(_API_RAW):  # a part of the path is escaped
            return scope
        return {
            **scope,
            "path": _OPERATIONS + scope["path"][len(API_PATH) :],
            "raw_path": _OPERATIONS.encode() + raw_path[len(_API_RAW) :],
            CONSOLE: True,
        }

    async def _show_page(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self._origins.check_host(scope)
        path: str = scope["path"]
        if path.startswith(API_PATH) or _ODD_PATH.search(path):
            raise HTTPException(404)
        await self._files.page.send(scope, send)

    async def _show_file(self, scope: Scope, _receive: Receive, send: Send) -> None:
        self._origins.check_host(scope)
        file = self._files.by_name.get(scope["path_params"]["name"])
        if file is None:
            raise HTTPException(404)
        await file.send(scope, send)
