"""A thin client of the HTTP API, which returns the `data` of the envelope."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from queue_engine.cli.raw_members import Members, split_members
from queue_engine.domain.ids import is_endpoint_id

# queue_engine.client takes 0.3 s to import, with httpx, and every process of the engine starts by importing this
# module.
if TYPE_CHECKING:
    import httpx

    from queue_engine.client.errors import ApiError
    from queue_engine.client.exchange import Flow, Request, Response

ENDPOINTS = "v2/serverless"
FORBIDDEN_STATUS = 403
QUEUE_FULL_STATUS = 429
BUSY_STATUSES = frozenset({QUEUE_FULL_STATUS, 503})
AWAY_STATUSES = frozenset({502, 503, 504})
"""Statuses of an API whose store is away, and of a proxy whose API is away."""
LINE_SECONDS = 60.0
"""Time without a byte after which a response of lines counts as lost. The API sends empty lines more often."""

T = TypeVar("T")

Query = Mapping[str, str | int | None]


class CommandError(Exception):
    """A command cannot continue. The text has the reason."""


class WrongUse(CommandError):
    """The options or arguments are invalid."""


def read_bounded(source: str, file: Path | None, limit: int) -> bytes:
    """Return the contents of the file, or of standard input for None.

    Raises WrongUse if it cannot be read or has more than `limit` bytes. `source` is the option with its value, for the
    message.
    """
    try:
        if file is None:
            found = sys.stdin.buffer.read(limit + 1)
        else:
            with file.open("rb") as opened_file:
                found = opened_file.read(limit + 1)
    except OSError as error:
        raise WrongUse(f"{source}: cannot be read: {error.strerror or error}") from None
    if len(found) > limit:
        raise WrongUse(f"{source}: is longer than {limit} bytes")
    return found


class Refused(CommandError):
    """The API responded with an error."""

    def __init__(self, message: str, *, status: int, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def passes(self) -> bool:
        """True if the same request may be accepted a little later."""
        return self.status in BUSY_STATUSES


@contextmanager
def advised(advice: str) -> Iterator[None]:
    """Add to the error of a lookup that the key does not allow what to give, so that the lookup is not needed."""
    try:
        yield
    except Refused as error:
        if error.status != FORBIDDEN_STATUS:
            raise
        raise Refused(f"{error}; {advice}", status=error.status) from None


class NotInTime(CommandError):
    """The task has not ended before the timeout."""


class Unreachable(CommandError):
    """There was no response, or it was not a response of the API."""


@dataclass(frozen=True)
class Data:
    """The `data` of a response, as unchanged JSON text, so that no number loses digits."""

    text: bytes

    def rows(self) -> list[dict[str, Any]]:
        """Return the data as a list of objects. Raises Unreachable if it is anything else."""
        value = self._parsed()
        if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
            raise Unreachable("the response is not the expected list")
        return value

    def members(self) -> dict[str, Any]:
        """Return the data as an object. Raises Unreachable if it is anything else."""
        value = self._parsed()
        if not isinstance(value, dict):
            raise Unreachable("the response is not the expected object")
        return value

    def split(self, *keep_raw: str) -> Members:
        """Return the data as an object in which some members stay JSON text.

        Raises Unreachable if it is anything else.
        """
        try:
            return split_members(self.text, frozenset(keep_raw))
        except ValueError as error:
            raise Unreachable(f"the response cannot be read: {error}") from None

    def _parsed(self) -> Any:
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"the response cannot be read: {error}") from None


class Api:
    """Calls the API. Every call may raise Refused or Unreachable."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, *path: str, query: Query | None = None) -> Data:
        return self.send("GET", *path, query=query)

    def send(
        self, method: str, *path: str, query: Query | None = None, body: bytes | None = None, holds: float = 0.0
    ) -> Data:
        """Send a request and return its data. `body` is JSON text. The parts of `path` after the first are escaped.

        `holds` is the time in seconds for which the API may hold the request before it responds.
        """
        from queue_engine.client.exchange import RESPONSE_SECONDS, Request

        given = {name: value for name, value in (query or {}).items() if value is not None}
        request = Request(method, _joined(path), given, body, timeout=RESPONSE_SECONDS + holds)
        return self._data_of(self._exchange(request))

    def lines(self, *path: str, query: Query | None = None) -> Iterator[bytes]:
        """Yield the complete lines of a response as they come, without empty ones.

        Ends early if the connection is lost in the middle of a line. Also raises Unreachable in the middle.
        """
        import httpx

        from queue_engine.client.connection import lost, received, sent
        from queue_engine.client.exchange import Request

        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            with self._http.stream(**sent(Request("GET", _joined(path), given, timeout=LINE_SECONDS))) as response:
                if response.status_code != 200:
                    response.read()
                    self._data_of(received(response))
                rest = b""
                for part in response.iter_bytes():
                    *lines, rest = (rest + part).split(b"\n")
                    yield from (line for line in lines if line)
        except httpx.HTTPError as error:
            raise Unreachable(lost(error, str(self._http.base_url)).message) from None

    @contextmanager
    def download(self, *path: str) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield the media type of a file, and its bytes as they come, which may also raise Unreachable."""
        import httpx

        from queue_engine.client.connection import lost, received, sent
        from queue_engine.client.exchange import Request

        try:
            with self._http.stream(**sent(Request("GET", _joined(path)))) as response:
                if response.status_code != 200 or "Content-Disposition" not in response.headers:
                    response.read()
                    self._data_of(received(response))
                    raise self._foreign(received(response), "no file")
                yield response.headers.get("Content-Type", ""), response.iter_bytes()
        except httpx.HTTPError as error:
            raise Unreachable(lost(error, str(self._http.base_url)).message) from None

    def run(
        self,
        flow: Flow[T],
        pause: Callable[[float], None],
        note: Callable[[str | None], None] = lambda _problem: None,
    ) -> T:
        """Run an operation of `queue_engine.client`, with its own retries, and return its result.

        `note` gets the reason of each try that found the API away, and None when it has responded.
        """
        import httpx

        from queue_engine.client.connection import lost, received, sent
        from queue_engine.client.errors import ApiError

        try:
            request = next(flow)
            while True:
                if request.after > 0:
                    pause(request.after)
                try:
                    response = received(self._http.request(**sent(request)))
                except httpx.HTTPError as error:
                    problem = lost(error, str(self._http.base_url))
                    note(problem.message)
                    request = flow.throw(problem)
                else:
                    note(f"HTTP {response.status}" if response.status in AWAY_STATUSES else None)
                    request = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result
        except ApiError as error:
            raise refusal_of(error) from None

    def endpoint_id(self, id_or_name: str) -> str:
        """Return the id of the endpoint with this id or name. A name begins with a letter, so it cannot be an id."""
        if is_endpoint_id(id_or_name):
            return id_or_name
        with advised("give the id of the endpoint, because a key with the role submit cannot look up its name"):
            named = self.endpoints_named(id_or_name)
        if not named:
            raise Refused(f"no endpoint is named {id_or_name}", status=404)
        if len(named) > 1:
            raise WrongUse(f"{len(named)} endpoints are named {id_or_name}; give the id: {_ids_of(named)}")
        return str(named[0].get("id"))

    def endpoints_named(self, name: str) -> list[dict[str, Any]]:
        """Return the endpoints with this name, newest first."""
        rows = self.get(ENDPOINTS, query={"name": name}).rows()
        return [row for row in rows if row.get("name") == name]  # an API of an earlier version returns all

    def _exchange(self, request: Request) -> Response:
        import httpx

        from queue_engine.client.connection import lost, received, sent

        try:
            return received(self._http.request(**sent(request)))
        except httpx.HTTPError as error:
            raise Unreachable(lost(error, str(self._http.base_url)).message) from None

    def _data_of(self, response: Response) -> Data:
        """Return the data as text. `queue_engine.client` parses it, which this cannot do without losing digits."""
        try:
            envelope = split_members(response.body, frozenset({"data"}))
        except ValueError as error:
            raise self._foreign(response, f"the body is no JSON object: {error}") from None
        message, data = envelope.values.get("message"), envelope.raw.get("data")
        if not isinstance(message, str) or data is None:
            raise self._foreign(response, "no envelope")
        if response.status != 200:
            raise Refused(message, status=response.status, retry_after_seconds=response.retry_after)
        return Data(data.encode())

    def _foreign(self, response: Response, why: str) -> Unreachable:
        return Unreachable(f"{self._http.base_url} is not the API: it responds HTTP {response.status}, {why}")


def refusal_of(error: ApiError) -> CommandError:
    """Return an error of the client as one of a command."""
    if error.status is None:
        return Unreachable(error.message)
    return Refused(error.message, status=error.status, retry_after_seconds=error.retry_after)


@contextmanager
def opened(url: str, api_key: str, transport: httpx.BaseTransport | None) -> Iterator[Api]:
    """Yield a client of the API at `url`. Raises WrongUse if the URL or the key is invalid."""
    from queue_engine.client.connection import Connection, key_problem, url_problem

    for name, problem in (("--url:", url_problem(url)), ("the API key", key_problem(api_key))):
        if problem is not None:
            raise WrongUse(f"{name} {problem}")
    with Connection(url, api_key).client(transport) as http:
        yield Api(http)


def _joined(path: tuple[str, ...]) -> str:
    from queue_engine.client.exchange import path_under

    try:
        return path_under(*path)
    except ValueError as error:
        raise WrongUse(str(error)) from None


def _ids_of(rows: list[dict[str, Any]]) -> str:
    return ", ".join(str(row.get("id")) for row in rows)
