"""The store's user `agent` may do what agents do, and nothing else: on every kind of server."""

import inspect
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from queue_engine.config.store_users import AGENT, ENGINE, METRICS, acl_lines, rules_of
from queue_engine.crypto.sealing import Sealer, endpoint_key
from queue_engine.domain.attempts import Renewal
from queue_engine.domain.tasks import Cost, Failed, Priority, Succeeded, TaskState, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.observability import metrics
from queue_engine.store import keys
from queue_engine.store.keys import EndpointKeys, Partition
from queue_engine.store.scripts import AGENT_SCRIPTS, load_scripts
from queue_engine.store.store import Store
from queue_engine.store.task_source import NO_LANES, StoreWorkerRecord
from tests.servers import StoreServer
from tests.store.bench import SECRET_KEY, TOO_LARGE_TO_JOIN, Bench, spec

PASSWORD = "password-of-a-test"
HEADERS = {"Authorization": "Bearer x"}
COMMANDS = {
    *("hget", "hmget", "hgetall", "hset", "hdel", "hincrby", "hexists", "hlen", "hvals", "exists", "pexpire", "del"),
    *("get", "getrange", "set", "strlen", "unlink", "rpush", "lpush", "lpop", "lindex", "lset", "ltrim"),
    *("xadd", "xreadgroup", "xautoclaim", "xack", "xdel", "xpending", "xlen", "xrevrange", "xtrim"),
    *("xgroup|create", "xgroup|delconsumer", "xinfo|stream", "sadd", "scard"),
    *("zadd", "zrem", "zcard", "zrange", "zremrangebyscore", "evalsha", "info", "time", "cluster|slots"),
    *("xread", "spublish", "blpop", "llen", "xrange", "hsetnx", "srem", "zrangebylex"),
}
CONNECTION = {
    *("auth", "hello", "ping", "echo", "select", "quit", "reset", "wait", "waitaof"),
    *("asking", "readonly", "readwrite"),
}
"""The commands of the category `connection` that the rules leave; old servers lack some."""


@pytest.fixture(scope="module")
def agent_url(store_server: StoreServer) -> Iterator[str]:
    """The URL of the session's server with the user `agent`."""
    reply = store_server.command("ACL", "SETUSER", AGENT, "reset", "on", f">{PASSWORD}", *rules_of(AGENT).split())
    assert reply == "+OK"
    yield store_server.url.replace("redis://", f"redis://{AGENT}:{PASSWORD}@")
    store_server.command("ACL", "DELUSER", AGENT)


@pytest.fixture
async def agent_store(agent_url: str, store: Store, bench: Bench) -> AsyncIterator[Store]:
    """The store of an agent, with its user and the key of its endpoint."""
    ring = Sealer(endpoint_key(SECRET_KEY, bench.endpoint_id))
    partitions = store.partitions.count
    opened = Store(agent_url, Sealer(None), partitions=partitions, is_agent=True, endpoint_keys=ring)
    yield opened
    await opened.close()


@pytest.fixture
async def stranger(agent_url: str) -> AsyncIterator[Redis]:
    """A plain client with the user `agent`."""
    client = Redis.from_url(agent_url)
    yield client
    await client.aclose()


def calls_of_scripts() -> dict[str, int]:
    """Return how often each script was called by this process, by its label."""
    [family] = metrics.redis_command_duration.collect()
    return {one.labels["op"]: int(one.value) for one in family.samples if one.name.endswith("_count")}


async def test_an_agent_does_all_its_work_as_its_user(agent_store: Store, store: Store, bench: Bench) -> None:
    await store.prepare()
    before = calls_of_scripts()
    info = await agent_store.prepare()
    assert info.version == (await store.prepare()).version
    assert await agent_store.endpoints.get(bench.endpoint_id, None) == await store.endpoints.get(
        bench.endpoint_id, None
    )
    record = StoreWorkerRecord(agent_store.workers, endpoint_id=bench.endpoint_id, worker_id="a1")
    await record.register()
    for status in (WorkerStatus.INITIALIZING, WorkerStatus.RUNNING):
        await record.report(status, running_tasks=0, address="127.0.0.1:9000", reason="", error="")
    agent = agent_store.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)

    for task_id in ("blocking", "by-script"):  # the first claim waits, and the next one goes by a script
        started = await bench.submit_and_start(task_id, agent, spec=spec(webhook=True, headers=HEADERS))
        assert agent.open(started).spec.headers == HEADERS
        assert await agent.renew([started.lease], begun=1) == [Renewal.OK]
        outcome = Succeeded(b"1") if task_id == "blocking" else TOO_LARGE_TO_JOIN
        assert (await agent.settle(started.lease, outcome)).word == "OK"

    started = await bench.submit_and_start("tried", agent)
    for cost in (Cost.ATTEMPT, Cost.BUSY, Cost.BUSY):
        assert (await agent.settle(started.lease, TryAgain("x", 60, cost=cost))).word == "OK"
        await bench.make_due("tried")
        await bench.sweep()
        started = await bench.start(agent)
    assert await agent.release(started.lease) == "OK"
    (entry,) = await agent.claim(1, block_ms=1)
    await agent.put_back(entry)
    assert [one.task_id for one in await agent.claim(1, block_ms=1)] == ["tried"]
    (entry,) = await agent.unstarted()
    other = agent_store.queue(endpoint_id=bench.endpoint_id, worker_id="a2", lease_ms=60_000)
    (entry,) = await other.claim_abandoned(1, idle_ms=0)
    started = await other.start(entry, address="127.0.0.1:9001") or started
    await bench.lose("tried")
    assert await other.renew([started.lease]) == [Renewal.READOPTED]
    assert (await other.settle(started.lease, Failed("x"))).word == "OK"
    await agent.ask_for_headers(started)
    assert await agent.cancelled(block_ms=1) == []

    await bench.probe.ask("DEL", bench.keys.queue, bench.keys.retry_queue)
    assert await agent.claim(1, block_ms=1) == []  # makes the groups again
    assert await agent_store.logs.append(bench.endpoint_id, "a1", "1", ["a line"], retention_ms=60_000)
    await agent_store.logs.delete_endpoint(bench.endpoint_id)
    await record.remove()
    await agent_store.scripts.mark(mark=f"{bench.partition.tag}:mark")

    assert [(await bench.task(one)).state for one in ("blocking", "tried")] == [TaskState.SUCCEEDED, TaskState.FAILED]
    called = {label for label, count in calls_of_scripts().items() if count > before.get(label, 0)}
    assert {load_scripts()[name].label for name in AGENT_SCRIPTS} <= called
    await bench.probe.ask("DEL", keys.UNSEALED)


async def test_an_agent_serves_lanes_as_its_user(agent_store: Store, store: Store, bench: Bench) -> None:
    await store.prepare()
    await bench.set_key_limit(1)
    agent = agent_store.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
    for priority in Priority:
        for number in range(2):
            await bench.submit(f"{priority}{number}", priority=priority, fairness_key="k")
    await bench.submit("plain")
    (entry,) = await agent.claim(1, block_ms=1)
    assert [one.task_id for one in await agent.claim(10, block_ms=1)] == ["plain"]  # the lanes of the key are parked
    await agent.put_back(entry)
    started = await bench.start(agent)
    for cost in (Cost.NOTHING, Cost.BUSY):
        assert (await agent.settle(started.lease, TryAgain("x", 60, cost=cost))).word == "OK"
        started = await bench.start(agent)
    assert await agent.release(started.lease) == "OK"
    started = await bench.start(agent)
    await bench.lose(started.lease.task_id)
    assert await agent.renew([started.lease]) == [Renewal.READOPTED]
    assert (await agent.settle(started.lease, Succeeded(b"1"))).word == "OK"
    assert len(await agent.claim(10, block_ms=1)) == 1
    other = agent_store.queue(endpoint_id=bench.endpoint_id, worker_id="a2", lease_ms=60_000)
    assert len(await other.claim_abandoned(10, idle_ms=0)) == 2


async def test_an_agent_with_the_rules_of_an_earlier_version_says_that_it_serves_no_lanes(
    store_server: StoreServer, store: Store, bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """In its log once, and in the worker's error until the rules are loaded."""
    await store.prepare()
    earlier = re.sub(r"\([^()]*q:\*:(lanes|lane|parked|turn|ring:\*)\)", "", rules_of(AGENT))
    user, current = "agent-of-before", rules_of(AGENT)
    assert store_server.command("ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *earlier.split()) == "+OK"
    url = store_server.url.replace("redis://", f"redis://{user}:{PASSWORD}@")
    ring = Sealer(endpoint_key(SECRET_KEY, bench.endpoint_id))
    opened = Store(url, Sealer(None), partitions=store.partitions.count, is_agent=True, endpoint_keys=ring)
    queue = opened.queue(endpoint_id=bench.endpoint_id, worker_id="a1", lease_ms=60_000)
    record = StoreWorkerRecord(opened.workers, endpoint_id=bench.endpoint_id, worker_id="a1", queue=queue)

    async def error_after_report() -> str | None:
        await record.report(WorkerStatus.RUNNING, running_tasks=0, address="x:1", reason="", error="")
        worker = await store.workers.get(bench.endpoint_id, "a1")
        assert worker is not None
        assert worker.status is WorkerStatus.RUNNING
        return worker.error

    try:
        await record.register()
        assert [await error_after_report() for _ in range(3)] == [NO_LANES] * 3
        assert [one.getMessage() for one in caplog.records].count(NO_LANES) == 1
        await bench.submit("in-lane", fairness_key="k")
        await bench.submit("plain")
        assert [one.task_id for one in await queue.claim(5, block_ms=1)] == ["plain"]
        assert store_server.command("ACL", "SETUSER", user, "reset", "on", f">{PASSWORD}", *current.split()) == "+OK"
        assert await error_after_report() is None
        assert [one.task_id for one in await queue.claim(5, block_ms=1)] == ["in-lane"]
    finally:
        await opened.close()
        store_server.command("ACL", "DELUSER", user)


# Refusals


async def denials(server: StoreServer) -> dict[str, str]:
    """Return for each command of the server what a dry run as `agent` says, with a key that no agent uses."""
    pool: Any = Redis(port=server.port).connection_pool
    connection = pool.make_connection()
    await connection.connect()

    async def ask(*words: str) -> Any:
        await connection.send_command(*words)
        try:
            return await connection.read_response()
        except ResponseError as error:
            return error

    try:
        arities: dict[str, int] = {}
        for command in await ask("COMMAND"):
            for name, arity in [(command[0], command[1]), *((one[0], one[1]) for one in command[9])]:
                arities[name.decode()] = abs(arity)
        containers = {name.partition("|")[0] for name in arities if "|" in name}
        return {
            name: str(await ask("ACL", "DRYRUN", AGENT, *name.split("|"), *padding(name, arity)))
            for name, arity in arities.items()
            if name not in containers
        }
    finally:
        await connection.disconnect()


def padding(name: str, arity: int) -> list[str]:
    """Return arguments of a command. A number, because some commands say how many keys follow."""
    if name == "xread":
        return ["STREAMS", "1", "0"]
    if name == "xreadgroup":
        return ["GROUP", "g", "c", "STREAMS", "1", ">"]
    if name == "evalsha":
        return ["1", "1", "1"]
    return ["1"] * max(0, arity - 1 - name.count("|"))


async def test_every_other_command_is_refused(agent_url: str, store_server: StoreServer) -> None:
    said = await denials(store_server)
    allowed = {name for name, text in said.items() if "no permissions to run" not in text}
    assert allowed - CONNECTION == COMMANDS
    assert allowed & CONNECTION >= {"ping", "wait", "asking", "select", "auth"}
    assert said.keys() >= {"eval", "script|load", "function|load", "keys", "scan", "config|get", "flushall", "acl|list"}
    without_keys = {"info", "time", "cluster|slots", *CONNECTION}
    refused_by_key = {name for name in allowed - without_keys if "no permissions to access" in said[name]}
    assert refused_by_key == COMMANDS - without_keys


ENGINES_KEYS = {
    name: value if isinstance(value, str) else value(*(["1"] * len(inspect.signature(value).parameters)))
    for name, value in vars(keys).items()
    if (isinstance(value, str) and value.startswith("{qe}"))
    or (inspect.isfunction(value) and inspect.signature(value).return_annotation == "str" and not name.startswith("_"))
}
"""All keys that belong to no partition, by their names in keys.py; and texts that are no keys, such as ids."""
AGENTS_KEYS = {
    *("leases", "due", "deadlines", "due_purges", "due_checks", "deletions", "waiting_endpoints", "counts", "outbox"),
    *("endpoint", "queue", "retry_queue", "bell", "live", "partition_counts", "workers", "logs", "removed_events"),
    *("finished_success", "finished_delivered", "finished_failed"),
    *("turn", "lane_entries", "lanes", "ring_high", "ring_normal", "ring_low", "parked"),
    *("task", "body", "result", "history", "delivery", "worker", "log", "events"),
}
"""The keys of a partition that agents use, by their names in keys.py."""


def partition_keys() -> dict[str, str]:
    """Return all keys of a partition, an endpoint, a task and a worker, by their names in keys.py."""
    endpoint = EndpointKeys(Partition(99), "7")
    found: dict[str, str] = {}
    for source in (endpoint.partition, endpoint, endpoint.of_task("t1"), endpoint.of_worker("w1")):
        kind = type(source)
        for name in dir(kind):
            value = None if name in ("tag", "endpoint_id", "task_id", "worker_id") else getattr(source, name)
            if isinstance(value, str) and not name.startswith("_"):
                found.setdefault(name, value)
    found["rates"] = endpoint.partition.rates("acme")
    return found


async def touches(stranger: Redis, key: str) -> list[str]:
    """Return the commands that are not refused for this key."""
    calls: list[tuple[str | int, ...]] = [
        *(("HGET", key, "f"), ("HMGET", key, "f"), ("HGETALL", key), ("HSET", key, "f", "v"), ("HDEL", key, "f")),
        *(("HINCRBY", key, "f", 1), ("HEXISTS", key, "f"), ("HLEN", key), ("HVALS", key), ("EXISTS", key)),
        *(("PEXPIRE", key, 1000), ("DEL", key), ("GET", key), ("GETRANGE", key, 0, 1), ("SET", key, "v")),
        *(("STRLEN", key), ("UNLINK", key), ("RPUSH", key, "v"), ("LPUSH", key, "v"), ("LPOP", key)),
        *(("LINDEX", key, 0), ("LSET", key, 0, "v"), ("LTRIM", key, 0, 1), ("XADD", key, "*", "f", "v")),
        *(("XACK", key, "g", "1-1"), ("XDEL", key, "1-1"), ("XPENDING", key, "g"), ("XLEN", key)),
        *(("XREVRANGE", key, "+", "-"), ("XTRIM", key, "MAXLEN", 1), ("XGROUP", "CREATE", key, "g", "0", "MKSTREAM")),
        *(("XGROUP", "DELCONSUMER", key, "g", "c"), ("XINFO", "STREAM", key), ("XAUTOCLAIM", key, "g", "c", 0, "0")),
        *(("SADD", key, "m"), ("SCARD", key), ("ZADD", key, 1, "m"), ("ZREM", key, "m"), ("ZCARD", key)),
        *(("BLPOP", key, "0.001"), ("LLEN", key)),
        *(("XRANGE", key, "-", "+"), ("HSETNX", key, "f", "v"), ("SREM", key, "m"), ("ZRANGEBYLEX", key, "-", "+")),
        *(("ZRANGE", key, 0, 1), ("ZREMRANGEBYSCORE", key, 0, 1), ("EVALSHA", "0" * 40, 1, key)),
        *(
            ("XREADGROUP", "GROUP", "g", "c", "STREAMS", key, ">"),
            ("XREAD", "STREAMS", key, "0"),
            ("SPUBLISH", key, "m"),
        ),
    ]
    assert {str(call[0]).lower() for call in calls} == {name.partition("|")[0] for name in COMMANDS} - {
        *("info", "time", "cluster")
    }
    pipeline = stranger.pipeline(transaction=False)
    for call in calls:
        pipeline.execute_command(*call)
    replies = await pipeline.execute(raise_on_error=False)
    return [
        str(call[0]) for call, reply in zip(calls, replies, strict=True) if not isinstance(reply, NoPermissionError)
    ]


async def test_no_key_of_the_engine_is_reached(stranger: Redis) -> None:
    reached = {name: found for name, key in ENGINES_KEYS.items() if (found := await touches(stranger, key))}
    assert reached.pop("META") == ["HGET", "HMGET"]
    assert sorted(reached.pop("UNSEALED")) == ["EVALSHA", "PEXPIRE", "SADD", "SCARD"]
    assert reached == {}
    assert {"{qe}:credential:1", "{qe}:key:1", "{qe}:keys", "{qe}:tenants", "{qe}:audit:1", "{qe}:leader"} <= set(
        ENGINES_KEYS.values()
    )


async def test_of_a_partition_only_the_keys_of_agents_are_reached(stranger: Redis) -> None:
    found = {name: await touches(stranger, key) for name, key in partition_keys().items()}
    assert found.pop("cancel_requests") == ["XREAD"]
    assert {name for name, commands in found.items() if commands} == AGENTS_KEYS
    assert sorted(found["bell"]) == sorted([*found["queue"], "BLPOP", "LLEN", "RPUSH", "DEL"])
    assert sorted(found["endpoint"]) == ["EVALSHA", "EXISTS", "HGET", "HGETALL", "HMGET"]
    assert found.keys() - AGENTS_KEYS >= {"rates", "created", "recovery", "given_up", "senders", "ticks", "outbox_due"}
    for key in ("{p01}:tokens:7", "{p01}:worker-tokens:7", "{qe}:periodic", "arq:job:x", "other"):
        assert await touches(stranger, key) == []


async def test_only_messages_about_tasks_are_sent(stranger: Redis) -> None:
    assert await touches(stranger, Partition(99).told("*")) == ["SPUBLISH"]
    for command in ("SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE", "PUBLISH"):
        with pytest.raises(NoPermissionError):
            await stranger.execute_command(command, Partition(99).told("*"), "m")  # type: ignore[no-untyped-call]


async def test_the_engines_scripts_change_nothing_for_an_agent(store: Store, bench: Bench, stranger: Redis) -> None:
    """A script has the rights of its caller, also one that the engine has loaded."""
    await store.prepare()
    before = (await bench.probe.snapshot()).contents
    for script in load_scripts().values():
        if script.name in AGENT_SCRIPTS or script.header.scope is not None:
            continue
        names = [keys.api_key("1"), keys.API_KEYS, keys.TENANTS, keys.REVOKED_API_KEYS, keys.LEADER, keys.META]
        with pytest.raises(NoPermissionError):
            await stranger.evalsha(script.sha, len(names), *names, *["1"] * 12)  # type: ignore[misc]
    assert (await bench.probe.snapshot()).contents == before


async def test_an_index_entry_of_an_agent_does_not_delete_an_endpoint(
    store: Store, bench: Bench, stranger: Redis
) -> None:
    await bench.submit("t1")
    assert await stranger.zadd(bench.partition.deletions, {bench.endpoint_id: 1}) == 1
    assert (await store.deletions.take(bench.partition)).due == []
    await bench.probe.ask("DEL", bench.partition.deletions)


async def test_the_user_for_metrics_reads_figures_and_no_data(store_server: StoreServer) -> None:
    words = rules_of(METRICS).split()
    assert store_server.command("ACL", "SETUSER", METRICS, "reset", "on", f">{PASSWORD}", *words) == "+OK"
    async with Redis(port=store_server.port, username=METRICS, password=PASSWORD) as client:
        await client.ping()
        assert (await client.info("memory"))["used_memory"] > 0
        for command in (("GET", "{p00}:b:1:t1"), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("TIME",)):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)  # type: ignore[no-untyped-call]
    store_server.command("ACL", "DELUSER", METRICS)


def test_lines_of_users_have_no_password() -> None:
    lines = acl_lines({ENGINE: PASSWORD, AGENT: "other"})
    assert lines[0] == "user default off"
    assert [line.split()[:3] for line in lines[1:]] == [["user", ENGINE, "on"], ["user", AGENT, "on"]]
    assert not [line for line in lines if PASSWORD in line or "other" in line]
