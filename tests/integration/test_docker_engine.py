"""The client of a container engine, against a server on loopback."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from queue_engine.backends.docker import watch
from queue_engine.backends.docker.backend import DockerBackend, DockerOptions
from queue_engine.backends.docker.engine import AiodockerEngine
from queue_engine.backends.docker.specs import Hosting
from queue_engine.domain.gpus import Gpus
from tests.ports import free_port
from tests.waiting import wait_until_async


class Server:
    """An engine without containers, which keeps the paths of its requests."""

    def __init__(self) -> None:
        self.port = free_port()
        self.tells_version_with_ping = True
        self.paths: list[str] = []
        self.dies = False
        """True if it breaks all connections at once when both the list and the stream of events have been asked for."""
        self._asked = asyncio.Barrier(2)

    async def _die(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await self._asked.wait()
        assert request.transport is not None
        request.transport.abort()
        return response

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        if self.dies and request.path != "/_ping":
            return await self._die(request)
        if request.path == "/_ping":
            return web.Response(text="OK", headers={"Api-Version": "1.41"} if self.tells_version_with_ping else {})
        return web.json_response({"ApiVersion": "1.40"} if request.path == "/version" else [])


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    yield made
    await runner.cleanup()


async def paths_of_two_lists(server: Server) -> list[str]:
    engine = AiodockerEngine(f"tcp://127.0.0.1:{server.port}", {})
    for _ in range(2):
        assert await engine.containers("a=b") == []
    await engine.aclose()
    return server.paths


async def test_the_version_of_the_api_is_that_of_a_ping(server: Server) -> None:
    """Podman takes seconds to respond to `/version`."""
    lists = ["/v1.41/containers/json"] * 2
    assert await paths_of_two_lists(server) == ["/_ping", *lists]


async def test_an_engine_whose_ping_has_no_version_is_asked_for_it(server: Server) -> None:
    server.tells_version_with_ping = False
    lists = ["/v1.40/containers/json"] * 2
    assert await paths_of_two_lists(server) == ["/_ping", "/version", *lists]


async def problem_of(url: str) -> str:
    """Return what a backend says to owners about the engine at this URL, once it says something."""
    backend = DockerBackend(
        lambda: AiodockerEngine(url, {}), DockerOptions(Hosting("here"), "localhost/agent:1"), Gpus()
    )
    assert await backend.observe() is None
    assert backend.problem is None
    try:
        return str(await wait_until_async(lambda: backend.problem))
    finally:
        await backend.aclose(0)


@pytest.mark.parametrize(
    ("url", "reason"),
    [("unix://{folder}/engine.sock", "No such file or directory"), ("tcp://127.0.0.1:{port}", "Connection refused")],
    ids=["no socket", "a port that refuses"],
)
async def test_owners_read_why_an_engine_is_away_and_operators_also_where_it_is(
    url: str, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = url.format(folder=tmp_path, port=free_port())
    assert await problem_of(url) == f"the container engine cannot be reached: {reason}"
    assert f"the container engine at {url} cannot be reached: {reason}" in caplog.text


async def test_owners_do_not_read_the_address_of_an_engine_that_breaks_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        reason = await problem_of(f"tcp://127.0.0.1:{port}")
    assert reason.startswith("the container engine cannot be reached: ")
    assert str(port) not in reason
    assert f"the container engine at tcp://127.0.0.1:{port} cannot be reached: " in caplog.text


async def test_an_engine_that_dies_is_one_line_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.dies = True
    assert (await problem_of(f"tcp://127.0.0.1:{server.port}")).startswith("the container engine cannot be reached: ")
    gc.collect()
    assert "Traceback" not in caplog.text
    assert "never retrieved" not in caplog.text


async def test_an_engine_that_accepts_connections_and_is_silent_does_not_respond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LATE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/s")
        silent.listen()
        assert await problem_of(f"unix://{tmp_path}/s") == "the container engine does not respond"
