"""The client of a container engine, against a server on loopback."""

from __future__ import annotations

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

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
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
    """Return what a backend says about the engine at this URL, once it says something."""
    backend = DockerBackend(
        lambda: AiodockerEngine(url, {}), DockerOptions(Hosting("here"), "localhost/agent:1"), Gpus()
    )
    assert await backend.observe() is None
    assert backend.problem is None
    try:
        return str(await wait_until_async(lambda: backend.problem))
    finally:
        await backend.aclose(0)


async def test_an_engine_without_its_socket_is_named_with_the_reason(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/engine.sock"
    assert await problem_of(url) == f"the container engine at {url} cannot be reached: No such file or directory"


async def test_an_engine_on_a_port_that_refuses_is_named_with_the_reason() -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    reason = await problem_of(url)
    assert reason.startswith(f"the container engine at {url} cannot be reached: ")
    assert "refused" in reason.lower() or "Connect call failed" in reason


async def test_an_engine_that_accepts_connections_and_is_silent_does_not_respond(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LATE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/s")
        silent.listen()
        assert await problem_of(f"unix://{tmp_path}/s") == "the container engine does not respond"
