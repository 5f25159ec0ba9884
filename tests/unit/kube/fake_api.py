"""A namespace of a Kubernetes cluster in memory, which behaves like the real API server: with versions that expire,
uids, graceful ends and refusals. A test says what its node does.
"""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from queue_engine.aio import wait_for_event
from queue_engine.backends.kubernetes.kube_api import (
    ANCHOR,
    Document,
    KubeError,
    KubeUnavailable,
    Owner,
    PodPage,
)

Json = dict[str, Any]


def now_text(later_seconds: float = 0.0) -> str:
    return (datetime.now(UTC) + timedelta(seconds=later_seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeKube:
    """The API. With `has_node`, new pods run at once, and end when they are deleted."""

    def __init__(self, *, has_node: bool = True) -> None:
        self.has_node = has_node
        self.pods: dict[str, Json] = {}
        self.secrets: dict[str, Json] = {}
        self.events: dict[str, list[Json]] = {}
        """Events by the uid of their pod."""
        self.output: dict[str, list[bytes]] = {}
        """Pieces of output by the name of their pod."""
        self.has_anchor = True
        self.anchor_instance = ""
        """The installation that has made the owner; empty if it is the chart's."""
        self.may_make_anchor = True
        self.refusals: dict[str, list[KubeError]] = {}
        """Errors of the next calls, by the name of the method."""
        self.calls: Counter[str] = Counter()
        self.deletions: list[tuple[str, int]] = []
        """The names and grace periods of the deletions of pods that were asked for."""
        self.clock_ahead_ms = 0
        self.is_away = False
        self.is_silent = False
        """True if watches stay open and send nothing."""
        self.ignores_shorter_ends = False
        """True for a node that ends a pod in its own time, and never confirms a shorter one."""
        self.held: dict[str, asyncio.Event] = {}
        """Calls, by the name of their method, wait for the event after their effect."""
        self._version = 100
        self._compacted = 0
        self._history: list[tuple[int, Json]] = []
        self._news = asyncio.Event()

    # Changes in the cluster

    def set_status(self, name: str, **status: object) -> None:
        """Change the status of a pod."""
        self.pods[name]["status"] = {**self.pods[name]["status"], **status}
        self._emit("MODIFIED", self.pods[name])

    def run(self, name: str) -> None:
        """Let both containers of a pod run."""
        states = [_status(part, {"running": {"startedAt": now_text()}}) for part in ("agent", "main")]
        self.set_status(name, phase="Running", conditions=[_SCHEDULED], containerStatuses=states)

    def end(self, name: str, part: str, **terminated: object) -> None:
        """Let a container of a pod end; with its status and reason."""
        ended = {"exitCode": 0, "reason": "Error", "finishedAt": now_text(), **terminated}
        states = [one for one in self.pods[name]["status"]["containerStatuses"] if one["name"] != part]
        self.set_status(name, containerStatuses=[*states, _status(part, {"terminated": ended})])

    def block(self, name: str, reason: str, message: str = "", part: str = "main") -> None:
        """Let a container of a pod wait."""
        states = [one for one in self.pods[name]["status"].get("containerStatuses", []) if one["name"] != part]
        waiting = _status(part, {"waiting": {"reason": reason, "message": message}})
        self.set_status(name, conditions=[_SCHEDULED], containerStatuses=[*states, waiting])

    def make_unschedulable(self, name: str, message: str = "0/1 nodes are available") -> None:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        self.set_status(name, conditions=[condition])

    def remove(self, name: str) -> None:
        """Let a pod be gone, as its node reports it."""
        self._emit("DELETED", self.pods.pop(name))

    def delete_by_hand(self, name: str, grace_seconds: int = 30) -> None:
        """Ask for the end of a pod, as somebody else would."""
        self._begin_end(name, grace_seconds)

    def forget_versions(self) -> None:
        """Let all versions expire, as a restart of the API server does, and end the watches."""
        self._version += 1
        self._compacted = self._version
        self._tell()

    def _begin_end(self, name: str, grace_seconds: int) -> None:
        pod = self.pods[name]
        metadata = pod["metadata"]
        if grace_seconds == 0 or not pod["status"].get("containerStatuses"):
            self.remove(name)
            return
        if grace_seconds >= metadata.get("deletionGracePeriodSeconds", 10**9):
            return
        asked_at = metadata.setdefault("endAskedAt", datetime.now(UTC).isoformat())  # a shorter end counts from then
        end_at = datetime.fromisoformat(asked_at) + timedelta(seconds=grace_seconds)
        metadata |= {
            "deletionTimestamp": end_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "deletionGracePeriodSeconds": grace_seconds,
        }
        self._emit("MODIFIED", pod)
        if self.has_node:
            asyncio.get_running_loop().call_soon(self._end_at_node, name)

    def _end_at_node(self, name: str) -> None:
        if name in self.pods and not self.ignores_shorter_ends:
            self.end(name, "main", exitCode=143)
            self.remove(name)

    def _emit(self, kind: str, pod: Json) -> None:
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        self._history.append((self._version, {"type": kind, "object": copy.deepcopy(pod)}))
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # KubeApi

    async def list_pods(self, selector: str, *, limit: int, page: str = "") -> PodPage:
        await self._begin("list_pods")
        version, _, offset = page.partition("/")
        if page and int(version) < self._compacted:
            raise KubeError(410, "The provided continue parameter is too old", reason="Expired")
        begin = int(offset or 0)
        found = [copy.deepcopy(one) for one in self.pods.values() if _matches(one, selector)]
        answer = PodPage(
            found[begin : begin + limit],
            version or str(self._version),
            f"{version or self._version}/{begin + limit}" if begin + limit < len(found) else "",
        )
        await self._end_of("list_pods")
        return answer

    async def watch_pods(self, selector: str, version: str, seconds: int) -> AsyncGenerator[Document, None]:
        await self._begin("watch_pods")
        yield {}
        seen = int(version)
        clock = asyncio.get_running_loop().time
        end_at = clock() + seconds
        while clock() < end_at or self.is_silent:
            if self.is_away:
                raise KubeUnavailable("connection reset")
            if seen < self._compacted:
                raise KubeError(410, "too old resource version", reason="Expired")
            for number, event in [one for one in self._history if one[0] > seen and not self.is_silent]:
                seen = number
                if _matches(event["object"], selector):
                    yield event
            await wait_for_event(self._news, None if self.is_silent else end_at - clock())

    async def create_pod(self, document: Document) -> Document:
        await self._begin("create_pod")
        name = document["metadata"]["name"]
        if name in self.pods:
            raise KubeError(409, f'pods "{name}" already exists', reason="AlreadyExists")
        pod = self.pods[name] = copy.deepcopy(dict(document))
        pod["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now_text()}
        pod["status"] = {"phase": "Pending"}
        self._emit("ADDED", pod)
        made = copy.deepcopy(pod)
        if self.has_node:
            self.run(name)
        await self._end_of("create_pod")
        return made

    async def delete_pod(self, name: str, uid: str, grace_seconds: int) -> None:
        await self._begin("delete_pod")
        self.deletions.append((name, grace_seconds))
        if name in self.pods and self.pods[name]["metadata"]["uid"] == uid:
            self._begin_end(name, grace_seconds)

    async def create_secret(self, document: Document) -> None:
        await self._begin("create_secret")
        name = document["metadata"]["name"]
        if name in self.secrets:
            raise KubeError(409, f'secrets "{name}" already exists', reason="AlreadyExists")
        secret = self.secrets[name] = copy.deepcopy(dict(document))
        secret["metadata"]["uid"] = str(uuid.uuid4())
        await self._end_of("create_secret")

    async def read_secret(self, name: str) -> Document | None:
        await self._begin("read_secret")
        return self.secrets.get(name)

    async def list_secrets(self, selector: str) -> Sequence[Document]:
        await self._begin("list_secrets")
        return [{"metadata": one["metadata"]} for one in self.secrets.values() if _matches(one, selector)]

    async def delete_secret(self, name: str) -> None:
        await self._begin("delete_secret")
        await self._end_of("delete_secret")
        self.secrets.pop(name, None)

    async def read_log(self, pod: str, container: str, since: str | None) -> AsyncGenerator[bytes, None]:
        await self._begin("read_log")
        for piece in self.output.get(pod, []):
            yield piece

    async def list_events(self, pod_uid: str, limit: int) -> Sequence[Document]:
        await self._begin("list_events")
        return self.events.get(pod_uid, [])[:limit]

    async def anchor(self) -> Owner | None:
        await self._begin("anchor")
        return Owner(ANCHOR, "uid-of-the-anchor", self.anchor_instance) if self.has_anchor else None

    async def create_anchor(self, instance: str) -> Owner:
        await self._begin("create_anchor")
        if not self.may_make_anchor:
            raise KubeError(403, "configmaps is forbidden", reason="Forbidden")
        self.has_anchor, self.anchor_instance = True, instance
        return Owner(ANCHOR, "uid-of-the-anchor", instance)

    async def delete_anchor(self, uid: str) -> None:
        await self._begin("delete_anchor")
        assert uid == "uid-of-the-anchor"
        self.has_anchor = False

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""

    async def _begin(self, call: str) -> None:
        self.calls[call] += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise KubeUnavailable("connection refused")
        if waiting := self.refusals.get(call):
            raise waiting.pop(0)

    async def _end_of(self, call: str) -> None:
        if call in self.held:
            await self.held[call].wait()


_SCHEDULED = {"type": "PodScheduled", "status": "True"}


def _status(name: str, state: Mapping[str, object]) -> Json:
    container_id = None if "waiting" in state else f"containerd://{name}"
    return {"name": name, "state": dict(state), "containerID": container_id}


def _matches(document: Mapping[str, Any], selector: str) -> bool:
    name, _, value = selector.partition("=")
    return (document["metadata"].get("labels") or {}).get(name) == value
