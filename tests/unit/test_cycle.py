"""The short cuts of our own server do what the messages of ASGI do."""

import asyncio
import logging
from typing import Any

import pytest
from starlette.types import Message
from uvicorn.protocols.http.flow_control import FlowControl

from queue_engine.api.http.cycle import MAX_JOINED_BYTES, Cycle, arrived_body, written_at_once
from queue_engine.api.http.responses import Response, failure, success

DATE = [(b"date", b"Sat, 28 Nov 2026 12:00:00 GMT")]


class RecordingTransport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False


class Served:
    """A request whose response is recorded."""

    def __init__(self, *, method: str = "POST", keep_alive: bool = True, expects: bool = False) -> None:
        self.transport = RecordingTransport()
        self.completed = 0
        self.cycle = Cycle(
            scope={"method": method},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=FlowControl(self.transport),
            logger=logging.getLogger(),
            access_logger=logging.getLogger(),
            access_log=False,
            default_headers=DATE,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self._complete,
        )

    def _complete(self) -> None:
        self.completed += 1

    def arrive(self, body: bytes, *, more: bool = False) -> None:
        self.cycle.body += body
        self.cycle.more_body = more
        self.cycle.message_event.set()

    async def send(self, message: Message) -> None:
        """Send without the short cut, which a function that is not the cycle's own method does not have."""
        await self.cycle.send(message)  # type: ignore[arg-type]

    def result(self) -> tuple[bytes, bool, int, bool]:
        return self.transport.written, self.transport.closed, self.completed, self.cycle.response_complete


@pytest.mark.parametrize("method", ["POST", "HEAD"])
@pytest.mark.parametrize("keep_alive", [True, False])
@pytest.mark.parametrize(
    "response",
    [
        success({"taskId": "a"}),
        success({"long": "x" * MAX_JOINED_BYTES}),
        failure(404, 14000, "endpoint not found"),
        failure(429, 429, "full", ((b"retry-after", b"5"),)),
        Response(200, b"", b"text/plain"),
    ],
    ids=["short", "long", "failure", "with a header", "empty"],
)
async def test_a_response_is_the_same_with_and_without_the_short_cut(
    method: str, keep_alive: bool, response: Response
) -> None:
    with_it, without = (Served(method=method, keep_alive=keep_alive) for _ in range(2))
    await response.send(with_it.cycle.send)  # type: ignore[arg-type]
    await response.send(without.send)
    assert with_it.result() == without.result()


async def test_a_response_to_a_client_that_has_gone_is_left_to_the_messages() -> None:
    served = Served()
    served.cycle.disconnected = True
    assert not written_at_once(served.cycle.send, 200, b"content-length: 0\r\n", b"")  # type: ignore[arg-type]
    assert served.result() == (b"", False, 0, False)


async def test_a_response_waits_while_the_client_reads_slowly() -> None:
    served = Served()
    served.cycle.flow.pause_writing()
    assert not written_at_once(served.cycle.send, 200, b"content-length: 0\r\n", b"")  # type: ignore[arg-type]
    served.cycle.flow.resume_writing()
    assert written_at_once(served.cycle.send, 200, b"content-length: 0\r\n", b"")  # type: ignore[arg-type]


async def test_only_one_response_is_written() -> None:
    served = Served()
    await success(1).send(served.cycle.send)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        await success(2).send(served.cycle.send)  # type: ignore[arg-type]


async def test_a_body_that_has_arrived_is_taken_once() -> None:
    served = Served()
    assert arrived_body(served.cycle.receive) is None  # type: ignore[arg-type]
    served.arrive(b"he", more=True)
    assert arrived_body(served.cycle.receive) is None  # type: ignore[arg-type]
    served.arrive(b"llo")
    assert arrived_body(served.cycle.receive) == b"hello"  # type: ignore[arg-type]
    assert arrived_body(served.cycle.receive) is None  # type: ignore[arg-type]


async def test_a_body_that_waits_for_100_continue_is_received() -> None:
    served = Served(expects=True)
    served.arrive(b"hello")
    assert arrived_body(served.cycle.receive) is None  # type: ignore[arg-type]
    assert (await served.cycle.receive())["body"] == b"hello"  # type: ignore[typeddict-item]
    assert served.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"


async def test_other_servers_get_the_messages() -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(_: Message) -> None:
        pass

    assert arrived_body(receive) is None
    assert not written_at_once(send, 200, b"", b"")
