"""The API with a certificate of its own."""

import asyncio
import logging
import os
import ssl
from asyncio.constants import SSL_HANDSHAKE_TIMEOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from queue_engine.api.http import tls_listener
from queue_engine.api.http.certificates import ServerCertificate
from queue_engine.api.http.server import listen, serve
from queue_engine.config.engine import ApiSettings
from queue_engine.net.reloaded_files import CHECK_SECONDS
from tests.integration.certificates import self_signed
from tests.integration.parts import Programs
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scheme", scope["scheme"].encode())]})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def served(certificate: ServerCertificate, **values: Any) -> AsyncIterator[int]:
    settings = ApiSettings(port=0, **values)
    stopping = asyncio.Event()
    with listen(settings) as listener:
        port: int = listener.getsockname()[1]
        serving = asyncio.create_task(serve(app, settings, listener, stopping, certificate))  # type: ignore[arg-type]
        try:
            yield port
        finally:
            stopping.set()
            await serving


async def exchange(port: int, request: bytes = REQUEST) -> tuple[bytes, bytes]:
    """Return the response and the certificate of the server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(request)
    response = await reader.read()
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return response, shown


def put(source: Path, target: Path) -> bytes:
    """Replace the file as certificate managers do, and return the certificate in it."""
    draft = target.with_suffix(".new")
    draft.write_bytes(source.read_bytes())
    os.replace(draft, target)
    return ssl.PEM_cert_to_DER_cert(target.read_text().partition("-----BEGIN PRIVATE")[0])


@pytest.fixture
def made(tmp_path: Path) -> list[Path]:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    return [self_signed(tmp_path / name, "localhost").path for name in ("a", "b")]


async def test_a_changed_certificate_is_used_by_new_connections(tmp_path: Path, made: list[Path]) -> None:
    clock, path = Clock(), tmp_path / "used.pem"
    first = put(made[0], path)
    async with served(ServerCertificate(path, None, monotonic=clock)) as port:
        response, shown = await exchange(port)
        assert response.startswith(b"HTTP/1.1 200 ")
        assert b"x-scheme: https" in response
        assert shown == first
        second = put(made[1], path)
        clock.now += CHECK_SECONDS
        assert (await exchange(port))[1] == second != first


async def test_a_certificate_that_cannot_be_used_leaves_the_previous_one(
    tmp_path: Path, made: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "used.pem"
    first = put(made[0], path)
    async with served(ServerCertificate(path, None, monotonic=clock)) as port:
        for broken in (b"no certificate", made[1].read_bytes()[:300]):
            path.write_bytes(broken)
            for _ in range(2):
                clock.now += CHECK_SECONDS
                assert (await exchange(port))[1] == first
        path.unlink()
        clock.now += CHECK_SECONDS
        assert (await exchange(port))[1] == first
        assert caplog.text.count("the new certificate is not used (QUEUE_ENGINE_TLS_CERT)") == 3
        second = put(made[1], path)
        clock.now += CHECK_SECONDS
        with caplog.at_level(logging.INFO):
            assert (await exchange(port))[1] == second
        assert "the certificate was replaced" in caplog.text


async def test_a_certificate_that_could_not_be_read_is_tried_again(
    tmp_path: Path, made: list[Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(), tmp_path / "used.pem"
    first = put(made[0], path)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("not readable yet")

    async with served(ServerCertificate(path, None, monotonic=clock)) as port:
        second = put(made[1], path)
        with monkeypatch.context() as unreadable:  # as root, the tests could read a file of any mode
            unreadable.setattr(ssl.SSLContext, "load_cert_chain", refuse)
            for _ in range(2):
                clock.now += CHECK_SECONDS
                assert (await exchange(port))[1] == first
        assert caplog.text.count("not readable yet") == 1
        clock.now += CHECK_SECONDS
        assert (await exchange(port))[1] == second


async def test_a_refused_request_gets_its_response_over_tls(made: list[Path]) -> None:
    async with served(ServerCertificate(made[0], None)) as port:
        async with asyncio.timeout(60):
            response, _ = await exchange(port, b"GET  / HTTP/1.1\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 400 ")
        assert b"one space" in response


async def is_served(port: int) -> bool:
    """Return False if the server closes the connection before the handshake."""
    try:
        return (await exchange(port))[0].startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


async def test_a_connection_counts_before_its_handshake(made: list[Path]) -> None:
    async with served(ServerCertificate(made[0], None), max_connections_per_address=2) as port:
        assert await is_served(port)
        silent = [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(2)]
        assert not await is_served(port)
        silent[0].close()
        await wait_until_async(lambda: is_served(port))
        silent[1].write(b"not TLS")
        silent.append((await asyncio.open_connection("127.0.0.1", port))[1])
        await wait_until_async(lambda: is_served(port))
        for one in silent[1:]:
            one.close()


BELOW_ASYNCIOS_LIMIT_SECONDS = SSL_HANDSHAKE_TIMEOUT / 2
"""A handshake without a limit of ours ends too, after the 60 s of asyncio and uvloop."""


async def test_a_handshake_has_a_time_limit(made: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert tls_listener.HANDSHAKE_SECONDS <= 10
    async with served(ServerCertificate(made[0], None), max_connections_per_address=1) as port:
        with monkeypatch.context() as impatient:
            impatient.setattr(tls_listener, "HANDSHAKE_SECONDS", 0.1)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(BELOW_ASYNCIOS_LIMIT_SECONDS):
                assert await reader.read() == b""
        writer.close()
        await wait_until_async(lambda: is_served(port))


def test_connections_count_before_their_handshake_on_uvloop_too(
    made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with served(ServerCertificate(made[0], None), max_connections_per_address=2) as port:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            assert not await is_served(port)
            silent[0][1].close()
            await wait_until_async(lambda: is_served(port))
            silent[1][1].write(b"not TLS")
            assert await silent[1][0].read() == b""
            monkeypatch.setattr(tls_listener, "HANDSHAKE_SECONDS", 0.1)
            late, writer = await asyncio.open_connection("127.0.0.1", port)
            async with asyncio.timeout(BELOW_ASYNCIOS_LIMIT_SECONDS):
                assert await late.read() == b""
            writer.close()

    uvloop.run(asyncio.wait_for(scenario(), GIVE_UP_SECONDS))


async def test_a_server_stops_while_a_handshake_is_in_progress(made: list[Path]) -> None:
    async with asyncio.timeout(GIVE_UP_SECONDS):
        async with served(ServerCertificate(made[0], None)) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await is_served(port)  # accepted after the silent one
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"QUEUE_ENGINE_TLS_CERT": "/nowhere.pem"}, "QUEUE_ENGINE_TLS_CERT: No such file or directory"),
        ({"QUEUE_ENGINE_TLS_CERT": __file__}, "QUEUE_ENGINE_TLS_CERT: "),
        ({"QUEUE_ENGINE_TLS_KEY": "/nowhere.pem"}, "QUEUE_ENGINE_TLS_KEY: needs QUEUE_ENGINE_TLS_CERT"),
    ],
)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_an_unusable_certificate_ends_the_start_and_names_the_setting(
    programs: Programs, variables: dict[str, str], message: str, processes: str
) -> None:
    program = programs.start("api", "queue_engine", "api", "--port", "0", "--processes", processes, **variables)
    assert program.wait() == 2
    assert message in program.output()
