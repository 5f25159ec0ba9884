"""ALB and CUSTOM endpoints on a running engine: workers run, requests reach them, tasks are refused."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest
from yottaml.elastic import ElasticApi
from yottaml.error import ClientError
from yottaml.skywalker import SkywalkerTaskApi

from tests.integration.test_up import API_KEY, ECHO, ROOT, Up, running_up, wait_for_workers
from tests.waiting import GIVE_UP_SECONDS, wait_until

BEARER = {"Authorization": f"Bearer {API_KEY}"}
WHO = f"{sys.executable} {ROOT / 'tests/integration/alb_server.py'}"
MEGABYTE = 1024 * 1024
LARGE = 256 * MEGABYTE
SLEEPER = f"{sys.executable} -c 'import threading; threading.Event().wait()'"


@pytest.fixture(scope="module")
def lasting_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with running_up(tmp_path_factory.mktemp("up"), QUEUE_ENGINE_WORKER_GRACE_SECONDS="8") as running:
        yield running
        assert "Traceback" not in running.program.output()


@pytest.fixture
def up(shared_up: Up) -> Up:
    return shared_up


def elastic(up: Up) -> ElasticApi:
    return ElasticApi(api_key=API_KEY, base_url=up.url)


def create(up: Up, workers: int, command: str = WHO, mode: str = "ALB", **given: Any) -> int:
    answer = elastic(up).create_deployment(
        name="web",
        image="none",
        resources=[{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        workers=workers,
        service_mode=mode,
        container_volume_in_gb=20,
        initialization_command=command,
        **given,
    )
    return int(answer["data"]["id"])


def ask(up: Up, endpoint_id: int, path: str = "/") -> httpx.Response:
    return httpx.get(f"{up.url}/e/{endpoint_id}{path}", headers=BEARER, timeout=GIVE_UP_SECONDS, verify=False)


def test_requests_are_spread_over_the_workers_and_go_on_when_one_dies(up: Up) -> None:
    endpoint_id = create(up, workers=2, expose={"port": 80, "protocol": "http"})
    wait_for_workers(up, endpoint_id, 2)

    def answered_by() -> Counter[str]:
        return Counter(ask(up, endpoint_id, "/who").text for _ in range(20))

    wait_until(lambda: len(answered_by()) == 2)
    spread = answered_by()
    assert set(spread.values()) == {10}
    dying = next(iter(spread))
    process = psutil.Process(int(dying))
    process.kill()
    # Until then its socket takes connections, and a request that it has taken fails with it.
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)
    answers = [ask(up, endpoint_id, "/who") for _ in range(50)]
    assert {answer.status_code for answer in answers} == {200}
    wait_for_workers(up, endpoint_id, 2)
    wait_until(lambda: len(answered_by()) == 2)


def test_the_example_server_echoes_the_request(up: Up) -> None:
    endpoint_id = create(up, workers=1, command=ECHO)
    wait_for_workers(up, endpoint_id, 1)
    url = f"{up.url}/e/{endpoint_id}/a%2Fb//c?x=%20&y"
    answer = httpx.post(url, headers={**BEARER, "X-Request-Id": "mine"}, json={"n": 1})
    assert answer.status_code == 200
    body = answer.json()
    assert (body["path"], body["input"]) == ("/a%2Fb//c?x=%20&y", {"n": 1})
    assert body["headers"]["x-request-id"] == "mine"
    assert API_KEY not in answer.text


def test_a_large_body_and_response_stream_through_bounded_memory(up: Up) -> None:
    endpoint_id = create(up, workers=1)
    wait_for_workers(up, endpoint_id, 1)
    api = up.role("api")
    before = api.memory_info().rss
    url = f"{up.url}/e/{endpoint_id}"

    def pieces() -> Iterator[bytes]:
        for _ in range(LARGE // MEGABYTE):
            yield bytes(MEGABYTE)

    headers = BEARER | {"Content-Length": str(LARGE)}
    answer = httpx.post(f"{url}/count", content=pieces(), headers=headers, timeout=60)
    assert (answer.status_code, answer.text) == (200, str(LARGE))
    with httpx.stream("GET", f"{url}/zeros?bytes={LARGE}", headers=BEARER, timeout=60) as download:
        assert sum(map(len, download.iter_raw())) == LARGE
    assert api.memory_info().rss - before < 32 * MEGABYTE


def test_without_a_running_worker_it_is_503_until_start(up: Up) -> None:
    endpoint_id = create(up, workers=1)
    wait_for_workers(up, endpoint_id, 1)
    assert ask(up, endpoint_id).status_code == 200
    elastic(up).stop_deployment(endpoint_id)
    wait_until(lambda: ask(up, endpoint_id).status_code == 503)
    answer = ask(up, endpoint_id)
    assert answer.json() == {"message": "the endpoint is stopped", "code": 10002, "data": None}
    assert int(answer.headers["Retry-After"]) >= 1
    elastic(up).start_deployment(endpoint_id)
    wait_until(lambda: ask(up, endpoint_id).status_code == 200)


def test_a_worker_that_is_stopped_finishes_its_requests(up: Up) -> None:
    endpoint_id = create(up, workers=1)
    wait_for_workers(up, endpoint_id, 1)
    with httpx.stream("GET", f"{up.url}/e/{endpoint_id}/drip?pieces=30&pause=0.1", headers=BEARER) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        elastic(up).stop_deployment(endpoint_id)
        assert b"".join(pieces).endswith(b"piece 29\n")
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}")["status"] == "STOPPED")


@pytest.mark.parametrize("mode", ["ALB", "CUSTOM"])
def test_endpoints_of_other_modes_run_workers_and_take_no_tasks(up: Up, mode: str) -> None:
    endpoint_id = create(up, workers=2, mode=mode, expose={"port": 5432, "protocol": "tcp"})
    wait_for_workers(up, endpoint_id, 2)
    with pytest.raises(ClientError) as refusal:
        SkywalkerTaskApi(api_key=API_KEY, base_url=up.url).create_task(
            endpoint_id=endpoint_id, worker_port=5432, process_uri="/", input=1
        )
    assert (refusal.value.status_code, refusal.value.error_code) == (400, 10001)
    elastic(up).scale_workers(endpoint_id, 1)
    wait_until(lambda: len(up.get(f"/v2/serverless/{endpoint_id}/workers")) == 1)


def test_a_custom_container_that_exposes_nothing_runs_when_it_lives(up: Up) -> None:
    endpoint_id = create(up, workers=1, mode="CUSTOM", command=SLEEPER)
    wait_for_workers(up, endpoint_id, 1)
    answer = ask(up, endpoint_id)
    assert answer.status_code == 400
    assert answer.json()["message"] == "serviceMode: must be ALB; the endpoint has CUSTOM"


def test_a_custom_container_that_crashes_at_once_is_failed(up: Up) -> None:
    endpoint_id = create(up, workers=1, mode="CUSTOM", command="exit 3")

    def worker() -> dict[str, Any]:
        found = up.get(f"/v2/serverless/{endpoint_id}/workers")
        return dict(found[0]) if found else {"status": ""}

    wait_until(lambda: worker()["status"] == "FAILED")
    assert "status 3" in worker()["error"]
