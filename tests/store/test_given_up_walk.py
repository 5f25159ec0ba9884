"""A walk over given-up deliveries has each of them once, while others come, go and have the same time."""

from dataclasses import replace

from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.tasks import GivenUpPlace
from tests.store.bench import GIVEN_UP, Bench, spec

THERE, ELSEWHERE = "http://there.example:80", "http://elsewhere.example:80"


async def give_up(bench: Bench, *task_ids: str, destination: str = THERE, at_ms: int = 1000) -> None:
    outbox = await bench.outbox()
    for task_id in task_ids:
        given = replace(spec(webhook=True), webhook=f"{destination}/x", webhook_destination=destination)
        await bench.finish(task_id, spec=given)
        await bench.deliver(outbox, GIVEN_UP)
        await bench.probe.ask("ZADD", bench.keys.given_up, "XX", at_ms, task_id)


async def part(
    bench: Bench,
    after: GivenUpPlace | None = None,
    *,
    limit: int = 2,
    destination: str | None = None,
    at_once: int = 100,
) -> tuple[list[str], GivenUpPlace | None]:
    index = bench.store.given_up
    found = await index.walk(bench.endpoint_id, destination=destination, after=after, limit=limit, at_once=at_once)
    return [one.task.task_id for one in found.items], found.next


async def walk(bench: Bench, *, limit: int = 2, destination: str | None = None, at_once: int = 100) -> list[str]:
    found, after = await part(bench, limit=limit, destination=destination, at_once=at_once)
    while after is not None:
        more, after = await part(bench, after, limit=limit, destination=destination, at_once=at_once)
        found += more
    return found


async def test_deliveries_are_walked_newest_first(bench: Bench) -> None:
    for number in range(5):
        await give_up(bench, f"t{number}", at_ms=1000 + number)
    assert await walk(bench) == ["t4", "t3", "t2", "t1", "t0"]
    assert await walk(bench, limit=100) == ["t4", "t3", "t2", "t1", "t0"]


async def test_deliveries_of_one_time_are_walked_once(bench: Bench) -> None:
    await give_up(bench, *"abcdefg")
    assert await walk(bench, limit=1, at_once=2) == list("gfedcba")
    assert await walk(bench, limit=3, at_once=2) == list("gfedcba")


async def test_a_walk_finds_those_of_a_destination(bench: Bench) -> None:
    await give_up(bench, "a", at_ms=1)
    await give_up(bench, "b", destination=ELSEWHERE, at_ms=2)
    await give_up(bench, "c", at_ms=3)
    assert await walk(bench, destination=THERE) == ["c", "a"]
    assert await walk(bench, destination=ELSEWHERE) == ["b"]
    assert await walk(bench, destination="http://none.example:80") == []


async def test_a_delivery_that_is_sent_again_hides_no_other(bench: Bench) -> None:
    await give_up(bench, *"abcd")
    found, after = await part(bench)
    assert found == ["d", "c"]
    for task_id in ("c", "d"):
        await bench.store.deliveries.send_now(bench.endpoint_id, task_id, "call", Trigger.RETRY)
    assert (await part(bench, after))[0] == ["b", "a"]


async def test_a_call_looks_at_a_limited_number(bench: Bench) -> None:
    await give_up(bench, *"bcdefg", destination=ELSEWHERE)
    await give_up(bench, "a")
    found = await bench.store.given_up.walk(
        bench.endpoint_id, destination=THERE, after=None, limit=5, at_once=2, max_scanned=4, max_seconds=60
    )
    assert (found.items, found.scanned, found.next) == ((), 4, GivenUpPlace(1000, "d"))
    assert await walk(bench, destination=THERE) == ["a"]
