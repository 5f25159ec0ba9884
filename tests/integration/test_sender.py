"""One delivery attempt against receivers that behave and receivers that do not."""

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from queue_engine import __version__
from queue_engine.crypto.signing import new_secret, signature_headers
from queue_engine.delivery.guard import Guard
from queue_engine.delivery.sender import OutgoingRequest, Sender, SenderLimits, open_sender
from queue_engine.domain.deliveries import WebhookResponse
from queue_engine.rules.webhook_urls import AddressPolicy
from tests.integration.certificates import Certificate, self_signed
from tests.integration.receivers import (
    OK,
    Behaviour,
    Peer,
    Received,
    answering,
    answering_and_closing,
    receiver,
    stub_resolver,
)
from tests.ports import free_port
from tests.waiting import wait_until_async

LOOPBACK = Guard(AddressPolicy.allowing(["127.0.0.0/8", "::1/128"]))
HOOK = {"hook.example": [["127.0.0.1"]]}
LIMITS = SenderLimits(total_seconds=0.9, connect_seconds=0.7, body_seconds=0.2)
PATIENT = SenderLimits(total_seconds=20.0, connect_seconds=10.0, body_seconds=10.0)


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """For receivers that answer: no time limit of it is ever reached."""
    async with open_sender(LOOPBACK, stub_resolver(HOOK), PATIENT) as made:
        yield made


@pytest.fixture
async def hasty() -> AsyncIterator[Sender]:
    """For receivers that do not answer in time."""
    async with open_sender(LOOPBACK, stub_resolver(), LIMITS) as made:
        yield made


async def send(sender: Sender, url: str, headers: dict[str, str] | None = None, body: bytes = b"{}") -> WebhookResponse:
    return await sender.send(OutgoingRequest(url, headers or {"Content-Type": "application/json"}, body))


def trusting(certificate: Certificate) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate.path)


# How long its phases take


def parts(answer: WebhookResponse) -> list[int]:
    phases = answer.phases
    found = (phases.connect_ms, phases.tls_ms, phases.send_ms, phases.wait_ms)
    return [one for one in found if one is not None]


async def test_a_new_connection_is_part_of_an_attempt_and_a_kept_one_is_not(sender: Sender) -> None:
    async with receiver(answering(OK)) as target:
        first, second = [(await send(sender, target.url)).phases for _ in range(2)]
    assert None not in (first.connect_ms, first.send_ms, first.wait_ms)
    assert first.tls_ms is None
    assert (second.connect_ms, second.tls_ms) == (None, None)
    assert None not in (second.send_ms, second.wait_ms)


async def test_the_tls_handshake_is_a_phase_of_its_own(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "hook.example")
    async with (
        receiver(answering(OK), tls=certificate.server_context()) as target,
        open_sender(LOOPBACK, stub_resolver(HOOK), PATIENT, tls=partial(trusting, certificate)) as sender,
    ):
        answers = [await send(sender, f"https://hook.example:{target.port}/") for _ in range(2)]
    assert [len(parts(answer)) for answer in answers] == [4, 2]
    assert all(sum(parts(answer)) <= answer.duration_seconds * 1000 + 2 for answer in answers)


async def test_a_receiver_that_does_not_respond_is_waited_for(hasty: Sender) -> None:
    async with receiver(_silent) as target:
        answer = await send(hasty, target.url)
    assert answer.phases.wait_ms is not None
    assert sum(parts(answer)) >= LIMITS.total_seconds * 1000 - 3


async def test_a_request_that_is_not_taken_is_still_being_sent(hasty: Sender) -> None:
    async def take_nothing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await left.wait()
        writer.close()

    left = asyncio.Event()
    server = await asyncio.start_server(take_nothing, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    answer = await send(hasty, f"http://127.0.0.1:{port}/", body=b"x" * 30_000_000)
    left.set()
    server.close()
    assert answer.error_type == "read_timeout"
    assert answer.phases.wait_ms is None
    assert sum(parts(answer)) >= LIMITS.total_seconds * 1000 - 3


async def test_an_attempt_without_a_connection_has_one_phase(sender: Sender) -> None:
    answer = await send(sender, f"http://127.0.0.1:{free_port()}/")
    assert answer.error_type == "connect_refused"
    assert answer.phases.connect_ms is not None
    assert len(parts(answer)) == 1


# What is sent


async def test_a_request_holds_what_it_was_given_and_little_else(sender: Sender) -> None:
    async with receiver(answering(OK)) as target:
        headers = {"Content-Type": "application/json", "X-API-Key": "a key", "webhook-id": "msg_1"}
        answer = await send(sender, target.url + "?a=%2fb%20c&d=%7e+;", headers, b'{"a":1}')
    assert (answer.status, answer.error_type, answer.excerpt) == (200, None, "ok")
    assert answer.duration_seconds > 0
    [request] = target.received
    assert request.request_line == "POST /hook?a=%2fb%20c&d=%7e+; HTTP/1.1", "not a byte of the URL is rewritten"
    assert request.body == b'{"a":1}'
    assert {name.lower(): value for name, value in request.headers} == {
        "host": f"127.0.0.1:{target.port}",
        "user-agent": f"queue-engine/{__version__}",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "content-length": "7",
        "x-api-key": "a key",
        "webhook-id": "msg_1",
    }


async def test_a_receiver_can_verify_the_signature(sender: Sender) -> None:
    secret, body = new_secret(bytes(32)), b'{"task_id": 1}'
    async with receiver(answering(OK)) as target:
        await send(sender, target.url, signature_headers([secret], "msg_1", int(time.time()), body), body)
    [request] = target.received
    Verifier(secret).verify(request.body, {name.lower(): value for name, value in request.headers})


async def test_a_name_is_connected_to_at_its_address(sender: Sender) -> None:
    async with receiver(answering(OK)) as target:
        answer = await send(sender, f"http://Hook.Example.:{target.port}/")
    assert answer.error_type is None
    assert target.received[0].header("Host") == [f"hook.example:{target.port}"]


async def test_an_ipv6_address_is_connected_to(sender: Sender) -> None:
    async with receiver(answering(OK), host="::1") as target:
        answer = await send(sender, f"http://[::1]:{target.port}/")
    assert answer.error_type is None


async def test_the_environments_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiver(answering(OK)) as proxy, receiver(answering(OK)) as target, AsyncExitStack() as stack:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        sender = await stack.enter_async_context(open_sender(LOOPBACK, stub_resolver(), PATIENT))
        answer = await send(sender, target.url)
        assert (answer.error_type, proxy.connections, target.connections) == (None, 0, 1)


async def test_cookies_are_not_kept(sender: Sender) -> None:
    with_cookie = OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n\r\n", 1)
    async with receiver(answering(with_cookie)) as target:
        await send(sender, target.url)
        await send(sender, target.url)
    assert target.received[1].header("Cookie") == []


async def test_a_connection_is_used_again(sender: Sender) -> None:
    async with receiver(answering(OK)) as target:
        for _ in range(3):
            assert (await send(sender, target.url)).error_type is None
    assert (target.connections, len(target.received)) == (1, 3)


@pytest.mark.parametrize("value", ["a\r\nHost: evil.example", "a\nb", "a\0b", "\x7f", "é", "\udc80"])
async def test_a_header_that_cannot_be_sent_is_not_sent(sender: Sender, value: str) -> None:
    async with receiver(answering(OK)) as target:
        answer = await send(sender, target.url, {"X-API-Key": value})
        assert (answer.status, answer.error_type) == (None, "invalid_request")
        assert target.received == []


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://a@127.0.0.1/", "http://127.1/", "http://127.0.0.1:0/", ""]
)
async def test_a_url_that_is_no_webhook_is_not_sent_to(sender: Sender, url: str) -> None:
    assert (await send(sender, url)).error_type == "invalid_request"


# What a status means


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        ("200 OK", None),
        ("201 Created", None),
        ("299 x", None),
        ("301 Moved Permanently", "redirect"),
        ("304 Not Modified", "redirect"),
        ("307 Temporary Redirect", "redirect"),
        ("400 Bad Request", "http_4xx"),
        ("407 Proxy Authentication Required", "http_4xx"),
        ("410 Gone", "gone"),
        ("429 Too Many Requests", "rate_limited"),
        ("500 Internal Server Error", "http_5xx"),
        ("503 Service Unavailable", "http_5xx"),
        ("999 x", "http_5xx"),
    ],
)
async def test_a_response_is_named_by_its_status(sender: Sender, status: str, error_type: str | None) -> None:
    async with receiver(answering(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())) as target:
        answer = await send(sender, target.url)
    assert (answer.status, answer.error_type) == (int(status[:3]), error_type)


async def test_a_redirect_is_not_followed(sender: Sender) -> None:
    async with receiver(answering(OK)) as canary:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {canary.url}\r\nContent-Length: 0\r\n\r\n".encode()
        async with receiver(answering(moved)) as target:
            answer = await send(sender, target.url)
        assert (answer.status, answer.error_type, canary.connections) == (302, "redirect", 0)


async def test_a_redirect_says_where_to_without_the_key(sender: Sender) -> None:
    location = "https://elsewhere.example/\x1bkey=canary-4711&" + "a" * 5000
    head = f"HTTP/1.1 308 x\r\nLocation: {location}\r\nContent-Length: 5\r\n\r\nmoved"
    async with receiver(answering(head.encode())) as target:
        answer = await send(sender, target.url, {"X-API-Key": "canary-4711"})
    shown = ("https://elsewhere.example/\\x1bkey=***&" + "a" * 5000)[:200]
    assert answer.excerpt == f"a redirect to {shown}, which is not followed: moved"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("999999999", 999999999.0),
        ("-1", None),
        ("nan", None),
        ("٣", None),
        ("", None),
        ("1" * 4000, None),
    ],
)
async def test_retry_after_is_read(sender: Sender, value: str, seconds: float | None) -> None:
    head = f"HTTP/1.1 429 Slow Down\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n"
    async with receiver(answering(head.encode())) as target:
        answer = await send(sender, target.url)
    assert (answer.error_type, answer.retry_after_seconds) == ("rate_limited", seconds)


async def test_a_200_after_interim_responses_is_delivered(sender: Sender) -> None:
    async with receiver(answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as target:
        answer = await send(sender, target.url)
    assert (answer.status, answer.error_type) == (200, None)


async def test_a_101_is_a_bad_response(sender: Sender) -> None:
    upgrade = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with receiver(answering(upgrade)) as target:
        answer = await send(sender, target.url)
        assert (answer.status, answer.error_type) == (101, "bad_response")
        await wait_until_async(lambda: target.left, message="the connection was kept")


# Answers that are slow, endless or broken


async def _silent(peer: Peer, _request: Received) -> None:
    await peer.until_it_leaves()


async def _never_ending_interim_answers(peer: Peer, _request: Received) -> None:
    while not await peer.left_within(0.01):
        await peer.send(b"HTTP/1.1 102 Processing\r\n\r\n")


async def _dripping_headers(peer: Peer, _request: Received) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 10_000:
        if await peer.left_within(0.02):
            return
        await peer.send(bytes([byte]))


async def _dripping_body(peer: Peer, _request: Received) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not await peer.left_within(0.02):
        await peer.send(b"x")


async def _headers_and_never_a_body(peer: Peer, _request: Received) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
    await peer.until_it_leaves()


async def _endless_body(peer: Peer, _request: Received) -> None:
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        await peer.send(b"1000\r\n" + b"y" * 0x1000 + b"\r\n")


@pytest.mark.parametrize("behaviour", [_silent, _never_ending_interim_answers, _dripping_headers])
async def test_no_response_within_the_wall_clock_is_a_timeout(hasty: Sender, behaviour: Behaviour) -> None:
    async with receiver(behaviour) as target:
        answer = await send(hasty, target.url)
        assert (answer.status, answer.error_type) == (None, "read_timeout")
        assert answer.duration_seconds >= LIMITS.total_seconds
        await wait_until_async(lambda: target.left == target.connections, message="a connection was kept")


@pytest.mark.parametrize("behaviour", [_dripping_body, _headers_and_never_a_body])
async def test_a_2xx_is_delivered_whatever_becomes_of_its_body(hasty: Sender, behaviour: Behaviour) -> None:
    async with receiver(behaviour) as target:
        answer = await send(hasty, target.url)
        assert (answer.status, answer.error_type) == (200, None)
        assert set(answer.excerpt) <= {"x"}
        await wait_until_async(lambda: target.left, message="the connection was kept")


async def test_an_endless_body_is_cut_off_at_its_size(sender: Sender) -> None:
    async with receiver(_endless_body) as target:
        answer = await send(sender, target.url)
        assert (answer.error_type, answer.excerpt) == (None, "y" * 2048)
        assert answer.duration_seconds < PATIENT.body_seconds, "it was cut off by time"
        await wait_until_async(lambda: target.left, message="the connection was kept")


async def test_a_body_is_read_to_its_end_when_it_is_short_enough(sender: Sender) -> None:
    body = b"z" * (16 * 1024 - 1)
    async with receiver(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))) as target:
        for _ in range(2):
            assert (await send(sender, target.url)).excerpt == "z" * 2048
    assert target.connections == 1


async def test_a_gzip_bomb_is_not_inflated(sender: Sender) -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with receiver(answering(head + bomb)) as target:
        answer = await send(sender, target.url)
    assert answer.error_type is None
    assert answer.excerpt.startswith(r"\x1f�\x08")
    assert len(answer.excerpt.encode()) <= 2048


async def test_a_body_of_escapes_markup_and_bad_bytes_becomes_plain_text(sender: Sender) -> None:
    body = b"<script>\x1b]0;x\x07\r\n\xff\xe2\x80\xae"
    async with receiver(answering(b"HTTP/1.1 500 x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))) as target:
        answer = await send(sender, target.url)
    assert answer.excerpt == r"<script>\x1b]0;x\x07\r\n�\u202e"


async def test_a_receiver_that_sends_the_key_back_does_not_get_it_into_the_excerpt(sender: Sender) -> None:
    async def echo(peer: Peer, request: Received) -> None:
        body = repr(request.headers).encode()
        await peer.send(b"HTTP/1.1 400 x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with receiver(echo) as target:
        answer = await send(sender, target.url, {"X-API-Key": "canary-4711"})
    assert "X-API-Key" in answer.excerpt
    assert "canary-4711" not in answer.excerpt


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nSet-Cookie: session=" + b"x" * 12_000 + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: session=" + b"x" * 65_000 + b"\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(1000)) + b"Content-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\nZZ\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokokok",
    ],
    ids=["cookie", "large cookie", "headers", "bad chunk", "coding in name only", "cut", "too long"],
)
async def test_a_2xx_is_delivered_whatever_follows_its_headers(sender: Sender, data: bytes) -> None:
    async with receiver(answering_and_closing(data)) as target:
        answer = await send(sender, target.url)
        assert (answer.status, answer.error_type) == (200, None)
        assert answer.excerpt in (
            "ok",
            "(the body of the response cannot be understood: invalid character in chunk size)",
        )
        assert len(target.received) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n",
            "its headers are longer than 65536 bytes in all",
        ),
        (b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n", "its headers are longer than 65536 bytes in all"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it does not begin with a valid HTTP status line"),
        (b"HTTP/1.1 abc OK\r\n\r\n", "it does not begin with a valid HTTP status line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "invalid character in Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "duplicate Content-Length"),
        (b"\0" * 100, "it does not begin with a valid HTTP status line"),
        (b"\x15\x03\x01\0\x02\x02F", "the port speaks TLS (https), not plain HTTP"),
    ],
)
async def test_what_is_not_http_is_a_bad_response(sender: Sender, data: bytes, words: str) -> None:
    async with receiver(answering(data)) as target:
        answer = await send(sender, target.url)
    assert (answer.status, answer.error_type) == (None, "bad_response")
    assert answer.excerpt == f"the response cannot be understood: {words}"


@pytest.mark.parametrize("data", [b"HTTP/1.1 200 OK\r\nX: y", b"HTTP/1.1 20", b""])
async def test_a_response_that_breaks_off_in_its_headers_is_a_broken_connection(sender: Sender, data: bytes) -> None:
    async with receiver(answering_and_closing(data)) as target:
        answer = await send(sender, target.url)
    assert (answer.status, answer.error_type) == (None, "reset")
    assert answer.excerpt.startswith("the connection broke before the whole response arrived")


async def test_a_receiver_that_resets_before_its_response_is_a_broken_connection(sender: Sender) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        peer.reset()

    async with receiver(behave) as target:
        answer = await send(sender, target.url)
    assert (answer.error_type, len(target.received)) == ("reset", 1), "a fresh connection is not tried twice"


async def test_a_body_that_breaks_off_does_not_undo_the_status(sender: Sender) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
        peer.writer.close()

    async with receiver(behave) as target:
        answer = await send(sender, target.url)
    assert (answer.status, answer.error_type) == (200, None)


async def test_a_reset_on_a_reused_connection_is_repeated_once_on_a_fresh_one(sender: Sender) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        if peer.requests == 1:
            await peer.send(OK)
        else:
            peer.reset()

    async with receiver(behave) as target:
        assert (await send(sender, target.url)).error_type is None
        assert (await send(sender, target.url, body=b"second")).error_type is None
    assert (target.connections, [request.body for request in target.received]) == (2, [b"{}", b"second", b"second"])


async def test_a_repeat_that_fails_too_is_not_repeated(sender: Sender) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        if peer.number == 1 and peer.requests == 1:
            await peer.send(OK)
        else:
            peer.writer.close()

    async with receiver(behave) as target:
        await send(sender, target.url)
        answer = await send(sender, target.url)
    assert (answer.error_type, len(target.received)) == ("reset", 3)


async def test_a_request_is_not_repeated_after_a_reused_connection_broke_within_a_response(sender: Sender) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        if peer.requests == 1:
            await peer.send(OK)
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nX: y")
            peer.writer.close()

    async with receiver(behave) as target:
        await send(sender, target.url)
        answer = await send(sender, target.url)
    assert (answer.error_type, len(target.received)) == ("reset", 2)


@pytest.mark.parametrize("begun", [b"HTTP/1.1 200 OK\r\nX: y", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_request_is_not_repeated_after_a_reset_within_a_response(sender: Sender, begun: bytes) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        if peer.requests == 1:
            await peer.send(OK)
            return
        await peer.send(begun)
        assert not await peer.left_within(0.05), "the sender reads in this time"
        peer.reset()

    async with receiver(behave) as target:
        await send(sender, target.url)
        answer = await send(sender, target.url)
    assert (answer.error_type, len(target.received)) == ("reset", 2)


# No connection


async def test_a_closed_port_is_refused(sender: Sender) -> None:
    async with receiver(answering(OK)) as target:
        pass
    answer = await send(sender, target.url)
    assert (answer.status, answer.error_type) == (None, "connect_refused")
    assert "127.0.0.1" not in answer.excerpt


async def test_a_name_without_an_address_is_a_dns_error(sender: Sender) -> None:
    assert (await send(sender, "http://nowhere.example/")).error_type == "dns_error"


async def test_a_tls_handshake_that_does_not_go_on_is_a_connect_timeout(hasty: Sender) -> None:
    async with receiver(_silent) as target:
        answer = await send(hasty, target.url.replace("http:", "https:"))
    assert answer.error_type == "connect_timeout"


async def test_a_receiver_without_tls_is_a_tls_error(sender: Sender) -> None:
    async with receiver(answering(OK), greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as target:
        answer = await send(sender, target.url.replace("http:", "https:"))
    assert answer.error_type == "tls_error"


async def _closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.close()


async def _plain_words(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read()


@pytest.mark.parametrize(
    ("serve", "words"),
    [
        (_closing, "the connection was closed; does the port speak TLS?"),
        (_plain_words, "the response is not TLS; does the port speak plain http?"),
    ],
)
async def test_a_port_without_tls_is_a_tls_error_at_once(
    sender: Sender, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], words: str
) -> None:
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await send(sender, f"https://127.0.0.1:{port}/")
    assert (answer.error_type, answer.excerpt) == ("tls_error", f"the TLS handshake failed: {words}")


async def test_http_to_a_port_with_tls_says_so(sender: Sender, tmp_path: Path) -> None:
    context = self_signed(tmp_path, "127.0.0.1").server_context()
    async with receiver(answering(OK), tls=context) as target:
        answer = await send(sender, target.url)
    assert answer.error_type in ("reset", "bad_response"), "some servers close, some send a TLS alert"
    assert "speaks TLS (https)" in answer.excerpt


async def test_a_receiver_that_closes_may_have_failed(sender: Sender) -> None:
    async with await asyncio.start_server(_closing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await send(sender, f"http://127.0.0.1:{port}/")
    assert (answer.error_type, answer.excerpt) == (
        "reset",
        "the connection broke before the whole response arrived: "
        "it was closed without a response: the receiver failed, or the port speaks TLS (https)",
    )


async def test_an_untrusted_certificate_is_a_tls_error(sender: Sender, tmp_path: Path) -> None:
    context = self_signed(tmp_path, "127.0.0.1").server_context()
    async with receiver(answering(OK), tls=context) as target:
        answer = await send(sender, target.url.replace("http:", "https:"))
        assert (answer.error_type, target.received) == ("tls_error", [])
    assert "self-signed certificate" in answer.excerpt


async def test_a_certificate_of_a_known_authority_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path, "127.0.0.1")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    async with (
        receiver(answering(OK), tls=certificate.server_context()) as target,
        open_sender(LOOPBACK, stub_resolver(), PATIENT) as sender,
    ):
        assert (await send(sender, target.url.replace("http:", "https:"))).error_type is None


async def test_a_certificate_for_another_host_is_a_tls_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = self_signed(tmp_path, "other.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
    async with (
        receiver(answering(OK), tls=certificate.server_context()) as target,
        open_sender(LOOPBACK, stub_resolver(), PATIENT) as sender,
    ):
        answer = await send(sender, target.url.replace("http:", "https:"))
        assert (answer.error_type, target.received) == ("tls_error", [])


async def test_a_connection_with_tls_is_used_again(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "hook.example")
    seen: list[str | None] = []
    serving = certificate.server_context()
    serving.sni_callback = lambda _socket, name, _context: seen.append(name)
    async with (
        receiver(answering(OK), tls=serving) as target,
        open_sender(LOOPBACK, stub_resolver(HOOK), PATIENT, tls=partial(trusting, certificate)) as sender,
    ):
        for _ in range(3):
            answer = await send(sender, f"https://hook.example:{target.port}/")
            assert (answer.status, answer.error_type, answer.excerpt) == (200, None, "ok")
        assert (target.connections, seen) == (1, ["hook.example"])


async def test_a_response_with_tls_that_ends_with_its_connection_is_read(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "hook.example")
    async with (
        receiver(
            answering_and_closing(b"HTTP/1.1 500 x\r\n\r\nto the end"), tls=certificate.server_context()
        ) as target,
        open_sender(LOOPBACK, stub_resolver(HOOK), PATIENT, tls=partial(trusting, certificate)) as sender,
    ):
        answer = await send(sender, f"https://hook.example:{target.port}/")
        assert (answer.status, answer.excerpt) == (500, "to the end")


async def test_a_second_address_is_tried_when_the_handshake_with_the_first_fails(tmp_path: Path) -> None:
    """Two servers behind one name: the one at the first address has no TLS."""
    certificate = self_signed(tmp_path, "hook.example")
    resolver = stub_resolver({"hook.example": [["127.0.0.1", "127.0.0.2"]]})
    async with (
        receiver(answering(OK), host="127.0.0.2", port=free_port(), tls=certificate.server_context()) as good,
        receiver(answering(OK), port=good.port, greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as plain,
        open_sender(LOOPBACK, resolver, PATIENT, tls=partial(trusting, certificate)) as sender,
    ):
        answer = await send(sender, f"https://hook.example:{good.port}/")
        assert (answer.error_type, plain.received, len(good.received)) == (None, [], 1)


async def test_a_reset_within_the_handshake_is_a_tls_error(sender: Sender) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        Peer(1, reader, writer).reset()

    async with await asyncio.start_server(reset, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        answer = await send(sender, f"https://127.0.0.1:{port}/")
    words = "the TLS handshake failed: the connection was closed; does the port speak TLS?"
    assert (answer.error_type, answer.excerpt) == ("tls_error", words)


# Cancelling and closing


async def test_cancelling_passes_through_and_hangs_up(sender: Sender) -> None:
    async with receiver(_silent) as target:
        attempt = asyncio.create_task(send(sender, target.url))
        await wait_until_async(lambda: target.received)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await wait_until_async(lambda: target.left, message="the connection was kept")


async def test_a_closed_sender_says_internal_and_logs_it(caplog: pytest.LogCaptureFixture) -> None:
    async with open_sender(LOOPBACK, stub_resolver(), LIMITS) as sender:
        pass
    answer = await send(sender, "http://127.0.0.1:9/", {"X-API-Key": "canary-4711"})
    assert answer.error_type == "internal"
    assert "internal error in the sender" in caplog.text
    assert "canary-4711" not in caplog.text


async def test_many_attempts_at_once_all_get_a_response(sender: Sender) -> None:
    async with receiver(answering(OK)) as target:
        answers = await asyncio.gather(*(send(sender, target.url) for _ in range(300)))
    assert {answer.error_type for answer in answers} == {None}
    assert target.connections <= 256


def test_the_default_limits_are_the_documented_ones() -> None:
    limits = SenderLimits()
    assert (limits.total_seconds, limits.connect_seconds, limits.body_bytes) == (15.0, 5.0, 16 * 1024)
