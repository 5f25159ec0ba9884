"""Two batches of script calls are under way at once on one connection; both are repeated when it breaks."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.tasks import Succeeded
from queue_engine.store.redis.client import close
from queue_engine.store.redis.connections import PlainConnection
from queue_engine.store.redis.pools import QuickPool
from queue_engine.store.script_runner import MAX_BATCH, MAX_UNDER_WAY, ScriptRunner
from queue_engine.store.scripts import load_scripts
from queue_engine.store.store import Store
from queue_engine.store.tasks import Submission
from tests.store.bench import Bench
from tests.store.proxy import LossyProxy
from tests.store.scripted_server import READONLY, Server, serving
from tests.waiting import wait_until_async

ACCEPTED = {Submission.ACCEPTED, Submission.DUPLICATE}
"""Results of a submit that was sent twice."""


# A real store behind a connection that is cut


@pytest.fixture
async def proxy(store: Store) -> AsyncIterator[LossyProxy]:
    async with LossyProxy(store.url) as opened:
        yield opened


@pytest.fixture
async def far(proxy: LossyProxy, sealer: Sealer, bench: Bench) -> AsyncIterator[Bench]:
    """The same endpoint, over connections that can be cut."""
    store = Store(proxy.url, sealer, partitions=bench.store.partitions.count)
    yield Bench(store, bench.endpoint_id, bench.probe, bench.endpoint_ids)
    await store.close()


async def test_a_second_batch_is_executed_before_the_replies_to_the_first_have_come(
    bench: Bench, far: Bench, proxy: LossyProxy
) -> None:
    await far.submit("t0")
    proxy.hold_replies()
    first = await _executed(bench, [asyncio.create_task(far.submit(f"a{number}")) for number in range(3)], 4)
    second = await _executed(bench, [asyncio.create_task(far.submit(f"b{number}")) for number in range(3)], 7)
    proxy.cut_held()
    assert {*await asyncio.gather(*first, *second)} <= ACCEPTED
    assert await _queued(bench) == ["t0", "a0", "a1", "a2", "b0", "b1", "b2"]


async def test_both_batches_are_repeated_in_their_order_when_the_store_got_neither(
    bench: Bench, far: Bench, proxy: LossyProxy
) -> None:
    await far.submit("t0")
    proxy.hold_requests()
    first = [asyncio.create_task(far.submit(f"a{number}")) for number in range(3)]
    await wait_until_async(lambda: b"a2" in proxy.held)
    second = [asyncio.create_task(far.submit(f"b{number}")) for number in range(MAX_BATCH + 3)]
    await wait_until_async(lambda: b"b0" in proxy.held)
    proxy.cut_held()
    assert {*await asyncio.gather(*first, *second)} == {Submission.ACCEPTED}
    assert await _queued(bench) == ["t0", "a0", "a1", "a2", *(f"b{number}" for number in range(MAX_BATCH + 3))]


async def test_a_start_and_an_end_under_way_at_the_cut_take_effect_once(
    bench: Bench, far: Bench, proxy: LossyProxy
) -> None:
    agent = far.agent()
    running = await far.submit_and_start("t0", agent)
    await far.submit("t1")
    (entry,) = await agent.claim(1, block_ms=1)
    proxy.hold_replies()
    ending = asyncio.create_task(agent.settle(running.lease, Succeeded(b"1")))
    await wait_until_async(lambda: _is_state(bench, "t0", "succeeded"))
    starting = asyncio.create_task(agent.start(entry, address="127.0.0.1:9000"))
    await wait_until_async(lambda: _is_state(bench, "t1", "running"))
    proxy.cut_held()
    assert (await ending).word in ("OK", "ALREADY")
    started = await starting
    assert started is not None
    assert started.attempt == 1
    assert (await agent.settle(started.lease, Succeeded(b"2"))).word == "OK"
    assert [(await bench.task(name)).output for name in ("t0", "t1")] == [b"1", b"2"]


async def test_scripts_that_both_batches_miss_are_loaded_and_the_calls_keep_their_order(
    bench: Bench, far: Bench, proxy: LossyProxy
) -> None:
    await far.submit("t0")
    await bench.probe.ask("SCRIPT", "FLUSH")
    names = [f"t{number}" for number in range(1, 3 * MAX_BATCH)]
    assert {*await asyncio.gather(*(far.submit(name) for name in names))} == {Submission.ACCEPTED}
    assert await _queued(bench) == ["t0", *names]


class SlowToClose(QuickPool):
    """Takes too long to close idle connections, as redis-py reports it."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        await super().disconnect(inuse_connections)
        if not inuse_connections:
            raise RedisTimeoutError("Timed out closing connection after 2.0")


async def test_calls_are_repeated_when_idle_connections_do_not_close_in_time(
    bench: Bench, far: Bench, proxy: LossyProxy
) -> None:
    await far.submit("t0")
    far.store.redis.connection_pool.__class__ = SlowToClose
    proxy.hold_requests()
    first = [asyncio.create_task(far.submit(f"a{number}")) for number in range(3)]
    await wait_until_async(lambda: b"a2" in proxy.held)
    proxy.cut_held()
    assert {*await asyncio.gather(*first)} == {Submission.ACCEPTED}


async def _executed(bench: Bench, calls: list[Any], count: int) -> list[Any]:
    """Return the calls when the queue has that number of tasks."""

    async def has_all() -> bool:
        return len(await _queued(bench)) == count

    await wait_until_async(has_all)
    return calls


async def _queued(bench: Bench) -> list[str]:
    return [fields["t"] for fields in (await bench.probe.stream(bench.keys.queue)).values()]


async def _is_state(bench: Bench, task_id: str, state: str) -> bool:
    return (await bench.task(task_id)).state.value == state


# A scripted server


def _runner(client: Redis, *, loads: bool = False) -> Any:
    """Return a function that submits a call by its name."""
    runner, script = ScriptRunner(client, loads=loads), load_scripts()["mark"]
    return lambda name: runner.submit(script, [1, name])


def _names(server: Server) -> list[tuple[int, str]]:
    """Return the calls that the server got, each with the number of its connection."""
    return [(number, command[3].decode()) for number, command in server.commands]


def _reply(server: Server, connection: int, *names: str) -> None:
    server.writers[connection - 1].write(b"".join(b"+%b\r\n" % name.encode() for name in names))


async def _sent(server: Server, *names: str) -> None:
    await wait_until_async(lambda: [name for _, name in _names(server)][-len(names) :] == [*names])


async def test_no_more_than_two_batches_are_under_way() -> None:
    async with serving(lambda *_: b"") as (server, client):
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        second = call("b")
        await _sent(server, "a", "b")
        rest = [call("c"), call("d")]
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(server.commands) == MAX_UNDER_WAY
        _reply(server, 1, "a")
        await _sent(server, "a", "b", "c", "d")  # in one batch
        assert await first == b"a"
        assert not second.done()
        _reply(server, 1, "b", "c", "d")
        assert await asyncio.gather(second, *rest) == [b"b", b"c", b"d"]
        assert server.connections == 1


async def test_replies_of_two_batches_in_one_packet_are_given_to_their_calls() -> None:
    async with serving(lambda *_: b"") as (server, client):
        call = _runner(client)
        calls = [call("a"), call("b")]
        await _sent(server, "a", "b")
        calls.append(call("c"))
        await _sent(server, "a", "b", "c")
        _reply(server, 1, "a", "b", "c")
        assert await asyncio.gather(*calls) == [b"a", b"b", b"c"]


async def test_a_batch_with_replies_is_not_repeated_when_the_connection_breaks_in_the_next_one() -> None:
    async with serving(lambda number, command: b"" if number == 1 else b"+%b\r\n" % command[3]) as (server, client):
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        calls = [call("b"), call("c")]
        await _sent(server, "a", "b", "c")
        _reply(server, 1, "a", "b")
        assert await first == b"a"
        server.writers[0].close()
        assert await asyncio.gather(*calls) == [b"b", b"c"]
        assert _names(server)[3:] == [(2, "b"), (2, "c")]


async def test_a_batch_sent_to_a_demoted_server_is_repeated_on_another_connection() -> None:
    async with serving(lambda number, command: b"" if number == 1 else b"+%b\r\n" % command[3]) as (server, client):
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        second = call("b")
        await _sent(server, "a", "b")
        server.writers[0].write(READONLY * 2)
        with pytest.raises(ReadOnlyError):
            await first
        assert await second == b"b"
        assert _names(server) == [(1, "a"), (1, "b"), (2, "b")]


async def test_an_agent_gets_the_error_of_a_missing_script_for_its_own_call() -> None:
    async with serving(lambda *_: b"") as (server, client):
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        second = call("b")
        await _sent(server, "a", "b")
        server.writers[0].write(b"-NOSCRIPT No matching script.\r\n+b\r\n")
        with pytest.raises(NoScriptError):
            await first
        assert await second == b"b"


async def test_both_batches_are_repeated_when_no_reply_comes_in_time() -> None:
    async with serving(lambda number, command: b"" if number == 1 else b"+%b\r\n" % command[3]) as (server, _):
        pool = QuickPool(connection_class=PlainConnection, host="127.0.0.1", port=server.port, socket_timeout=0.5)
        client = Redis.from_pool(pool)
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        second = call("b")
        assert [await first, await second] == [b"a", b"b"]
        assert _names(server)[-2:] == [(2, "a"), (2, "b")]
        await close(client)


async def test_a_call_with_an_invalid_argument_fails_alone_beside_a_batch_under_way() -> None:
    async with serving(lambda *_: b"") as (server, client):
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        with pytest.raises(Exception, match="must be str"):
            await call(None)
        second = call("b")
        await _sent(server, "a", "b")
        _reply(server, 1, "a", "b")
        assert [await first, await second] == [b"a", b"b"]


async def test_a_batch_waits_until_the_system_has_taken_the_one_before() -> None:
    """Otherwise the memory for what waits to be sent would grow while the server is slow."""
    large = bytes(16 * 1024 * 1024)
    async with serving(lambda _, command: b"+%b\r\n" % command[3]) as (server, client):
        runner, script = ScriptRunner(client, loads=False), load_scripts()["mark"]
        assert await runner.submit(script, [1, "connected"]) == b"connected"
        transport: Any = client.connection_pool._available_connections[0]._writer.transport  # type: ignore[union-attr]
        reading: Any = server.writers[0].transport
        reading.pause_reading()
        first = runner.submit(script, [1, "a", large])
        unsent = transport.get_write_buffer_size
        await wait_until_async(lambda: unsent() > 0)
        second = runner.submit(script, [1, "b", large])
        for _ in range(100):
            await asyncio.sleep(0)
        assert unsent() < len(large) + 1000
        reading.resume_reading()
        assert [await first, await second] == [b"a", b"b"]


async def test_calls_under_way_end_when_their_process_ends() -> None:
    async with serving(lambda *_: b"") as (server, client):
        call = _runner(client)
        first = call("a")
        await _sent(server, "a")
        second = call("b")
        await _sent(server, "a", "b")
        (flusher,) = (one for one in asyncio.all_tasks() if "_flush" in repr(one.get_coro()))
        flusher.cancel()
        for one in (first, second):
            with pytest.raises(RedisConnectionError, match="interrupted"):
                await one
