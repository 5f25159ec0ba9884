"""The start of an API process: no connection waits for it."""

import socket

import pytest
from pydantic import SecretStr

from queue_engine.cli import serve_api
from queue_engine.config.engine import ApiSettings
from tests.ports import free_port


class Enough(Exception):
    """The start was observed."""


async def test_connections_are_refused_until_the_process_can_serve(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load balancer or an agent then uses another process at once. An accepted request would wait until the end of
    the start, and an agent would lose the leases that it cannot renew in this time."""
    port = free_port()

    def create_app(*_: object) -> None:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
        raise Enough

    monkeypatch.setattr(serve_api, "create_app", create_app)
    settings = ApiSettings(redis_url=SecretStr(valkey_url), port=port, api_metrics="public")
    with pytest.raises(Enough):
        await serve_api.serve_api(settings)
