"""What the forwarder makes of a container's responses: those of real servers, and those that are not quite HTTP."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator, Callable

import pytest

from queue_engine.domain.tasks import ContainerResponse
from tests.integration.raw_container import RawResponse, ok, raw_container
from tests.integration.receivers import Peer, Received, answering, receiver
from tests.waiting import wait_until_async
from worker_agent import response_reader
from worker_agent.forward import HttpForwarder
from worker_agent.requests import ForwardRequest

MAX_BYTES = 100_000
TIMEOUT_SECONDS = 20.0
CHUNKED = ("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")


@pytest.fixture
async def forwarder() -> AsyncIterator[HttpForwarder]:
    made = HttpForwarder(max_response_bytes=MAX_BYTES, max_connections=4, failure_body_seconds=0.3)
    yield made
    await made.aclose()


async def forwarded(forwarder: HttpForwarder, port: int, body: bytes = b"{}") -> ContainerResponse:
    return await forwarder.forward(ForwardRequest("127.0.0.1", port, "/run", (), body, TIMEOUT_SECONDS))


async def answer_to(forwarder: HttpForwarder, response: RawResponse, body: bytes = b"{}") -> ContainerResponse:
    async with raw_container({"run": response}) as container:
        return await forwarded(forwarder, container.port, body)


# Heads


@pytest.mark.parametrize(
    "headers",
    [
        [f"X-Info: {'a' * 12_000}"],
        [f"X-Info: {'a' * 65_000}"],
        [f"X-{number}: {'a' * 40}" for number in range(1200)],
        [f"Set-Cookie: {'a' * 6_000}"] * 10,
        ["X-Name: caf\udce9"],
        ["X-Folded: a", " b"],
    ],
    ids=["12,000 bytes", "65,000 bytes", "many", "large and several", "not UTF-8", "folded"],
)
async def test_64_kib_of_headers_are_accepted(forwarder: HttpForwarder, headers: list[str]) -> None:
    answer = await answer_to(forwarder, ok(b"[1]", *headers))
    assert (answer.error_type, answer.status, answer.output) == (None, 200, b"[1]")


@pytest.mark.parametrize(
    "head",
    [
        ("HTTP/1.1 200 OK", f"X-Info: {'a' * 70_000}"),
        ("HTTP/1.1 200 OK", *[f"X-{number}: {'a' * 40}" for number in range(2000)]),
        (f"HTTP/1.1 200 {'a' * 70_000}",),
        ("HTTP/1.1 200 OK", f"{'a' * 70_000}: 1"),
    ],
    ids=["one", "many", "reason", "name"],
)
async def test_longer_headers_are_a_bad_response(forwarder: HttpForwarder, head: tuple[str, ...]) -> None:
    answer = await answer_to(forwarder, RawResponse((*head, "Content-Length: 0")))
    assert (answer.error_type, answer.detail) == ("bad_response", "its headers are longer than 65536 bytes in all")


async def test_headers_without_end_are_given_up_at_the_limit(forwarder: HttpForwarder) -> None:
    async def endless(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n")
        while not await peer.left_within(0.001):
            await peer.send(b"".join(b"X-%d: y\r\n" % number for number in range(1000)))

    async with receiver(endless) as target:
        answer = await forwarded(forwarder, target.port)
    assert answer.error_type == "bad_response"


async def test_interim_responses_do_not_count(forwarder: HttpForwarder) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 40_000 + b"\r\n\r\n"
    async with receiver(answering(hint * 3 + b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]")) as target:
        answer = await forwarded(forwarder, target.port)
    assert (answer.status, answer.output) == (200, b"[1]")


async def test_packets_may_be_cut_anywhere(forwarder: HttpForwarder) -> None:
    async def dripping(peer: Peer, _request: Received) -> None:
        for byte in b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n":
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)  # lets the forwarder read

    async with receiver(dripping) as target:
        for _ in range(2):
            answer = await forwarded(forwarder, target.port)
            assert (answer.status, answer.output) == (200, b"[1]")
        assert target.connections == 1


# What cannot be understood


@pytest.mark.parametrize("apart", [False, True], ids=["in one packet", "in two"])
@pytest.mark.parametrize(
    ("head", "body", "words"),
    [
        (CHUNKED, b"5\r\nhello\r\nZZ\r\n", "invalid character in chunk size"),
        (CHUNKED, b"5\r\nhelloworld\r\n0\r\n\r\n", "expected LF after chunk data"),
        (CHUNKED, b"FFFFFFFFFFFFFFFFF\r\n", "chunk size overflow"),
        (CHUNKED, b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n", "invalid header token"),
        (("HTTP/1.1 200 OK", "Content-Length: 5", "Content-Length: 6"), b"hello!", "duplicate Content-Length"),
        (("HTTP/1.1 200 OK", "Content-Length: five"), b"hello", "invalid character in Content-Length"),
        (("HTTP/1.1 200 OK", "Content-Length: -5"), b"hello", "invalid character in Content-Length"),
        (CHUNKED, b"-5\r\nhello\r\n", "invalid character in chunk size"),
        (CHUNKED, b"5;" + b"a" * 200_000 + b"\r\nhello\r\n", "chunk extensions and trailers are longer than 65536"),
        (CHUNKED, b"0\r\nx: " + b"a" * 200_000 + b"\r\n", "chunk extensions and trailers are longer than 65536"),
        ((*CHUNKED, "Content-Length: 5"), b"hello", "Content-Length can't be present with Transfer-Encoding"),
        (("HTTP/1.1 200 OK", "this is no header"), b"", 'invalid header token: "this is no header"'),
        (("HTTP/1.1 200 OK", "X: a\0b"), b"", r'invalid HTTP header: "a\x00b"'),
        (("HTTP/1.1 abc OK",), b"", 'valid HTTP status line: "HTTP/1.1 abc OK"'),
        (("SSH-2.0-OpenSSH_9.6",), b"", 'valid HTTP status line: "SSH-2.0-OpenSSH_9.6"'),
        (("<html>hello</html>",), b"", "does not begin with a valid HTTP status line"),
        (("\x15\x03\x01\x00\x02\x02\x46",), b"", "the port speaks TLS (https), not plain HTTP"),
        (("\0\0\x12\x04\0\0\0\0\0" + "\0" * 18,), b"", "the port speaks HTTP/2 only"),
        (("HTTP/1.1 200 OK", "Transfer-Encoding: gzip"), b"hello", "transfer coding gzip"),
        (("HTTP/1.1 200 OK", "Transfer-Encoding: gzip, chunked"), b"5\r\nhello\r\n0\r\n\r\n", "transfer coding gzip"),
    ],
)  # fmt: skip
async def test_what_is_not_http_says_what_is_wrong_at_once(
    forwarder: HttpForwarder, head: tuple[str, ...], body: bytes, words: str, apart: bool
) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(RawResponse(head).written())
        if apart:
            await peer.left_within(0.02)
        await peer.send(body)
        await peer.until_it_leaves()

    async with receiver(behave) as target:
        answer = await forwarded(forwarder, target.port)
        assert answer.error_type == "bad_response"
        assert words in answer.detail
        assert "\n" not in answer.detail
        assert len(answer.detail) < 600
        assert len(target.received) == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhel", "it was closed after 3 of 50 bytes of the body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "it was closed within the body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "it was closed within the body"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "it was closed within the response's headers"),
        (b"HTTP/1.1 20", "it was closed within the response's headers"),
        (b"", "it was closed without a response"),
    ],
)
async def test_a_connection_that_closes_early_is_lost(forwarder: HttpForwarder, data: bytes, words: str) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(data)
        peer.writer.close()

    async with receiver(behave) as target:
        answer = await forwarded(forwarder, target.port)
    assert (answer.error_type, answer.detail) == ("reset", words)


async def test_a_body_without_a_length_is_lost_when_its_connection_is_reset(forwarder: HttpForwarder) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n[1, 2")
        await peer.left_within(0.05)
        peer.reset()

    async with receiver(behave) as target:
        answer = await forwarded(forwarder, target.port)
    assert (answer.error_type, answer.detail) == ("reset", "the connection was reset")


@pytest.mark.parametrize("ends", ["closes", "resets", "hangs"])
@pytest.mark.parametrize(
    ("headers", "body", "excerpt"),
    [
        (b"Content-Length: 100", b"busy", "busy"),
        (b"Content-Length: 100", b"", ""),
        (b"Transfer-Encoding: chunked", b"4\r\nbusy\r\n", "busy"),
        (b"Transfer-Encoding: chunked", b"4\r\nbusy\r\nZZ\r\n", "busy"),
        (b"Transfer-Encoding: gzip", b"busy", ""),
        (b"Content-Encoding: gzip\r\nContent-Length: 100", b"busy", ""),
        (b"Content-Encoding: gzip\r\nContent-Length: 100", gzip.compress(b"busy" * 9, mtime=0)[:-9], None),
        (b"Content-Encoding: br\r\nContent-Length: 100", b"busy", ""),
        (b"Content-Type: text/plain; charset=iso-2022-jp\r\nContent-Length: 100", b"busy\x1b$\x83(6$\xd96\xdc$B", None),
    ],
    ids=["cut", "nothing", "chunks", "bad chunk", "transfer", "not gzip", "cut gzip", "br", "charset"],
)
async def test_a_failures_status_counts_whatever_its_body_is(
    forwarder: HttpForwarder, headers: bytes, body: bytes, excerpt: str | None, ends: str
) -> None:
    status = 0

    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 %d x\r\nRetry-After: 7\r\n%b\r\n\r\n" % (status, headers))
        await peer.left_within(0.02)
        await peer.send(body)
        if ends == "hangs":
            await peer.until_it_leaves()
        elif ends == "resets":
            await peer.left_within(0.02)
            peer.reset()
        else:
            peer.writer.close()

    async with receiver(behave) as target:
        for status in (101, 302, 400, 429, 500, 503):
            answer = await forwarded(forwarder, target.port)
            assert (answer.error_type, answer.status, answer.retry_after_seconds) == (None, status, 7)
            assert excerpt is None or status == 101 or answer.excerpt == excerpt


async def test_a_failure_whose_body_goes_on_past_the_execution_timeout_keeps_its_status() -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 400 x\r\nContent-Length: 100\r\n\r\nbad input")
        await peer.until_it_leaves()

    async with receiver(behave) as target:
        patient = HttpForwarder(max_response_bytes=MAX_BYTES, max_connections=4, failure_body_seconds=60.0)
        answer = await patient.forward(ForwardRequest("127.0.0.1", target.port, "/run", (), b"{}", 1.0))
        await patient.aclose()
    assert (answer.error_type, answer.status, answer.excerpt) == (None, 400, "bad input")


async def test_an_error_in_reading_a_success_is_not_one_of_the_request(
    monkeypatch: pytest.MonkeyPatch, forwarder: HttpForwarder
) -> None:
    def unreadable(_content_type: str, _body: bytes) -> bytes:
        raise UnicodeError("a decoder gave up")

    monkeypatch.setattr(response_reader, "output_of", unreadable)
    answer = await answer_to(forwarder, ok(b"[1]"))
    assert (answer.error_type, answer.detail) == ("bad_response", "its body cannot be read")


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_the_beginning_of_a_large_failure_is_kept(forwarder: HttpForwarder, coding: str) -> None:
    body = b"no such model" + bytes(2 * MAX_BYTES)
    coded = gzip.compress(body) if coding == "gzip" else body
    head = ("HTTP/1.1 500 x", f"Content-Encoding: {coding}", f"Content-Length: {len(coded)}")
    answer = await answer_to(forwarder, RawResponse(head, coded))
    assert (answer.error_type, answer.status, answer.excerpt[:17]) == (None, 500, r"no such model\x00")


@pytest.mark.parametrize(
    "more", [b"and more", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[2]"], ids=["text", "response"]
)
async def test_what_comes_after_the_body_is_not_part_of_it(forwarder: HttpForwarder, more: bytes) -> None:
    async with receiver(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]" + more)) as target:
        for _ in range(2):
            answer = await forwarded(forwarder, target.port)
            assert (answer.status, answer.output) == (200, b"[1]")
        assert target.connections == 2, "the connection was used again"


async def test_a_closed_port_is_named(forwarder: HttpForwarder) -> None:
    async with raw_container({}) as container:
        pass
    answer = await forwarded(forwarder, container.port)
    assert answer.detail == f"Connection refused (127.0.0.1:{container.port})"


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", b"HT", b"\r\n"])
@pytest.mark.parametrize("body", [b"Content-Length: 3\r\n\r\n[1]", b"Content-Length: 0\r\n\r\n"], ids=["body", "none"])
async def test_what_comes_between_two_requests_is_no_response(
    forwarder: HttpForwarder, surplus: bytes, body: bytes
) -> None:
    async def behave(peer: Peer, _request: Received) -> None:
        await peer.send(b"HTTP/1.1 200 OK\r\n" + body)
        await peer.left_within(0.05)
        await peer.send(surplus)

    async with receiver(behave) as target:
        for number in (1, 2):
            assert (await forwarded(forwarder, target.port)).status == 200
            await wait_until_async(lambda: target.left == number)  # noqa: B023 - awaited in the same round
        assert target.connections == 2


# Content codings


def _raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


def gzipped(data: bytes) -> bytes:
    """Return `data` in the coding gzip, without a time, so that all of pytest's workers collect the same ids."""
    return gzip.compress(data, mtime=0)


TEXT = b'{"n": [' + b"1, " * 5000 + b"2]}"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzipped(TEXT)),
        ("GZip", gzipped(TEXT)),
        ("x-gzip", gzipped(TEXT)),
        ("gzip", gzipped(TEXT[:999]) + gzipped(TEXT[999:])),
        ("gzip", gzipped(TEXT) + bytes(1)),
        ("gzip", gzipped(TEXT) + bytes(512)),
        ("gzip", gzipped(TEXT[:999]) + bytes(9) + gzipped(TEXT[999:])),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", _raw_deflate(TEXT)),
        ("identity", TEXT),
        ("", TEXT),
        ("identity, gzip,", gzipped(TEXT)),
        ("deflate, gzip", gzipped(zlib.compress(TEXT))),
    ],
)
async def test_a_coded_body_is_decoded(forwarder: HttpForwarder, coding: str, body: bytes) -> None:
    answer = await answer_to(forwarder, ok(body, f"Content-Encoding: {coding}"))
    assert (answer.error_type, answer.output) == (None, TEXT)
    once_more = RawResponse((*CHUNKED, f"Content-Encoding: {coding}"), _chunks(body, 7))
    assert (await answer_to(forwarder, once_more)).output == TEXT


def _chunks(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "gzip, " * 5])
@pytest.mark.parametrize("head", [("HTTP/1.1 200 OK", "Content-Length: 0"), ("HTTP/1.1 204 None",)], ids=str)
async def test_an_empty_body_has_nothing_to_decode(
    forwarder: HttpForwarder, head: tuple[str, ...], coding: str
) -> None:
    answer = await answer_to(forwarder, RawResponse((*head, f"Content-Encoding: {coding}")))
    assert (answer.error_type, answer.output) == (None, b"null")


@pytest.mark.parametrize(
    ("coding", "body", "words"),
    [
        ("gzip", b'{"ok": "plain"}', "its body is not in its content coding, gzip"),
        ("x-gzip", b'{"ok": "plain"}', "its body is not in its content coding, gzip"),
        ("deflate", b'{"ok": "plain"}', "its body is not in its content coding, deflate"),
        ("gzip", gzipped(TEXT)[:-9], "its body ends within its content coding, gzip"),
        ("gzip", b"\x1f", "its body ends within its content coding, gzip"),
        ("deflate", zlib.compress(TEXT)[:-9], "its body ends within its content coding, deflate"),
        ("gzip", gzipped(TEXT)[:-8] + b"\0" * 8, "its body is not in its content coding, gzip"),
        ("gzip", bytes(9) + gzipped(TEXT), "its body is not in its content coding, gzip"),
        ("gzip", gzipped(TEXT) + bytes(9) + b"and more", "its body is not in its content coding, gzip"),
        ("gzip", gzipped(TEXT) + b"and more", "its body is not in its content coding, gzip"),
        ("deflate", zlib.compress(TEXT) + b"and more", "continues after the end of its content coding, deflate"),
        ("br", b"\x0b\x05\x80[1]\x03", "the content coding br; gzip and deflate are decoded"),
        ("zstd", b"x", "the content coding zstd;"),
        ("gzip, br", b"x", "the content coding br;"),
        ("rot13\x7f", b"x", r"the content coding rot13\x7f;"),
        ("gzip, " * 5, b"x", "5 content codings; at most 4"),
    ],
)
async def test_a_body_that_cannot_be_decoded_is_a_bad_response(
    forwarder: HttpForwarder, coding: str, body: bytes, words: str
) -> None:
    answer = await answer_to(forwarder, ok(body, f"Content-Encoding: {coding}"))
    assert answer.error_type == "bad_response"
    assert words in answer.detail


@pytest.mark.parametrize(
    ("coding", "made"),
    [
        ("gzip", lambda: gzipped(bytes(MAX_BYTES + 1))),
        ("gzip", lambda: gzipped(bytes(100_000_000))),
        ("gzip, gzip", lambda: gzipped(gzipped(bytes(100_000_000)))),
        ("gzip, gzip", lambda: gzipped(gzipped(b"") * 100_000)),
        ("gzip", lambda: gzipped(b"") * 10_000),
    ],
    ids=["by one", "bomb", "two stages", "nothing at the end", "empty members"],
)
async def test_a_small_body_that_becomes_a_large_one_is_given_up(
    forwarder: HttpForwarder, coding: str, made: Callable[[], bytes]
) -> None:
    answer = await answer_to(forwarder, ok(made(), f"Content-Encoding: {coding}"))
    assert answer.error_type == "too_large"
    assert answer.detail == (
        f"the worker's container answered with more than {MAX_BYTES} bytes when decoded; the limit is {MAX_BYTES}"
    )


async def test_a_body_at_the_limit_is_accepted_however_it_is_coded(forwarder: HttpForwarder) -> None:
    body = b'"' + b"x" * (MAX_BYTES - 2) + b'"'
    stored = zlib.compress(body, 0)
    assert len(stored) > MAX_BYTES
    assert (await answer_to(forwarder, ok(stored, "Content-Encoding: deflate"))).output == body


async def test_a_large_body_says_its_size(forwarder: HttpForwarder) -> None:
    answer = await answer_to(forwarder, ok(bytes(MAX_BYTES + 1)))
    assert answer.detail == f"the worker's container answered with {MAX_BYTES + 1} bytes; the limit is {MAX_BYTES}"


# What passes


async def test_a_connection_is_used_again(forwarder: HttpForwarder) -> None:
    async with raw_container({"run": ok(b"[1]")}) as container:
        for _ in range(3):
            assert (await forwarded(forwarder, container.port)).status == 200
        assert container.connections == 1


async def test_a_body_may_end_with_its_connection(forwarder: HttpForwarder) -> None:
    answer = await answer_to(forwarder, RawResponse(("HTTP/1.0 200 OK",), b'{"v": "1.0"}', closes=True))
    assert (answer.status, answer.output) == (200, b'{"v": "1.0"}')


async def test_a_response_that_comes_before_the_request_is_read_counts(forwarder: HttpForwarder) -> None:
    head = ("HTTP/1.1 413 Payload Too Large", "Connection: close", "Content-Length: 9")
    answer = await answer_to(forwarder, RawResponse(head, b"too large", early=True), b"A" * 900_000)
    assert (answer.error_type, answer.status, answer.excerpt) == (None, 413, "too large")
