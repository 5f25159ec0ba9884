"""The client of a cluster with the credentials that its files have now.

Tokens and certificates are replaced while the controller runs: the kubelet does so with the token of a ServiceAccount,
an operator or a Secret with a kubeconfig. A new client is made when one of the files has changed, and when the
server refuses the credentials. Requests in progress, such as a watch, go on with the earlier client.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder of a pod with the token of its ServiceAccount and the authorities of its cluster."""
TOKEN_SECONDS = 60.0
"""Interval at which credentials that a kubeconfig refers to are read again: tokens of plugins and of files."""
RENEWAL_SECONDS = 5.0
"""Minimum time between two clients that are made because of refused credentials, since they may stay wrong."""
_TOKEN, _AUTHORITIES = "token", "ca.crt"

Stamp = tuple[tuple[int, int, int] | None, ...]
"""The identities of files: they change with the content."""


class CredentialsUnreadable(Exception):
    """There is no client, because the credentials of a cluster cannot be read. The message names their place."""


@dataclass(frozen=True)
class ClusterAccess:
    """How a cluster is reached, and the namespace in which its workers run."""

    name: str
    namespace: str
    kubeconfig: Path | None = None
    """None: as the ServiceAccount of the pod in which this process runs. Several, as in KUBECONFIG, are merged."""
    context: str | None = None
    """The context of the kubeconfig; None: its current one."""
    service_account: Path = SERVICE_ACCOUNT

    @property
    def source(self) -> str:
        """The origin of the credentials, for messages."""
        return "the pod's ServiceAccount" if self.kubeconfig is None else str(self.kubeconfig)

    @property
    def stamp(self) -> Stamp:
        """The identities of the files with the credentials."""
        return tuple(map(_identity, self._files()))

    def _files(self) -> Iterator[Path]:
        if self.kubeconfig is None:
            yield from (self.service_account / name for name in (_TOKEN, _AUTHORITIES))
        else:
            yield from (Path(one).expanduser() for one in str(self.kubeconfig).split(os.pathsep) if one)


@dataclass(eq=False)
class Client:
    """A client with the credentials of one moment."""

    api: Any
    """The ApiClient of kubernetes_asyncio."""
    stamp: Stamp
    made_at: float
    users: int = 0
    """Number of requests in progress."""


class Clients:
    """The client of a cluster, made by its first use. A new one is made when its credentials have changed."""

    def __init__(self, access: ClusterAccess, clock: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._clock = clock
        self._current: Client | None = None
        self._former: set[Client] = set()
        """Earlier clients with requests in progress."""
        self._unreadable: Stamp | None = None
        """The files that could not be read, so that they are not read again before they change."""
        self._renewed_at = -math.inf
        """Time of the latest try to replace refused credentials."""
        self._making = asyncio.Lock()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Let a request use the client. Raises CredentialsUnreadable."""
        found = await self._up_to_date()
        found.users += 1
        try:
            yield found
        finally:
            found.users -= 1
            if not found.users and found in self._former:
                self._former.discard(found)
                await found.api.close()

    async def renew(self, refused: Client) -> bool:
        """Return True if there is another client than the one whose credentials the server has refused."""
        async with self._making:
            now = self._clock()
            if self._current is refused and now - max(refused.made_at, self._renewed_at) >= RENEWAL_SECONDS:
                self._renewed_at = now
                await self._replace(self._access.stamp)
            return self._current is not refused

    async def aclose(self) -> None:
        """Close all connections. Safe to call twice."""
        clients = [*self._former, *([] if self._current is None else [self._current])]
        self._current = None
        self._former.clear()
        for one in clients:
            await one.api.close()

    async def _up_to_date(self) -> Client:
        async with self._making:
            stamp = self._access.stamp
            if self._current is None:
                self._current = await self._made(stamp)
            elif stamp not in (self._current.stamp, self._unreadable):
                await self._replace(stamp)
            return self._current

    async def _replace(self, stamp: Stamp) -> None:
        """Make a new client. If the files cannot be read, for example while they are written, keep the earlier one."""
        before = self._current
        try:
            self._current = await self._made(stamp)
        except CredentialsUnreadable as error:
            self._unreadable = stamp
            log.warning("the credentials of a cluster cannot be read again: %s", error, extra=self._facts)
            return
        self._unreadable = None
        if before is None:
            return
        log.info("the credentials of a cluster have been read again", extra=self._facts)
        if before.users:
            self._former.add(before)
        else:
            await before.api.close()

    async def _made(self, stamp: Stamp) -> Client:
        return Client(await _client_for(self._access), stamp, self._clock())

    @property
    def _facts(self) -> dict[str, str]:
        return {"cluster": self._access.name}


class _References:
    """Reads what a kubeconfig refers to again from time to time: the hook of the client before each request."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._read_at = time.monotonic()

    async def __call__(self, configuration: Any) -> None:
        if time.monotonic() - self._read_at < TOKEN_SECONDS:
            return
        self._read_at = time.monotonic()  # first, so that simultaneous requests go on with the earlier credentials
        try:
            await self._loader.load_and_set(configuration)
        except Exception:
            log.warning("the credentials of a cluster cannot be read again", exc_info=True)


async def _client_for(access: ClusterAccess) -> Any:
    import yaml  # type: ignore[import-untyped]
    from kubernetes_asyncio import client, config
    from kubernetes_asyncio.config.config_exception import ConfigException

    configuration: Any = client.Configuration()
    configuration.connection_pool_maxsize = 0  # no limit: each followed log has a connection
    try:
        if access.kubeconfig is None:
            load: Any = config.load_incluster_config
            load(
                client_configuration=configuration,
                try_refresh_token=False,  # because its errors would be those of a request
                token_filename=str(access.service_account / _TOKEN),
                cert_filename=str(access.service_account / _AUTHORITIES),
            )
        else:
            loader = await config.load_kube_config(
                config_file=str(access.kubeconfig),
                context=access.context,
                client_configuration=configuration,
                persist_config=False,
            )
            configuration.refresh_api_key_hook = _References(loader)
        return client.ApiClient(configuration)
    except (ConfigException, yaml.YAMLError) as error:
        raise CredentialsUnreadable(f"{access.source}: {error}") from error
    except (OSError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        # The loader checks few types, so that a file which is no kubeconfig can end in any of these.
        raise CredentialsUnreadable(f"{access.source}: {str(error) or type(error).__name__}") from error


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return the identity of a file; None if there is none. A link of a mounted Secret leads to another file after a
    change, and its time may be the same."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size)
