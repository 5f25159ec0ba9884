"""The page with the metrics of all agents of a controller, and the server of such pages."""

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families

from queue_engine.backends.base import AgentTarget
from queue_engine.controller import agent_metrics
from queue_engine.controller.agent_metrics import AgentMetrics, merged
from queue_engine.net.listening import listen
from queue_engine.net.private_sockets import listen_privately
from queue_engine.observability import exporter
from queue_engine.observability.exporter import Page, own_metrics, port_of, serve_pages
from tests.promtool import check, promtool_binary
from tests.waiting import wait_until

NOWHERE = Path("/nonexistent/socket")
FIRST = AgentTarget("1", "1-a", NOWHERE)
SECOND = AgentTarget("22", "22-b.c_d", NOWHERE)


def agents_page(number: float) -> str:
    registry = CollectorRegistry()
    Gauge("worker_agent_running_tasks", "Tasks", registry=registry).set(number)
    Counter("queue_engine_redis_errors", "Failed {calls}", ["op"], registry=registry).labels('a "quoted" {op}').inc()
    Histogram("queue_engine_task_run_seconds", "Runs", registry=registry, buckets=(1, 5)).observe(2)
    return own_metrics(registry)["/metrics"]().decode()


def samples_of(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = list(text_string_to_metric_families(page.decode()))
    assert len({family.name for family in families}) == len(families), "a family is in several pieces"
    return {
        (one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples
    }  # fmt: skip


def test_each_sample_gets_the_labels_of_its_agent_and_each_family_is_in_one_piece() -> None:
    page = merged([(FIRST, agents_page(2)), (SECOND, agents_page(3))])
    samples = samples_of(page)
    for target, number in ((FIRST, 2), (SECOND, 3)):
        ids = {("endpoint", target.endpoint_id), ("worker", target.worker_id)}
        assert samples[("worker_agent_up", frozenset(ids))] == 1
        assert samples[("worker_agent_running_tasks", frozenset(ids))] == number
        assert samples[("queue_engine_redis_errors_total", frozenset(ids | {("op", 'a "quoted" {op}')}))] == 1
        assert samples[("queue_engine_task_run_seconds_bucket", frozenset(ids | {("le", "5.0")}))] == 1
    assert page.count(b"# TYPE queue_engine_task_run_seconds histogram") == 1


def test_an_agent_that_does_not_respond_is_down_and_has_no_other_series() -> None:
    samples = samples_of(merged([(FIRST, None), (SECOND, agents_page(3))]))
    assert samples[("worker_agent_up", frozenset({("endpoint", "1"), ("worker", "1-a")}))] == 0
    assert {dict(labels)["worker"] for name, labels in samples if name != "worker_agent_up"} == {"22-b.c_d"}


def test_what_is_no_metric_does_not_spoil_the_page() -> None:
    samples = samples_of(merged([(FIRST, "<html>\nsome text\n{}\n\x00"), (SECOND, agents_page(3))]))
    assert {name for name, labels in samples if ("worker", "1-a") in labels} == {"worker_agent_up"}


def test_the_page_without_agents_is_empty_but_well_formed() -> None:
    assert samples_of(AgentMetrics().page()) == {}
    if (promtool := promtool_binary()) is not None:
        check(promtool, "metrics", given=AgentMetrics().page().decode())


def served(pages: Mapping[str, Page]) -> int:
    """Serve the pages and return the port."""
    listener = listen("127.0.0.1", 0)
    serve_pages(listener, pages)
    port = port_of(listener)
    assert port is not None
    return port


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[list[Path]]:
    """Sockets on which connections are accepted and nothing is sent, as by agents that hang."""
    with ExitStack() as listeners:
        addresses = []
        for _ in range(100):
            listener, address = listen_privately(tmp_path)
            listeners.enter_context(listener)
            addresses.append(address)
        yield addresses


def test_a_hundred_agents_that_hang_hold_the_page_up_for_a_bounded_time(
    silent: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_metrics, "AGENT_SECONDS", 0.5)
    monkeypatch.setattr(agent_metrics, "ALL_SECONDS", 0.7)
    listener, lively = listen_privately(tmp_path)
    serve_pages(listener, {"/metrics": lambda: agents_page(1).encode()})
    gathered = AgentMetrics()
    targets = [AgentTarget("1", f"1-{number}", address) for number, address in enumerate(silent)]
    gathered.targets = lambda: [AgentTarget("2", "2-lively", lively), *targets]
    began = time.monotonic()
    samples = samples_of(gathered.page())
    assert time.monotonic() - began < 10
    up = {dict(labels)["worker"]: value for (name, labels), value in samples.items() if name == "worker_agent_up"}
    assert len(up) == 101
    assert {worker for worker, value in up.items() if value} == {"2-lively"}


def test_a_server_of_pages_bounds_its_requests_and_survives_a_page_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "MAX_REQUESTS", 2)
    waiting, proceed = threading.Semaphore(0), threading.Event()

    def slow() -> bytes:
        waiting.release()
        proceed.wait(30)
        return b"slow 1\n"

    def broken() -> bytes:
        raise LookupError("a mistake")

    pages: dict[str, Page] = {"/metrics": lambda: b"fine 1\n", "/slow": slow, "/broken": broken}
    base = f"http://127.0.0.1:{served(pages)}"
    with httpx.Client(base_url=base, trust_env=False, timeout=30) as client:
        assert client.get("/broken").status_code == 500
        assert client.get("/nothing").status_code == 404
        assert client.get("/metrics?name=x").text == "fine 1\n"
        assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")
        slow_ones = [threading.Thread(target=httpx.get, args=(f"{base}/slow",)) for _ in range(2)]
        for one in slow_ones:
            one.start()
            assert waiting.acquire(timeout=30)
        with pytest.raises(httpx.TransportError):
            client.get("/metrics")
        proceed.set()
        for one in slow_ones:
            one.join(30)


def test_a_port_that_is_taken_is_an_error() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_port_of_ipv6_can_be_listened_on() -> None:
    try:
        with listen("::1", 0) as listener:
            assert listener.family == socket.AF_INET6
    except OSError:
        pytest.skip("no IPv6 here")


def test_a_page_of_metrics_responds_to_head_as_to_get_without_the_body() -> None:
    base = f"http://127.0.0.1:{served({'/metrics': lambda: b'fine 1'})}"
    with httpx.Client(base_url=base, trust_env=False, timeout=30) as client:
        head, full = client.head("/metrics"), client.get("/metrics")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(full.content)) == "6"
        assert head.headers["Content-Type"] == full.headers["Content-Type"]
        assert client.head("/other").status_code == 404


def test_a_client_that_sends_its_request_byte_by_byte_is_closed_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporter, "REQUEST_SECONDS", 0.2)
    port = served({"/metrics": lambda: b"fine 1"})
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setblocking(False)
        client.send(b"GET /metrics HTTP/1.1\r\nX: ")

        def is_closed() -> bool:
            try:
                client.send(b"a")
                return client.recv(1) == b""
            except BlockingIOError:
                return False
            except ConnectionError:
                return True

        wait_until(is_closed, 8, "the connection is kept open")
