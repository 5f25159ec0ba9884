"""The way of a container's output to the store: what happens when the one is too fast or the other away."""

import asyncio
import os
from collections.abc import Iterator, Sequence

import pytest
from redis.exceptions import ResponseError

from queue_engine.domain.errors import StoreUnavailable
from queue_engine.domain.logs import MAX_BATCH_LINES
from queue_engine.logs.lines import CUT
from queue_engine.logs.masking import Secrets
from queue_engine.logs.writer import MAX_BATCH_CHARACTERS, MAX_WAITING_LINES
from queue_engine.observability import metrics
from tests.waiting import wait_until_async
from worker_agent.logs.capture import MAX_UNREAD_BYTES, READ_BYTES, Capture
from worker_agent.logs.shipper import MAX_ROUND_BYTES, LogShipper


class Sink:
    """A store that takes lines while it is there, and forgets a repeated batch as the real one does."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.batches: list[int] = []
        self.signs = 0
        self.error: Exception | None = None
        self.lose_reply = False
        self.hang = False
        self._last = ""

    async def append(self, batch_id: str, lines: Sequence[str]) -> None:
        if self.hang:
            await asyncio.Event().wait()
        if self.error is not None:
            raise self.error
        if not lines:
            self.signs += 1
        elif batch_id != self._last:
            self._last = batch_id
            self.lines += lines
            self.batches.append(len(lines))
        if self.lose_reply:
            self.lose_reply = False
            raise StoreUnavailable("the reply is lost")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def capture() -> Iterator[Capture]:
    opened = Capture()
    yield opened
    opened.close()


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def shipper(capture: Capture, sink: Sink, clock: Clock) -> LogShipper:
    return LogShipper(capture, sink, Secrets(["canary"]), retention_seconds=60, monotonic=clock)


def write(capture: Capture, data: bytes) -> None:
    os.write(capture.fd, data)


def dropped() -> float:
    [family] = metrics.agent_log_lines_dropped.collect()
    return family.samples[0].value


async def test_lines_are_shipped_in_order_and_in_batches(capture: Capture, sink: Sink, shipper: LogShipper) -> None:
    write(capture, b"".join(b"line %d\n" % number for number in range(1200)))
    while await shipper.read_step():
        pass
    await shipper.ship_step()
    assert sink.batches == [MAX_BATCH_LINES]
    await shipper.finish()
    assert sink.lines == [f"line {number}" for number in range(1200)]
    assert sink.batches == [500, 500, 200]


async def test_a_batch_of_long_lines_has_fewer_of_them(capture: Capture, sink: Sink, shipper: LogShipper) -> None:
    write(capture, (b"x" * 4000 + b"\n") * 200)
    await shipper.finish()
    assert len(sink.lines) == 200
    assert max(sink.batches) <= MAX_BATCH_CHARACTERS // 4000 + 1


async def test_what_is_written_is_shipped_in_the_background(capture: Capture, sink: Sink, shipper: LogShipper) -> None:
    shipper.start()
    write(capture, b"the canary ")
    write(capture, b"sings\nand")
    await wait_until_async(lambda: sink.lines == ["the *** sings"])
    await shipper.finish()
    assert sink.lines == ["the *** sings", "and"]


async def test_a_batch_whose_reply_was_lost_is_not_repeated(capture: Capture, sink: Sink, shipper: LogShipper) -> None:
    shipper.start()
    sink.lose_reply = True
    write(capture, b"one\n")
    await wait_until_async(lambda: sink.lines == ["one"])
    write(capture, b"two\n")
    await shipper.finish()
    assert sink.lines == ["one", "two"]


async def test_a_batch_that_was_cut_off_stays_the_same(capture: Capture, sink: Sink, shipper: LogShipper) -> None:
    write(capture, b"one\n")
    await shipper.read_step()
    sink.lose_reply = True
    sink.error = None
    shipping = asyncio.create_task(shipper.ship_step())
    await wait_until_async(lambda: sink.lines == ["one"])
    shipping.cancel()
    await asyncio.gather(shipping, return_exceptions=True)
    write(capture, b"two\n")
    await shipper.finish()
    assert sink.lines == ["one", "two"]


async def test_lines_wait_for_the_store_and_then_are_dropped_and_counted(
    capture: Capture, sink: Sink, shipper: LogShipper, clock: Clock
) -> None:
    before = dropped()
    write(capture, b"".join(b"line %d\n" % number for number in range(MAX_WAITING_LINES)))
    await shipper.read_step()
    clock.now += 60
    write(capture, b"too many\n" * 40)
    for _ in range(10):
        await shipper.read_step()
    assert dropped() == before
    await shipper.ship_step()
    await shipper.read_step()
    await shipper.finish()
    assert sink.lines[:MAX_WAITING_LINES] == [f"line {number}" for number in range(MAX_WAITING_LINES)]
    assert sink.lines[MAX_WAITING_LINES:] == ["[queue-engine: 20 lines dropped]", *["too many"] * 20]
    assert dropped() - before == 20


async def test_the_end_does_not_wait_for_a_store_that_hangs(capture: Capture, sink: Sink, shipper: LogShipper) -> None:
    before = dropped()
    sink.hang = True
    shipper.start()
    write(capture, b"one\ntwo\n")
    await shipper.finish(within_seconds=0.05)
    assert sink.lines == []
    assert dropped() - before == 2


async def test_the_end_survives_a_store_that_refuses_for_good(
    capture: Capture, sink: Sink, shipper: LogShipper
) -> None:
    sink.error = ResponseError("NOPERM")
    write(capture, b"one\n")
    await shipper.finish()
    assert shipper.tail() == ["one"]


async def test_the_store_hears_that_a_quiet_worker_lives(capture: Capture, sink: Sink, clock: Clock) -> None:
    quiet = LogShipper(capture, sink, Secrets([]), retention_seconds=0.04, monotonic=clock)
    quiet.start()
    await wait_until_async(lambda: sink.signs >= 2)
    await quiet.finish()
    assert sink.lines == []


async def test_a_container_that_writes_without_end_gets_pauses(capture: Capture, shipper: LogShipper) -> None:
    write(capture, b"x\n" * (MAX_ROUND_BYTES // 2 + READ_BYTES))
    rounds = MAX_ROUND_BYTES // READ_BYTES
    assert [await shipper.read_step() for _ in range(rounds)] == [1] * (rounds - 1) + [0]


async def test_what_cannot_be_kept_up_with_is_skipped_and_said(
    capture: Capture, sink: Sink, shipper: LogShipper
) -> None:
    before = dropped()
    write(capture, b"first\n")
    await shipper.read_step()
    for _ in range(33):
        write(capture, b"0123456789abcde\n" * 65536)
    write(capture, b"last\n")
    await shipper.finish()
    first, said, *lines, last = sink.lines
    skipped = 33 * 1024 * 1024 + 5 - READ_BYTES
    assert (first, said, last) == ("first", f"[queue-engine: {skipped} bytes of output skipped]", "last")
    assert set(lines) == {"0123456789abcde"}
    assert dropped() - before == 1


async def test_the_tail_is_what_the_log_would_show(capture: Capture, shipper: LogShipper) -> None:
    assert shipper.tail() == []
    write(capture, b"".join(b"line %d\r\n" % number for number in range(30)) + b"the canary\x1b[0m " + b"x" * 9000)
    await shipper.finish()
    *lines, last = shipper.tail()
    assert lines == [f"line {number}" for number in range(11, 30)]
    assert last.startswith("the *** xxx")
    assert last.endswith(CUT)


# The file


def test_what_has_been_read_takes_no_room_on_the_disk(capture: Capture) -> None:
    for _ in range(100):
        write(capture, b"x" * 1024 * 1024)
        while capture.read():
            pass
    if not capture._can_free:
        pytest.skip("the file system frees nothing inside of files")
    status = os.fstat(capture.fd)
    assert status.st_size == 100 * 1024 * 1024
    assert status.st_blocks * 512 < 3 * 1024 * 1024
    assert len(capture.tail()) <= 64 * 1024


def _refuse(*_: int) -> None:
    raise OSError("cannot")


def test_where_nothing_can_be_freed_the_file_is_cut_when_all_has_been_read() -> None:
    capture = Capture(_refuse)
    total = 0
    for number in range(100):
        write(capture, b"x" * 1024 * 1024)
        while data := capture.read():
            total += len(data)
        assert os.fstat(capture.fd).st_size <= 9 * 1024 * 1024, number
    assert total == 100 * 1024 * 1024
    capture.close()
    capture.close()


def test_reading_goes_on_after_the_writer_has_truncated(capture: Capture) -> None:
    write(capture, b"a long line before\n")
    assert capture.read() == b"a long line before\n"
    os.ftruncate(capture.fd, 0)
    write(capture, b"anew\n")
    assert capture.read() == b"anew\n"
    assert capture.read() == b""


def test_little_is_never_skipped(capture: Capture) -> None:
    write(capture, b"x" * MAX_UNREAD_BYTES)
    assert capture.skip() == 0
    write(capture, b"y")
    assert capture.skip() == MAX_UNREAD_BYTES + 1 - READ_BYTES
    assert capture.skip() == 0
    assert capture.read().endswith(b"xy")


def test_the_file_has_no_name_and_is_private(capture: Capture) -> None:
    status = os.fstat(capture.fd)
    assert status.st_nlink == 0
    assert status.st_mode & 0o777 == 0o600
    assert not os.get_inheritable(capture.fd)
