"""The log lines by which an operator follows one task through all processes."""

import json
from typing import Any

from queue_engine.store.store import Store
from tests.integration.parts import HttpServer, Program, Programs, Reply, ended, new_endpoint, submit
from tests.waiting import wait_until

SECRET_WORDS = "the customer's own words"


def lines_of(program: Program) -> list[dict[str, Any]]:
    """Every line that a process has logged; all of them are JSON objects."""
    return [json.loads(line) for line in program.output().splitlines()]


def lines_saying(program: Program, message: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(program) if line["message"] == message]


async def test_a_failed_attempts_line_names_worker_and_cause_but_not_the_containers_text(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    container.answer = lambda request: Reply(status=500, body=b"cannot work on " + request.body)
    endpoint_id = await new_endpoint(store)
    agent = programs.agent(endpoint_id, container.url, WORKER_AGENT_WORKER_ID="worker-1")
    await submit(store, endpoint_id, "one", input=json.dumps(SECRET_WORDS).encode())
    assert SECRET_WORDS in ((await ended(store, endpoint_id, "one")).error or "")
    [line] = wait_until(lambda: lines_saying(agent, "attempt ended"), 10)
    assert (line["endpoint"], line["task"], line["worker"]) == (endpoint_id, "one", "worker-1")
    assert (line["attempt"], line["outcome"]) == (1, "error")
    assert line["error"] == "the worker's container answered 500"
    assert SECRET_WORDS not in agent.output()
