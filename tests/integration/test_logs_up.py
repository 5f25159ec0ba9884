"""Logs on a running engine, from the container that the controller starts to the answer of the API."""

import os
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from yottaml.elastic import ElasticApi
from yottaml.skywalker import SkywalkerTaskApi

from tests.integration.test_logs import PRINTER
from tests.integration.test_up import API_KEY, Up, create, wait_for_workers
from tests.waiting import wait_until

SECRET = "tiger-4711-canary"


@pytest.fixture
def up(shared_up: Up) -> Up:
    return shared_up


def logs_of(up: Up, endpoint_id: int, worker_id: str, **parameters: Any) -> list[str]:
    answer = httpx.get(
        f"{up.url}/v2/serverless/{endpoint_id}/workers/{worker_id}/logs",
        params=parameters,
        headers={"X-Api-Key": API_KEY},
    )
    return [line["log"] for line in answer.json()["data"]["logs"]] if answer.status_code == 200 else []


def test_logs_outlive_their_worker_and_have_no_secrets(up: Up, tmp_path: Path) -> None:
    script = tmp_path / "printer.py"
    script.write_text(PRINTER)
    variables = [{"key": "TOKEN", "value": SECRET}, {"key": "PORT", "value": "4711"}]
    endpoint_id = create(up, command=f"exec {sys.executable} {script}", environment_vars=variables)
    wait_for_workers(up, endpoint_id, 1)
    [worker] = up.get(f"/v2/serverless/{endpoint_id}/workers")
    worker_id = worker["workerId"]
    text = f"token {SECRET} port {os.getpid()}"
    SkywalkerTaskApi(api_key=API_KEY, base_url=up.url).create_task(
        endpoint_id=endpoint_id, task_id="say", worker_port=8000, process_uri="/", input={"print": text}
    )
    wait_until(lambda: f"token *** port {os.getpid()}" in logs_of(up, endpoint_id, worker_id))
    assert logs_of(up, endpoint_id, worker_id, keyword="LISTEN") == ["listening"]

    endpoints = ElasticApi(api_key=API_KEY, base_url=up.url)
    endpoints.stop_deployment(endpoint_id)
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}")["status"] == "STOPPED")
    assert up.get(f"/v2/serverless/{endpoint_id}/workers") == []
    first, second = logs_of(up, endpoint_id, worker_id)[:2]
    assert first.startswith("the endpoint's variable PORT is overridden: the engine sets PORT=")
    assert second == "listening"

    assert SECRET not in up.program.output()
    for path in (*up.data_dir.rglob("*.log"), *up.data_dir.rglob("*.log.1")):
        assert SECRET not in path.read_text(errors="replace"), path


def test_a_container_that_crashes_says_why_in_its_workers_error_and_log(up: Up) -> None:
    endpoint_id = create(
        up, command="echo loading; echo no such model $TOKEN >&2; exit 3",
        environment_vars=[{"key": "TOKEN", "value": SECRET}],
    )  # fmt: skip

    def crashed() -> dict[str, Any] | None:
        workers: list[dict[str, Any]] = up.get(f"/v2/serverless/{endpoint_id}/workers")
        return next((worker for worker in workers if worker["error"]), None)

    worker = wait_until(crashed, message="no worker has crashed")
    assert worker is not None
    assert worker["error"] == "container exited with status 3\nloading\nno such model ***"
    log = logs_of(up, endpoint_id, worker["workerId"])
    assert log[:3] == ["loading", "no such model ***", "container exited with status 3"]
    assert SECRET not in up.program.output()
