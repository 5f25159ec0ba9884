"""Sessions of the console over HTTP: the cookie and the header of a request, log in and log out.

Each request under `/console` that needs a session has both halves of it, reads too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from queue_engine.api.http.auth import HeaderAuthenticator
from queue_engine.api.http.bodies import BodyReader, TenantBodies, release
from queue_engine.api.http.failed_keys import FailedKeys
from queue_engine.api.http.operations import DescribedRoute, Serve
from queue_engine.api.http.order_log import log_order, note
from queue_engine.api.http.queries import Query
from queue_engine.api.http.responses import Response, success
from queue_engine.api.http.services import CONSOLE, Services
from queue_engine.domain.errors import InvalidRequest, Unauthorized
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.sessions import SESSION_SECONDS, SessionHalves
from queue_engine.engine.sessions import NewSession, SessionPrincipals, Sessions
from queue_engine.web.files import SECURITY
from queue_engine.web.origins import Origins

SESSION_PATH = "/console/session"
HEADER = b"x-console-session"
RULE = "session: log in; a request has the session's cookie and its header X-Console-Session"
MAX_LOGIN_BYTES = 4096
TAG = "console"
_LOGIN_MEMBERS = frozenset({"apiKey", "login"})
_NO_HEADERS = frozenset[bytes]()
_ANY = re.compile(b".*")


class _Everywhere(StrEnum):
    TRUE = "TRUE"
    FALSE = "FALSE"


class SessionAuthenticator(HeaderAuthenticator[Principal]):
    """Finds the principal of a request of the console by its session, and checks which page it comes from."""

    rule = RULE

    def __init__(self, principals: SessionPrincipals, failed: FailedKeys, origins: Origins) -> None:
        super().__init__(principals, failed, _NO_HEADERS, _ANY)
        self._origins = origins

    async def principal_of_request(self, scope: Scope, address: str) -> Principal:
        """Return the principal. Raises Unauthorized, ForeignPage, TooManyRequests, StoreUnavailable."""
        self._origins.check(scope)
        return await self.principal_of_key(self.halves_of(scope).secret, address)

    def halves_of(self, scope: Scope) -> SessionHalves:
        """Return the halves of a request's session. Raises Unauthorized if one is missing, malformed or repeated."""
        headers = [value for name, value in scope["headers"] if name == HEADER]
        cookies = list(dict.fromkeys(_cookies(scope)))
        if not headers or not cookies:
            raise self.refused("missing")
        if len(headers) > 1 or len(cookies) > 1:
            raise self.refused("repeated")
        halves = SessionHalves(cookies[0], headers[0].decode("latin-1"))
        if not halves.is_well_formed:
            raise self.refused("malformed")
        return halves


class SessionRoutes:
    """Log in with an API key or with a link, and log out."""

    def __init__(
        self, services: Services, sessions: Sessions, own: SessionAuthenticator, origins: Origins, prefix: str
    ) -> None:
        self._services = services
        self._sessions = sessions
        self._own = own
        self._origins = origins
        self._cookie_path = f"{prefix}/console"
        bodies = services.bodies
        self._bodies = BodyReader(MAX_LOGIN_BYTES, bodies.silence_seconds, TenantBodies(0), bodies.turns)

    def routes(self) -> list[DescribedRoute]:
        """Return the routes."""
        return [
            console_route("POST", SESSION_PATH, self._log_in, name="log_in", right=None),
            console_route("DELETE", SESSION_PATH, self._log_out, name="log_out", right=Right.IDENTIFY),
        ]

    async def _log_in(self, scope: Scope, receive: Receive, _send: Send) -> Response:
        self._origins.check(scope)
        request = Request(scope, receive)
        try:
            body = await self._bodies.read_object(request, "", _LOGIN_MEMBERS)
        finally:
            release(scope)
        session = await self._begun(scope, body.values)
        log_order("log_in", scope)
        return self._opened(scope, session)

    async def _begun(self, scope: Scope, given: dict[str, object]) -> NewSession:
        key, login = given.get("apiKey"), given.get("login")
        if isinstance(login, str) and key is None:
            return await self._sessions.begin_by_link(login)
        if not isinstance(key, str) or login is not None:
            raise InvalidRequest("apiKey", "must be a string, or `login` must be the token of a link")
        headers = [(b"x-api-key", key.encode("utf-8", "replace"))]
        client: tuple[str, int] | None = scope["client"]
        try:
            principal = await self._services.authenticator.principal_of(headers, client[0] if client else "")
        except Unauthorized:
            raise Unauthorized("apiKey: must be a valid API key") from None
        return await self._sessions.begin(principal)

    async def _log_out(self, scope: Scope, receive: Receive, _send: Send) -> Response:
        scope[CONSOLE] = True
        request = Request(scope, receive)
        principal = await self._services.admit(request)
        everywhere = Query(request).choice("everywhere", _Everywhere) is _Everywhere.TRUE
        await self._sessions.end(principal, self._own.halves_of(scope), everywhere=everywhere)
        note(request, key=principal.key_id)
        log_order("log_out", scope)
        cookies = tuple((b"set-cookie", self._cookie(name, "", 0)) for name in cookie_names(scope))
        return success(True, (*SECURITY, *cookies))

    def _opened(self, scope: Scope, session: NewSession) -> Response:
        plain, secure = cookie_names(scope)
        origin = next(value for name, value in scope["headers"] if name == b"origin")
        name = secure if origin.startswith(b"https:") else plain
        cookie = self._cookie(name, session.halves.cookie, SESSION_SECONDS)
        data = {"session": session.halves.header, "endsAt": session.ends_at_ms}
        return success(data, (*SECURITY, (b"set-cookie", cookie)))

    def _cookie(self, name: str, value: str, seconds: int) -> bytes:
        secure = "; Secure" if name.startswith("__Secure-") else ""
        text = f"{name}={value}; Max-Age={seconds}; Path={self._cookie_path}; HttpOnly; SameSite=Strict{secure}"
        return text.encode()


def console_route(method: str, path: str, serve: Serve, *, name: str, right: Right | None) -> DescribedRoute:
    """Return a route of the console, which the API's description does not have."""
    return DescribedRoute(
        method, path, serve, right=right, name=name, summary=name, text=None, tag=TAG, responses={}, described={}
    )


def cookie_names(scope: Scope) -> tuple[str, str]:
    """Return the names of the cookie over HTTP and over HTTPS. Engines on other ports of the host have other names."""
    server: tuple[str, int | None] | None = scope.get("server")
    name = f"qe_session_{server[1] if server else 0}"
    return name, f"__Secure-{name}"


def _cookies(scope: Scope) -> Iterator[str]:
    """Yield the values of the session's cookie."""
    names = cookie_names(scope)
    for header, value in scope["headers"]:
        if header == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                name, _, text = pair.strip().partition("=")
                if name in names:
                    yield text
