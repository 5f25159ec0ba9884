"""`queue-engine up --backend docker` while the container engine is away, with real agents in containers."""

import signal
from pathlib import Path

import pytest

from queue_engine.backends.docker.names import MANAGED_BY, MANAGER
from queue_engine.local.up import EXIT_LEFT
from tests.clusters.cases import RecordCase
from tests.clusters.engine import ContainerEngine
from tests.clusters.python_image import AGENT_IMAGE
from tests.clusters.test_docker_up import create, logs, network_of, submit, wait_until_running
from tests.integration.test_up import Up
from tests.waiting import wait_until

END_SECONDS = 400
"""Limit of the end of an `up` whose engine does not respond: longer than all limits of the controller."""


def containers(engine: ContainerEngine) -> set[str]:
    return {str(one["Id"]) for one in engine.containers(f"{MANAGED_BY}={MANAGER}")}


@pytest.mark.parametrize(
    ("away", "reason"),
    [
        pytest.param("killed", "cannot be reached: ", id="killed"),
        pytest.param("suspended", "does not respond", id="suspended"),
    ],
)
def test_ctrl_c_without_the_engine_says_what_is_left_and_the_next_up_removes_it(
    with_agent: ContainerEngine, tmp_path: Path, record_case: RecordCase, away: str, reason: str
) -> None:
    engine = with_agent
    if engine.given:
        pytest.skip("an engine that was given is not stopped")
    up = Up(
        tmp_path,
        "--backend",
        "docker",
        DOCKER_HOST=engine.url,
        QUEUE_ENGINE_AGENT_IMAGE=AGENT_IMAGE,
        QUEUE_ENGINE_LEADER_LEASE_SECONDS="3",
    )
    try:
        up.wait_until_up()
        first = create(up, workers=1)
        wait_until_running(up, first, 1)
        pair = containers(engine)
        assert len(pair) == 2
        if away == "killed":
            engine.stop()
        else:
            engine.suspend()
        if away == "killed":  # an engine that is silent is noticed with the next list, or at the end of a call
            second = create(up, workers=1)
            endpoint = f"/v2/serverless/{second}"
            wait_until(lambda: reason in str(up.get(endpoint)["error"]), message=logs(up))
            submit(up, second, "t1", {"text": "hello"})
            assert reason in up.get(f"{endpoint}/tasks/t1")["waiting"]["message"]
        up.program.signal(signal.SIGINT)
        assert up.program.wait(END_SECONDS) == EXIT_LEFT, up.program.output()
        end = up.program.output().partition("\nstopping")[2]
        assert "warning: containers of workers may be left: the container engine did not end them" in end
        assert "To remove them, start `up` again while the container engine responds, and end it." in end
        assert "docker ps --all --filter label=queue-engine/worker" in end
        assert reason in end.partition(" stays: ")[2]  # the network
        assert up.processes() == []
        engine.start()
        engine.resume()
        assert containers(engine) >= pair
        up.start()
        up.wait_until_up()
        wait_until_running(up, first, 1)
        up.program.signal(signal.SIGINT)
        assert up.program.wait(END_SECONDS) == 0, up.program.output()
        assert containers(engine) == set(), logs(up)
        assert network_of(up) not in engine.objects()["networks"]
        seen = end.partition("warning: ")[2].partition(" (logs")[0]
        record_case(f"Ctrl-C of up, engine {away}", seen=seen, recovery="the next `up` removes all at its end")
    finally:
        engine.start()
        engine.resume()
        up.end()
