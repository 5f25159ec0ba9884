"""A task is accepted once or refused, and stored as received."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from queue_engine.domain.endpoints import ServiceMode
from queue_engine.domain.tasks import Succeeded, TaskState, TaskStatus
from queue_engine.store.store import Store
from queue_engine.store.tasks import AcceptedRequest, Submission
from tests.store.bench import TENANT, Bench, config, spec
from tests.store.probe import Probe


async def test_an_accepted_task_waits_in_the_queue(bench: Bench) -> None:
    assert await bench.submit("t1") is Submission.ACCEPTED

    task = await bench.task("t1")
    assert (task.state, task.status) == (TaskState.QUEUED, TaskStatus.PROCESSING)
    assert (task.attempts, task.lost, task.worker_url, task.started_at_ms) == (0, 0, None, None)
    assert task.created_at_ms == task.updated_at_ms
    assert abs(await bench.probe.now_ms() - task.created_at_ms) < 5_000


async def test_the_same_request_again_is_a_duplicate(bench: Bench) -> None:
    await bench.submit("t1")
    assert await bench.submit("t1") is Submission.DUPLICATE
    assert (await bench.store.tasks.counts(bench.endpoint_id)).queued == 1


async def test_a_duplicate_is_recognised_after_the_task_has_ended(bench: Bench) -> None:
    await bench.finish("t1")
    assert await bench.submit("t1") is Submission.DUPLICATE
    assert (await bench.task("t1")).state is TaskState.SUCCEEDED


async def test_another_request_with_the_same_id_is_a_conflict(bench: Bench) -> None:
    await bench.submit("t1", input=b"1")
    assert await bench.submit("t1", input=b"2", fingerprint="f" * 32) is Submission.CONFLICT
    assert (await bench.task("t1")).input == b"1"


async def test_two_endpoints_may_have_a_task_of_the_same_id(bench: Bench) -> None:
    other = await bench.store.endpoints.create(TENANT, config(name="other"))
    bench.endpoint_ids.append(other.endpoint_id)
    assert await bench.submit("t1") is Submission.ACCEPTED
    assert await bench.submit("t1", endpoint_id=other.endpoint_id) is Submission.ACCEPTED


async def test_an_unknown_endpoint_takes_nothing(bench: Bench) -> None:
    before = await bench.probe.keys()
    assert await bench.submit("t1", endpoint_id="999") is Submission.NOT_FOUND
    assert await bench.probe.keys() == before


async def test_another_tenants_endpoint_is_not_found_even_for_an_id_that_it_has(bench: Bench) -> None:
    await bench.submit("t1")
    before = await bench.probe.keys()
    assert await bench.submit("t1", tenant="globex") is Submission.NOT_FOUND
    assert await bench.submit("t2", tenant="globex") is Submission.NOT_FOUND
    assert await bench.probe.keys() == before


@pytest.mark.parametrize("mode", [ServiceMode.ALB, ServiceMode.CUSTOM])
async def test_an_endpoint_without_a_queue_takes_nothing(bench: Bench, mode: ServiceMode) -> None:
    other = await bench.store.endpoints.create(TENANT, config(service_mode=mode))
    assert await bench.submit("t1", endpoint_id=other.endpoint_id) is Submission.NOT_QUEUE


@pytest.mark.parametrize(("field", "value"), [("wanted", "stopped"), ("failed", "1")])
async def test_a_closed_endpoint_takes_nothing_new_and_knows_what_it_took(bench: Bench, field: str, value: str) -> None:
    await bench.submit("t1")
    await bench.probe.ask("HSET", bench.keys.endpoint, field, value)
    assert await bench.submit("t2") is Submission.CLOSED
    assert await bench.submit("t1") is Submission.DUPLICATE


async def test_an_endpoint_that_has_recovered_takes_tasks_again(bench: Bench) -> None:
    await bench.store.endpoints.set_failed(bench.endpoint_id, True)
    await bench.store.endpoints.set_failed(bench.endpoint_id, False)
    assert await bench.submit("t1") is Submission.ACCEPTED


async def test_a_full_queue_refuses_tasks_until_one_leaves_it(store: Store, probe: Probe) -> None:
    endpoint = await store.endpoints.create(TENANT, config(max_queued_tasks=2))
    bench = Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
    words = [await bench.submit(f"t{number}") for number in range(3)]
    assert words == [Submission.ACCEPTED, Submission.ACCEPTED, Submission.FULL]
    assert await bench.submit("t0") is Submission.DUPLICATE

    await bench.start(bench.agent())

    assert await bench.submit("t2") is Submission.ACCEPTED
    assert await bench.check() == []


async def test_scheduled_tasks_fill_the_queue_too(store: Store, probe: Probe) -> None:
    endpoint = await store.endpoints.create(TENANT, config(max_queued_tasks=1))
    bench = Bench(store, endpoint.endpoint_id, probe, [endpoint.endpoint_id])
    agent = bench.agent()
    started = await bench.submit_and_start("t1", agent)
    await bench.probe.ask("HSET", bench.keys.counts, "scheduled", 1)
    assert await bench.submit("t2") is Submission.FULL
    await bench.probe.ask("HSET", bench.keys.counts, "scheduled", 0)
    await bench.settle(agent, started, Succeeded(b"1"))
    assert await bench.submit("t2") is Submission.ACCEPTED


async def test_of_a_hundred_submits_at_once_one_is_accepted(bench: Bench) -> None:
    submissions = Counter(await asyncio.gather(*(bench.submit("t1") for _ in range(100))))
    assert submissions == {Submission.ACCEPTED: 1, Submission.DUPLICATE: 99}
    assert len(await bench.probe.stream(bench.keys.queue)) == 1


async def test_of_submits_of_one_id_with_many_bodies_one_body_wins(bench: Bench) -> None:
    submissions = await asyncio.gather(
        *(bench.submit("t1", input=b"%d" % number, fingerprint=f"{number:032}") for number in range(50))
    )
    winner = submissions.index(Submission.ACCEPTED)
    assert Counter(submissions) == {Submission.ACCEPTED: 1, Submission.CONFLICT: 49}
    assert (await bench.task("t1")).input == b"%d" % winner


async def test_the_input_is_kept_to_the_byte(bench: Bench) -> None:
    text = b'{ "big":123456789012345678901234567890, "a":1,"a":1e999,"\xc3\xa9":"\\ud800" , "nul":"\\u0000"}\t'
    await bench.submit("t1", input=text)

    assert (await bench.task("t1")).input == text
    started = await bench.start(bench.agent())
    assert started.input == text
    assert bench.agent().open(started).input == text


async def test_the_spec_is_kept_whole(bench: Bench) -> None:
    wanted = spec(webhook=True, headers={"X-Color": "grün", "Accept": "*/*"}, auth_key="two words")
    await bench.submit("t1", spec=wanted)

    assert (await bench.task("t1")).spec == wanted
    of_agent = replace(wanted, webhook_auth_key=None)  # only the headers are sealed for agents
    assert bench.agent().open(await bench.start(bench.agent())).spec == of_agent


async def test_numbers_are_unique_over_all_endpoints(bench: Bench) -> None:
    others = [await bench.store.endpoints.create(TENANT, config()) for _ in range(8)]
    bench.endpoint_ids += [one.endpoint_id for one in others]
    numbers = set()
    for endpoint_id in bench.endpoint_ids:
        for task_id in ("a", "b"):
            await bench.submit(task_id, endpoint_id=endpoint_id)
            task = await bench.store.tasks.get(endpoint_id, task_id)
            assert task is not None
            numbers.add(task.number)
    assert len(numbers) == 18


async def test_the_tasks_hash_stays_compact(bench: Bench) -> None:
    longest = "t" * 255
    agent = bench.agent("w" * 63)
    started = await bench.submit_and_start(longest, agent, spec=spec(webhook=True), fingerprint="f" * 64)
    await bench.settle(agent, started, Succeeded(b"1"))
    await bench.deliver(await bench.outbox())
    assert await bench.probe.ask("OBJECT", "ENCODING", bench.keys.task(longest)) == b"listpack"


async def test_the_request_of_a_task_is_known_until_the_task_is_removed(bench: Bench) -> None:
    async def read(limit: int = 100) -> AcceptedRequest | None:
        return await bench.store.tasks.accepted_request(bench.endpoint_id, "t1", max_input_bytes=limit)

    assert await read() is None
    await bench.submit("t1", input=b'{"a":1}', fingerprint="f" * 32)
    accepted = AcceptedRequest("f" * 32, b'{"a":1}')
    assert await read() == accepted
    assert (await read(7), await read(6)) == (accepted, AcceptedRequest("f" * 32, None))
    agent = bench.agent()
    await bench.settle(agent, await bench.start(agent), Succeeded(b'"small enough to be kept with the input"'))
    assert await read() == accepted
