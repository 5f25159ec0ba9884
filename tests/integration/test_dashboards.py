"""The dashboards and rules of deploy/, on a real Prometheus that scrapes a running engine as deploy/prometheus says."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.grafana.definitions import ALL
from deploy.grafana.panels import Query
from tests.integration.parts import HttpServer, Program, Reply, programs_on
from tests.ports import free_port
from tests.prometheus_names import names_in
from tests.promtool import RULES
from tests.waiting import wait_until

pytestmark = pytest.mark.promtool

ROOT = Path(__file__).parents[2]
ECHO = f"exec {sys.executable} {ROOT / 'deploy/examples/echo_server.py'}"
API_KEY = "a-key-of-the-dashboard-tests"
PORTS = ("8000", "8001", "8002")
"""Ports of `up` in deploy/prometheus/prometheus.yml: API, controller, delivery."""
ONLY_WITH_KUBERNETES = {"queue_engine_backend_up"}
"""Metrics that only a controller with clusters exports: see tests/unit/kube/test_backend.py."""
QUERIES = {
    f"{dashboard.uid} {panel.id} {query.legend}: {query.expr}": query
    for dashboard in ALL
    for panel in dashboard.panels
    for query in panel.queries
}


class Prometheus:
    """A Prometheus with the rules and targets of deploy/prometheus, which scrapes every second."""

    def __init__(self, binary: str, directory: Path, ports: list[str]) -> None:
        port = free_port()
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        configuration = RULES.with_name("prometheus.yml").read_text()
        for before, after in zip(PORTS, ports, strict=True):
            configuration = configuration.replace(f"127.0.0.1:{before}", f"127.0.0.1:{after}")
        fast = configuration.replace("_interval: 15s", "_interval: 1s")
        assert fast != configuration
        directory.mkdir()
        (directory / "prometheus.yml").write_text(fast)
        shutil.copy(RULES, directory)
        self._log = directory / "log"
        self._command = [
            binary, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
        ]  # fmt: skip

    @contextmanager
    def running(self) -> Iterator[None]:
        with self._log.open("wb") as log, subprocess.Popen(self._command, stdout=log, stderr=log) as process:
            try:
                wait_until(self._is_ready, message="Prometheus does not start")
                yield
            finally:
                process.kill()

    def _is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **parameters: str) -> Any:
        response = self._client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def has_data(self, query: Query) -> bool:
        """Return whether a query of a dashboard gives a number with the labels that its legend names."""
        sent = query.expr.replace("$__rate_interval", "30s").replace("$endpoint", ".*")
        labels = set(re.findall(r"{{(\w+)}}", query.legend))
        return any(
            labels <= one["metric"].keys() and not math.isnan(float(one["value"][1]))
            for one in self.get("query", query=sent)["result"]
        )

    def values_of(self, label: str, selector: str = "") -> set[str]:
        return set(self.get(f"label/{label}/values", **({"match[]": selector} if selector else {})))


class Engine:
    """`queue-engine up` with an endpoint that works and one whose worker never becomes ready."""

    def __init__(self, up: Program, port: int, receiver: HttpServer) -> None:
        self._base = f"http://127.0.0.1:{port}/v2/serverless"
        self._client = httpx.Client(headers={"X-Api-Key": API_KEY}, trust_env=False, timeout=30)
        self._receiver = receiver
        wait_until(lambda: "queue-engine is up" in up.output(), message="up does not start")
        [metrics] = re.findall(r"^  Metrics +(.*)$", up.output(), re.MULTILINE)
        self.ports = re.findall(r":(\d+)/metrics", metrics)
        self.working = self._endpoint("works", ECHO)
        self.late = self._endpoint("is-late", "exec sleep 1000")
        self.submit(self.late)
        wait_until(lambda: self._call("GET", f"/{self.working}")["status"] == "RUNNING", message="no worker runs")

    def _endpoint(self, name: str, command: str) -> str:
        body = {
            "name": name, "image": "none", "serviceMode": "QUEUE", "workers": 1, "containerVolumeInGb": 20,
            "resources": [{"region": "here", "gpuType": "CPU", "gpuCount": 1}],
            "expose": {"port": 8000, "protocol": "http"}, "initializationCommand": command,
        }  # fmt: skip
        return str(self._call("POST", "", body)["id"])

    def submit(self, endpoint_id: str) -> None:
        """Submit a task whose receiver responds, and one whose receiver fails."""
        for path in ("/accepts", "/fails"):
            task = {"input": 1, "workerPort": 8000, "processUri": "/run", "webhook": self._receiver.url + path}
            self._call("POST", f"/{endpoint_id}/tasks", task)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        response = self._client.request(method, self._base + path, json=body)
        assert response.status_code == 200, response.text
        return response.json()["data"]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory, promtool: str) -> Iterator[tuple[Engine, Prometheus]]:
    """A running engine, and a Prometheus that has scraped all of its processes."""
    directory = tmp_path_factory.mktemp("observed")
    binary = shutil.which("prometheus", path=str(Path(promtool).parent))
    if binary is None:
        pytest.skip("no prometheus beside promtool: apt-get install prometheus")
    port = free_port()
    with HttpServer() as receiver, programs_on("redis://127.0.0.1:1/0", directory) as programs:
        receiver.answer = lambda request: Reply(status=500 if request.path == "/fails" else 200)
        up = programs.start(
            "up", "queue_engine", "up", "--port", str(port), "--data-dir", str(directory / "data"),
            QUEUE_ENGINE_API_KEY=API_KEY, QUEUE_ENGINE_DELIVERY_SCHEDULE="0.1",
            QUEUE_ENGINE_METRICS_ENDPOINT_LIMIT="10", QUEUE_ENGINE_WORKER_GRACE_SECONDS="0",
        )  # fmt: skip
        engine = Engine(up, port, receiver)
        prometheus = Prometheus(binary, directory / "prometheus", engine.ports)
        with prometheus.running():
            for all_scraped in ("sum(up) == 4", "sum(worker_agent_up) == 2"):
                wait_until(partial(prometheus.has_data, Query(all_scraped, "")), message=f"not {all_scraped}")
            yield engine, prometheus


def test_each_query_of_the_dashboards_returns_data(observed: tuple[Engine, Prometheus]) -> None:
    engine, prometheus = observed
    empty = set(QUERIES)

    def all_have_data() -> bool:
        engine.submit(engine.working)
        empty.difference_update([name for name in empty if prometheus.has_data(QUERIES[name])])
        return not empty

    try:
        wait_until(all_have_data)
    except AssertionError:
        pytest.fail("\n".join(["no data:", *sorted(empty)]))


def test_each_metric_of_dashboards_and_rules_is_exported_and_each_rule_works(
    observed: tuple[Engine, Prometheus],
) -> None:
    _, prometheus = observed
    wait_until(
        lambda: all(rule["health"] == "ok" for group in prometheus.get("rules")["groups"] for rule in group["rules"]),
        message="a rule does not work",
    )
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
    texts = [*(query.expr for query in QUERIES.values()), *(rule["query"] for rule in rules)]
    named = {name for text in texts for name in names_in(text)}
    assert named - recorded - prometheus.values_of("__name__") == ONLY_WITH_KUBERNETES


def test_the_choices_of_the_dashboards_offer_the_endpoints(observed: tuple[Engine, Prometheus]) -> None:
    engine, prometheus = observed
    variables = [variable for dashboard in ALL for variable in dashboard.variables]
    assert [variable.name for variable in variables] == ["endpoint"]
    for variable in variables:
        assert {engine.working, engine.late} <= prometheus.values_of(variable.label, variable.selector)
