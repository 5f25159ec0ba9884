"""The client of the Kubernetes API against a server on loopback that sends what real ones do."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from queue_engine.backends.kubernetes import kube_client
from queue_engine.backends.kubernetes.kube_api import ClientApi, KubeError, KubeUnavailable, Owner
from queue_engine.backends.kubernetes.kube_client import Clients, ClusterAccess
from tests.integration.certificates import Authority
from tests.ports import free_port

pytest.importorskip("kubernetes_asyncio", reason="the extra `kubernetes` is not installed")
PATH = "/api/v1/namespaces/workers"


class Server:
    """Responds to each request with the next of the prepared responses, and keeps the requests."""

    def __init__(self) -> None:
        self.responses: list[web.Response] = []
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self.headers: list[dict[str, str]] = []
        self.pieces: list[bytes] = []
        self.may_end = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        given = json.loads(body) if body else None
        self.requests.append((request.method, request.path, dict(request.query), given))
        self.headers.append(dict(request.headers))
        if self.responses:
            return self.responses.pop(0)
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in self.pieces:
            await response.write(piece)
        await self.may_end.wait()
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    made.app = app = web.Application()  # type: ignore[attr-defined]
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    made.port = free_port()  # type: ignore[attr-defined]
    await web.TCPSite(runner, "127.0.0.1", made.port).start()  # type: ignore[attr-defined]
    yield made
    made.may_end.set()
    await runner.cleanup()


def kubeconfig(folder: Path, port: int) -> Path:
    path = folder / "kubeconfig"
    token = folder / "token"
    token.write_text("first")
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"tokenFile": str(token)}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
async def api(server: Server, tmp_path: Path) -> AsyncIterator[ClientApi]:
    made = ClientApi(ClusterAccess("here", "workers", kubeconfig(tmp_path, server.port)))  # type: ignore[attr-defined]
    yield made
    await made.aclose()
    await made.aclose()


def status(code: int, reason: str, message: str, **headers: str) -> web.Response:
    document = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return web.json_response(document, status=code, headers=headers)


@pytest.mark.parametrize(
    ("code", "reason", "is_transient", "is_done"),
    [
        (409, "AlreadyExists", False, True),
        (409, "Conflict", True, False),
        (401, "Unauthorized", True, False),
        (403, "Forbidden", False, False),
        (422, "Invalid", False, False),
        (500, "InternalError", True, False),
    ],
)
async def test_a_refusal_is_an_error_with_its_status(
    api: ClientApi, server: Server, code: int, reason: str, is_transient: bool, is_done: bool
) -> None:
    server.responses.append(status(code, reason, "no"))
    with pytest.raises(KubeError, match="no") as caught:
        await api.create_pod({"metadata": {"name": "qe-w1-1"}})
    error = caught.value
    assert (error.status, error.is_transient, error.is_done) == (code, is_transient, is_done)


async def test_an_overloaded_server_says_how_long_to_wait(api: ClientApi, server: Server) -> None:
    server.responses.append(status(429, "TooManyRequests", "slow down", **{"Retry-After": "7"}))
    with pytest.raises(KubeError) as caught:
        await api.create_secret({"metadata": {"name": "x"}})
    assert (caught.value.status, caught.value.retry_after_seconds) == (429, 7.0)


async def test_a_response_of_a_proxy_that_is_no_document_is_an_error(api: ClientApi, server: Server) -> None:
    server.responses += [web.Response(status=502, text="<html>bad gateway"), web.Response(text="<html>fine")]
    with pytest.raises(KubeError, match="bad gateway"):
        await api.list_pods("a=b", limit=5)
    with pytest.raises(KubeError, match="cannot be read"):
        await api.list_pods("a=b", limit=5)


async def test_a_server_that_is_away_is_unavailable(tmp_path: Path) -> None:
    port = free_port()
    api = ClientApi(ClusterAccess("here", "workers", kubeconfig(tmp_path, port)))
    with pytest.raises(KubeUnavailable) as caught:
        await api.list_pods("a=b", limit=5)
    await api.aclose()
    assert str(caught.value) == "the cluster cannot be reached: Connection refused"
    assert f"127.0.0.1:{port}" in caught.value.for_operators


async def test_operators_read_which_credentials_cannot_be_read_and_owners_that_they_cannot(tmp_path: Path) -> None:
    missing = ClientApi(ClusterAccess("here", "workers", tmp_path / "nowhere"))
    with pytest.raises(KubeUnavailable) as caught:
        await missing.anchor()
    assert str(caught.value) == "the cluster cannot be reached: its credentials cannot be read"
    assert "nowhere" in caught.value.for_operators


async def test_a_pod_is_deleted_with_its_uid_and_grace_period(api: ClientApi, server: Server) -> None:
    server.responses += [web.json_response({}), status(404, "NotFound", "gone"), status(409, "Conflict", "another uid")]
    for _ in range(3):
        await api.delete_pod("qe-w1-1", "u-1", 25)
    method, path, _, body = server.requests[0]
    assert (method, path) == ("DELETE", f"{PATH}/pods/qe-w1-1")
    assert (body["gracePeriodSeconds"], body["preconditions"]) == (25, {"uid": "u-1"})


async def test_secrets_are_listed_without_their_content(api: ClientApi, server: Server) -> None:
    server.responses.append(web.json_response({"items": [{"metadata": {"name": "x"}}]}))
    assert await api.list_secrets("a=b") == [{"metadata": {"name": "x"}}]
    assert "PartialObjectMetadataList" in server.headers[0]["Accept"]


async def test_pages_of_a_list_follow_each_other(api: ClientApi, server: Server) -> None:
    metadata = {"resourceVersion": "7", "continue": "next"}
    server.responses.append(web.json_response({"metadata": metadata, "items": [{}]}))
    assert await api.list_pods("a=b", limit=5, page="this") == ([{}], "7", "next")
    assert server.requests[0][2] == {"labelSelector": "a=b", "limit": "5", "continue": "this"}


async def test_a_watch_yields_events_and_raises_an_expired_version(api: ClientApi, server: Server) -> None:
    added = {"type": "ADDED", "object": {"metadata": {"name": "qe-w1-1", "resourceVersion": "8"}}}
    expired = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}}
    text = b"".join(json.dumps(one).encode() + b"\n" for one in (added, expired))
    server.pieces = [text[:20], text[20:]]
    async with aclosing(api.watch_pods("a=b", "7", 240)) as events:
        assert await anext(events) == {}
        assert await anext(events) == added
        with pytest.raises(KubeError) as caught:
            await anext(events)
    assert caught.value.status == 410
    assert server.requests[0][2]["allowWatchBookmarks"] == "true"
    assert (server.requests[0][2]["resourceVersion"], server.requests[0][2]["timeoutSeconds"]) == ("7", "240")


async def test_a_log_is_read_from_a_time_on(api: ClientApi, server: Server) -> None:
    server.pieces = [b"2026-11-28T14:03:07Z first\n"]
    server.may_end.set()
    async with aclosing(api.read_log("qe-w1-1", "main", "2026-11-28T14:03:07Z")) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == b"2026-11-28T14:03:07Z first\n"
    assert server.requests[0][1] == f"{PATH}/pods/qe-w1-1/log"
    assert server.requests[0][2]["sinceTime"] == "2026-11-28T14:03:07Z"


async def test_the_owner_is_read_and_made(api: ClientApi, server: Server) -> None:
    made = {"metadata": {"name": "queue-engine-anchor", "uid": "u"}}
    server.responses += [status(404, "NotFound", "none"), web.json_response(made, status=201)]
    assert await api.anchor() is None
    assert await api.create_anchor("1f5e") == Owner("queue-engine-anchor", "u")
    assert server.requests[1][3]["metadata"]["labels"]["queue-engine/instance"] == "1f5e"
    made["metadata"]["labels"] = {"queue-engine/instance": "1f5e"}  # type: ignore[assignment]
    server.responses += [web.json_response(made), web.json_response({})]
    assert await api.anchor() == Owner("queue-engine-anchor", "u", "1f5e")
    await api.delete_anchor("u")
    method, path, _, body = server.requests[-1]
    assert (method, path, body["preconditions"]) == ("DELETE", f"{PATH}/configmaps/queue-engine-anchor", {"uid": "u"})


async def test_a_token_in_a_file_is_read_again(
    api: ClientApi, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.responses += [web.json_response({"items": []}) for _ in range(2)]
    await api.list_events("u", 5)
    (tmp_path / "token").write_text("second")
    monkeypatch.setattr(kube_client, "TOKEN_SECONDS", 0.0)
    await api.list_events("u", 5)
    assert [one["Authorization"] for one in server.headers] == ["Bearer first", "Bearer second"]


def embedded(folder: Path, port: int, token: str) -> Path:
    """A kubeconfig with the token itself, put in place at once, as a mounted Secret is."""
    path = kubeconfig(folder, port)
    document = json.loads(path.read_text())
    document["users"][0]["user"] = {"token": token}
    written = folder / "written"
    written.write_text(json.dumps(document))
    return written.rename(path)


def tokens(server: Server) -> list[str]:
    return [one.get("Authorization", "none").removeprefix("Bearer ") for one in server.headers]


async def test_a_token_in_a_kubeconfig_is_read_again_when_the_file_has_changed(server: Server, tmp_path: Path) -> None:
    server.responses += [web.json_response({"items": []}) for _ in range(4)]
    path = embedded(tmp_path, server.port, "first")  # type: ignore[attr-defined]
    api = ClientApi(ClusterAccess("here", "workers", path))
    await api.list_events("u", 5)
    embedded(tmp_path, server.port, "second")  # type: ignore[attr-defined]
    await api.list_events("u", 5)
    path.write_text("{ half of a fi")
    await api.list_events("u", 5)
    embedded(tmp_path, server.port, "third")  # type: ignore[attr-defined]
    await api.list_events("u", 5)
    assert tokens(server) == ["first", "second", "second", "third"]
    await api.aclose()


async def test_a_refused_token_is_read_again_and_the_call_is_repeated_once(
    api: ClientApi, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kube_client, "RENEWAL_SECONDS", 0.0)
    refused = [status(401, "Unauthorized", "Unauthorized") for _ in range(2)]
    server.responses += [web.json_response({"items": []}), refused[0], web.json_response({"metadata": {}}, status=201)]
    await api.list_events("u", 5)
    (tmp_path / "token").write_text("second")
    assert await api.create_pod({"metadata": {"name": "qe-w1-1"}}) == {"metadata": {}}
    assert tokens(server) == ["first", "first", "second"]
    assert server.requests[1] == server.requests[2]
    server.responses += [refused[1], status(401, "Unauthorized", "Unauthorized")]
    with pytest.raises(KubeError) as caught:
        await api.list_events("u", 5)
    assert (caught.value.status, len(server.requests)) == (401, 5)


async def test_a_token_that_stays_wrong_is_not_read_again_at_each_call(api: ClientApi, server: Server) -> None:
    server.responses += [status(401, "Unauthorized", "Unauthorized") for _ in range(3)]
    for _ in range(3):
        with pytest.raises(KubeError):
            await api.list_events("u", 5)
    assert len(server.requests) == 3


async def test_refused_credentials_that_cannot_be_read_are_not_read_at_each_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = 1000.0
    path = embedded(tmp_path, free_port(), "first")
    clients = Clients(ClusterAccess("here", "workers", path), clock=lambda: now)
    async with clients.client() as client:
        path.write_text("{ half of a fi")
        for _ in range(3):
            now += kube_client.RENEWAL_SECONDS / 2
            assert not await clients.renew(client)
    assert caplog.text.count("cannot be read again") == 1
    await clients.aclose()


async def test_a_watch_goes_on_when_the_credentials_are_read_again(server: Server, tmp_path: Path) -> None:
    path = embedded(tmp_path, server.port, "first")  # type: ignore[attr-defined]
    api = ClientApi(ClusterAccess("here", "workers", path))
    server.pieces = [b'{"type": "BOOKMARK", "object": {}}\n']
    async with aclosing(api.watch_pods("a=b", "7", 240)) as events:
        assert await anext(events) == {}
        embedded(tmp_path, server.port, "second")  # type: ignore[attr-defined]
        server.responses.append(web.json_response({"items": []}))
        await api.list_events("u", 5)
        assert (await anext(events))["type"] == "BOOKMARK"
        server.may_end.set()
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert tokens(server) == ["first", "second"]
    await api.aclose()


async def test_the_token_and_the_authorities_of_a_pod_are_read_again_when_they_are_replaced(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kubelet does: the files are links into a folder that is replaced as a whole."""

    def project(name: str, token: str, authority: Authority) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "token").write_text(token)
        (folder / "ca.crt").write_bytes(authority.bundle.read_bytes())
        link = tmp_path / "link"
        link.symlink_to(folder)
        link.rename(tmp_path / "data")

    authorities = [Authority(tmp_path, name) for name in ("first", "second")]
    certificates = [one.issue("127.0.0.1") for one in authorities]
    context = certificates[0].server_context()
    port = free_port()
    runner = web.AppRunner(server.app)  # type: ignore[attr-defined]
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(port))
    project("before", "first", authorities[0])
    api = ClientApi(ClusterAccess("here", "workers", service_account=tmp_path / "data"))
    server.responses += [web.json_response({"items": []}) for _ in range(2)]
    await api.list_events("u", 5)
    context.load_cert_chain(certificates[1].path)
    project("after", "second", authorities[1])
    await api.list_events("u", 5)
    assert tokens(server) == ["first", "second"]
    await api.aclose()
    await runner.cleanup()


@pytest.mark.parametrize(("ahead_seconds", "noted_ms"), [(-3600, -3_600_000), (90, 90_000), (0, 0), (None, 0)])
async def test_the_clock_of_the_server_is_noted(
    api: ClientApi, server: Server, ahead_seconds: int | None, noted_ms: int
) -> None:
    date = "no date" if ahead_seconds is None else formatdate(time.time() + ahead_seconds, usegmt=True)
    server.responses.append(web.json_response({"items": []}, headers={"Date": date}))
    await api.list_events("u", 5)
    assert abs(api.clock_ahead_ms - noted_ms) < 2000


async def test_a_pod_without_a_token_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    api = ClientApi(ClusterAccess("here", "workers", service_account=tmp_path))
    with pytest.raises(KubeUnavailable) as caught:
        await api.anchor()
    await api.aclose()
    assert "the pod's ServiceAccount: Service token file does not exist" in caught.value.for_operators


@pytest.mark.parametrize("text", ["", "[]", "- a: [", "{}", "kind: Config\nclusters: 5\n", "\x00"])
async def test_a_file_that_is_no_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    api = ClientApi(ClusterAccess("here", "workers", path))
    with pytest.raises(KubeUnavailable) as caught:
        await api.anchor()
    await api.aclose()
    assert "kubeconfig: " in caught.value.for_operators
