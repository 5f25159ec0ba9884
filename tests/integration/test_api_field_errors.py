"""One response names every field of a body that breaks a rule, whichever part of the engine checks the rule."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.api_server import ENDPOINT, TASK, RunningApi, ScriptedLookup, running_api

PATH = "/v2/serverless"
RESOURCE: dict[str, Any] = ENDPOINT["resources"][0]
EXPOSED = {"port": 8000, "protocol": "http"}
INSIDE = "http://inside.example/"


@pytest.fixture
async def guarded(valkey_url: str) -> AsyncIterator[RunningApi]:
    """Serve the API with one name in DNS that leads to a private address."""
    async with running_api(valkey_url, lookup=ScriptedLookup({"inside.example": ["10.0.0.5"]})) as api:
        yield api


@pytest.fixture
async def keyless(valkey_url: str) -> AsyncIterator[RunningApi]:
    """Serve the API without a key to encrypt secrets with."""
    async with running_api(valkey_url, with_secret_key=False) as api:
        yield api


def fields_in(response: httpx.Response) -> list[str]:
    """Return the fields that the message of a 400 names, in its order."""
    assert (response.status_code, response.json()["code"]) == (400, 10001), response.text
    return [part.split(": ")[0] for part in response.json()["message"].split("; ")]


async def test_creating_an_endpoint_names_field_catalogue_and_combination_errors_together(guarded: RunningApi) -> None:
    before = await guarded.keys_stored()
    resources = [RESOURCE | {"gpuType": "NOPE"}, RESOURCE | {"gpuCount": 0, "gpuType": "NOPE"}]
    body = ENDPOINT | {"name": "9bad", "resources": resources, "readyPath": "/healthz"}
    fields = ["name", "resources[0].gpuType", "resources[1].gpuType", "resources[1].gpuCount", "readyPath"]
    assert fields_in(await guarded.post(PATH, body)) == fields
    assert await guarded.keys_stored() == before


async def test_creating_an_endpoint_names_destination_and_credential_with_all_else(guarded: RunningApi) -> None:
    variables = [{"key": "A", "value": "1"}, {"key": "9", "value": 5}, {"key": "A", "value": "2"}]
    body = ENDPOINT | {
        "workers": -1, "readyPath": "/x", "environmentVars": variables,
        "webhook": INSIDE, "containerRegistryAuthId": 77,
    }  # fmt: skip
    assert fields_in(await guarded.post(PATH, body)) == [
        "workers", "environmentVars[1].key", "environmentVars[1].value", "environmentVars[2].key",
        "readyPath", "webhook", "containerRegistryAuthId",
    ]  # fmt: skip


async def test_a_field_that_did_not_parse_causes_no_error_in_another(guarded: RunningApi) -> None:
    body = ENDPOINT | {"readyPath": "/x", "expose": {"port": 0, "protocol": "http"}, "webhook": "x"}
    assert fields_in(await guarded.post(PATH, body)) == ["expose.port", "webhook"]
    body = ENDPOINT | {"readyPath": "/a b", "containerRegistryAuthId": "77"}
    assert fields_in(await guarded.post(PATH, body)) == ["containerRegistryAuthId", "readyPath"]


async def test_changing_an_endpoint_names_all_errors_together_and_changes_nothing(guarded: RunningApi) -> None:
    exposed = await guarded.create_endpoint(expose=EXPOSED, readyPath="/healthz")
    path = f"{PATH}/{exposed}"
    before = (await guarded.client.get(path)).json()
    changes: dict[str, Any] = {
        "name": "9bad", "resources": [RESOURCE | {"gpuType": "NOPE"}], "expose": None,
        "webhook": INSIDE, "containerRegistryAuthId": 77,
    }  # fmt: skip
    assert fields_in(await guarded.client.patch(path, json=changes)) == [
        "name", "resources[0].gpuType", "readyPath", "webhook", "containerRegistryAuthId",
    ]  # fmt: skip
    changes = {"workers": None, "expose": {"port": 0, "protocol": "http"}, "readyPath": "/x"}
    assert fields_in(await guarded.client.patch(path, json=changes)) == ["workers", "expose.port"]
    assert (await guarded.client.get(path)).json() == before


async def test_a_refused_change_does_not_note_the_credential_as_used(guarded: RunningApi) -> None:
    credential = {"name": "a", "type": "DOCKER_HUB", "username": "a", "password": "a"}
    made = (await guarded.post("/v2/container-registry-auths", credential)).json()["data"]["id"]
    path = f"{PATH}/{await guarded.create_endpoint()}"
    changes = {"workers": -1, "containerRegistryAuthId": made}
    assert fields_in(await guarded.client.patch(path, json=changes)) == ["workers"]
    assert (await guarded.client.delete(f"/v2/container-registry-auths/{made}")).status_code == 200


async def test_submitting_a_task_names_its_webhook_with_the_other_fields(guarded: RunningApi) -> None:
    path = f"{PATH}/{await guarded.create_endpoint()}/tasks"
    bad = TASK | {"workerPort": 0, "processUri": "a b", "webhook": INSIDE}
    assert fields_in(await guarded.post(path, bad)) == ["workerPort", "processUri", "webhook"]
    assert fields_in(await guarded.post(path, {"webhook": INSIDE})) == ["input", "workerPort", "processUri", "webhook"]


async def test_a_missing_secret_key_is_named_with_the_other_fields(keyless: RunningApi) -> None:
    variables = [{"key": "A", "value": "1"}]
    body = ENDPOINT | {"name": "9bad", "environmentVars": variables}
    assert fields_in(await keyless.post(PATH, body)) == ["name", "environmentVars"]
    path = f"{PATH}/{await keyless.create_endpoint()}"
    changes = {"workers": -1, "environmentVars": variables}
    assert fields_in(await keyless.client.patch(path, json=changes)) == ["workers", "environmentVars"]
    task = TASK | {"workerPort": 0, "headers": {"A": "b"}, "webhook": "ftp://a.example/"}
    assert fields_in(await keyless.post(f"{path}/tasks", task)) == ["workerPort", "webhook", "headers"]


async def test_credentials_name_all_errors_together(keyless: RunningApi) -> None:
    path = "/v2/container-registry-auths"
    new = {"name": "", "type": "x", "username": "a:b", "password": "a"}
    assert fields_in(await keyless.post(path, new)) == ["name", "type", "username", "password"]
    changes = {"name": None, "username": "a:b", "password": "a"}
    assert fields_in(await keyless.client.patch(f"{path}/1", json=changes)) == ["name", "username", "password"]
    assert fields_in(await keyless.client.patch(f"{path}/1", json={"name": None, "password": None})) == [
        "name", "password",
    ]  # fmt: skip
