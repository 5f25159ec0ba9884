"""The engine's HTTP API, as far as the backend uses it, over aiodocker.

Docker and podman serve the same API and differ in details, which are evened out here: an absent container is None, and
what is already done is not an error.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import aiohttp
from aiodocker import Docker
from aiodocker.exceptions import DockerError

from queue_engine.backends.base import BackendError, RegistryCredential
from queue_engine.backends.docker.progress import short
from queue_engine.backends.reaching import reason_without_address

CALL_SECONDS = 120.0
"""Timeout of a call that should return at once. A host under load takes long to create a container."""
CONNECT_SECONDS = 10.0
CONFLICT = 409
"""Status of a creation whose name is in use."""
VERSION_HEADER = "Api-Version"
"""Header of a response to a ping: the newest version of the API that the engine has."""
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Maximum size of a line of events or of a pull. An event has all labels of its container."""
FRAME_HEADER_BYTES = 8
MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Maximum size of a piece of output. Engines send at most 16 KB of a line at once."""
SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "~/.docker/run/docker.sock", "/run/podman/podman.sock")
"""Sockets that are tried in this order when neither the setting nor DOCKER_HOST names an engine, then podman's of the
user."""

Document = Mapping[str, Any]
"""A JSON object of the API."""
T = TypeVar("T")


NO_RESPONSE = "the container engine does not respond"


class EngineError(BackendError):
    """The engine refused a call. `status` is the HTTP status; 0 if an error followed a successful status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(short(message))
        self.status = status


class EngineUnavailable(EngineError):
    """The engine cannot be reached, or does not respond. Its URL and `detail` are for operators only."""

    def __init__(self, message: str, url: str = "", detail: str = "") -> None:
        super().__init__(0, f"the container engine cannot be reached: {message}")
        self._url = url
        self._detail = detail or message

    @property
    def for_operators(self) -> str:
        return f"the container engine{self._url and f' at {self._url}'} cannot be reached: {short(self._detail)}"


class Engine(Protocol):
    """A container engine. All methods raise EngineError, and EngineUnavailable if the engine does not respond."""

    async def containers(self, label: str) -> Sequence[Document]:
        """Return a summary of each container that has the label `name=value`, whether it runs or not."""
        ...

    async def inspect(self, container: str) -> Document | None:
        """Return the description of a container by its id or name; None if it does not exist."""
        ...

    async def create(self, name: str, config: Document) -> str:
        """Create a container and return its id. Status 409 if there is one with this name."""
        ...

    async def start(self, container: str) -> None:
        """Start a created container. Does nothing if it runs."""
        ...

    async def signal(self, container: str, name: str) -> None:
        """Send a signal. Does nothing if the container does not run."""
        ...

    async def stop(self, container: str, seconds: int) -> None:
        """Send the image's stop signal, and SIGKILL after the time. Does nothing if the container does not run."""
        ...

    async def ended(self, container: str) -> None:
        """Wait until a container does not run. Does nothing if it does not exist."""
        ...

    async def remove(self, container: str) -> None:
        """Kill and remove a container and its anonymous volumes. Does nothing if it does not exist."""
        ...

    def events(self, label: str) -> AsyncGenerator[Document, None]:
        """Yield the events of the containers with this label, and one empty document when the stream is open."""
        ...

    async def image(self, name: str) -> Document | None:
        """Return the description of an image on this host; None if it does not exist."""
        ...

    def pull(self, name: str, credential: RegistryCredential | None) -> AsyncGenerator[Document, None]:
        """Pull an image by its complete name, and yield the lines of its progress."""
        ...

    async def network(self, name: str) -> Document | None:
        """Return the description of a network; None if it does not exist."""
        ...

    async def create_network(self, config: Document) -> None:
        """Create a network. Status 409 if there is one with its name."""
        ...

    async def remove_network(self, name: str) -> None:
        """Remove a network that no container uses. Does nothing if it does not exist."""
        ...

    def output(self, container: str, since_seconds: int = 0, *, last: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the pieces of a container's output, each with its time, until it has ended and all was read.

        With `last`, begin with that number of its last lines.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        ...


class AiodockerEngine:
    """The engine at a URL: `unix://<path>`, `tcp://<host>:<port>` or `https://…`. Create it in an event loop.

    `environment` has DOCKER_TLS_VERIFY and DOCKER_CERT_PATH, as for the command `docker`. Raises OSError if the
    certificates cannot be read, and ValueError if the URL is not valid.
    """

    def __init__(self, url: str, environment: Mapping[str, str]) -> None:
        self._url = url
        base_url, connector = _connection(url, environment)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_CALL_LIMIT)
        self._docker = _Client(url=base_url, session=self._session, connector=connector, timeout=_CALL_LIMIT)

    async def containers(self, label: str) -> Sequence[Document]:
        filters = json.dumps({"label": [label]})
        with self._errors():
            found = await self._docker.containers.list(all=True, filters=filters)
            return [container._container for container in found]

    async def inspect(self, container: str) -> Document | None:
        with self._errors():
            return await _unless_absent(self._docker.containers.container(container).show())

    async def create(self, name: str, config: Document) -> str:
        with self._errors():
            return (await self._docker.containers.create(config, name=name)).id

    async def start(self, container: str) -> None:
        with self._errors():
            await self._docker.containers.container(container).start()

    async def signal(self, container: str, name: str) -> None:
        with self._errors(done=(404, 409)):
            await self._docker.containers.container(container).kill(signal=name, timeout=_CALL_LIMIT)

    async def stop(self, container: str, seconds: int) -> None:
        limit = aiohttp.ClientTimeout(total=seconds + CALL_SECONDS, connect=CONNECT_SECONDS)
        with self._errors(done=(404,)):
            await self._docker.containers.container(container).stop(t=seconds, timeout=limit)

    async def ended(self, container: str) -> None:
        with self._errors(done=(404,)):
            await self._docker.containers.container(container).wait()

    async def remove(self, container: str) -> None:
        with self._errors(done=(404,)):
            await self._docker.containers.container(container).delete(force=True, v=True, timeout=_CALL_LIMIT)

    async def events(self, label: str) -> AsyncGenerator[Document, None]:
        filters = json.dumps({"type": ["container"], "label": [label]})
        with self._errors():
            async with self._stream("events", {"filters": filters}) as response:
                yield {}
                async with aclosing(_json_lines(response)) as lines:
                    async for line in lines:
                        yield line

    async def image(self, name: str) -> Document | None:
        with self._errors():
            return await _unless_absent(self._docker.images.inspect(name))

    async def pull(self, name: str, credential: RegistryCredential | None) -> AsyncGenerator[Document, None]:
        auth = None if credential is None else {"username": credential.username, "password": credential.password}
        with self._errors():
            pulling: Any = self._docker.images.pull(name, auth=auth, stream=True)
            async with aclosing(pulling) as lines:
                async for line in lines:
                    yield line

    async def network(self, name: str) -> Document | None:
        with self._errors():
            found = await _unless_absent(self._docker.networks.get(name))
            return None if found is None else await _unless_absent(found.show())

    async def create_network(self, config: Document) -> None:
        with self._errors():
            await self._docker.networks.create(dict(config))

    async def remove_network(self, name: str) -> None:
        with self._errors():
            if (found := await _unless_absent(self._docker.networks.get(name))) is None:
                return
            # Podman does not refuse to remove a network that containers use.
            if await self._docker.containers.list(all=True, filters=json.dumps({"network": [name]})):
                raise EngineError(409, f"containers use the network {name}")
            await found.delete()

    async def output(
        self, container: str, since_seconds: int = 0, *, last: int | None = None
    ) -> AsyncGenerator[bytes, None]:
        asked = {"stdout": True, "stderr": True, "follow": True, "timestamps": True, "since": since_seconds}
        if last is not None:
            asked["tail"] = last
        with self._errors():
            async with self._stream(f"containers/{container}/logs", asked) as response:
                while header := await _read(response, FRAME_HEADER_BYTES):
                    length = int.from_bytes(header[4:])
                    if length > MAX_FRAME_BYTES:
                        raise EngineError(0, "the engine sent output that is not in frames")
                    yield await _read(response, length)

    async def aclose(self) -> None:
        await self._docker.close()
        await self._session.close()

    @contextmanager
    def _errors(self, done: Sequence[int] = ()) -> Iterator[None]:
        """Raise the errors of the client as EngineError. A status in `done` means that nothing was left to do."""
        try:
            yield
        except DockerError as error:
            if error.status == _NO_CONNECTION:
                raise self._unavailable(error.__context__ or error) from error
            if not (error.status in done or (done and (_IMPROPER_STATE in error.message or _is_absence(error)))):
                raise EngineError(error.status, error.message) from error
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise self._unavailable(error) from error
        except (ValueError, KeyError) as error:
            raise EngineError(0, f"the engine's response cannot be read: {error}") from error

    def _unavailable(self, error: BaseException) -> EngineUnavailable:
        reason = reason_without_address(error)
        is_known = isinstance(error, TimeoutError | aiohttp.ClientConnectorError)
        return EngineUnavailable(reason, self._url, reason if is_known else str(error) or type(error).__name__)

    @asynccontextmanager
    async def _stream(self, path: str, params: Mapping[str, Any]) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._docker._query(path, params=params, timeout=_STREAM_LIMIT) as response:
            try:
                yield response
            finally:
                response.close()  # because the rest of an endless response cannot be read


class _Client(Docker):
    """A client that gets the version of the API from `/_ping`, as the command `docker` does.

    The library asks `/version`. Podman then runs the package manager once for each of its programs to name their
    packages, which took up to 18 s on a host under load, before the first list of the containers.
    """

    async def _check_version(self) -> None:
        if self.api_version != "auto":
            return
        async with self._query("_ping", versioned_api=False) as response:
            found = response.headers.get(VERSION_HEADER)
        if found is None:  # an engine of before 2016, or a proxy that removes headers
            await super()._check_version()
        else:
            self.api_version = f"v{found}"


_CALL_LIMIT = aiohttp.ClientTimeout(total=CALL_SECONDS, connect=CONNECT_SECONDS)
_STREAM_LIMIT = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)


def engine_url(given: str | None, environment: Mapping[str, str]) -> str:
    """Return the URL of the engine: the given one, DOCKER_HOST, or that of the first socket that exists.

    Raises EngineUnavailable if there is none.
    """
    if url := given or environment.get("DOCKER_HOST"):
        return url
    paths = [os.path.expanduser(path) for path in SOCKETS]
    runtime_dir = environment.get("XDG_RUNTIME_DIR")
    if runtime_dir:
        paths.append(os.path.join(runtime_dir, "podman/podman.sock"))
    for path in paths:
        if Path(path).is_socket():
            return f"unix://{path}"
    raise EngineUnavailable("neither QUEUE_ENGINE_DOCKER_HOST nor DOCKER_HOST is set, and there is no socket of one")


def is_on_this_host(url: str) -> bool:
    """Return True if the engine at the URL runs containers on this host, unless this process is in a container."""
    scheme, _, place = url.partition("://")
    host = place.rpartition(":")[0] if place.rpartition(":")[2].isdigit() else place
    return scheme == "unix" or host in ("localhost", "127.0.0.1", "[::1]")


def _connection(url: str, environment: Mapping[str, str]) -> tuple[str, aiohttp.BaseConnector]:
    """Return the base URL of requests, and a connector without a limit: each followed log has a connection."""
    scheme, separator, place = url.partition("://")
    if not separator or not place or scheme not in ("unix", "tcp", "http", "https"):
        raise ValueError("must be unix://<path>, tcp://<host>:<port>, http://… or https://…")
    if scheme == "unix":
        return "http://localhost", aiohttp.UnixConnector(place, limit=0)
    if scheme == "https" or environment.get("DOCKER_TLS_VERIFY", "") not in ("", "0"):
        return f"https://{place}", aiohttp.TCPConnector(limit=0, ssl=_tls(environment.get("DOCKER_CERT_PATH")))
    return f"http://{place}", aiohttp.TCPConnector(limit=0)


def _tls(folder: str | None) -> ssl.SSLContext:
    if folder is None:
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=os.path.join(folder, "ca.pem"))
    context.load_cert_chain(os.path.join(folder, "cert.pem"), os.path.join(folder, "key.pem"))
    return context


_IMPROPER_STATE = "container state improper"
"""The end of podman's message for what Docker tells by the status 409."""
_NO_CONNECTION = 900
"""Status of aiodocker's error when it cannot connect."""


async def _unless_absent(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except DockerError as error:
        if _is_absence(error):
            return None
        raise


def _is_absence(error: DockerError) -> bool:
    """Return True if a container or an image does not exist. Podman returns 500 while it is removing the container."""
    return error.status == 404 or "no such container" in error.message


async def _json_lines(response: aiohttp.ClientResponse) -> AsyncGenerator[Document, None]:
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise EngineError(0, "the engine sent a line that is too long")
        for line in filter(bytes.strip, lines):
            yield json.loads(line)


async def _read(response: aiohttp.ClientResponse, size: int) -> bytes:
    """Return exactly this number of bytes; less at the end of the response."""
    data = bytearray()
    while len(data) < size and (chunk := await response.content.read(size - len(data))):
        data += chunk
    return bytes(data)
