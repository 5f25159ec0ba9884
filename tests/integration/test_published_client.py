"""Every method of the published client, and every command of its CLI, against a running stack."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from yottaml.credential import CredentialApi
from yottaml.elastic import ElasticApi
from yottaml.skywalker import SkywalkerTaskApi

from tests.integration.test_up import API_KEY, ECHO, Up, create, wait_for_workers
from tests.waiting import wait_until

RESOURCES = [{"region": "here", "gpuType": "NVIDIA_RTX_4090_24G", "gpuCount": 1}]


@pytest.fixture
def up(shared_up: Up) -> Up:
    return shared_up


def data(answer: dict[str, Any]) -> Any:
    assert (answer["message"], answer["code"]) == ("success", 10000)
    return answer["data"]


def test_all_methods_of_the_client(up: Up) -> None:
    elastic = ElasticApi(api_key=API_KEY, base_url=up.url)
    credentials = CredentialApi(api_key=API_KEY, base_url=up.url)
    tasks = SkywalkerTaskApi(api_key=API_KEY, base_url=up.url)

    credential = data(credentials.create_credential("hub", "DOCKER_HUB", "someone", "a token"))
    assert data(credentials.get_credentials()) == [credential]
    assert data(credentials.get_credential(credential["id"])) == credential
    renamed = data(credentials.update_credential(credential["id"], name="mirror", password="another"))
    assert renamed == {**credential, "name": "mirror"}

    endpoint_id = create(up, workers=1, credential_id=credential["id"])
    wait_for_workers(up, endpoint_id, 1)
    assert [one["id"] for one in data(elastic.get_deployments(status_list=["RUNNING"]))] == [str(endpoint_id)]
    assert data(elastic.get_deployment_detail(endpoint_id))["containerRegistryAuthId"] == credential["id"]
    assert data(elastic.scale_workers(endpoint_id, 2)) is True
    wait_for_workers(up, endpoint_id, 2)
    assert len(data(elastic.get_workers(endpoint_id, status_list=["running"]))) == 2

    accepted = tasks.create_task(endpoint_id=endpoint_id, worker_port=8000, process_uri="/run", input={"a": 1})
    task_id = data(accepted)["taskId"]
    wait_until(lambda: data(tasks.get_task(endpoint_id=endpoint_id, task_id=task_id))["status"] == "SUCCESS")
    assert data(tasks.list_tasks(endpoint_id=endpoint_id, status="SUCCESS"))["total"] == 1
    assert data(tasks.get_processing_count(endpoint_id=endpoint_id))["processing"] == 0

    updated = elastic.update_deployment(
        endpoint_id, name="other", resources=RESOURCES, workers=1, container_volume_in_gb=20, credential_id=None
    )
    assert data(updated)["containerRegistryAuthId"] is None
    assert data(credentials.delete_credential(credential["id"])) is True
    assert data(elastic.stop_deployment(endpoint_id)) is True
    wait_until(lambda: data(elastic.get_deployment_detail(endpoint_id))["status"] == "STOPPED")
    assert data(elastic.start_deployment(endpoint_id)) is True
    wait_for_workers(up, endpoint_id, 1)
    assert data(elastic.delete_deployment(endpoint_id)) is True
    assert data(elastic.get_deployments()) == []


def test_all_commands_of_the_cli(up: Up) -> None:
    environment = {**os.environ, "YOTTA_BASE_URL": up.url, "YOTTA_API_KEY": API_KEY}

    def yotta(*arguments: str) -> Any:
        command = [str(Path(sys.executable).with_name("yotta")), *arguments]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        return data(json.loads(ended.stdout))

    credential = yotta(
        "credentials", "create", "--name", "hub", "--type", "PRIVATE", "--username", "someone", "--password", "secret"
    )
    number = str(credential["id"])
    assert yotta("credentials", "list") == [credential]
    assert yotta("credentials", "get", number) == credential
    assert yotta("credentials", "update", number, "--name", "mirror")["name"] == "mirror"
    assert yotta("credentials", "delete", number) is True

    endpoint = yotta(
        "serverless", "create", "--name", "echo", "--image", "echo:1", "--resources", json.dumps(RESOURCES),
        "--workers", "1", "--service-mode", "QUEUE", "--volume", "20", "--init-cmd", ECHO, "--env", "MODE=fast",
        "--expose-port", "8000", "--expose-protocol", "HTTP",
    )  # fmt: skip
    endpoint_id = endpoint["id"]
    wait_for_workers(up, int(endpoint_id), 1)
    assert [one["id"] for one in yotta("serverless", "list", "--status", "RUNNING")] == [endpoint_id]
    assert yotta("serverless", "get", endpoint_id)["status"] == "RUNNING"
    assert yotta("serverless", "scale", endpoint_id, "--workers", "2") is True
    wait_for_workers(up, int(endpoint_id), 2)
    assert len(yotta("serverless", "workers", endpoint_id, "--status", "RUNNING")) == 2

    of_endpoint = ("--endpoint-id", endpoint_id)
    accepted = yotta(
        "tasks", "create", *of_endpoint, "--worker-port", "8000", "--process-uri", "/run", "--input", '{"a": 1}'
    )
    task_id = accepted["taskId"]
    wait_until(lambda: yotta("tasks", "get", *of_endpoint, task_id)["status"] == "SUCCESS")
    assert yotta("tasks", "list", *of_endpoint, "--status", "SUCCESS", "--page", "1")["total"] == 1
    assert yotta("tasks", "count", *of_endpoint)["processing"] == 0

    assert yotta("serverless", "stop", endpoint_id) is True
    wait_until(lambda: yotta("serverless", "get", endpoint_id)["status"] == "STOPPED")
    assert yotta("serverless", "start", endpoint_id) is True
    assert yotta("serverless", "delete", endpoint_id) is True
    assert yotta("serverless", "list") == []
