"""`…/{id}/logs`: the logs of all workers, merged by time."""

import random
from typing import Any

import httpx
import pytest

from queue_engine.domain.logs import EndpointPlace, LogQuery
from queue_engine.store.endpoint_logs import MAX_WORKERS
from tests.api_server import RunningApi
from tests.integration.test_api_events import following

NOON = 1_769_860_800_000
DAY_MS = 86_400_000


async def write(api: RunningApi, endpoint_id: str, worker: str, *places: tuple[int, int]) -> None:
    """A line at each place, which is milliseconds after noon and an offset."""
    keys = api.store.partitions.of(endpoint_id)
    for later_ms, offset in places:
        text = f"{worker} {later_ms}-{offset}"
        await api.store.redis.xadd(keys.log(worker), {"l": text}, id=f"{NOON + later_ms}-{offset}")
    await api.store.redis.zadd(keys.logs, {worker: NOON})


async def get(api: RunningApi, endpoint_id: str, **query: Any) -> httpx.Response:
    return await api.client.get(f"/v2/serverless/{endpoint_id}/logs", params=query)


async def walked(api: RunningApi, endpoint_id: str, **query: Any) -> list[str]:
    """All lines, page by page."""
    lines: list[str] = []
    for _ in range(1000):
        page = (await get(api, endpoint_id, **query)).json()["data"]
        lines += [line["log"] for line in page["logs"]]
        assert all(line["log"].startswith(line["workerId"]) for line in page["logs"])
        if not page["hasMore"]:
            return lines
        query["cursor"] = page["nextCursor"]
    raise AssertionError("the walk does not end")


@pytest.mark.parametrize("size", [1, 3, 50])
async def test_every_line_comes_once_and_in_order(api: RunningApi, endpoint_id: str, size: int) -> None:
    dice = random.Random(size)
    expected: list[tuple[int, int, str]] = []
    for worker, count in (("a", 120), ("b", 40), ("c", 1), ("d-1", 60)):
        places = sorted({(dice.randrange(40), dice.randrange(4)) for _ in range(count)} - {(0, 0)})
        await write(api, endpoint_id, worker, *places)
        expected += [(later, offset, worker) for later, offset in places]
    texts = [f"{worker} {later}-{offset}" for later, offset, worker in sorted(expected)]
    assert await walked(api, endpoint_id, pageSize=size) == texts
    assert await walked(api, endpoint_id, pageSize=size, direction="Backward") == texts[::-1]
    assert await walked(api, endpoint_id, pageSize=size, keyword="C ") == [one for one in texts if one[0] == "c"]
    part = [one for one in texts if 10 <= int(one.split(" ")[1].partition("-")[0]) <= 20]
    assert await walked(api, endpoint_id, pageSize=size, startTime=NOON + 10, endTime=NOON + 20) == part


async def test_lines_of_this_millisecond_wait_so_that_none_is_missed(api: RunningApi, endpoint_id: str) -> None:
    now = await api.store.now_ms()
    await write(api, endpoint_id, "b", (now + DAY_MS - NOON, 0))
    page = await api.store.endpoint_logs.page(endpoint_id, LogQuery(10), EndpointPlace(now, 0, "a"))
    assert (page.lines, page.has_more) == ((), False)
    assert page.next == EndpointPlace(now, 0, "a")


async def test_the_logs_that_were_written_last_are_merged(api: RunningApi, endpoint_id: str) -> None:
    for number in range(MAX_WORKERS + 2):
        await write(api, endpoint_id, f"w{number}", (number, 1))
        await api.store.redis.zadd(api.store.partitions.of(endpoint_id).logs, {f"w{number}": NOON + number})
    page = (await get(api, endpoint_id, pageSize=1000)).json()["data"]
    assert page["complete"] is False
    assert [line["workerId"] for line in page["logs"]] == [f"w{number}" for number in range(2, MAX_WORKERS + 2)]


async def test_bad_queries_and_other_tenants_are_refused(api: RunningApi, endpoint_id: str) -> None:
    for query, name in (
        ({"cursor": "1-2"}, "cursor"),
        ({"pageSize": 0}, "pageSize"),
        ({"direction": "up"}, "direction"),
    ):
        answer = await get(api, endpoint_id, **query)
        assert (answer.status_code, answer.json()["message"].split(":")[0]) == (400, name)
    headers = {"X-Api-Key": await api.new_key("other")}
    assert (await api.client.get(f"/v2/serverless/{endpoint_id}/logs", headers=headers)).status_code == 404
    assert (await get(api, endpoint_id)).json()["data"] == {
        "logs": [], "hasMore": False, "nextCursor": None, "complete": True,
    }  # fmt: skip


async def test_added_lines_follow_each_other_in_the_stream_of_events(api: RunningApi, endpoint_id: str) -> None:
    async def say(worker: str, text: str) -> None:
        assert await api.store.logs.append(endpoint_id, worker, text, [text], retention_ms=DAY_MS)

    await say("a", "before")
    async with following(api, f"logs:{endpoint_id}") as stream:
        cursor = (await stream.until("logs"))["next"]
        for worker, text in (("b", "one"), ("a", "two"), ("c", "three")):
            await say(worker, text)
            event = await stream.until("logs")
            assert [(line["workerId"], line["log"]) for line in event["lines"]] == [(worker, text)]
            assert event["after"] == cursor
            cursor = event["next"]
