"""The client of the Kubernetes API against a server on loopback that sends what real ones do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from queue_engine.backends.kubernetes import kube_api
from queue_engine.backends.kubernetes.kube_api import ClientApi, ClusterAccess, KubeError, KubeUnavailable, Owner
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
    app = web.Application()
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
    api = ClientApi(ClusterAccess("here", "workers", kubeconfig(tmp_path, free_port())))
    with pytest.raises(KubeUnavailable, match="the cluster cannot be reached"):
        await api.list_pods("a=b", limit=5)
    await api.aclose()
    missing = ClientApi(ClusterAccess("here", "workers", tmp_path / "nowhere"))
    with pytest.raises(KubeUnavailable, match="nowhere"):
        await missing.anchor()


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
    assert await api.create_anchor() == Owner("queue-engine-anchor", "u")


async def test_a_token_in_a_file_is_read_again(
    api: ClientApi, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.responses += [web.json_response({"items": []}) for _ in range(2)]
    await api.list_events("u", 5)
    (tmp_path / "token").write_text("second")
    monkeypatch.setattr(kube_api, "TOKEN_SECONDS", 0.0)
    await api.list_events("u", 5)
    assert [one["Authorization"] for one in server.headers] == ["Bearer first", "Bearer second"]
