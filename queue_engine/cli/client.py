"""A thin client of the HTTP API, which returns the `data` of the envelope."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from queue_engine.cli.raw_members import Members, split_members
from queue_engine.domain.ids import is_endpoint_id
from queue_engine.rules.hosts import is_loopback

if TYPE_CHECKING:  # it takes 0.3 s to import, and every process of the engine starts by importing this module
    import httpx

ENDPOINTS = "v2/serverless"
TIMEOUT_SECONDS = 30.0
BUSY_STATUSES = frozenset({429, 503})

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

    def __init__(self, message: str, *, status: int, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_seconds = retry_after_seconds

    @property
    def passes(self) -> bool:
        """True if the same request may be accepted a little later."""
        return self.status in BUSY_STATUSES


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
        import httpx

        given = {name: value for name, value in (query or {}).items() if value is not None}
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            response = self._http.request(
                method, _joined(path), params=given, content=body, headers=headers, timeout=TIMEOUT_SECONDS + holds
            )
        except httpx.TransportError as error:
            raise Unreachable(f"{self._http.base_url}: {str(error) or type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise Unreachable(f"{self._http.base_url}: the response cannot be read: {error}") from None
        return self._data_of(response)

    def endpoint_id(self, id_or_name: str) -> str:
        """Return the id of the endpoint with this id or name. A name begins with a letter, so it cannot be an id."""
        if is_endpoint_id(id_or_name):
            return id_or_name
        named = [row for row in self.get(ENDPOINTS).rows() if row.get("name") == id_or_name]
        if not named:
            raise Refused(f"no endpoint is named {id_or_name}", status=404)
        if len(named) > 1:
            raise WrongUse(f"{len(named)} endpoints are named {id_or_name}; give the id: {_ids_of(named)}")
        return str(named[0].get("id"))

    def _data_of(self, response: httpx.Response) -> Data:
        try:
            envelope = split_members(response.content, frozenset({"data"}))
        except ValueError as error:
            raise self._foreign(response, f"the body is no JSON object: {error}") from None
        message, data = envelope.values.get("message"), envelope.raw.get("data")
        if not isinstance(message, str) or data is None:
            raise self._foreign(response, "no envelope")
        if response.status_code != 200:
            raise Refused(message, status=response.status_code, retry_after_seconds=_retry_after(response))
        return Data(data.encode())

    def _foreign(self, response: httpx.Response, why: str) -> Unreachable:
        return Unreachable(f"{self._http.base_url} is not the API: it responds HTTP {response.status_code}, {why}")


@contextmanager
def opened(url: str, api_key: str, transport: httpx.BaseTransport | None) -> Iterator[Api]:
    """Yield a client of the API at `url`. Raises WrongUse if the URL or the key is invalid."""
    import httpx

    host = _host_of(url)
    if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
        raise WrongUse("the API key must be visible ASCII characters")
    # Proxies from the environment are for other machines.
    with httpx.Client(
        base_url=url,
        headers={"X-Api-Key": api_key},
        timeout=TIMEOUT_SECONDS,
        transport=transport,
        trust_env=not is_loopback(host),
    ) as http:
        yield Api(http)


def _host_of(url: str) -> str:
    """Return the host of the API's URL. Raises WrongUse if the URL is invalid."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise WrongUse(f"--url: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii() or not url.isprintable():
        raise WrongUse("--url: must be http://host:port or https://…")
    return parts.hostname


def _joined(path: tuple[str, ...]) -> str:
    first, *rest = path
    for part in rest:
        # The HTTP client would resolve these parts, so that a DELETE of the task `..` would delete its endpoint.
        if part in ("", ".", ".."):
            raise WrongUse(f"{part!r}: is not an id or a name")
    return "/".join([f"/{first}", *(quote(part, safe="") for part in rest)])


def _ids_of(rows: list[dict[str, Any]]) -> str:
    return ", ".join(str(row.get("id")) for row in rows)


def _retry_after(response: httpx.Response) -> int | None:
    text = response.headers.get("Retry-After", "")
    return min(int(text), 3600) if text.isascii() and text.isdigit() and len(text) < 10 else None
