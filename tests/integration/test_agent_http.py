"""The HTTP calls of an agent to the API: the certificates that it trusts, and bad responses. The server is a script."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from queue_engine.agent_protocol import calls, messages
from queue_engine.agent_protocol.frames import MAX_HEAD_BYTES
from queue_engine.domain.attempts import Settled
from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.tasks import Lease, Succeeded
from queue_engine.net.authorities import Authorities
from tests.integration.certificates import Authority, self_signed
from tests.integration.receivers import Behaviour, Peer, Received, Receiver, answering, answering_and_closing, receiver
from tests.ports import free_port
from tests.waiting import wait_until_async
from worker_agent.ports import until_available
from worker_agent.server import http
from worker_agent.server import source as source_module
from worker_agent.server.api import MAX_MESSAGE_BYTES, Api, CallFailed
from worker_agent.server.http import HttpClient, Lane, ServerAddress
from worker_agent.server.source import ApiLimits, ServerTaskSource
from worker_agent.server.token import Token

HELLO = messages.WorkerRequest("w1")


def response(status: int, body: bytes, *headers: str) -> bytes:
    head = "\r\n".join((f"HTTP/1.1 {status} X", *headers, f"Content-Length: {len(body)}"))
    return f"{head}\r\n\r\n".encode() + body


def frame(head: bytes) -> bytes:
    return b"qea1" + len(head).to_bytes(4, "big") + bytes(4) + head


def refusal(status: int, code: int = 1, message: str = "no", *headers: str) -> bytes:
    body = json.dumps({"code": code, "message": message, "data": None}).encode()
    return response(status, body, "Content-Type: application/json", *headers)


DONE = response(200, frame(b"{}"))


def client_of(url: str, bundle: Path | None = None) -> HttpClient:
    return HttpClient(ServerAddress.parse(url), Authorities(bundle))


@asynccontextmanager
async def api_on(behaviour: Behaviour, token: Token | None = None) -> AsyncIterator[tuple[Api, Receiver]]:
    """The calls of an agent to a server that behaves so."""
    async with receiver(behaviour) as server:
        client = client_of(f"http://127.0.0.1:{server.port}")
        try:
            yield Api(client, token or Token("the-token")), server
        finally:
            client.close()


async def register(api: Api) -> None:
    await api.call(calls.REGISTER, HELLO)


# Trusted servers


async def register_with(host: str, server: ssl.SSLContext, bundle: Path | None) -> Receiver:
    async with receiver(answering(DONE), tls=server) as target:
        client = client_of(f"https://{host}:{target.port}", bundle)
        try:
            await register(Api(client, Token("the-token")))
        finally:
            client.close()
        return target


async def test_a_certificate_of_the_given_authority_is_accepted_for_its_name_only(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    good = authority.issue("127.0.0.1").server_context()
    assert len((await register_with("127.0.0.1", good, authority.bundle)).received) == 1
    for context, bundle, problem in (
        (good, None, "unable to get local issuer certificate"),
        (good, other.bundle, "unable to get local issuer certificate"),
        (authority.issue("api.example").server_context(), authority.bundle, "IP address mismatch"),
        (self_signed(tmp_path, "127.0.0.1").server_context(), authority.bundle, "self-signed certificate"),
    ):
        with pytest.raises(StoreUnavailable, match=problem):
            await register_with("127.0.0.1", context, bundle)


async def test_no_token_is_sent_to_a_server_whose_certificate_is_not_verified(tmp_path: Path) -> None:
    context = self_signed(tmp_path, "127.0.0.1").server_context()
    async with receiver(answering(DONE), tls=context) as target:
        client = client_of(f"https://127.0.0.1:{target.port}")
        with pytest.raises(StoreUnavailable, match="the TLS handshake failed"):
            await register(Api(client, Token("the-token")))
        client.close()
        assert target.received == []


async def test_a_server_without_tls_is_named() -> None:
    async with receiver(answering(DONE), greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as target:
        client = client_of(f"https://127.0.0.1:{target.port}")
        with pytest.raises(StoreUnavailable, match="is not TLS; does the port speak plain http"):
            await register(Api(client, Token("the-token")))
        client.close()
        assert target.received == []


# Requests


async def test_a_call_is_a_post_with_the_token_and_a_frame() -> None:
    async with api_on(answering(DONE)) as (api, server):
        await register(api)
        await register(api)
    assert server.connections == 1
    request = server.received[0]
    assert request.request_line == "POST /agent/v1/register HTTP/1.1"
    assert request.header("authorization") == ["Bearer the-token"]
    assert calls.REGISTER.request.decode(request.body) == (HELLO, [])


async def test_a_large_result_does_not_delay_a_beat() -> None:
    slow = asyncio.Event()

    async def behave(peer: Peer, request: Received) -> None:
        if "/settle" in request.request_line:
            await slow.wait()
        await peer.send(DONE)

    async with api_on(behave) as (api, server):
        end = messages.SucceededEnd("t1", "0" * 32)
        request = messages.SettleRequest("w1", (end,))
        settles = [
            asyncio.create_task(api.call(calls.SETTLE, request, [b"x" * 1_000_000]))
            for _ in range(http.MAX_CONNECTIONS[Lane.WORK] + 1)
        ]
        await wait_until_async(lambda: len(server.received) == http.MAX_CONNECTIONS[Lane.WORK])
        await api.call(calls.REMOVE, HELLO, lane=Lane.BEATS, seconds=60.0)
        assert not any(settle.done() for settle in settles)
        slow.set()
        await asyncio.gather(*settles, return_exceptions=True)


async def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    async with api_on(answering_and_closing(DONE)) as (api, server):
        for _ in range(3):
            await register(api)
    assert server.connections == 3


# Bad responses


async def test_a_server_that_is_away_is_unavailable() -> None:
    client = client_of(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(StoreUnavailable, match="Connection refused"):
        await register(Api(client, Token("the-token")))
    client.close()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the response cannot be understood"),
        (b"\0\xff" * 5000, "the response cannot be understood"),
        (response(200, b"<html>Sign in</html>"), "the response to register cannot be understood: is not a frame"),
        (response(200, frame(b"[1]")), "the response to register cannot be understood: the message is not valid"),
        (response(200, frame(b"[" * 100_000)), "the response to register cannot be understood"),
        (response(200, b"qea1" + b"\xff" * 8), "the response to register cannot be understood"),
        (response(204, b""), "it responds 204, and not as the engine's API"),
        (response(302, b"", "Location: https://other/"), r"it redirects \(302\) to https://other/, which is not"),
        (response(401, b"<h1>401</h1>"), "it responds 401, and not as the engine's API: <h1>401</h1>"),
        (response(403, b'{"error": "waf"}'), "it responds 403, and not as the engine's API"),
        (response(502, b"x" * 1_000_000), "it responds 502, and not as the engine's API: xxx"),
        (refusal(503, message="the store is unavailable"), "it responds 503: the store is unavailable"),
        (refusal(429, 429, "slow down"), "it responds 429: slow down"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "its body is longer than"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "the response cannot be understood"),
    ],
)
async def test_a_bad_response_is_an_outage_that_passes(data: bytes, problem: str) -> None:
    behaviours = [answering_and_closing(data), answering(DONE)]

    async def behave(peer: Peer, request: Received) -> None:
        await (behaviours.pop(0) if len(behaviours) > 1 else behaviours[0])(peer, request)

    async with api_on(behave) as (api, _):
        with pytest.raises(StoreUnavailable, match=problem):
            await register(api)
        await register(api)
        assert not api.is_refused


async def test_a_body_without_end_is_cut_off_at_the_limit() -> None:
    sent = 0

    async def behave(peer: Peer, _request: Received) -> None:
        nonlocal sent
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
            sent += 0x10000

    async with api_on(behave) as (api, _):
        with pytest.raises(StoreUnavailable, match=f"its body is longer than {MAX_MESSAGE_BYTES} bytes"):
            await register(api)
    assert sent < 4 * MAX_HEAD_BYTES


async def test_a_response_that_stops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE_SECONDS", 0.1)

    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nqea1")
        await peer.until_it_leaves()

    async with api_on(behave) as (api, _):
        with pytest.raises(StoreUnavailable, match="no response within the time limit"):
            await register(api)


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.until_it_leaves()

    async with api_on(behave) as (api, _):
        with pytest.raises(StoreUnavailable, match="no response within the time limit"):
            await api.call(calls.REGISTER, HELLO, seconds=0.1)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 500])
async def test_a_defect_is_not_repeated_as_an_outage(status: int) -> None:
    async with api_on(answering(refusal(status, 10001, "worker: must be an id"))) as (api, _):
        with pytest.raises(CallFailed, match=f"register: the API responds {status}: worker: must be an id"):
            await register(api)


# A refused token


@pytest.mark.parametrize(("status", "code"), [(401, 40101), (403, 40301), (404, 14000)])
async def test_the_apis_own_refusal_ends_all_calls(status: int, code: int) -> None:
    async with api_on(answering(refusal(status, code, "the token was revoked"))) as (api, server):
        for _ in range(2):
            with pytest.raises(
                StoreUnavailable, match=rf"the API refuses the agent \({status}\): the token was revoked"
            ):
                await register(api)
        assert await api.refusal() == f"the API refuses the agent ({status}): the token was revoked"
        assert len(server.received) == 1


def by_token(*valid: str) -> Behaviour:
    """Accept requests with these tokens."""

    async def behave(peer: Peer, request: Received) -> None:
        (given,) = request.header("authorization")
        await peer.send(DONE if given.removeprefix("Bearer ") in valid else refusal(401, 40101, "unknown"))

    return behave


async def test_a_token_that_was_replaced_in_its_file_is_used_when_the_old_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old")
    token = Token("old", path, monotonic=lambda: 0.0)  # so that the file is not looked at before the refusal
    async with api_on(by_token("new"), token) as (api, server):
        path.write_text("new")
        await register(api)
        assert not api.is_refused
        assert [one.header("authorization") for one in server.received] == [["Bearer old"], ["Bearer new"]]


# Defects of one process of the API, and of one item


@pytest.mark.parametrize("status", [404, 500])
async def test_a_served_agent_reaches_another_process_after_the_defect_of_one(status: int) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(refusal(status, 10001, "no such call") if (peer.number, peer.requests) == (1, 2) else DONE)

    async with api_on(behave) as (api, server):
        await register(api)
        with pytest.raises(StoreUnavailable, match=f"register: the API responds {status}: no such call"):
            await register(api)
        await register(api)
        assert server.connections == 2


class Settling:
    """An API that has these refusals for the next settles, and always one for ends of the task `bad`. The refusal 0 is
    a response in which the result of each end is an error."""

    def __init__(self, *refusals: int, bad: int = 400) -> None:
        self._refusals = list(refusals)
        self._bad = bad
        self.sent: list[list[str]] = []

    async def __call__(self, peer: Peer, request: Received) -> None:
        if "/settle" not in request.request_line:
            await peer.send(DONE)
            return
        asked, _ = calls.SETTLE.request.decode(memoryview(request.body))
        names = [end.task for end in asked.ends]
        self.sent.append(names)
        status = self._refusals.pop(0) if self._refusals else self._bad if "bad" in names else 200
        result = messages.SettleResult("OK") if status else messages.SettleResult("ERROR", error="a defect")
        results = (result,) * len(names)
        served = response(200, b"".join(calls.SETTLE.response.encode(messages.SettleResponse(results))))
        await peer.send(served if status in (0, 200) else refusal(status, 10001, "a defect"))


@asynccontextmanager
async def settling_on(behaviour: Settling) -> AsyncIterator[ServerTaskSource]:
    """The queue of an agent that the API has served before."""
    async with api_on(behaviour) as (api, _):
        await register(api)
        yield ServerTaskSource(api, ApiLimits(2**20, 2**20, 30.0), endpoint_id="7", worker_id="w1")


def succeeded(source: ServerTaskSource, task_id: str = "t1") -> Awaitable[Settled]:
    return source.settle(Lease("7", task_id, "0" * 32), Succeeded(b"1"))


async def test_a_result_is_kept_while_an_api_process_does_not_know_the_call() -> None:
    async with settling_on(Settling(404, 404)) as source:
        assert (await until_available(lambda: succeeded(source), "settle")).word == "OK"


@pytest.mark.parametrize(
    ("status", "error"), [(500, "settle: the API responds 500: a defect"), (0, "settle: a defect")]
)
async def test_a_result_is_sent_again_after_a_defect_of_the_api_for_a_limited_time(
    monkeypatch: pytest.MonkeyPatch, status: int, error: str
) -> None:
    """The defect may be that of one process or of one end, and the store may be able to record the result soon."""
    async with settling_on(Settling(status, status)) as source:
        assert (await succeeded(source)).word == "OK"
    monkeypatch.setattr(source_module, "MAX_DEFECT_SECONDS", 0.0)
    async with settling_on(Settling(status, status)) as source:
        with pytest.raises(CallFailed, match=error):
            await succeeded(source)


@pytest.mark.parametrize("status", [400, 413, 500])
async def test_a_refused_result_does_not_cost_those_of_its_batch(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "MAX_DEFECT_SECONDS", 0.0)
    behaviour = Settling(bad=status)
    async with settling_on(behaviour) as source:
        first, bad, last = await asyncio.gather(
            *(succeeded(source, name) for name in ("first", "bad", "last")), return_exceptions=True
        )
    assert isinstance(first, Settled)
    assert isinstance(last, Settled)
    assert isinstance(bad, CallFailed)
    assert behaviour.sent == [["first", "bad", "last"], ["first"], ["bad"], ["last"]]
