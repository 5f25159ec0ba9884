"""Which ports a task may name, and where it is sent."""

import pytest

from queue_engine.domain.tasks import ClaimedTask, Lease, TaskSpec
from worker_agent.container import ContainerAddress
from worker_agent.requests import cancel_request_for, request_for

METRICS_PORT = 9100


def address(
    url: str = "http://127.0.0.1", *, exposed_port: int | None = None, own_network: bool = False
) -> ContainerAddress:
    refused = frozenset({METRICS_PORT})
    return ContainerAddress.parse(url, exposed_port=exposed_port, refused_ports=refused, own_network=own_network)


def task(worker_port: int) -> ClaimedTask:
    return ClaimedTask(Lease("1", "task", "token"), 1, 1, 60.0, TaskSpec(worker_port, "/run"), b"{}")


@pytest.mark.parametrize(
    ("given", "worker_port", "port"),
    [
        (address("http://127.0.0.1:7000"), 8000, 7000),
        (address("http://127.0.0.1:7000"), 22, 7000),
        (address("http://127.0.0.1:7000", exposed_port=8000), 8000, 7000),
        (address("http://127.0.0.1:7000", exposed_port=8000), 7000, None),
        (address(exposed_port=8000), 8000, 8000),
        (address(exposed_port=8000), 6379, None),
        (address(), 6379, None),
        (address(own_network=True), 6379, 6379),
        (address(own_network=True, exposed_port=8000), 6379, 6379),
        (address("http://127.0.0.1:7000", own_network=True), 6379, 6379),
        (address(own_network=True), METRICS_PORT, None),
        (address("http://127.0.0.1:7000", own_network=True, exposed_port=8000), METRICS_PORT, None),
    ],
)
def test_a_task_is_sent_to_a_port_of_its_container_only(
    given: ContainerAddress, worker_port: int, port: int | None
) -> None:
    request = request_for(task(worker_port), given)
    cancel = cancel_request_for(task(worker_port), "/cancel", given)
    assert (request.port if request else None) == port
    assert (cancel.port if cancel else None) == port


@pytest.mark.parametrize(
    ("given", "worker_port", "text"),
    [
        (
            address("http://127.0.0.1:7000", exposed_port=8000),
            6379,
            "workerPort 6379 is not exposed by the worker: tasks may name 8000 only",
        ),
        (
            address(own_network=True),
            METRICS_PORT,
            "workerPort 9100 is the agent's own port; a task may name every other one",
        ),
    ],
)
def test_a_refusal_says_which_port_a_task_may_name(given: ContainerAddress, worker_port: int, text: str) -> None:
    assert given.refusal(worker_port) == text


def test_an_address_is_shown_as_it_is_connected_to() -> None:
    assert str(address("http://[::1]:7000")) == "[::1]:7000"
    assert str(address(exposed_port=8000)) == "127.0.0.1:8000"
