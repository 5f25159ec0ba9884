"""Series of figures over HTTP: periods, figures, gaps, and who sees which endpoints."""

from typing import Any

import pytest

from queue_engine.controller.sampling import Sampler
from queue_engine.domain.series import RINGS, Metric
from queue_engine.domain.tasks import Succeeded
from tests.api_server import RunningApi
from tests.integration.test_api_task_lists import end_next, submit_many


async def series(api: RunningApi, path: str = "/v2/series", key: str | None = None, **query: Any) -> Any:
    headers = {} if key is None else {"X-Api-Key": key}
    answer = await api.client.get(path, params=query, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def sample(api: RunningApi) -> None:
    """Take a sample, as the leading controller does."""
    assert await Sampler(api.store.series, api.store.partitions).step() > 0


def known(values: list[float | None]) -> list[float]:
    return [one for one in values if one is not None]


async def test_an_endpoint_has_its_figures_and_gaps_before(api: RunningApi) -> None:
    endpoint_id = await api.create_endpoint()
    await submit_many(api, endpoint_id, 3)
    await end_next(api, endpoint_id, Succeeded(b"1"))
    await sample(api)
    found = await series(api, f"/v2/serverless/{endpoint_id}/series")
    assert set(found["metrics"]) == set(Metric)
    assert {name: known(found["metrics"][name]) for name in ("queued", "running", "submitted", "succeeded")} == {
        "queued": [2], "running": [0], "submitted": [3], "succeeded": [1],
    }  # fmt: skip
    assert found["metrics"]["queued"][:100] == [None] * 100, "a gap is no zero"
    intervals = (found["to"] - found["from"]) // (found["stepSeconds"] * 1000)
    assert {len(values) for values in found["metrics"].values()} == {intervals}
    assert found["stepSeconds"] == 30
    assert known(found["metrics"]["waitP95"])[0] >= 0


@pytest.mark.parametrize(("hours", "step"), [(0.5, 30), (20, 300), (300, 3600), (9000, 3600)])
async def test_longer_periods_have_longer_steps(api: RunningApi, hours: float, step: int) -> None:
    endpoint_id = await api.create_endpoint()
    await submit_many(api, endpoint_id, 1)
    await sample(api)
    begin = await api.store.now_ms() - int(hours * 3_600_000)
    query: dict[str, Any] = {"from": begin, "metric": "queued,oldest"}
    found = await series(api, f"/v2/serverless/{endpoint_id}/series", **query)
    assert (found["stepSeconds"], list(found["metrics"])) == (step, ["queued", "oldest"])
    assert known(found["metrics"]["queued"]) == [1]
    assert len(found["metrics"]["queued"]) <= max(ring.count for ring in RINGS)


async def test_all_endpoints_are_added_and_a_limited_key_sees_those_in_its_list(api: RunningApi) -> None:
    first, second = await api.create_endpoint(), await api.create_endpoint()
    await submit_many(api, first, 1)
    await submit_many(api, second, 2)
    await sample(api)
    assert known((await series(api, metric="queued"))["metrics"]["queued"]) == [3]
    limited = await api.new_key("default", endpoints=frozenset({second}))
    assert known((await series(api, key=limited, metric="queued"))["metrics"]["queued"]) == [2]
    stranger = await api.new_key("other")
    assert known((await series(api, key=stranger, metric="queued"))["metrics"]["queued"]) == []
    foreign = await api.new_key("other", endpoints=frozenset({second}))
    assert known((await series(api, key=foreign, metric="queued"))["metrics"]["queued"]) == []


@pytest.mark.parametrize(
    ("query", "name"), [("from=x", "from"), ("from=7&to=7", "from"), ("metric=speed", "metric"), ("form=7", "form")]
)
@pytest.mark.parametrize("path", ["/v2/series", "/v2/serverless/{}/series"])
async def test_a_wrong_question_is_refused(api: RunningApi, path: str, query: str, name: str) -> None:
    answer = await api.client.get(f"{path.format(await api.create_endpoint())}?{query}")
    assert (answer.status_code, answer.json()["message"].partition(":")[0]) == (400, name)
