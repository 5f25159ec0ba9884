"""Samples of figures: what a round writes, once, for which endpoints, and when it is dropped."""

import pytest

from queue_engine.controller.sampling import Sampler, records_of
from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.series import IDLE_MS, RINGS, STEP_SECONDS, Record, Totals
from queue_engine.domain.tasks import Failed, Outcome, Priority, Succeeded
from queue_engine.store.keys import META, SAMPLED, series_of
from queue_engine.store.series import SERIES_BYTES
from queue_engine.store.store import Store
from tests.store.bench import DELIVERED, TENANT, Bench, config
from tests.waiting import wait_until_async

SHORT, MIDDLE, LONG = RINGS


def sampler(store: Store) -> Sampler:
    return Sampler(store.series, store.partitions)


async def records(bench: Bench, ring: object = SHORT) -> list[Record]:
    (found,) = await bench.store.series.of_endpoints([bench.endpoint_id], ring)  # type: ignore[arg-type]
    return sorted(found, key=lambda one: one.at)


async def of_tenant(bench: Bench) -> list[Record]:
    return sorted(await bench.store.series.of_tenant(TENANT, SHORT), key=lambda one: one.at)


async def begin(bench: Bench) -> int:
    """Return the begin of the current interval, in epoch seconds. Later rounds are made for later intervals."""
    return SHORT.begin_of(await bench.probe.now_ms() // 1000)


async def age(bench: Bench, milliseconds: int) -> None:
    """Let the latest task be that much older."""
    at = await bench.probe.ask("ZSCORE", bench.partition.sampled_endpoints, bench.endpoint_id)
    await bench.probe.ask("ZADD", bench.partition.sampled_endpoints, int(at) - milliseconds, bench.endpoint_id)


async def test_a_sample_has_what_waits_and_runs(bench: Bench) -> None:
    await bench.submit_and_start("runs")
    await bench.submit("waits")
    await bench.submit("waits_too")
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.probe.ask("HSET", bench.keys.counts, "workers:RUNNING", 1)
    queued_at = await bench.probe.ask("XRANGE", bench.keys.queue, "-", "+", "COUNT", 1)
    assert await sampler(bench.store).step() == 1
    (one,) = await records(bench)
    assert (one.queued, one.running, one.scheduled, one.undelivered) == (2, 1, 0, 0)
    assert (one.workers, one.slots, one.submitted, one.succeeded) == (1, 1, 3, 0)
    waited = await bench.probe.now_ms() - int(queued_at[0][0].decode().partition("-")[0])
    assert 0 <= one.oldest <= waited + 5
    assert [await records(bench, ring) for ring in (MIDDLE, LONG)] != [[], []]
    assert await of_tenant(bench) == [one]
    await bench.probe.ask("HDEL", bench.keys.counts, "workers:RUNNING")


async def test_a_repeated_round_writes_nothing(bench: Bench) -> None:
    at = await begin(bench)
    await bench.finish("t1")
    assert await sampler(bench.store).round(at) == 1
    before = await bench.probe.snapshot()
    await bench.finish("t2")
    assert await sampler(bench.store).round(at) == 0
    after = await bench.probe.snapshot()
    for key in (bench.keys.series, series_of(TENANT)):
        assert before.contents[key] == after.contents[key]


async def test_a_round_that_another_controller_began_is_completed(bench: Bench) -> None:
    """Its endpoints are sampled once, and the tenant has the tasks of all."""
    at = await begin(bench)
    await bench.finish("t1")
    await sampler(bench.store).round(at)
    (one,) = await records(bench)
    await bench.probe.ask("HDEL", META, SAMPLED)
    await bench.probe.ask("DEL", series_of(TENANT))
    await bench.finish("t2")
    await sampler(bench.store).round(at)
    assert await records(bench) == [one]
    (of_all,) = await of_tenant(bench)
    assert (of_all.submitted, of_all.succeeded) == (one.submitted, one.succeeded) == (1, 1)


async def test_a_sample_that_two_leaders_write_is_written_once(bench: Bench) -> None:
    at = await begin(bench)
    await bench.finish("t1")
    reading = await bench.store.series.read(bench.endpoint_id, at)
    assert reading is not None
    for number in (7, 9):
        sample = Record(at, queued=number)
        assert await bench.store.series.write(reading, records_of(sample, reading.kept))
        await bench.store.series.write_of_tenant(TENANT, records_of(sample, reading.kept))
    assert [[one.queued for one in await found] for found in (records(bench), of_tenant(bench))] == [[7], [7]]


async def test_counts_and_times_are_those_since_the_sample_before(bench: Bench) -> None:
    at, outbox = await begin(bench), await bench.outbox()
    await bench.finish("first")
    await bench.finish("delivered_later", webhook=True)
    await sampler(bench.store).round(at)
    (first,) = await records(bench)
    assert (first.succeeded, first.timed, first.undelivered, first.covered) == (2, 1, 1, STEP_SECONDS)
    await bench.finish("second", outcome=Failed("no"))
    await bench.deliver(outbox, DELIVERED)
    for name, ended_after_ms in (("second", 400_000), ("delivered_later", -600_000)):
        # The task waited and ran for a while. The delivered one ended before the sample.
        started = int(await bench.probe.ask("HGET", bench.keys.task(name), "started"))
        times = ("run_at", started - 700, "finished", started + ended_after_ms)
        await bench.probe.ask("HSET", bench.keys.task(name), *times)
    await sampler(bench.store).round(at + STEP_SECONDS)
    _, second = await records(bench)
    assert (second.submitted, second.succeeded, second.failed, second.delivered) == (1, 0, 1, 1)
    assert (second.covered, second.timed, second.wait_p50) == (STEP_SECONDS, 1, 700)
    assert (second.run_p50, second.run_p95) == (400_000, 400_000), "the delivered one did not end in this interval"
    assert second.undelivered == 0


async def test_a_task_whose_result_is_sent_again_has_succeeded_once(bench: Bench) -> None:
    at, outbox = await begin(bench), await bench.outbox()
    await sampler(bench.store).round(at)
    await bench.finish("t1", webhook=True)
    await bench.deliver(outbox, DELIVERED)
    await sampler(bench.store).round(at + STEP_SECONDS)
    for number in range(6):
        if number:
            await bench.deliver(outbox, DELIVERED)
        await bench.store.deliveries.send_now(bench.endpoint_id, "t1", f"call{number}", Trigger.REDELIVER)
    reading = await bench.store.series.read(bench.endpoint_id, at + 2 * STEP_SECONDS)
    assert reading is not None
    assert not reading.is_active, "the endpoint has had no tasks"
    await bench.finish("t2")
    for name, ended_after_ms in (("t1", -600_000), ("t2", 400_000)):  # t1 ended in an earlier interval
        started = int(await bench.probe.ask("HGET", bench.keys.task(name), "started"))
        await bench.probe.ask("HSET", bench.keys.task(name), "finished", started + ended_after_ms)
    await sampler(bench.store).round(at + 2 * STEP_SECONDS)
    await sampler(bench.store).round(at + 3 * STEP_SECONDS)
    first, second, third = (await records(bench))[-3:]
    assert (first.submitted, first.succeeded, first.failed, first.delivered) == (1, 1, 0, 1)
    assert (second.submitted, second.succeeded, second.failed, second.delivered) == (1, 1, 0, 5)
    assert (second.timed, second.run_p50, second.run_p95) == (1, 400_000, 400_000)
    assert (third.succeeded, third.delivered, third.timed) == (0, 0, 0)


@pytest.mark.parametrize("outcome", [Succeeded(b"1"), Failed("no")])
async def test_a_task_that_is_kept_for_its_delivery_has_ended_once(bench: Bench, outcome: Outcome) -> None:
    at = await begin(bench)
    await bench.finish("t1", webhook=True, outcome=outcome)
    await sampler(bench.store).round(at)
    assert await bench.purge() == 0
    await sampler(bench.store).round(at + STEP_SECONDS)
    assert [one.succeeded + one.failed for one in await records(bench)] == [1, 0]


async def test_the_totals_of_an_earlier_sample_have_no_numbers_of_indexes(bench: Bench) -> None:
    at = await begin(bench)
    await bench.finish("t1")
    await bench.finish("t2", outcome=Failed("no"))
    await bench.probe.ask("HSET", bench.keys.counts, "sampled", f"{at} 1 1 0 0")
    reading = await bench.store.series.read(bench.endpoint_id, at + STEP_SECONDS)
    assert reading is not None
    assert [one.task_id for one in reading.ended] == ["t2"]
    assert (reading.before, reading.totals.failed) == (Totals(at, 1, 1, 0, 0), 1)


async def test_after_a_gap_the_counts_say_how_long_it_was(bench: Bench) -> None:
    at = await begin(bench)
    await bench.finish("t1")
    await sampler(bench.store).round(at)
    await bench.finish("t2")
    await sampler(bench.store).round(at + 20 * STEP_SECONDS)
    _, one = await records(bench)
    assert (one.submitted, one.covered) == (1, 20 * STEP_SECONDS)


async def test_records_of_longer_steps_are_made_of_the_samples(bench: Bench) -> None:
    at = MIDDLE.begin_of(await begin(bench))
    for number in range(3):
        await bench.submit(f"t{number}")
        await sampler(bench.store).round(at + number * STEP_SECONDS)
    for ring in (MIDDLE, LONG):
        (one,) = await records(bench, ring)
        assert (one.at, one.samples, one.queued) == (ring.begin_of(at), 3, 2)
    assert [one.queued for one in await records(bench)] == [1, 2, 3]
    (of_all,) = await bench.store.series.of_tenant(TENANT, MIDDLE)
    assert (of_all.samples, of_all.queued) == (3, 2)


async def test_an_endpoint_without_tasks_is_not_looked_at(bench: Bench) -> None:
    await bench.probe.ask("CONFIG", "RESETSTAT")
    assert await sampler(bench.store).step() == 0
    assert not await bench.probe.ask("EXISTS", bench.keys.series, series_of(TENANT))
    calls = await bench.store.redis.info("commandstats")
    assert not any(name in calls for name in ("cmdstat_evalsha", "cmdstat_evalsha_ro"))


async def test_an_endpoint_whose_tasks_no_longer_wait_is_still_sampled(bench: Bench) -> None:
    await bench.finish("t1")
    assert [one async for one in bench.store.sweeper.waiting()] == []  # leaves the endpoints with waiting tasks
    assert await bench.probe.ask("SISMEMBER", bench.partition.waiting_endpoints, bench.endpoint_id) == 0
    assert await sampler(bench.store).step() == 1


async def test_samples_go_on_for_48_hours_after_the_latest_task(bench: Bench) -> None:
    at = await begin(bench)
    await bench.finish("t1")
    assert [one async for one in bench.store.sweeper.waiting()] == []
    assert await sampler(bench.store).round(at) == 1
    await age(bench, IDLE_MS - 60_000)
    assert await sampler(bench.store).round(at + STEP_SECONDS) == 1
    assert [(one.submitted, one.queued) for one in await records(bench)] == [(1, 0), (0, 0)]
    assert await bench.probe.ask("PTTL", bench.keys.series) <= 60_000
    await age(bench, 60_000)
    assert await sampler(bench.store).round(at + 2 * STEP_SECONDS) == 0
    assert await records(bench) == []
    assert await bench.probe.scores(bench.partition.sampled_endpoints) == {}


async def test_the_first_counts_after_a_rest_begin_with_the_latest_round(bench: Bench) -> None:
    """The endpoint was not sampled in it, so it had had no tasks until then."""
    at = await begin(bench)
    await bench.finish("t1")
    await sampler(bench.store).round(at)
    await bench.probe.ask("DEL", bench.partition.sampled_endpoints, bench.keys.series)
    await bench.probe.ask("SREM", bench.partition.waiting_endpoints, bench.endpoint_id)
    assert await sampler(bench.store).round(at + 100 * STEP_SECONDS) == 0
    await bench.finish("t2")
    assert await sampler(bench.store).round(at + 101 * STEP_SECONDS) == 1
    (one,) = await records(bench)
    assert (one.submitted, one.covered) == (1, STEP_SECONDS)


async def test_a_series_takes_its_bytes_from_the_first_sample_and_counts_them(bench: Bench) -> None:
    await bench.submit("t1")
    before = (await bench.store.usage.of(TENANT)).stored_bytes
    await sampler(bench.store).step()
    assert await bench.probe.ask("STRLEN", bench.keys.series) == SERIES_BYTES
    assert await bench.probe.ask("MEMORY", "USAGE", bench.keys.series) < SERIES_BYTES * 1.1
    assert (await bench.store.usage.of(TENANT)).stored_bytes == before + SERIES_BYTES
    assert 0 < await bench.probe.ask("PTTL", bench.keys.series) <= IDLE_MS
    assert 0 < await bench.probe.ask("PTTL", series_of(TENANT)) <= IDLE_MS


async def test_a_deleted_endpoint_keeps_no_series(bench: Bench) -> None:
    at = await begin(bench)
    await bench.finish("t1")
    await sampler(bench.store).round(at)
    reading = await bench.store.series.read(bench.endpoint_id, at + STEP_SECONDS)
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await sampler(bench.store).round(at + STEP_SECONDS) == 0
    await bench.purge()
    assert await bench.store.endpoints.remove(bench.endpoint_id)
    assert reading is not None
    late = Record(at + STEP_SECONDS)
    assert not await bench.store.series.write(reading, records_of(late, reading.kept)), "written after the removal"
    assert not await bench.probe.ask("EXISTS", bench.keys.series, bench.keys.counts)
    bench.endpoint_ids.remove(bench.endpoint_id)


async def test_an_endpoint_of_an_earlier_version_has_unknown_counts_at_first(bench: Bench) -> None:
    await bench.finish("t1")
    await bench.probe.ask("HDEL", bench.keys.counts, "sampled")
    await sampler(bench.store).step()
    (one,) = await records(bench)
    assert (one.covered, one.submitted) == (0, 0)


async def test_tenants_have_the_sums_of_their_own_endpoints(bench: Bench) -> None:
    other = await bench.store.endpoints.create(TENANT, config(name="other"))
    stranger = await bench.store.endpoints.create("stranger", config(name="stranger"))
    bench.endpoint_ids += [other.endpoint_id, stranger.endpoint_id]
    await bench.submit("t1")
    for one in (other, stranger):
        await bench.submit("t1", endpoint_id=one.endpoint_id, tenant=one.tenant)
    assert await sampler(bench.store).step() == 3
    (own,) = await of_tenant(bench)
    (foreign,) = await bench.store.series.of_tenant("stranger", SHORT)
    assert (own.queued, own.submitted, foreign.queued) == (2, 2, 1)


async def test_a_round_that_takes_too_long_gives_tenants_no_sums(bench: Bench) -> None:
    await bench.submit("t1")
    at, clock = await begin(bench), iter([0.0, *[1e9] * 100])
    assert await Sampler(bench.store.series, bench.store.partitions, clock=lambda: next(clock)).round(at) == 0
    assert (await records(bench), await of_tenant(bench)) == ([], [])
    assert await sampler(bench.store).round(at) == 1, "the round is made again"


@pytest.mark.parametrize("level", [None, Priority.HIGH])
async def test_the_oldest_task_is_found_in_lanes_too(bench: Bench, level: Priority | None) -> None:
    await bench.submit("t1", priority=level)
    created = int(await bench.probe.ask("HGET", bench.keys.task("t1"), "created"))

    async def has_age() -> bool:
        return await bench.probe.now_ms() >= created + 300

    await wait_until_async(has_age)
    reading = await bench.store.series.read(bench.endpoint_id, await begin(bench))
    assert reading is not None
    # The time goes on while a script of a store before 7.2 runs, so that a task may be queued later than it is created.
    late = reading.now_ms - created - reading.oldest_ms
    assert (reading.queued, 0 <= late < 250) == (1, True), late


async def test_the_age_of_tasks_whose_lanes_are_parked_is_not_known(bench: Bench) -> None:
    await bench.set_key_limit(1)
    await bench.submit("t1", fairness_key="a")
    await bench.submit("t2", fairness_key="a")
    agent = bench.agent()
    await bench.start(agent)
    assert await agent.claim(1, block_ms=1) == []  # parks the lane
    reading = await bench.store.series.read(bench.endpoint_id, await begin(bench))
    assert reading is not None
    assert (reading.queued, reading.running, reading.oldest_ms) == (1, 1, 0)
