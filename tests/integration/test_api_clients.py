"""The published client and command work against this server, with only their base URL set."""

import asyncio
import json
import sys
from typing import Any

import pytest
from yottaml.elastic import ElasticApi
from yottaml.error import ClientError
from yottaml.lib.enums import ElasticDeploymentStatusEnum, TaskStatus
from yottaml.skywalker import SkywalkerTaskApi

from tests.api_server import ENDPOINT, RunningApi


async def test_the_published_client_creates_reads_and_submits(api: RunningApi) -> None:
    await asyncio.to_thread(_use_the_client, api.url, api.key)


def _use_the_client(url: str, key: str) -> None:
    elastic, tasks = ElasticApi(key, base_url=url), SkywalkerTaskApi(key, base_url=url)
    created = elastic.create_deployment(
        name="echo",
        image="registry.example/echo:1",
        resources=ENDPOINT["resources"],
        workers=2,
        service_mode="QUEUE",
        container_volume_in_gb=20,
        min_single_card_vram_in_gb=24,
        initialization_command="python serve.py",
        environment_vars=[{"key": "A", "value": "b"}],
        expose={"port": 8000, "protocol": "HTTP"},
        webhook="https://hooks.example.com/x",
    )
    assert (created["code"], created["message"]) == (10000, "success")
    assert created["data"].pop("webhookSecret").startswith("whsec_")
    endpoint_id = created["data"]["id"]
    assert elastic.get_deployment_detail(endpoint_id)["data"] == created["data"] | {"error": None}
    assert elastic.get_deployments()["data"] == [created["data"]]
    wanted = [ElasticDeploymentStatusEnum.INITIALIZING, "running"]
    assert elastic.get_deployments(status_list=wanted)["data"] == [created["data"]]
    assert elastic.get_workers(endpoint_id, status_list=["RUNNING", "failed"])["data"] == []

    accepted = tasks.create_task(
        endpoint_id=endpoint_id,
        worker_port=8000,
        process_uri="run",
        input={"prompt": "é"},
        task_id="a_1",
        webhook="https://hooks.example.com/y",
        webhook_auth_key="a key",
        headers={"X-A": "1"},
    )
    assert accepted["data"] == {"taskId": "a_1"}
    task = tasks.get_task(endpoint_id=endpoint_id, task_id="a_1")["data"]
    assert (task["input"], task["status"], task["endpointId"]) == ({"prompt": "é"}, "PROCESSING", int(endpoint_id))
    page = tasks.list_tasks(endpoint_id=endpoint_id, status=TaskStatus.PROCESSING, page=1, page_size=5)["data"]
    assert ([one["taskId"] for one in page["items"]], page["total"]) == (["a_1"], 1)
    assert tasks.get_processing_count(endpoint_id=endpoint_id)["data"]["processing"] == 1

    with pytest.raises(ClientError) as caught:
        tasks.create_task(endpoint_id=endpoint_id, worker_port=8000, process_uri="run", input=2, task_id="a_1")
    assert (caught.value.status_code, caught.value.error_code) == (409, 12001)
    with pytest.raises(ClientError) as caught:
        ElasticApi("nobody", base_url=url).get_deployments()
    assert (caught.value.status_code, caught.value.error_code) == (401, 40101)


async def test_the_published_command_creates_and_submits(api: RunningApi) -> None:
    created = await _yotta(
        api, "serverless", "create", "--name", "echo", "--image", "echo:1", "--resources",
        json.dumps(ENDPOINT["resources"]), "--workers", "1", "--service-mode", "QUEUE", "--volume", "20",
        "--env", "A=b", "--expose-port", "8000", "--expose-protocol", "http",
    )  # fmt: skip
    endpoint_id = created["data"]["id"]
    assert created["data"].pop("webhookSecret").startswith("whsec_")
    assert created["data"]["environmentVars"] == [{"key": "A"}]
    assert (await _yotta(api, "serverless", "list", "--status", "initializing"))["data"] == [created["data"]]
    submit = ("--worker-port", "8000", "--process-uri", "/run", "--input", '{"a": 1}', "--task-id", "a")
    await _yotta(api, "tasks", "create", "--endpoint-id", endpoint_id, *submit)
    task = await _yotta(api, "tasks", "get", "--endpoint-id", endpoint_id, "a")
    assert task["data"]["input"] == {"a": 1}


async def _yotta(api: RunningApi, *arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from yottaml_cli.cli import cli; cli()", *arguments),
        env={"YOTTA_BASE_URL": api.url, "YOTTA_API_KEY": api.key, "PATH": ""},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    answer: dict[str, Any] = json.loads(output)
    return answer
