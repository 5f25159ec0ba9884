"""Processes note themselves with facts, and the store tells its own."""

from queue_engine import __version__
from queue_engine.domain.system import Certificate
from queue_engine.store.keys import LEADER, PROCESSES, process_facts
from queue_engine.store.store import Store
from tests.store.probe import Probe

NAME = "controller:host:4711:9f2c"


async def test_a_process_is_listed_with_its_facts_until_it_ends(store: Store, probe: Probe) -> None:
    facts = {"controller": "host-1", "certificates": [("QUEUE_ENGINE_TLS_CERT", 5)]}
    await store.processes.note(NAME, lambda: facts)
    (found,) = await store.processes.running()
    assert (found.role, found.host, found.pid, found.version) == ("controller", "host", 4711, __version__)
    assert found.certificates == [Certificate("QUEUE_ENGINE_TLS_CERT", 5)]
    assert (found.controller_id, found.data_format) == ("host-1", store.data_format)
    assert found.started_at_ms is not None
    assert 0 <= await probe.now_ms() - found.noted_at_ms < 60_000
    for key in (PROCESSES, process_facts(NAME)):
        assert 0 < await probe.ask("PTTL", key) <= 60_000
    await store.processes.remove(NAME)
    assert await store.processes.running() == []
    assert not {PROCESSES, process_facts(NAME)} & await probe.keys()


async def test_its_start_stays_when_it_is_noted_again(store: Store, probe: Probe) -> None:
    await store.processes.note(NAME)
    (first,) = await store.processes.running()
    await store.processes.note(NAME)
    (second,) = await store.processes.running()
    assert second.started_at_ms == first.started_at_ms


async def test_a_process_of_an_earlier_version_has_no_facts(store: Store, probe: Probe) -> None:
    await probe.ask("ZADD", PROCESSES, await probe.now_ms() + 30_000, "1:api:old:1:a")
    (found,) = await store.processes.running()
    assert (found.name, found.data_format, found.version, found.started_at_ms) == ("api:old:1:a", 1, None, None)


async def test_a_note_that_has_expired_is_left_out(store: Store, probe: Probe) -> None:
    await probe.ask("ZADD", PROCESSES, await probe.now_ms() - 1, "2:api:dead:1:a")
    assert await store.processes.running() == []


async def test_the_facts_of_the_system_are_those_of_server_processes_and_leader(store: Store, probe: Probe) -> None:
    await store.processes.note(NAME, lambda: {"controller": "host-1"})
    await probe.ask("SET", LEADER, "host-1")
    await probe.ask("CONFIG", "SET", "maxmemory", "123mb")
    try:
        facts = await store.system_facts()
    finally:
        await probe.ask("CONFIG", "SET", "maxmemory", "0")
    (server,) = facts.servers
    assert server.max_bytes == 123 * 1024 * 1024
    assert server.used_bytes > 0
    assert server.latency_ms > 0
    assert server.clients > 0
    assert (server.replicas, server.write_error, server.appends_to_file) == ([], None, False)
    assert [facts.leads(one) for one in facts.processes] == [True]
    assert abs(facts.now_ms - await probe.now_ms()) < 60_000
