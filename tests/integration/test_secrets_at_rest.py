"""Secrets go through the whole running engine and show nowhere; and their key is changed without losing one."""

import base64
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from queue_engine.crypto.sealing import Sealer, new_secret_key
from queue_engine.store.store import Store
from tests.api_server import ENDPOINT
from tests.integration.parts import SECRET_KEY, HttpServer, Program, Programs, Reply, new_endpoint, programs_on
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until

CANARIES = {
    name: f"canary-{name}-5c02e7"
    for name in ("api-key", "username", "password", "new-password", "header", "auth-key", "environment")
}
ON_DISK = ("--appendonly", "yes", "--rdbcompression", "no")
OUTPUT = "import os, sys, time; print('started', len(os.environ['TOKEN']), flush=True); time.sleep(600)"


@pytest.fixture
def disk_server(tmp_path: Path) -> Iterator[StoreServer]:
    """A store that writes everything to disk, uncompressed."""
    with StoreServer(valkey_binary(), tmp_path / "store", options=ON_DISK) as server:
        yield server


@pytest.fixture
def on_disk(disk_server: StoreServer, tmp_path: Path) -> Iterator[Programs]:
    with programs_on(disk_server.url, tmp_path) as started:
        yield started


class Client:
    """The API of a process that was started by a test. Keeps every answer."""

    def __init__(self, program: Program, key: str) -> None:
        self.url = _logged_url(program, "started")
        self.answers: list[str] = []
        self._client = httpx.Client(base_url=self.url, headers={"X-Api-Key": key}, trust_env=False)

    def call(self, method: str, path: str, body: object = None, *, status: int = 200) -> Any:
        answer = self._client.request(method, path, json=body)
        self.answers.append(f"{answer.headers} {answer.text}")
        assert answer.status_code == status, answer.text
        return answer.json().get("data") if answer.headers["content-type"] == "application/json" else answer.text

    def endpoint(self, **changes: Any) -> str:
        created = self.call("POST", "/v2/serverless", ENDPOINT | {"workers": 0} | changes)
        return str(created["id"])

    def task_ended(self, endpoint_id: str, task_id: str) -> bool:
        return bool(self.call("GET", f"/v2/serverless/{endpoint_id}/tasks/{task_id}")["status"] == "DELIVERED")


def test_canaries_are_in_no_response_no_log_and_not_on_disk_in_clear(
    disk_server: StoreServer, on_disk: Programs, container: HttpServer, receiver: HttpServer, tmp_path: Path
) -> None:
    container.answer = lambda _: Reply(body=b'{"done": true}')
    api = on_disk.start(
        "api", "queue_engine", "api", QUEUE_ENGINE_API_KEY=CANARIES["api-key"], QUEUE_ENGINE_PORT="0",
        QUEUE_ENGINE_LOG_LEVEL="DEBUG",
    )  # fmt: skip
    delivery = on_disk.delivery(QUEUE_ENGINE_LOG_LEVEL="DEBUG")
    controller = on_disk.controller(QUEUE_ENGINE_LOG_LEVEL="DEBUG")
    client = Client(api, CANARIES["api-key"])

    credential = {"name": "ours", "type": "PRIVATE", "username": CANARIES["username"], "password": CANARIES["password"]}
    credential_id = client.call("POST", "/v2/container-registry-auths", credential)["id"]
    environment = [{"key": "TOKEN", "value": CANARIES["environment"]}]
    with_worker = client.endpoint(
        workers=1, environmentVars=environment, containerRegistryAuthId=credential_id,
        expose={"port": 8000, "protocol": "http"}, initializationCommand=f'exec {sys.executable} -c "{OUTPUT}"',
    )  # fmt: skip
    by_hand = client.endpoint(environmentVars=environment)
    agent = on_disk.agent(by_hand, container.url, WORKER_AGENT_LOG_LEVEL="DEBUG")
    task = {
        "taskId": "t1", "input": 1, "workerPort": 8000, "processUri": "/run", "webhook": f"{receiver.url}/hook",
        "webhookAuthKey": CANARIES["auth-key"], "headers": {"X-Token": CANARIES["header"]},
    }  # fmt: skip
    client.call("POST", f"/v2/serverless/{by_hand}/tasks", task)
    assert container.next().headers["x-token"] == CANARIES["header"]
    assert receiver.next().headers["x-api-key"] == CANARIES["auth-key"]
    wait_until(lambda: client.task_ended(by_hand, "t1"), message="the task is not DELIVERED")
    wait_until(lambda: client.call("GET", f"/v2/serverless/{with_worker}/workers"), message="no worker was started")

    client.call("PATCH", f"/v2/container-registry-auths/{credential_id}", {"password": CANARIES["new-password"]})
    client.call("PATCH", f"/v2/container-registry-auths/{credential_id}", {"password": None}, status=400)
    bad_credential = credential | {"username": CANARIES["username"] + "\n"}
    client.call("POST", "/v2/container-registry-auths", bad_credential, status=400)
    client.call("DELETE", f"/v2/container-registry-auths/{credential_id}", status=409)
    client.call("POST", f"/v2/serverless/{by_hand}/tasks", task | {"input": 2}, status=409)
    bad_task = task | {"webhookAuthKey": CANARIES["auth-key"] + "\n"}
    client.call("POST", f"/v2/serverless/{by_hand}/tasks", bad_task, status=400)
    for path in (
        *("/v2/container-registry-auths", f"/v2/container-registry-auths/{credential_id}", "/openapi.json"),
        *(f"/v2/serverless/{by_hand}{rest}" for rest in ("", "/tasks", "/tasks/t1", "/tasks/t1/deliveries")),
        *(f"/v2/serverless/{with_worker}{rest}" for rest in ("", "/workers")),
    ):
        client.call("GET", path)
    shown = list(client.answers)
    shown += [
        httpx.get(_logged_url(one, "metrics"), trust_env=False).text for one in (api, delivery, controller, agent)
    ]
    on_disk.stop()
    shown += [program.output() for program in (agent, controller, delivery, api)]
    shown += [path.read_text(errors="replace") for path in (tmp_path / "workers").rglob("*.log*")]

    assert disk_server.command("SAVE") == "+OK"
    files = [path for path in disk_server.directory.rglob("*") if path.is_file()]
    assert {".aof", ".rdb"} <= {path.suffix for path in files}
    on_disk_bytes = b"".join(path.read_bytes() for path in files)
    assert b"our" in on_disk_bytes  # the credential's name: it is looked into the right files
    for name, canary in CANARIES.items():
        assert not [text for text in shown if canary in text], name
        for form in (canary.encode(), base64.b64encode(canary.encode())[:-2], canary.encode().hex().encode()):
            assert form not in on_disk_bytes, name
    for key in (SECRET_KEY, SECRET_KEY.rstrip("=")):
        assert not [text for text in shown if key in text]
        assert key.encode() not in on_disk_bytes


def test_the_secret_key_is_changed_while_everything_runs(
    programs: Programs, container: HttpServer, receiver: HttpServer
) -> None:
    new_key = new_secret_key()
    older: dict[str, Any] = {"QUEUE_ENGINE_SECRET_KEY": SECRET_KEY, "QUEUE_ENGINE_SECRET_KEY_PREVIOUS": new_key}
    newer: dict[str, Any] = {"QUEUE_ENGINE_SECRET_KEY": new_key, "QUEUE_ENGINE_SECRET_KEY_PREVIOUS": SECRET_KEY}
    only_new: dict[str, Any] = {"QUEUE_ENGINE_SECRET_KEY": new_key}

    # Every process gets to know both keys, and seals with the old one.
    first = _api(programs, older)
    delivery = programs.delivery(**older)
    client = Client(first, "key-of-the-test")
    endpoint_id = client.endpoint(environmentVars=[{"key": "TOKEN", "value": "value"}])
    signing = client.call("GET", f"/v2/serverless/{endpoint_id}/webhook-secret")["secret"]
    client.call("POST", f"/v2/serverless/{endpoint_id}/tasks", _task(receiver, "before"))
    # Then one after the other seals with the new one.
    second = _api(programs, newer)
    delivery.stop()
    programs.delivery(**newer)
    client = Client(second, "key-of-the-test")
    client.call("POST", f"/v2/serverless/{endpoint_id}/tasks", _task(receiver, "meanwhile"))
    # The same request as before the change is still the same request.
    client.call("POST", f"/v2/serverless/{endpoint_id}/tasks", _task(receiver, "before"))
    client.call("POST", f"/v2/serverless/{endpoint_id}/tasks", _task(receiver, "before") | {"input": 9}, status=409)
    first.stop()

    told = _rotate(programs, newer)
    assert "endpoints:    1 checked, 1 resealed" in told
    assert "tasks:        2 checked, 1 resealed" in told
    assert told[-1] == "complete: every secret is sealed with the current key"
    assert "tasks:        2 checked, 0 resealed" in _rotate(programs, newer)

    # The old key is needed no more: an agent that never knew it runs what was submitted before.
    third = _api(programs, only_new)
    agent = programs.agent(endpoint_id, container.url, **only_new)
    client = Client(third, "key-of-the-test")
    for task_id in ("before", "meanwhile"):
        wait_until(lambda: client.task_ended(endpoint_id, task_id), message=f"{task_id} is not DELIVERED")  # noqa: B023
    assert [request.headers["x-token"] for request in container.requests] == ["a header"] * 2
    for request in receiver.requests:
        assert request.headers["x-api-key"] == "an auth key"
        Webhook(signing).verify(request.body, request.headers)
    assert len(receiver.requests) == 2
    assert client.call("GET", f"/v2/serverless/{endpoint_id}/webhook-secret")["secret"] == signing
    assert agent.stop() == 0
    # Whoever has the old key only is turned away by name.
    stranger = _api(programs, {})
    assert stranger.wait() == 2
    assert "QUEUE_ENGINE_SECRET_KEY" in stranger.output()


async def test_a_rotation_that_cannot_open_everything_says_what(programs: Programs, store: Store) -> None:
    stranger = Store(store.url, Sealer(bytes(32)))
    await new_endpoint(stranger, environment={"TOKEN": "lost"})
    await stranger.close()
    await new_endpoint(store, environment={"TOKEN": "value"})
    rotate = ("rotate", "queue_engine", "secret-key", "rotate")
    new_key = new_secret_key()

    unknown = programs.start(*rotate, QUEUE_ENGINE_SECRET_KEY=new_key)
    assert unknown.wait() == 2
    assert "sealed with another secret key" in unknown.output()
    partly = programs.start(*rotate, QUEUE_ENGINE_SECRET_KEY=new_key, QUEUE_ENGINE_SECRET_KEY_PREVIOUS=SECRET_KEY)
    assert partly.wait() == 1
    lines = partly.output().splitlines()
    assert "endpoints:    2 checked, 1 resealed" in lines
    assert lines[-3:] == [
        "1 cannot be opened with any of the configured keys and are not changed:",
        "  endpoint 1",
        "all others are sealed with the current key",
    ]
    assert new_key not in unknown.output() + partly.output()


@pytest.mark.parametrize(
    "variables",
    [
        {"QUEUE_ENGINE_SECRET_KEY": "short"},
        {"QUEUE_ENGINE_SECRET_KEY_PREVIOUS": f"{new_secret_key()},short"},
        {"QUEUE_ENGINE_SECRET_KEY": "", "QUEUE_ENGINE_SECRET_KEY_PREVIOUS": new_secret_key()},
    ],
    ids=["bad key", "bad previous key", "no key"],
)
def test_a_bad_key_is_named_at_start_and_not_shown(programs: Programs, variables: dict[str, str]) -> None:
    ended = [
        programs.start("api", "queue_engine", "api", **variables),
        programs.start("delivery", "queue_engine", "delivery", **variables),
        programs.start("controller", "queue_engine", "controller", **variables),
        programs.start("rotate", "queue_engine", "secret-key", "rotate", **variables),
    ]
    for program in ended:
        assert program.wait() == 2, program.output()
        assert "QUEUE_ENGINE_SECRET_KEY" in program.output()
        assert "Traceback" not in program.output()
        assert "short" not in program.output()


_KEY = {"QUEUE_ENGINE_API_KEY": "key-of-the-test"}


def _api(programs: Programs, variables: dict[str, str]) -> Program:
    return programs.start("api", "queue_engine", "api", QUEUE_ENGINE_PORT="0", **_KEY, **variables)


def _task(receiver: HttpServer, task_id: str) -> dict[str, Any]:
    return {
        "taskId": task_id, "input": {"n": 1}, "workerPort": 8000, "processUri": "/run",
        "webhook": f"{receiver.url}/hook", "webhookAuthKey": "an auth key", "headers": {"X-Token": "a header"},
    }  # fmt: skip


def _rotate(programs: Programs, variables: dict[str, str]) -> list[str]:
    program = programs.start("rotate", "queue_engine", "secret-key", "rotate", **variables)
    assert program.wait() == 0, program.output()
    return program.output().strip().splitlines()


def _logged_url(program: Program, message: str) -> str:
    """The URL in the program's log line with this message."""

    def found() -> str | None:
        assert program.running, program.output()
        for line in program.output().splitlines():
            record = json.loads(line) if line.startswith("{") else {}
            if "url" in record and message in record.values():
                return str(record["url"])
            if message == "metrics" and "metrics" in record:
                return str(record["metrics"])
        return None

    return wait_until(found, message=f"{program.name} did not log {message}") or ""
