"""What an endpoint costs, by the operator's price list."""

from pathlib import Path

import pytest

from tests.api_server import ENDPOINT, running_api
from tests.integration.parts import Programs

EXAMPLE = Path(__file__).parents[2] / "deploy/examples/catalogue.toml"


async def test_every_response_with_an_endpoint_has_its_cost(valkey_url: str) -> None:
    async with running_api(valkey_url, catalogue_file=EXAMPLE) as api:
        created = (await api.post("/v2/serverless", ENDPOINT | {"workers": 3})).json()["data"]
        cost = round(3 * (0.39 + 20 * 0.0001), 6)
        assert created["cost"] == cost
        path = f"/v2/serverless/{created['id']}"
        assert (await api.client.get(path)).json()["data"]["cost"] == cost
        assert [one["cost"] for one in (await api.client.get("/v2/serverless")).json()["data"]] == [cost]
        assert (await api.client.put(f"{path}/workers?count=1")).status_code == 200
        assert (await api.client.get(path)).json()["data"]["cost"] == 0.392


async def test_without_a_price_list_the_cost_is_zero(valkey_url: str) -> None:
    async with running_api(valkey_url) as api:
        assert (await api.post("/v2/serverless", ENDPOINT)).json()["data"]["cost"] == 0


async def test_an_unknown_region_is_refused_by_name(valkey_url: str) -> None:
    async with running_api(valkey_url, catalogue_file=EXAMPLE) as api:
        resources = [ENDPOINT["resources"][0], ENDPOINT["resources"][0] | {"region": "mars"}]
        answer = await api.post("/v2/serverless", ENDPOINT | {"resources": resources})
        assert (answer.status_code, answer.json()["code"]) == (400, 10001)
        assert answer.json()["message"].startswith("resources[1].region: must be one of us-east-3")


@pytest.mark.parametrize(
    ("text", "told"), [("[[gpu]\n", "line 1"), ('[[gpu]]\nname = "A"\nprice_per_hour = -1\n', "gpu[0].price_per_hour")]
)
def test_a_broken_price_list_ends_the_api_at_start(programs: Programs, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    api = programs.start("api", "queue_engine", "api", QUEUE_ENGINE_CATALOGUE_FILE=str(path), QUEUE_ENGINE_PORT="0")
    assert api.wait() == 2
    last_line = api.output().strip().splitlines()[-1]
    assert last_line.startswith(f"queue-engine: QUEUE_ENGINE_CATALOGUE_FILE: {path}: ")
    assert told in last_line
