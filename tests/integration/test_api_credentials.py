"""Container registry credentials over HTTP: kept, changed and deleted, and never given back."""

import asyncio
import json
import re
import sys
from typing import Any

import httpx
import pytest
from yottaml.credential import CredentialApi
from yottaml.elastic import ElasticApi
from yottaml.error import ClientError

from tests.api_server import ENDPOINT, RunningApi, running_api

PATH = "/v2/container-registry-auths"
CREDENTIAL = {"name": "our images", "type": "DOCKER_HUB", "username": "robot-7fa1", "password": "canary-9b2e"}


async def _create(api: RunningApi, **changes: Any) -> dict[str, Any]:
    answer = await api.post(PATH, CREDENTIAL | changes)
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()["data"]
    return created


async def _patch(api: RunningApi, credential_id: int, body: object) -> httpx.Response:
    headers = {"Content-Type": "application/json"}
    return await api.client.patch(f"{PATH}/{credential_id}", content=json.dumps(body), headers=headers)


async def test_a_credential_is_created_read_and_listed_without_its_secrets(api: RunningApi) -> None:
    answer = await api.post(PATH, CREDENTIAL)
    created = answer.json()["data"]
    assert set(created) == {"id", "name", "type", "createdAt"}
    assert (created["id"], created["name"], created["type"]) == (1, "our images", "DOCKER_HUB")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", created["createdAt"])
    second = await _create(api, name="other", type="gcr")
    assert (second["id"], second["type"]) == (2, "GCR")
    assert (await api.client.get(f"{PATH}/1")).json()["data"] == created
    assert (await api.client.get(PATH)).json()["data"] == [second, created]
    auth = await api.store.credentials.open("default", 1)
    assert auth is not None
    assert (auth.username, auth.password) == (CREDENTIAL["username"], CREDENTIAL["password"])


async def test_two_credentials_may_have_one_name(api: RunningApi) -> None:
    assert (await _create(api))["id"] != (await _create(api))["id"]


@pytest.mark.parametrize("kind", ["DOCKER_HUB", "GCR", "ECR", "ACR", "PRIVATE", "docker_hub", "Private"])
async def test_every_documented_type_is_taken_in_any_case(api: RunningApi, kind: str) -> None:
    assert (await _create(api, type=kind))["type"] == kind.upper()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"name": "new"}, ("new", "robot-7fa1", "canary-9b2e")),
        ({"username": "u"}, ("our images", "u", "canary-9b2e")),
        ({"password": "p"}, ("our images", "robot-7fa1", "p")),
        ({"name": "n", "username": "u", "password": "p"}, ("n", "u", "p")),
        ({}, ("our images", "robot-7fa1", "canary-9b2e")),
        ({"type": "GCR", "id": 9, "tenant": "x"}, ("our images", "robot-7fa1", "canary-9b2e")),
    ],
)
async def test_a_change_leaves_the_rest_as_it_was(
    api: RunningApi, changes: dict[str, Any], kept: tuple[str, str, str]
) -> None:
    created = await _create(api)
    answer = await _patch(api, created["id"], changes)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"] == created | {"name": kept[0]}
    auth = await api.store.credentials.open("default", created["id"])
    assert auth is not None
    assert (auth.username, auth.password) == kept[1:]


async def test_a_password_may_be_a_key_file(api: RunningApi) -> None:
    key_file = json.dumps({"type": "service_account", "private_key": "-----BEGIN\n" + "x" * 3000}, indent=2)
    created = await _create(api, type="GCR", username="_json_key", password=key_file)
    auth = await api.store.credentials.open("default", created["id"])
    assert auth is not None
    assert auth.password == key_file


BAD_VALUES: dict[str, list[object]] = {
    "name": ["", "x" * 256, 5, [], {}, True, "a\nb", "\x00", "\ud800"],
    "username": ["", "x" * 1025, 5, [], {}, True, "a\nb", "a:b", "\x00", "\ud800"],
    "password": ["", "x" * 16_385, 5, [], {}, True, "a\x00", "\ud800"],
}


@pytest.mark.parametrize("name", [*BAD_VALUES, "type"])
async def test_a_bad_field_is_named_and_nothing_is_stored(api: RunningApi, name: str) -> None:
    before = await api.keys_stored()
    for value in [*BAD_VALUES.get(name, ["", "OTHER", "GCR\n", 5, [], "DOCKER HUB"]), None]:
        _assert_names(await api.post(PATH, CREDENTIAL | {name: value}), name)
    _assert_names(await api.post(PATH, {key: value for key, value in CREDENTIAL.items() if key != name}), name)
    assert await api.keys_stored() == before


@pytest.mark.parametrize("name", BAD_VALUES)
async def test_a_bad_change_is_named_and_changes_nothing(api: RunningApi, name: str) -> None:
    created = await _create(api)
    before = await _stored(api, created["id"])
    for value in [*BAD_VALUES[name], None]:
        _assert_names(await _patch(api, created["id"], {name: value}), name)
    bodies: list[object] = [[], "x", None, 5]
    for body in bodies:
        _assert_names(await _patch(api, created["id"], body), "body")
    assert await _stored(api, created["id"]) == before


def _assert_names(answer: httpx.Response, name: str) -> None:
    told = answer.json()
    assert (answer.status_code, told["code"], told["data"]) == (400, 10001, None), answer.text
    assert told["message"].startswith(f"{name}: "), answer.text
    assert "canary" not in answer.text


@pytest.mark.parametrize("credential_id", ["0", "-1", "01", "1.0", "x", "9" * 16, "9" * 500, "%31x", "1%00", "77", "²"])
async def test_what_is_no_credential_is_not_found(api: RunningApi, credential_id: str) -> None:
    await _create(api)
    for method in ("GET", "PATCH", "DELETE"):
        answer = await api.client.request(method, f"{PATH}/{credential_id}", json={})
        assert (answer.status_code, answer.json()["code"]) == (404, 10007), (method, answer.text)


async def test_anothers_credential_looks_like_one_that_never_was(api: RunningApi) -> None:
    created = await _create(api)
    stranger = {"X-Api-Key": await api.new_key("stranger")}
    for method in ("GET", "PATCH", "DELETE"):
        answers = [
            await api.client.request(method, f"{PATH}/{one}", headers=stranger, json={"password": "stolen"})
            for one in (created["id"], 123456)
        ]
        assert answers[0].status_code == 404
        assert answers[0].json() == answers[1].json() == {
            "message": "credential not found", "code": 10007, "data": None,
        }  # fmt: skip
    assert (await api.client.get(PATH, headers=stranger)).json()["data"] == []
    refused = await api.client.post(
        "/v2/serverless", headers=stranger, json=ENDPOINT | {"containerRegistryAuthId": created["id"]}
    )
    assert (refused.status_code, refused.json()["message"]) == (400, "containerRegistryAuthId: unknown credential")
    auth = await api.store.credentials.open("default", created["id"])
    assert auth is not None
    assert auth.password == CREDENTIAL["password"]
    assert await api.store.credentials.open("stranger", created["id"]) is None


async def test_a_deleted_credential_does_not_exist(api: RunningApi) -> None:
    before = await api.keys_stored()
    created = await _create(api)
    answer = await api.client.delete(f"{PATH}/{created['id']}")
    assert (answer.status_code, answer.json()["data"]) == (200, True)
    for method in ("GET", "PATCH", "DELETE"):
        assert (await api.client.request(method, f"{PATH}/{created['id']}", json={})).status_code == 404
    assert (await api.client.get(PATH)).json()["data"] == []
    assert await api.keys_stored() == before + 2  # the counter of the ids and the audit log
    assert (await _create(api))["id"] == created["id"] + 1


async def test_a_credential_is_kept_while_an_endpoint_uses_it(api: RunningApi) -> None:
    created = await _create(api)
    endpoint_id = await api.create_endpoint(containerRegistryAuthId=created["id"])
    shown = (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]
    assert shown["containerRegistryAuthId"] == created["id"]
    await _forget_notes(api, created["id"])
    refused = await api.client.delete(f"{PATH}/{created['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, 12001)
    assert (await api.client.get(f"{PATH}/{created['id']}")).status_code == 200


async def test_a_note_that_a_crash_left_behind_blocks_for_a_minute_only(api: RunningApi) -> None:
    created = await _create(api)
    assert await api.store.credentials.use("default", created["id"], "77")
    assert (await api.client.delete(f"{PATH}/{created['id']}")).status_code == 409
    await api.store.redis.zadd(f"{{qe}}:credential:{created['id']}:users", {"77": await api.store.now_ms() - 60_001})
    assert (await api.client.delete(f"{PATH}/{created['id']}")).status_code == 200


@pytest.mark.parametrize("unknown", [0, -1, 77, 2**53, 10**30, -(10**30)])
async def test_an_endpoint_with_an_unknown_credential_is_refused(api: RunningApi, unknown: int) -> None:
    before = await api.keys_stored()
    answer = await api.post("/v2/serverless", ENDPOINT | {"containerRegistryAuthId": unknown})
    assert (answer.status_code, answer.json()["code"]) == (400, 10001)
    assert answer.json()["message"] == "containerRegistryAuthId: unknown credential"
    assert await api.keys_stored() == before


async def test_an_endpoint_that_is_refused_holds_no_credential(api: RunningApi) -> None:
    created = await _create(api)
    answer = await api.post("/v2/serverless", ENDPOINT | {"containerRegistryAuthId": created["id"], "workers": -1})
    assert answer.status_code == 400
    assert (await api.client.delete(f"{PATH}/{created['id']}")).status_code == 200


async def test_creating_and_deleting_at_once_leaves_no_endpoint_without_its_credential(api: RunningApi) -> None:
    for _ in range(10):
        created = await _create(api)
        creating = [api.post("/v2/serverless", ENDPOINT | {"containerRegistryAuthId": created["id"]}) for _ in range(3)]
        *made, deleted = await asyncio.gather(*creating, api.client.delete(f"{PATH}/{created['id']}"))
        assert deleted.status_code in (200, 409)
        expected = 400 if deleted.status_code == 200 else 200
        assert {one.status_code for one in made} <= {expected}, [one.text for one in made]


async def test_without_a_secret_key_credentials_are_refused_by_name(valkey_url: str) -> None:
    async with running_api(valkey_url, with_secret_key=False) as api:
        before = await api.keys_stored()
        answer = await api.post(PATH, CREDENTIAL)
        assert (answer.status_code, answer.json()["code"]) == (400, 10001)
        assert answer.json()["message"].startswith("password: the server has no QUEUE_ENGINE_SECRET_KEY")
        assert await api.keys_stored() == before
        async with running_api(valkey_url) as other:
            created = await _create(other)
        assert (await _patch(api, created["id"], {"password": "p"})).status_code == 400
        assert (await _patch(api, created["id"], {"name": "renamed"})).json()["data"]["name"] == "renamed"


async def _stored(api: RunningApi, credential_id: int) -> list[bytes]:
    fields = ["name", "username", "password"]
    return await api.store.redis.hmget(f"{{qe}}:credential:{credential_id}", fields)  # type: ignore[misc, no-any-return]


async def _forget_notes(api: RunningApi, credential_id: int) -> None:
    """As if the notes had been lost: what the endpoint says itself counts."""
    await api.store.redis.delete(f"{{qe}}:credential:{credential_id}:users")


# The published client and command


async def test_the_published_client_keeps_and_deletes_credentials(api: RunningApi) -> None:
    await asyncio.to_thread(_use_the_client, api.url, api.key)


def _use_the_client(url: str, key: str) -> None:
    client = CredentialApi(key, base_url=url)
    created = client.create_credential(name="ours", type="PRIVATE", username="robot", password="pass")
    assert (created["code"], created["message"]) == (10000, "success")
    credential = created["data"]
    assert client.get_credentials()["data"] == [credential]
    assert client.get_credential(credential["id"])["data"] == credential
    changed = client.update_credential(credential["id"], name="theirs", username="u", password="p")["data"]
    assert changed == credential | {"name": "theirs"}

    endpoint = ElasticApi(key, base_url=url).create_deployment(
        name="echo", image="echo:1", resources=ENDPOINT["resources"], workers=1, service_mode="QUEUE",
        container_volume_in_gb=20, credential_id=credential["id"],
    )["data"]  # fmt: skip
    assert endpoint["containerRegistryAuthId"] == credential["id"]
    with pytest.raises(ClientError) as caught:
        client.delete_credential(credential["id"])
    assert (caught.value.status_code, caught.value.error_code) == (409, 12001)

    other = client.create_credential(name="o", type="ECR", username="AWS", password="pass")["data"]
    assert client.delete_credential(other["id"])["data"] is True
    with pytest.raises(ClientError) as caught:
        client.get_credential(other["id"])
    assert (caught.value.status_code, caught.value.error_code) == (404, 10007)


async def test_the_published_command_keeps_and_deletes_credentials(api: RunningApi) -> None:
    created = await _yotta(
        api, "create", "--name", "ours", "--type", "DOCKER_HUB", "--username", "robot", "--password", "pass"
    )
    credential_id = str(created["data"]["id"])
    assert (await _yotta(api, "list"))["data"] == [created["data"]]
    assert (await _yotta(api, "get", credential_id))["data"] == created["data"]
    changed = await _yotta(api, "update", credential_id, "--name", "theirs", "--password", "new")
    assert changed["data"] == created["data"] | {"name": "theirs"}
    assert (await _yotta(api, "delete", credential_id))["data"] is True
    assert (await _yotta(api, "list"))["data"] == []


async def _yotta(api: RunningApi, *arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from yottaml_cli.cli import cli; cli()", "credentials", *arguments),
        env={"YOTTA_BASE_URL": api.url, "YOTTA_API_KEY": api.key, "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    answer: dict[str, Any] = json.loads(output)
    return answer


# Endpoints that change


CHANGE = {name: ENDPOINT[name] for name in ("name", "resources", "workers", "containerVolumeInGb")}


async def _change_endpoint(api: RunningApi, endpoint_id: str, **changes: Any) -> httpx.Response:
    return await api.client.patch(f"/v2/serverless/{endpoint_id}", json=CHANGE | changes)


async def test_an_endpoint_that_takes_another_credential_frees_the_one_before(api: RunningApi) -> None:
    first, second = (await _create(api))["id"], (await _create(api))["id"]
    endpoint_id = await api.create_endpoint(containerRegistryAuthId=first)
    changed = await _change_endpoint(api, endpoint_id, credentialId=second)
    assert changed.json()["data"]["containerRegistryAuthId"] == second
    assert (await api.client.delete(f"{PATH}/{first}")).status_code == 200
    await _forget_notes(api, second)
    assert (await api.client.delete(f"{PATH}/{second}")).status_code == 409
    await _change_endpoint(api, endpoint_id)
    assert (await api.client.delete(f"{PATH}/{second}")).status_code == 409
    assert (await _change_endpoint(api, endpoint_id, containerRegistryAuthId=None)).status_code == 200
    assert (await api.client.delete(f"{PATH}/{second}")).status_code == 200


@pytest.mark.parametrize("name", ["containerRegistryAuthId", "credentialId"])
async def test_an_endpoint_cannot_take_an_unknown_or_anothers_credential(api: RunningApi, name: str) -> None:
    kept = (await _create(api))["id"]
    endpoint_id = await api.create_endpoint(containerRegistryAuthId=kept)
    stranger = {"X-Api-Key": await api.new_key("stranger")}
    theirs = (await api.client.post(PATH, json=CREDENTIAL, headers=stranger)).json()["data"]["id"]
    for unknown in (theirs, 77, 0, -1, 10**30):
        refused = await _change_endpoint(api, endpoint_id, **{name: unknown})
        assert (refused.status_code, refused.json()["message"]) == (400, "containerRegistryAuthId: unknown credential")
    shown = (await api.client.get(f"/v2/serverless/{endpoint_id}")).json()["data"]
    assert shown["containerRegistryAuthId"] == kept
    assert (await api.client.delete(f"{PATH}/{theirs}", headers=stranger)).status_code == 200


async def test_a_change_that_is_refused_holds_no_credential(api: RunningApi) -> None:
    free = (await _create(api))["id"]
    endpoint_id = await api.create_endpoint()
    resources = [ENDPOINT["resources"][0] | {"gpuType": "UNKNOWN"}]
    assert (await _change_endpoint(api, endpoint_id, credentialId=free, resources=resources)).status_code == 400
    assert (await api.client.delete(f"{PATH}/{free}")).status_code == 200


async def test_a_deleted_endpoint_frees_its_credential(api: RunningApi) -> None:
    credential_id = (await _create(api))["id"]
    endpoint_id = await api.create_endpoint(containerRegistryAuthId=credential_id)
    stranger = {"X-Api-Key": await api.new_key("stranger")}
    assert (await api.client.delete(f"/v2/serverless/{endpoint_id}", headers=stranger)).status_code == 404
    assert (await api.client.delete(f"{PATH}/{credential_id}")).status_code == 409
    assert (await api.client.delete(f"/v2/serverless/{endpoint_id}")).status_code == 200
    assert (await api.client.delete(f"{PATH}/{credential_id}")).status_code == 200
