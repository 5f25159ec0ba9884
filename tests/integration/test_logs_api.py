"""Reading workers' logs over HTTP."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from queue_engine.api.v2.log_views import LogPageView
from tests.api_server import RunningApi
from tests.servers import StoreServer

DAY_MS = 86_400_000
NOON = 1_769_860_800_000
"""2026-01-31T12:00:00Z."""


async def write(api: RunningApi, endpoint_id: str, *places: tuple[int, int], worker: str = "w1") -> None:
    """A line `line <n>` at each place, which is milliseconds after noon and an offset."""
    key = api.store.partitions.of(endpoint_id).log(worker)
    for number, (later_ms, offset) in enumerate(places):
        await api.store.redis.xadd(key, {"l": f"line {number}"}, id=f"{NOON + later_ms}-{offset}")


async def get(api: RunningApi, endpoint_id: str, query: str = "", worker: str = "w1", **headers: str) -> httpx.Response:
    path = f"/v2/serverless/{endpoint_id}/workers/{worker}/logs{query}"
    return await api.client.get(path, headers=headers or None)


async def put_worker(api: RunningApi, endpoint_id: str) -> None:
    """Record the worker `w1`."""
    await api.store.workers.put(endpoint_id, "w1", managed=True)


async def page(api: RunningApi, endpoint_id: str, **parameters: Any) -> dict[str, Any]:
    path = f"/v2/serverless/{endpoint_id}/workers/w1/logs"
    answer = await api.client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    LogPageView.model_validate(data)
    return data


def texts(data: dict[str, Any]) -> list[str]:
    return [line["log"] for line in data["logs"]]


async def test_a_line_has_its_time_and_what_tells_it_from_others_of_that_time(
    api: RunningApi, endpoint_id: str
) -> None:
    await write(api, endpoint_id, (7, 0), (7, 1))
    assert await page(api, endpoint_id) == {
        "logs": [
            {"timestamp": "2026-01-31T12:00:00.007Z", "log": "line 0", "offset": 0},
            {"timestamp": "2026-01-31T12:00:00.007Z", "log": "line 1", "offset": 1},
        ],
        "hasMore": False,
        "nextSearchAfterTime": str(NOON + 7),
        "nextSearchAfterOffset": "1",
    }


@pytest.mark.parametrize("direction", ["Forward", "Backward", "forward", "BACKWARD"])
async def test_all_pages_give_every_line_once(api: RunningApi, endpoint_id: str, direction: str) -> None:
    await write(api, endpoint_id, *((number // 4, number % 4) for number in range(14)))
    expected = [f"line {number}" for number in range(14)]
    for size in (1, 2, 3, 7, 14, 1000):
        seen = await _walk(api, endpoint_id, direction, size)
        assert seen == (expected if direction.lower() == "forward" else expected[::-1])


async def _walk(api: RunningApi, endpoint_id: str, direction: str, size: int) -> list[str]:
    seen: list[str] = []
    tokens: dict[str, str] = {}
    while True:
        data = await page(api, endpoint_id, pageSize=size, direction=direction, **tokens)
        seen += texts(data)
        tokens = {
            "searchAfterTime": data["nextSearchAfterTime"],
            "searchAfterOffset": data["nextSearchAfterOffset"],
        }
        if not data["hasMore"]:
            return seen


async def test_a_reader_follows_with_the_tokens_of_the_last_page(api: RunningApi, endpoint_id: str) -> None:
    logs = api.store.logs
    await put_worker(api, endpoint_id)
    await logs.append(endpoint_id, "w1", "b1", ["one"], retention_ms=DAY_MS)
    first = await page(api, endpoint_id)
    tokens = {
        "searchAfterTime": first["nextSearchAfterTime"],
        "searchAfterOffset": first["nextSearchAfterOffset"],
    }
    empty = await page(api, endpoint_id, **tokens)
    assert (empty["logs"], empty["hasMore"]) == ([], False)
    assert (empty["nextSearchAfterTime"], empty["nextSearchAfterOffset"]) == tuple(tokens.values())
    await logs.append(endpoint_id, "w1", "b2", ["two", "three"], retention_ms=DAY_MS)
    assert texts(await page(api, endpoint_id, **tokens)) == ["two", "three"]


async def test_the_page_size_is_100_unless_asked_for(api: RunningApi, endpoint_id: str) -> None:
    await put_worker(api, endpoint_id)
    await api.store.logs.append(endpoint_id, "w1", "b1", [f"line {n}" for n in range(150)], retention_ms=DAY_MS)
    data = await page(api, endpoint_id)
    assert (len(data["logs"]), data["hasMore"]) == (100, True)
    assert len((await page(api, endpoint_id, pageSize=1000))["logs"]) == 150


async def test_only_lines_with_the_keyword(api: RunningApi, endpoint_id: str) -> None:
    lines = ["Loading model", "GPU 1 of 2: ready", "error: out of MEMORY", "100% ***"]
    await put_worker(api, endpoint_id)
    await api.store.logs.append(endpoint_id, "w1", "b1", lines, retention_ms=DAY_MS)
    assert texts(await page(api, endpoint_id, keyword="memory")) == [lines[2]]
    assert texts(await page(api, endpoint_id, keyword="*")) == [lines[3]]
    assert texts(await page(api, endpoint_id, keyword="1 of 2")) == [lines[1]]
    assert texts(await page(api, endpoint_id, keyword="")) == lines
    assert texts(await page(api, endpoint_id, keyword="k" * 255)) == []


@pytest.mark.parametrize(
    ("start", "end", "lines"),
    [
        (str(NOON + 1000), None, [1, 2]),
        (None, str(NOON + 1000), [0, 1]),
        (str(NOON + 1000), str(NOON + 1000), [1]),
        ("2026-01-31T12:00:01Z", None, [1, 2]),
        ("2026-01-31T12:00:01.000z", "2026-01-31T12:00:01.999999", [1]),
        ("2026-01-31t14:00:01+02:00", None, [1, 2]),
        ("2026-01-31T14:00:01 02:00", None, [1, 2]),
        ("2026-01-31T07:30:01-0430", None, [1, 2]),
        ("2026-01-31T12:00", "2026-02-01", [0, 1, 2]),
        ("1815-12-10", "2026-01-31", []),
        ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", [0, 1, 2]),
        ("1700-01-01", "1900-01-01", []),
        ("0", "999999999999999", [0, 1, 2]),
        ("999999999", "100000000000", []),
    ],
)
async def test_only_lines_of_a_time(
    api: RunningApi, endpoint_id: str, start: str | None, end: str | None, lines: list[int]
) -> None:
    await write(api, endpoint_id, (0, 0), (1000, 0), (2000, 0))
    given = {name: text for name, text in (("startTime", start), ("endTime", end)) if text is not None}
    for direction in ("Forward", "Backward"):
        found = texts(await page(api, endpoint_id, direction=direction, **given))
        assert sorted(found) == [f"line {number}" for number in lines]


@pytest.mark.parametrize("name", ["startTime", "endTime"])
@pytest.mark.parametrize("seconds", ["1000000000", str(NOON // 1000), "01769860800", "99999999999"])
async def test_seconds_in_place_of_milliseconds_are_refused_with_a_hint(
    api: RunningApi, endpoint_id: str, name: str, seconds: str
) -> None:
    answer = await api.client.get(f"/v2/serverless/{endpoint_id}/workers/w1/logs", params={name: seconds})
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"].startswith(f"{name}: ")
    assert f"{int(seconds)}000" in answer.json()["message"]


NOT_TIMES = [
    *("", "-1", "1.5", "now", "yesterday", "9" * 16, "2026-13-01", "2026-01-32", "2026-01-31T25:00"),
    *("2026-01-31T12:00:00Q", "2026-01-31 12:00", "2026-W05-6", "2026-01-31T12:00:00+99:00", "٣", "1e3"),
    *("2026-01-31T12:00:00Z\n", "2026-01-31T", "12:00", "2026-01-31T12:00:60Z", "0000-01-01"),
]
NOT_TOKENS = ["", "-1", "+1", "x", "1.0", str(2**63), "9" * 40, "٣", "5-0", "1e3", "0x1"]
BAD_QUERIES = {
    "pageSize": [
        *(f"pageSize={text}" for text in ("0", "1001", "-1", "1e9", "x", "", "1.0", "٣", "9" * 30)),
        "pageSize=5&pageSize=5",
    ],
    "keyword": ["keyword=" + "k" * 256, "keyword=a&keyword=b"],
    "startTime": [
        *(f"startTime={quote(text)}" for text in NOT_TIMES),
        "startTime=5&endTime=4",
        "startTime=2026-01-31T12:00:00.001Z&endTime=2026-01-31T13:00:00.000%2B01:00",
    ],
    "endTime": [f"endTime={quote(text)}" for text in NOT_TIMES],
    "searchAfterTime": [
        "searchAfterOffset=5",
        *(f"searchAfterTime={quote(text)}&searchAfterOffset=5" for text in NOT_TOKENS),
    ],
    "searchAfterOffset": [
        "searchAfterTime=5",
        *(f"searchAfterTime=5&searchAfterOffset={quote(text)}" for text in NOT_TOKENS),
    ],
    "direction": [
        *(f"direction={text}" for text in ("", "up", "forwards", "Forward,Backward")),
        "direction=Forward&direction=Forward",
    ],
}


@pytest.mark.parametrize("field", BAD_QUERIES)
async def test_a_bad_parameter_is_refused_by_name(api: RunningApi, endpoint_id: str, field: str) -> None:
    await write(api, endpoint_id, (0, 0))
    for query in BAD_QUERIES[field]:
        answer = await get(api, endpoint_id, f"?{query}")
        assert (answer.status_code, answer.json()["code"]) == (400, 10001), query
        assert answer.json()["message"].startswith(f"{field}: "), query
        assert answer.json()["data"] is None


async def test_a_missing_token_is_only_a_placeholder(api: RunningApi, endpoint_id: str) -> None:
    await write(api, endpoint_id, (0, 0))
    for token in ("0", "1", str(2**53), str(2**63 - 1)):
        for direction in ("Forward", "Backward"):
            data = await page(api, endpoint_id, direction=direction, searchAfterTime=token, searchAfterOffset=token)
            assert len(data["logs"]) == ((int(token) < NOON) == (direction == "Forward"))


async def test_an_unknown_worker_is_not_found(api: RunningApi, endpoint_id: str) -> None:
    for worker in ("w1", "nobody", "a" * 64, "-x", "a.b", "%2e%2e", "a%0A", "*", "{x}", "a:b", "%ff", "é"):
        answer = await get(api, endpoint_id, worker=worker)
        assert answer.status_code == 404, worker
        assert answer.json() == {"message": "worker not found", "code": 10007, "data": None}, worker


async def test_a_worker_of_another_endpoint_is_not_found(api: RunningApi, endpoint_id: str) -> None:
    await write(api, endpoint_id, (0, 0))
    other = await api.create_endpoint()
    assert (await get(api, other)).json()["code"] == 10007


async def test_a_worker_that_has_written_nothing_has_an_empty_log(api: RunningApi, endpoint_id: str) -> None:
    await api.store.workers.put(endpoint_id, "w1", managed=True)
    assert await page(api, endpoint_id) == {
        "logs": [],
        "hasMore": False,
        "nextSearchAfterTime": None,
        "nextSearchAfterOffset": None,
    }


@pytest.mark.parametrize("query", ["", "?pageSize=0"])
async def test_another_tenants_logs_are_not_found(api: RunningApi, endpoint_id: str, query: str) -> None:
    await write(api, endpoint_id, (0, 0))
    other = await api.new_key("other")
    answer = await get(api, endpoint_id, query, **{"X-Api-Key": other})
    never_was = await get(api, "4711", query, **{"X-Api-Key": other})
    assert answer.status_code == never_was.status_code == 404
    assert answer.json() == never_was.json() == {"message": "endpoint not found", "code": 14000, "data": None}


async def test_without_a_key_there_are_no_logs(api: RunningApi, endpoint_id: str) -> None:
    async with httpx.AsyncClient(base_url=api.url) as client:
        answer = await client.get(f"/v2/serverless/{endpoint_id}/workers/w1/logs")
    assert (answer.status_code, answer.json()["code"]) == (401, 40101)


async def test_a_store_that_is_away_is_503(api: RunningApi, endpoint_id: str, valkey_server: StoreServer) -> None:
    await write(api, endpoint_id, (0, 0))
    assert (await get(api, endpoint_id)).status_code == 200
    valkey_server.pause()
    answer = await get(api, endpoint_id)
    valkey_server.resume()
    assert (answer.status_code, answer.json()["code"]) == (503, 10002)
    assert int(answer.headers["Retry-After"]) >= 1


async def test_any_line_can_be_shown(api: RunningApi, endpoint_id: str) -> None:
    key = api.store.partitions.of(endpoint_id).log("w1")
    await api.store.redis.xadd(key, {"l": b"\xff\x00<script>\xe2\x80\xa8"})
    assert texts(await page(api, endpoint_id)) == ["\ufffd\x00<script>\u2028"]


async def test_times_are_the_stores(api: RunningApi, endpoint_id: str) -> None:
    before = await api.store.now_ms()
    await put_worker(api, endpoint_id)
    await api.store.logs.append(endpoint_id, "w1", "b1", ["now"], retention_ms=DAY_MS)
    [line] = (await page(api, endpoint_id))["logs"]
    seen = datetime.fromisoformat(line["timestamp"])
    assert seen.tzinfo == UTC
    assert before <= seen.timestamp() * 1000 + 0.5 <= await api.store.now_ms() + 1
