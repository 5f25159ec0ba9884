"""The users as which containers of the process backend run: the controller's, or one for each endpoint."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

from queue_engine.backends.base import BackendError
from queue_engine.domain.user_ids import (
    UserIds,
    choose_user_id,
    default_user_ids,
    is_mapped,
    missing_capabilities,
    overlap,
)
from queue_engine.processes.users import account_ids, effective_capabilities, mapped_ids, subordinate_ids


async def one_tenant() -> bool:
    """Return True. For a backend that runs the containers of all tenants as one user."""
    return True


class WorkerUsers:
    """The user id of each endpoint that has workers.

    With `ids`, each endpoint has an id of its own while there is more than one tenant. Without, all containers run as
    the controller's user.
    """

    def __init__(self, ids: UserIds | None = None, has_one_tenant: Callable[[], Awaitable[bool]] = one_tenant) -> None:
        self._ids = ids
        self._has_one_tenant = has_one_tenant
        self._saw_second_tenant = False
        self._of_endpoint: dict[str, int] = {}
        self._workers: Counter[str] = Counter()

    @property
    def ids(self) -> Container[int]:
        """The ids that containers may have besides the controller's."""
        return self._ids or ()

    async def take(self, endpoint_id: str) -> int | None:
        """Return the user id for a further worker of the endpoint; None: the controller's own.

        Call `release` when the worker has ended. Raises BackendError if no id is free, and the errors of
        `has_one_tenant`.
        """
        user_id = await self._user_of(endpoint_id)
        self._workers[endpoint_id] += 1
        return user_id

    def release(self, endpoint_id: str) -> None:
        """Note that a worker of the endpoint has ended. The endpoint's id is free after the last one."""
        self._workers[endpoint_id] -= 1
        if self._workers[endpoint_id] <= 0:
            del self._workers[endpoint_id]
            self._of_endpoint.pop(endpoint_id, None)

    async def _user_of(self, endpoint_id: str) -> int | None:
        if self._ids is None or await self._has_only_one_tenant():
            return None
        if endpoint_id not in self._of_endpoint:
            busy = await asyncio.to_thread(_ids_of_processes, self._ids)
            # Not awaited below, so that two endpoints cannot get the same id.
            user_id = choose_user_id(endpoint_id, self._ids, busy.union(self._of_endpoint.values()))
            if user_id is None:
                raise BackendError(
                    f"no user id is free for the endpoint: all {self._ids.count} of QUEUE_ENGINE_WORKER_UIDS "
                    f"({self._ids}) are in use"
                )
            self._of_endpoint.setdefault(endpoint_id, user_id)
        return self._of_endpoint[endpoint_id]

    async def _has_only_one_tenant(self) -> bool:
        if not self._saw_second_tenant:
            self._saw_second_tenant = not await self._has_one_tenant()
        return not self._saw_second_tenant


def _ids_of_processes(ids: UserIds) -> set[int]:
    """Return the ids that processes of this machine have, such as the workers of another controller."""
    found: set[int] = set()
    for pid in psutil.pids():
        with suppress(psutil.Error):
            found.update(user_id for user_id in psutil.Process(pid).uids() if user_id in ids)
    return found


@dataclass(frozen=True)
class Isolation:
    """How the containers of several tenants are kept apart."""

    ids: UserIds | None = None
    """The user ids of which each endpoint gets one while there are several tenants; None: all run as this user."""
    one_tenant_reason: str | None = None
    """Why only one tenant may have endpoints, for the owners of others; None if several may."""


def isolation(configured: UserIds | None, *, shared: bool) -> Isolation:
    """Return how this process can keep containers apart. `shared`: the operator wants one user for all tenants.

    Raises ValueError if the configured user ids cannot be used.
    """
    if shared:
        return Isolation()
    missing = _missing_rights()
    if missing is not None:
        return _one_tenant_only(missing)
    used = [UserIds(one, one) for one in account_ids()]
    mapped = _ranges(mapped_ids())
    ids = configured or default_user_ids([*used, *_ranges(subordinate_ids())], mapped)
    if ids is None:
        return _one_tenant_only("this machine has no free range of user ids for QUEUE_ENGINE_WORKER_UIDS")
    if (account := overlap(ids, used)) is not None:
        raise ValueError(f"has the id {account.first} of a user or a group of this machine")
    if not is_mapped(ids, mapped):
        raise ValueError("has ids that do not exist in this user namespace")
    return Isolation(ids)


def _missing_rights() -> str | None:
    if sys.platform != "linux":
        return "the controller does not run on Linux"
    if os.geteuid() != 0:
        return "the controller is not root"
    missing = missing_capabilities(effective_capabilities())
    return f"the controller is root without {', '.join(missing)}" if missing else None


def _one_tenant_only(reason: str) -> Isolation:
    return Isolation(
        one_tenant_reason="this engine runs the endpoints of one tenant only, because it cannot keep tenants apart: "
        f"{reason}. Its operator can run the controller as root, or set QUEUE_ENGINE_PROCESS_BACKEND_SHARED=yes"
    )


def _ranges(pairs: Sequence[tuple[int, int]]) -> list[UserIds]:
    return [UserIds(first, first + count - 1) for first, count in pairs if count > 0]
