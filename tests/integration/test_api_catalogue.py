"""`/v2/catalogue` and `/v2/templates`: what a form for a new endpoint is made from."""

from pathlib import Path
from typing import Any

from queue_engine.domain.endpoints import SETTINGS
from queue_engine.domain.principals import Role
from tests.api_server import RunningApi, running_api

CATALOGUE = """
regions = ["north", "south"]
[storage]
price_per_gb_hour = 0.001
[[gpu]]
name = "BIG_GPU"
aliases = ["BIG"]
price_per_hour = 2.5
"""


async def data_of(api: RunningApi, path: str, **more: Any) -> Any:
    answer = await api.client.get(path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


async def test_the_catalogue_has_types_regions_and_prices(valkey_url: str, tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(CATALOGUE)
    async with running_api(valkey_url, catalogue_file=file) as api:
        found = await data_of(api, "/v2/catalogue")
    assert found["regions"] == [
        {"name": "north", "gpuTypes": None, "alb": True},
        {"name": "south", "gpuTypes": None, "alb": True},
    ]
    assert found["storagePricePerGbHour"] == 0.001
    by_name = {one["name"]: one for one in found["gpuTypes"]}
    assert by_name["BIG_GPU"] == {"name": "BIG_GPU", "aliases": ["big"], "cpu": False, "pricePerHour": 2.5}
    assert by_name["CPU"] == {"name": "CPU", "aliases": [], "cpu": True, "pricePerHour": None}


async def test_without_a_list_any_region_is_accepted(api: RunningApi) -> None:
    assert (await data_of(api, "/v2/catalogue"))["regions"] is None


async def test_the_settings_are_those_of_the_definitions_with_limits_and_defaults(api: RunningApi) -> None:
    settings = (await data_of(api, "/v2/catalogue"))["settings"]
    assert [one["text"] for one in settings] == [one.definition.text for one in SETTINGS]
    by_name = {one["name"]: one for one in settings}
    assert {name for name, one in by_name.items() if one["required"]} == {
        "name", "image", "serviceMode", "resources", "workers", "containerVolumeInGb",
    }  # fmt: skip
    assert by_name["maxAttempts"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 100}
    assert (by_name["maxAttempts"]["default"], by_name["maxAttempts"]["fixed"]) == (5, False)
    assert by_name["serviceMode"]["schema"]["enum"] == ["ALB", "QUEUE", "CUSTOM"]
    assert by_name["defaultPriority"]["schema"]["enum"] == ["high", "normal", "low"]
    assert by_name["queueTtlSeconds"]["schema"]["type"] == "number"
    assert "busy" in by_name["retryOn"]["schema"]["items"]["enum"] or by_name["retryOn"]["default"]
    assert by_name["retryDelaysSeconds"]["default"] == [1, 3, 9, 27, 60]


async def test_the_settings_say_what_a_change_of_them_does(api: RunningApi) -> None:
    by_name = {one["name"]: one for one in (await data_of(api, "/v2/catalogue"))["settings"]}
    replacing = {name for name, one in by_name.items() if one["renewsWorkers"]}
    assert {"resources", "concurrency", "environmentVars", "readyPath"} <= replacing
    assert replacing.isdisjoint({"name", "workers", "maxAttempts", "image", "serviceMode"})
    view = await data_of(api, f"/v2/serverless/{await api.create_endpoint()}")
    assert by_name["workers"]["shown"] == "totalWorkers"
    assert all(one["shown"] in view for one in by_name.values())


async def test_limits_of_the_operator_lower_maximum_and_default(valkey_url: str) -> None:
    async with running_api(valkey_url, max_queued_tasks_per_endpoint=500, max_worker_concurrency=1) as api:
        by_name = {one["name"]: one for one in (await data_of(api, "/v2/catalogue"))["settings"]}
        created = await api.create_endpoint()
        assert (await data_of(api, f"/v2/serverless/{created}"))["maxQueuedTasks"] == 500
    assert (by_name["maxQueuedTasks"]["schema"]["maximum"], by_name["maxQueuedTasks"]["default"]) == (500, 500)
    assert (by_name["concurrency"]["schema"]["maximum"], by_name["concurrency"]["default"]) == (1, 1)


async def test_every_template_creates_an_endpoint_and_a_task(valkey_url: str) -> None:
    async with running_api(valkey_url, example_worker="python -m queue_engine.example_worker") as api:
        templates = await data_of(api, "/v2/templates")
        assert [one["id"] for one in templates] == ["example-worker", "own", "running"]
        for one in templates:
            created = (await api.post("/v2/serverless", one["endpoint"])).json()["data"]["id"]
            answer = await api.post(f"/v2/serverless/{created}/tasks", one["task"])
            assert answer.status_code == 200, answer.text
        places = {"url", "endpointId", "token", "containerUrl"}
        assert all(f"{{{place}}}" in templates[2]["agentCommand"] for place in places)
        assert [one["agentCommand"] for one in templates[:2]] == [None, None]


async def test_without_processes_there_is_no_example_worker(api: RunningApi) -> None:
    assert [one["id"] for one in await data_of(api, "/v2/templates")] == ["own", "running"]


async def test_a_key_that_only_submits_sees_neither(api: RunningApi) -> None:
    headers = {"X-Api-Key": await api.new_key("default", role=Role.SUBMIT)}
    for path in ("/v2/catalogue", "/v2/templates"):
        assert (await api.client.get(path, headers=headers)).status_code == 403
