"""The client of a container engine, against a server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from queue_engine.backends.docker.engine import AiodockerEngine
from tests.ports import free_port


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
