"""The API of a Kubernetes cluster, as far as the backend uses it, over kubernetes_asyncio.

All calls are for one namespace, and return JSON as the server sent it. Statuses are checked here and nowhere else:
depending on its version, the client raises nothing for an error status if the response is not parsed.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import aiohttp

from queue_engine.backends.base import BackendError
from queue_engine.backends.docker.names import INSTANCE
from queue_engine.backends.docker.progress import short
from queue_engine.backends.kubernetes.kube_client import Client, Clients, ClusterAccess, CredentialsUnreadable
from queue_engine.backends.kubernetes.names import common_labels
from queue_engine.backends.reaching import reason_without_address
from queue_engine.observability import metrics

CALL_SECONDS = 30.0
"""Timeout of a call that should return at once."""
CONNECT_SECONDS = 10.0
WATCH_MARGIN_SECONDS = 30.0
"""Time beyond the limit of a watch within which the server has to end it. Its end and this process's would race."""
LOG_SILENCE_SECONDS = 4 * 3600.0
"""Maximum time for which a followed log may be silent. The kubelet's own limit of a silent stream is as long."""
MIN_SKEW_SECONDS = 2.0
"""Minimum difference of the clocks that is noted, because the server's time has whole seconds."""
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Maximum size of an event of a watch. Servers store objects of at most 1.5 MB."""
ANCHOR = "queue-engine-anchor"
"""Name of the ConfigMap that owns all objects of the backend, so that they are removed with it."""
_UNAUTHORIZED = 401
_ABSENT = (404, 409)
"""Statuses of a call to an object that does not exist, or is another one of the same name."""
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Document = Mapping[str, Any]
"""A JSON object of the API."""
T = TypeVar("T")


class KubeError(BackendError):
    """The server refused a call.

    `status` is the HTTP status, `reason` the server's word for it, such as `AlreadyExists`, and `retry_after_seconds`
    the time that the server asks clients to wait.
    """

    def __init__(
        self, status: int, message: str, *, reason: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(short(message))
        self.status = status
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds

    @property
    def is_transient(self) -> bool:
        """True if the same call may succeed later although nothing is changed."""
        if self.status == _UNAUTHORIZED:  # the operator's credential is wrong until it is replaced, and not the worker
            return True
        return self.status in (0, 408, 429) or self.status >= 500 or (self.status == 409 and not self.is_done)

    @property
    def is_done(self) -> bool:
        """True if the object of a creation exists already."""
        return self.reason == "AlreadyExists"


class KubeUnavailable(KubeError):
    """The server cannot be reached, or does not respond. `detail` is for operators: it may have its address."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(0, f"the cluster cannot be reached: {message}")
        self._detail = detail or message

    @property
    def for_operators(self) -> str:
        return f"the cluster cannot be reached: {short(self._detail)}"


@dataclass(frozen=True)
class Owner:
    """The ConfigMap that owns all objects of the backend in a namespace."""

    name: str
    uid: str
    instance: str = ""
    """The installation that has made it; empty if it is the chart's, or was made by hand."""


class PodPage(NamedTuple):
    """A page of a list of pods."""

    pods: Sequence[Document]
    version: str
    """The version of the list, which is the same for all its pages. A watch begins with it."""
    next_page: str
    """Argument that returns the next page; empty for the last one."""


class KubeApi(Protocol):
    """A namespace of a cluster. All methods raise KubeError, and KubeUnavailable if the server does not respond."""

    @property
    def clock_ahead_ms(self) -> int:
        """Time by which the server's clock was ahead of this process's at the latest response, in whole seconds."""
        ...

    async def list_pods(self, selector: str, *, limit: int, page: str = "") -> PodPage:
        """Return a page of the pods with these labels, as of one moment. Status 410 if the list has become too old."""
        ...

    def watch_pods(self, selector: str, version: str, seconds: int) -> AsyncGenerator[Document, None]:
        """Yield the events after `version`, and one empty document when the watch is open, for at most this time.

        Raises KubeError with the status 410 if `version` is too old.
        """
        ...

    async def create_pod(self, document: Document) -> Document:
        """Create a pod and return it. The error `is_done` if there is one with this name."""
        ...

    async def delete_pod(self, name: str, uid: str, grace_seconds: int) -> None:
        """Ask for the end of a pod, if it has this uid; 0 removes it without waiting for its node.

        A shorter time than that of an earlier call replaces it. Does nothing if there is no such pod.
        """
        ...

    async def create_secret(self, document: Document) -> None:
        """Create a Secret. The error `is_done` if there is one with this name."""
        ...

    async def read_secret(self, name: str) -> Document | None:
        """Return a Secret; None if it does not exist."""
        ...

    async def list_secrets(self, selector: str) -> Sequence[Document]:
        """Return the Secrets with these labels: their metadata, without their content."""
        ...

    async def delete_secret(self, name: str) -> None:
        """Remove a Secret. Does nothing if it does not exist."""
        ...

    def read_log(self, pod: str, container: str, since: str | None) -> AsyncGenerator[bytes, None]:
        """Yield the output of a container from a time in RFC 3339 on, each line with its time, until it has ended."""
        ...

    async def list_events(self, pod_uid: str, limit: int) -> Sequence[Document]:
        """Return events that are about a pod."""
        ...

    async def anchor(self) -> Owner | None:
        """Return the owner of the backend's objects; None if it does not exist."""
        ...

    async def create_anchor(self, instance: str) -> Owner:
        """Create the owner of the backend's objects for an installation and return it."""
        ...

    async def delete_anchor(self, uid: str) -> None:
        """Remove the owner, if it has this uid, and with it what it owns. Does nothing if it does not exist."""
        ...

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        ...


class ClientApi:
    """A namespace of a real cluster. The connection is made by the first call.

    Raises ImportError if the package kubernetes_asyncio is not installed.
    """

    def __init__(self, access: ClusterAccess) -> None:
        import kubernetes_asyncio.client  # noqa: F401 - here, because only this backend needs its 60 MB of memory

        self._access = access
        self._clients = Clients(access)
        self._clock_ahead_ms = 0

    @property
    def clock_ahead_ms(self) -> int:
        return self._clock_ahead_ms

    async def list_pods(self, selector: str, *, limit: int, page: str = "") -> PodPage:
        query = [("labelSelector", selector), ("limit", str(limit)), *([("continue", page)] if page else [])]
        found = await self._call("GET", "pods", query=query)
        metadata = found["metadata"]
        return PodPage(found.get("items") or (), metadata["resourceVersion"], metadata.get("continue") or "")

    async def watch_pods(self, selector: str, version: str, seconds: int) -> AsyncGenerator[Document, None]:
        query = [
            ("labelSelector", selector),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", version),
            ("timeoutSeconds", str(seconds)),
        ]
        async with self._stream("pods", query, silence_seconds=seconds + WATCH_MARGIN_SECONDS) as response:
            yield {}
            async for line in _lines(response.content.iter_any()):
                yield _event(line)

    async def create_pod(self, document: Document) -> Document:
        return await self._call("POST", "pods", body=document)

    async def delete_pod(self, name: str, uid: str, grace_seconds: int) -> None:
        options = {"gracePeriodSeconds": grace_seconds, "preconditions": {"uid": uid}}
        await self._delete(f"pods/{name}", options)

    async def create_secret(self, document: Document) -> None:
        await self._call("POST", "secrets", body=document)

    async def read_secret(self, name: str) -> Document | None:
        return await _unless_absent(self._call("GET", f"secrets/{name}"))

    async def list_secrets(self, selector: str) -> Sequence[Document]:
        found = await self._call("GET", "secrets", query=[("labelSelector", selector)], accept=_METADATA_ONLY)
        return found.get("items") or ()

    async def delete_secret(self, name: str) -> None:
        await self._delete(f"secrets/{name}", {})

    async def read_log(self, pod: str, container: str, since: str | None) -> AsyncGenerator[bytes, None]:
        query = [("container", container), ("follow", "true"), ("timestamps", "true")]
        if since is not None:
            query.append(("sinceTime", since))
        async with self._stream(f"pods/{pod}/log", query, silence_seconds=LOG_SILENCE_SECONDS) as response:
            async for chunk in response.content.iter_any():
                yield chunk

    async def list_events(self, pod_uid: str, limit: int) -> Sequence[Document]:
        query = [("fieldSelector", f"involvedObject.uid={pod_uid}"), ("limit", str(limit))]
        return (await self._call("GET", "events", query=query)).get("items") or ()

    async def anchor(self) -> Owner | None:
        found = await _unless_absent(self._call("GET", f"configmaps/{ANCHOR}"))
        return None if found is None else _owner_in(found)

    async def create_anchor(self, instance: str) -> Owner:
        metadata = {"name": ANCHOR, "labels": common_labels(instance)}
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        return _owner_in(await self._call("POST", "configmaps", body=body))

    async def delete_anchor(self, uid: str) -> None:
        await self._delete(f"configmaps/{ANCHOR}", {"preconditions": {"uid": uid}})

    async def aclose(self) -> None:
        await self._clients.aclose()

    async def _delete(self, path: str, options: Document) -> None:
        await _unless_absent(self._call("DELETE", path, body={"apiVersion": "v1", "kind": "DeleteOptions", **options}))

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Document | None = None,
        accept: str = "application/json",
    ) -> dict[str, Any]:
        with _kube_errors():
            async with asyncio.timeout(CALL_SECONDS), self._request(method, path, query, body, accept) as response:
                found = json.loads(await response.read())
        if not isinstance(found, dict):
            raise KubeError(0, "the server's response is not an object")
        return found

    @asynccontextmanager
    async def _stream(
        self, path: str, query: Sequence[tuple[str, str]], *, silence_seconds: float
    ) -> AsyncIterator[Any]:
        with _kube_errors():
            async with self._request("GET", path, query, None, "application/json", silence_seconds) as response:
                yield response

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Document | None,
        accept: str,
        silence_seconds: float | None = None,
    ) -> AsyncIterator[Any]:
        """Send a request, and return the response after its status was checked.

        After refused credentials, it is sent once more if there are other ones by then.
        """

        async def send(client: Client) -> Any:
            return await self._send(client, method, path, query, body, accept, silence_seconds)

        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(self._clients.client())
            response: Any = None
            try:
                response = await send(client)
            except aiohttp.ClientSSLError:  # perhaps because the authorities or the client's certificate were replaced
                if not await self._clients.renew(client):
                    raise
            if response is None or (response.status == _UNAUTHORIZED and await self._clients.renew(client)):
                if response is not None:
                    response.close()
                response = await send(await stack.enter_async_context(self._clients.client()))
            stack.callback(response.close)  # because the rest of an endless response cannot be read
            if not 200 <= response.status < 300:
                raise _error_in(response.status, response.headers, await response.read())
            yield response

    async def _send(
        self,
        client: Client,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]],
        body: Document | None,
        accept: str,
        silence_seconds: float | None,
    ) -> Any:
        counted = partial(metrics.backend_requests.labels, self._access.name, method)
        try:
            response = await client.api.call_api(
                f"/api/v1/namespaces/{self._access.namespace}/{path}",
                method,
                query_params=list(query),
                header_params={"Accept": accept, "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=_limit(silence_seconds),
            )
        except Exception as error:
            counted(str(getattr(error, "status", None) or "none")).inc()
            raise
        counted(str(response.status)).inc()
        self._note_clock(response.headers.get("Date"))
        return response

    def _note_clock(self, date: str | None) -> None:
        """Note the server's time, with which it sets the deadlines of pods. It has whole seconds."""
        try:
            server_seconds = parsedate_to_datetime(date or "").timestamp()
        except ValueError:  # a proxy may leave it out
            return
        ahead_seconds = server_seconds - time.time()
        self._clock_ahead_ms = 0 if abs(ahead_seconds) < MIN_SKEW_SECONDS else round(ahead_seconds * 1000)


def connect(access: ClusterAccess) -> KubeApi:
    """Return the API of a cluster's namespace. Raises ImportError if kubernetes_asyncio is not installed."""
    return ClientApi(access)


def _limit(silence_seconds: float | None) -> Any:
    total = CALL_SECONDS if silence_seconds is None else None
    return aiohttp.ClientTimeout(total=total, connect=CONNECT_SECONDS, sock_read=silence_seconds)


@contextmanager
def _kube_errors() -> Iterator[None]:
    """Raise the errors of the client as KubeError."""
    from kubernetes_asyncio.client.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        raise _error_in(error.status or 0, error.headers or {}, error.body or b"") from error
    except CredentialsUnreadable as error:
        raise KubeUnavailable("its credentials cannot be read", str(error)) from error
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        raise KubeUnavailable(reason_without_address(error), str(error) or type(error).__name__) from error
    except (ValueError, KeyError) as error:
        raise KubeError(0, f"the server's response cannot be read: {error}") from error


def _error_in(status: int, headers: Mapping[str, str], body: bytes | str) -> KubeError:
    """Return the error in a response: a document of the kind Status, or a text of a proxy."""
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {"message": text or f"status {status}"}
    return error_of_status(document, status, headers.get("Retry-After"))


def error_of_status(document: Document, status: int, retry_after: str | None = None) -> KubeError:
    """Return the error that a document of the kind Status describes."""
    given = str((document.get("details") or {}).get("retryAfterSeconds") if retry_after is None else retry_after)
    seconds = float(given) if given.isdecimal() else None
    message = str(document.get("message") or f"status {status}")
    return KubeError(status, message, reason=str(document.get("reason") or ""), retry_after_seconds=seconds)


async def _unless_absent(call: Awaitable[T]) -> T | None:
    try:
        return await call
    except KubeError as error:
        if error.status in _ABSENT:
            return None
        raise


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise KubeError(0, "the server sent an event that is too long")
        for line in filter(bytes.strip, lines):
            yield line


def _event(line: bytes) -> Document:
    """Return an event of a watch. Raises KubeError if it is an error."""
    event = json.loads(line)
    if not isinstance(event, dict):
        raise KubeError(0, "the server sent an event that is not an object")
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        raise error_of_status(status, int(status.get("code") or 0))
    return event


def _owner_in(document: Document) -> Owner:
    metadata = document["metadata"]
    return Owner(metadata["name"], metadata["uid"], (metadata.get("labels") or {}).get(INSTANCE) or "")
