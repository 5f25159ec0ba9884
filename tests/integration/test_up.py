"""`queue-engine up` as a user runs it: the whole path of a task, and that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from standardwebhooks import Webhook
from yottaml.elastic import ElasticApi
from yottaml.skywalker import SkywalkerTaskApi

from queue_engine.crypto.sealing import new_secret_key
from queue_engine.domain.agent_protocol import END_MARGIN_SECONDS
from queue_engine.local.embedded import read_store_url
from queue_engine.local.up import CONTROLLER_MARGIN_SECONDS, EXIT_LEFT, WORKER_GRACE_SECONDS
from queue_engine.net.ports import machine_addresses
from queue_engine.processes.memory import available_memory
from queue_engine.rules.hosts import is_loopback
from queue_engine.store.api_keys import hash_of
from queue_engine.store.keys import Partitions
from tests.environment import inherited
from tests.forked import run_command
from tests.integration.certificates import self_signed
from tests.integration.parts import HttpServer, Program, Reply, replies
from tests.ports import free_port
from tests.waiting import GIVE_UP_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
ECHO = f"{sys.executable} {ROOT / 'deploy/examples/echo_server.py'}"
SLOW = f"{sys.executable} {ROOT / 'tests/integration/slow_server.py'}"
API_KEY = "test-api-key-4711"
IGNORED_STORE = "redis://127.0.0.1:1/0"
MAX_MEMORY = 123_456_789
DUE = 320_000
"""Number of endpoints that the controller has not looked at."""


class Up:
    """A running `up`."""

    def __init__(self, directory: Path, *options: str, **environment: str) -> None:
        self.port = free_port()
        self.data_dir = directory / "data"
        self._directory = directory
        self._options = options
        self._strangers: set[psutil.Process] = set()
        """Processes of others, because to read the variables of all processes takes long, and waits ask many times."""
        self._environment = {
            **inherited(),
            "TMPDIR": str(directory),
            "PYTHONPATH": str(ROOT),
            "QUEUE_ENGINE_API_KEY": API_KEY,
            "QUEUE_ENGINE_DELIVERY_SCHEDULE": "0.2,0.2",
            "QUEUE_ENGINE_LEASE_SECONDS": "2",
            "QUEUE_ENGINE_WORKER_GRACE_SECONDS": "2",
            **environment,
        }
        # Made once: a client reads the certificates when it is made, and the waits of a test ask many times.
        self.client = httpx.Client(
            base_url=self.url,
            headers={"X-Api-Key": API_KEY},
            timeout=GIVE_UP_SECONDS,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            verify=False,
        )
        self.program = self.start()

    def start(self) -> Program:
        arguments = ("queue_engine", "up", "--port", str(self.port), "--data-dir", str(self.data_dir), *self._options)
        self.program = Program("up", arguments, self._environment, self._directory)
        return self.program

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_until_up(self) -> None:
        wait_until(
            lambda: "queue-engine is up" in self.program.output() or not self.program.running,
            message=f"`up` does not start: {self.data_dir}/logs",
        )
        assert self.program.running, self.program.output()

    def get(self, path: str) -> Any:
        response = self.client.get(path)
        response.raise_for_status()
        return response.json()["data"]

    def post(self, path: str, body: Any) -> Any:
        response = self.client.post(path, json=body)
        response.raise_for_status()
        return response.json()["data"]

    def processes(self) -> list[psutil.Process]:
        """Everything that this `up` has started, directly or not, found by a variable that all of it inherits."""
        found = []
        for process in psutil.process_iter():
            if process in self._strangers or process.pid == self.program.pid:
                continue
            try:
                if process.environ().get("TMPDIR") != str(self._directory):
                    self._strangers.add(process)
                elif process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def workers(self) -> list[psutil.Process]:
        """The agents that run."""
        return [process for process in self.processes() if "-m worker_agent" in command_of(process)]

    def role(self, name: str) -> psutil.Process:
        """The process of one role of the engine."""
        found = self.roles(name)
        assert len(found) == 1
        return found[0]

    def roles(self, name: str) -> list[psutil.Process]:
        """The processes of one role of the engine, none while it is not started."""
        return [one for one in self.processes() if command_of(one).endswith(f"-m queue_engine {name}")]

    def end(self) -> None:
        self.client.close()
        if self.program.running:
            self.program.signal(signal.SIGINT)
            try:
                self.program.wait()
            except subprocess.TimeoutExpired:
                self.program.kill()
        for process in self.processes():
            process.kill()


def command_of(process: psutil.Process) -> str:
    """Its command line; nothing when it has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def running_up(directory: Path, *options: str, **environment: str) -> Iterator[Up]:
    """An `up` that has started; all of it is ended afterwards."""
    running = Up(directory, *options, **environment)
    try:
        running.wait_until_up()
        yield running
    finally:
        running.end()


def delete_endpoints(up: Up) -> None:
    """Delete all endpoints, so that the next test finds none, and wait until their workers have ended."""
    endpoints = ElasticApi(api_key=API_KEY, base_url=up.url)
    for endpoint in up.get("/v2/serverless"):
        endpoints.delete_deployment(endpoint["id"])
    wait_until(lambda: up.workers() == [], message="workers of deleted endpoints are left")


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with running_up(tmp_path) as running:
        yield running


def create(up: Up, workers: int = 1, command: str = ECHO, **given: Any) -> int:
    """An endpoint, by the published client."""
    answer = ElasticApi(api_key=API_KEY, base_url=up.url).create_deployment(
        name="echo",
        image="python:3.11",
        resources=[{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
        workers=workers,
        service_mode="QUEUE",
        container_volume_in_gb=20,
        initialization_command=command,
        expose={"port": 8000, "protocol": "http"},
        **given,
    )
    return int(answer["data"]["id"])


def wait_for_workers(up: Up, endpoint_id: int, count: int) -> None:
    def running() -> bool:
        workers = up.get(f"/v2/serverless/{endpoint_id}/workers")
        return [worker["status"] for worker in workers].count("RUNNING") == count

    wait_until(running, 90, "the workers do not run")


def test_the_published_client_gets_a_task_through_the_whole_engine(shared_up: Up) -> None:
    up = shared_up
    with HttpServer() as receiver:
        endpoint_id = create(up, workers=2, environment_vars=[{"name": "MODE", "value": "fast"}])
        wait_for_workers(up, endpoint_id, 2)
        tasks = SkywalkerTaskApi(api_key=API_KEY, base_url=up.url)
        given = {"prompt": "grüße", "n": [1, 2.5, None]}
        answer = tasks.create_task(
            endpoint_id=endpoint_id,
            task_id="first_1",
            worker_port=8000,
            process_uri="v1/run",
            input=given,
            webhook=f"{receiver.url}/hook",
            webhook_auth_key="the key",
            headers={"X-Model": "small"},
        )
        assert answer == {"message": "success", "code": 10000, "data": {"taskId": "first_1"}}

        request = receiver.next(40)
        assert request.headers["x-api-key"] == "the key"
        body = json.loads(request.body)
        SkywalkerTaskApi.validate_notify_payload(body)
        assert body["result"]["input"] == given
        assert body["result"]["path"] == "/v1/run"
        secret = up.get(f"/v2/serverless/{endpoint_id}/webhook-secret")["secret"]
        Webhook(secret).verify(request.body, request.headers)

        def detail() -> dict[str, Any]:
            found: dict[str, Any] = tasks.get_task(endpoint_id=endpoint_id, task_id="first_1")["data"]
            return found

        wait_until(lambda: detail()["status"] == "DELIVERED")
        task = detail()
        assert task["deliveryStatus"] == "SUCCESS"
        assert task["input"] == given
        assert task["endpointId"] == endpoint_id
        assert task["headers"] == {"X-Model": "small"}
        listed = tasks.list_tasks(endpoint_id=endpoint_id, status="DELIVERED")["data"]
        assert [item["taskId"] for item in listed["items"]] == ["first_1"]
        assert tasks.get_processing_count(endpoint_id=endpoint_id)["data"]["processing"] == 0
        endpoints = ElasticApi(api_key=API_KEY, base_url=up.url)
        assert [one["id"] for one in endpoints.get_deployments(status_list=["RUNNING"])["data"]] == [str(endpoint_id)]
        assert endpoints.get_deployment_detail(endpoint_id)["data"]["runningWorkers"] == 2


def test_ctrl_c_stops_everything(up: Up) -> None:
    endpoint_id = create(up, workers=2)
    wait_for_workers(up, endpoint_id, 2)
    assert len(up.processes()) >= 10
    up.program.signal(signal.SIGINT)
    assert up.program.wait(30) == 0
    assert up.processes() == []
    assert "stopped" in up.program.output()


def test_ctrl_c_reads_none_of_many_endpoints_that_are_due_and_ends_in_time(tmp_path: Path, valkey_url: str) -> None:
    # The controller has not looked at them yet, as after a client has created them in a row. There are no records of
    # them, because those would take a minute to make.
    up = Up(tmp_path, "--redis-url", valkey_url, QUEUE_ENGINE_WORKER_GRACE_SECONDS=str(WORKER_GRACE_SECONDS))
    try:
        up.wait_until_up()
        endpoint_id = create(up)
        wait_for_workers(up, endpoint_id, 1)
        with Redis.from_url(valkey_url) as store:
            for partition in Partitions().all():
                first = 1_000_000 * (1 + partition.index)
                store.zadd(partition.due_checks, {str(first + number): 1 for number in range(DUE // 16)})
            store.config_resetstat()
            up.program.signal(signal.SIGINT)
            assert up.program.wait(WORKER_GRACE_SECONDS + END_MARGIN_SECONDS + CONTROLLER_MARGIN_SECONDS) == 0
            # A round of the controller that has begun reads a thousand of them.
            assert store.info("commandstats").get("cmdstat_hkeys", {"calls": 0})["calls"] < DUE / 4
            assert store.hgetall(Partitions().of(str(endpoint_id)).workers) == {}
        assert up.processes() == []
    finally:
        up.end()


def test_a_second_signal_ends_workers_that_drain_too(tmp_path: Path) -> None:
    up = Up(tmp_path, QUEUE_ENGINE_WORKER_GRACE_SECONDS="600")
    try:
        up.wait_until_up()
        endpoint_id = create(up, command=f"{SLOW} 3600")
        wait_for_workers(up, endpoint_id, 1)
        SkywalkerTaskApi(api_key=API_KEY, base_url=up.url).create_task(
            endpoint_id=endpoint_id, task_id="long", worker_port=8000, process_uri="/", input={"n": 1}
        )
        task = f"/v2/serverless/{endpoint_id}/tasks/long"
        wait_until(lambda: up.get(task)["state"] == "running")
        up.program.signal(signal.SIGINT)
        wait_until(lambda: "\nstopping: running tasks have 600 s to finish, " in up.program.output())
        up.program.signal(signal.SIGINT)
        up.program.wait(30)
        assert up.processes() == []
    finally:
        up.end()


def test_a_slow_start_says_what_it_waits_for_and_goes_on(tmp_path: Path) -> None:
    up = Up(tmp_path)
    try:
        [api] = wait_until(lambda: up.roles("api"), message="the API is not started")
        api.suspend()
        wait_until(
            lambda: f"waiting for the API (process {api.pid}) for " in up.program.output() or not up.program.running,
            message="`up` does not say what it waits for",
        )
        api.resume()
        up.wait_until_up()
    finally:
        up.end()


def test_an_engine_that_is_away_is_named_on_the_endpoint_and_workers_that_may_be_left_at_ctrl_c(tmp_path: Path) -> None:
    up = Up(
        tmp_path,
        *("--backend", "docker"),
        DOCKER_HOST=f"unix://{tmp_path}/no-engine.sock",
        QUEUE_ENGINE_AGENT_HOST="127.0.0.1",
        QUEUE_ENGINE_LEADER_LEASE_SECONDS="1",
    )
    try:
        up.wait_until_up()
        endpoint_id = create(up)
        away = "the container engine cannot be reached: No such file or directory"
        endpoint = f"/v2/serverless/{endpoint_id}"
        wait_until(lambda: up.get(endpoint)["error"] == away, message="the endpoint does not say why it has no worker")
        up.post(f"{endpoint}/tasks", {"taskId": "t1", "workerPort": 8000, "processUri": "/", "input": 1})
        assert up.get(f"{endpoint}/tasks/t1")["waiting"]["message"].endswith(f"that the endpoint should have: {away}")
        assert (
            f"the container engine at unix://{tmp_path}/no-engine.sock cannot be reached"
            in (up.data_dir / "logs/controller.log").read_text()
        )
        up.program.signal(signal.SIGINT)
        assert up.program.wait(120) == EXIT_LEFT
        end = up.program.output().partition("\nstopping")[2]
        assert "may be left: the container engine did not list them" in end
        assert "start `up` again" in end
        assert "docker ps --all --filter label=queue-engine/worker" in end
        assert up.processes() == []
    finally:
        up.end()


def test_the_data_outlive_a_kill_of_everything_and_no_worker_does(up: Up) -> None:
    endpoint_id = create(up, workers=1)
    wait_for_workers(up, endpoint_id, 1)
    tasks = SkywalkerTaskApi(api_key=API_KEY, base_url=up.url)
    tasks.create_task(endpoint_id=endpoint_id, task_id="before", worker_port=8000, process_uri="/", input=1)
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/tasks/before")["status"] == "SUCCESS")
    old = {process.pid for process in up.workers()}
    up.program.kill()
    up.start()
    up.wait_until_up()
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/tasks/before")["status"] == "SUCCESS")
    tasks.create_task(endpoint_id=endpoint_id, task_id="after", worker_port=8000, process_uri="/", input=2)
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/tasks/after")["status"] == "SUCCESS")
    wait_until(lambda: not old & {process.pid for process in up.workers()})
    assert len(up.workers()) == 1


def test_a_worker_that_is_killed_is_replaced_and_its_task_ends(shared_up: Up) -> None:
    up = shared_up
    endpoint_id = create(up, workers=1, command=SLOW)
    wait_for_workers(up, endpoint_id, 1)
    tasks = SkywalkerTaskApi(api_key=API_KEY, base_url=up.url)
    tasks.create_task(endpoint_id=endpoint_id, task_id="hit", worker_port=8000, process_uri="/", input=1)
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/tasks/hit")["state"] == "running")
    [agent] = up.workers()
    agent.kill()
    wait_until(lambda: up.get(f"/v2/serverless/{endpoint_id}/tasks/hit")["status"] == "SUCCESS")
    assert up.get(f"/v2/serverless/{endpoint_id}/tasks/hit")["attempts"] == 2
    wait_for_workers(up, endpoint_id, 1)
    assert len(up.workers()) == 1


def test_parts_that_are_killed_come_back_by_themselves(up: Up) -> None:
    with HttpServer(replies(Reply())) as receiver:
        endpoint_id = create(up, workers=1)
        wait_for_workers(up, endpoint_id, 1)
        for role in ("delivery", "controller", "api"):
            up.role(role).kill()

        def answers() -> bool:
            try:
                return httpx.get(f"{up.url}/readyz").status_code == 200
            except httpx.HTTPError:
                return False

        wait_until(answers)
        SkywalkerTaskApi(api_key=API_KEY, base_url=up.url).create_task(
            endpoint_id=endpoint_id, worker_port=8000, process_uri="/", input=1, webhook=f"{receiver.url}/hook"
        )
        receiver.next(40)


def test_every_process_serves_its_metrics(shared_up: Up) -> None:
    up = shared_up
    create(up, workers=1)
    urls = [word for line in up.program.output().splitlines() if "Metrics" in line for word in line.split()[1:]]
    assert len(urls) == 3
    own = ("queue_engine_tasks_submitted", "queue_engine_controller_leading", "queue_engine_deliveries")
    for url, name in zip(urls, own, strict=True):
        families = {family.name for family in text_string_to_metric_families(httpx.get(url).text)}
        assert "queue_engine_build_info" in families
        assert families & set(own) == {name}


def test_the_embedded_store_may_use_half_of_the_memory(shared_up: Up) -> None:
    with Redis.from_url(read_store_url(shared_up.data_dir / "store") or "") as store:
        limit = int(store.config_get("maxmemory")["maxmemory"])
    assert limit == available_memory() // 2
    assert 0 < limit <= psutil.virtual_memory().total // 2


@pytest.fixture(scope="module")
def up_with_variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `up` with several API processes and a limit of memory, and with a store in its environment that it ignores."""
    variables = {
        "QUEUE_ENGINE_API_PROCESSES": "2",
        "QUEUE_ENGINE_REDIS_URL": IGNORED_STORE,
        "QUEUE_ENGINE_EMBEDDED_MAX_MEMORY_BYTES": str(MAX_MEMORY),
    }
    with running_up(tmp_path_factory.mktemp("up"), **variables) as running:
        yield running


@pytest.fixture(scope="module")
def up_with_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """An `up` whose secrets are in files, beside the URL of a store that it ignores."""
    directory = tmp_path_factory.mktemp("up")
    texts = {"SECRET_KEY": f"{new_secret_key()}\n", "API_KEY": "a-key-from-a-file\n", "REDIS_URL": IGNORED_STORE}
    for name, text in texts.items():
        (directory / name).write_text(text)
    files = {f"QUEUE_ENGINE_{name}_FILE": str(directory / name) for name in texts}
    with running_up(directory, QUEUE_ENGINE_API_KEY="", **files) as running:
        yield running


def test_up_starts_with_several_api_processes_too(up_with_variables: Up) -> None:
    up = up_with_variables
    assert len([one for one in up.processes() if command_of(one).endswith("-m queue_engine api")]) == 3
    assert up.get("/v2/serverless") == []


def test_the_memory_of_the_embedded_store_is_what_the_operator_has_set(up_with_variables: Up) -> None:
    with Redis.from_url(read_store_url(up_with_variables.data_dir / "store") or "") as store:
        assert int(store.config_get("maxmemory")["maxmemory"]) == MAX_MEMORY


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with HttpServer() as taken:
        arguments = ("queue_engine", "up", "--port", str(taken.port), "--data-dir", str(tmp_path / "data"))
        program = Program("up", arguments, dict(os.environ), tmp_path)
        assert program.wait(30) == 2
        assert f"port {taken.port} is in use" in program.output()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QUEUE_ENGINE_LEASE_SECONDS", "never"),
        ("QUEUE_ENGINE_API_KEY", "a b"),
        ("QUEUE_ENGINE_MAX_BODY_BYTES", "1"),
        ("QUEUE_ENGINE_EMBEDDED_MAX_MEMORY_BYTES", "half"),
    ],
)
def test_a_bad_setting_is_named_before_anything_starts(tmp_path: Path, variable: str, value: str) -> None:
    data_dir = tmp_path / "data"
    arguments = ("queue_engine", "up", "--port", str(free_port()), "--data-dir", str(data_dir))
    program = Program("up", arguments, {**os.environ, variable: value}, tmp_path)
    assert program.wait(30) == 2
    assert variable in program.output()
    assert "Traceback" not in program.output()
    assert not data_dir.exists()


def test_secrets_may_be_in_files(up_with_files: Up) -> None:
    up = up_with_files
    listed = httpx.get(f"{up.url}/v2/serverless", headers={"X-Api-Key": "a-key-from-a-file"})
    assert listed.status_code == 200
    assert not (up.data_dir / "secret-key").exists()


def test_an_external_store_is_used_when_given(tmp_path: Path, valkey_url: str) -> None:
    up = Up(tmp_path, "--redis-url", valkey_url)
    try:
        up.wait_until_up()
        endpoint_id = create(up, workers=1)
        wait_for_workers(up, endpoint_id, 1)
        assert not (up.data_dir / "store").exists()
    finally:
        up.end()


@pytest.mark.parametrize(
    ("fixture", "name"),
    [("up_with_variables", "QUEUE_ENGINE_REDIS_URL"), ("up_with_files", "QUEUE_ENGINE_REDIS_URL_FILE")],
)
def test_a_store_in_the_environment_is_ignored_and_up_says_so(
    request: pytest.FixtureRequest, fixture: str, name: str
) -> None:
    up: Up = request.getfixturevalue(fixture)
    assert f"{name} is ignored: `up` has its own store. Use --redis-url for another one" in up.program.output()


class TestKeysAndWebhooks:
    def test_the_key_is_not_written_where_no_terminal_is(self, tmp_path: Path) -> None:
        up = Up(tmp_path, QUEUE_ENGINE_API_KEY="")
        try:
            up.wait_until_up()
            path = up.data_dir / "api-key"
            key = path.read_text().strip()
            assert key not in up.program.output()
            assert f"API key    in {path}" in up.program.output()
            [curl] = [line for line in up.program.output().splitlines() if line.strip().startswith("curl ")]
            answered = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=30, check=True)
            assert json.loads(answered.stdout) == {"message": "success", "code": 10000, "data": []}
            assert key not in "".join(log.read_text() for log in (up.data_dir / "logs").glob("*.log"))
        finally:
            up.end()

    def test_it_says_that_the_key_came_from_the_operator_and_when_it_is_revoked(self, tmp_path: Path) -> None:
        up = Up(tmp_path)
        try:
            up.wait_until_up()
            assert API_KEY not in up.program.output()
            assert "API key    from QUEUE_ENGINE_API_KEY" in up.program.output()
            assert "is revoked" not in up.program.output()
            keys(up, "revoke", hash_of(API_KEY)[:12])
            up.program.signal(signal.SIGINT)
            up.program.wait(60)
            up.start()
            up.wait_until_up()
            wait_until(lambda: "the first API key (QUEUE_ENGINE_API_KEY) was revoked" in up.program.output())
            answer = httpx.get(f"{up.url}/v2/serverless", headers={"X-Api-Key": API_KEY})
            assert answer.status_code == 401
        finally:
            up.end()

    def test_webhooks_reach_loopback_only_while_there_is_one_tenant_and_never_the_engine(self, up: Up) -> None:
        assert "and to loopback while there is one tenant" in up.program.output()
        store = urlsplit(read_store_url(up.data_dir / "store") or "").port
        metrics = [urlsplit(word).port for word in up.program.output().split() if word.endswith("/metrics")]
        for port in (up.port, store, *metrics):
            for host in ("127.0.0.1", "localhost", "[::1]", "0.0.0.0", *machine_hosts()):
                assert submit_status(up, f"http://{host}:{port}/") == 400, (host, port)
        assert submit_status(up, "http://127.0.0.1:9/") == 200
        made = keys(up, "create", "--tenant", "second")
        assert "there is a second tenant now" in made.stderr
        assert submit_status(up, "http://127.0.0.1:9/") == 400

    @pytest.mark.parametrize(
        ("options", "environment", "status", "words"),
        [
            (("--host", "0.0.0.0"), {}, 400, "to public addresses only: --host is not loopback"),
            (
                (),
                {"QUEUE_ENGINE_WEBHOOK_ALLOW": ""},
                400,
                "to public addresses only: QUEUE_ENGINE_WEBHOOK_ALLOW is empty",
            ),
            (
                ("--host", "0.0.0.0"),
                {"QUEUE_ENGINE_WEBHOOK_ALLOW": "127.0.0.0/8"},
                200,
                "to public addresses, and to 127.0.0.0/8",
            ),
        ],
    )
    def test_the_host_and_the_operators_list_decide_about_loopback(
        self, tmp_path: Path, options: tuple[str, ...], environment: dict[str, str], status: int, words: str
    ) -> None:
        up = Up(tmp_path, *options, **environment)
        try:
            up.wait_until_up()
            assert words in up.program.output()
            assert submit_status(up, "http://127.0.0.1:9/") == status
            assert submit_status(up, f"http://127.0.0.1:{up.port}/") == 400
        finally:
            up.end()


def keys(up: Up, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """`queue-engine keys` on the store of `up`."""
    url = read_store_url(up.data_dir / "store")
    assert url is not None
    done = run_command(("queue_engine", "keys", *arguments, "--redis-url", url))
    assert done.returncode == 0, done.stderr
    return done


def submit_status(up: Up, webhook: str) -> int:
    """Return the response of the API to an endpoint with this webhook."""
    body = {
        "name": "none", "image": "x", "serviceMode": "QUEUE", "workers": 0, "containerVolumeInGb": 20,
        "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}], "webhook": webhook,
    }  # fmt: skip
    return httpx.post(f"{up.url}/v2/serverless", headers={"X-Api-Key": API_KEY}, json=body).status_code


def machine_hosts() -> list[str]:
    """This machine's addresses besides loopback, as hosts of a URL."""
    found = [one for one in machine_addresses() if not is_loopback(one) and "%" not in one]
    return [f"[{one}]" if ":" in one else one for one in found]


def test_up_serves_https_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    certificate = self_signed(tmp_path, "engine.example")
    up = Up(tmp_path, QUEUE_ENGINE_TLS_CERT=str(certificate.path))
    try:
        up.wait_until_up()
        assert f"Base URL   https://127.0.0.1:{up.port}\n" in up.program.output()
        secure = up.url.replace("http:", "https:")
        response = httpx.get(f"{secure}/v2/serverless", headers={"X-Api-Key": API_KEY}, verify=False, trust_env=False)
        assert response.json()["data"] == []
    finally:
        up.end()
