"""`queue-engine system`."""

from typing import Any

from tests.unit.cli_api import NOW_MS, FakeApi, endpoint, failure


def answer(**changes: Any) -> dict[str, Any]:
    nothing = {"version": "1", "asOf": NOW_MS, "warnings": [], "use": None, "store": None, "processes": None}
    return {"GET /v2/system": nothing | changes, "GET /v2/serverless": []}


def test_a_tenant_sees_warnings_and_its_use() -> None:
    use = [
        {"limit": "workers", "text": "workers of all endpoints", "used": 3, "value": 1000},
        {"limit": "waitingTasks", "text": "waiting tasks", "used": 7, "value": 0},
    ]
    warnings = [{"code": "no_leader", "level": "bad", "message": "no controller leads"}]
    lines = FakeApi(answer(use=use, warnings=warnings)).run("system").stdout.splitlines()
    assert lines == [
        "bad: no controller leads",
        "USE                       USED  LIMIT",
        "workers of all endpoints  3     1000",
        "waiting tasks             7     -",
    ]


def test_an_operator_sees_store_and_processes() -> None:
    store: dict[str, Any] = {
        "address": None, "server": "valkey 8.1", "usedBytes": 5, "maxBytes": None, "latencyMs": 0.2, "clients": 9,
        "appendsToFile": True, "replicas": [{}],
    }  # fmt: skip
    process = {
        "role": "controller", "host": "one", "pid": 7, "version": "1", "startedAt": NOW_MS, "lastHeartbeatAt": NOW_MS,
        "leads": True,
    }  # fmt: skip
    answers = answer(store=[store], processes=[process])
    answers["GET /v2/serverless"] = failure(403, "X-Api-Key: the role operator does not allow this")
    result = FakeApi(answers).run("system")
    assert result.exit_code == 0
    text = result.stdout
    assert text.startswith("the installation is sound\nSERVER")
    assert "valkey 8.1  5           -      0.2         9        yes      1" in text
    assert "controller  one   7" in text
    assert text.rstrip().endswith("yes")


def test_endpoints_whose_tasks_cannot_run_are_named() -> None:
    endpoints = [
        endpoint(),
        endpoint(id="8", name="broken", status="FAILED", runningWorkers=0, queuedTasks=1),
        endpoint(id="9", name="empty", totalWorkers=0, runningWorkers=0, queuedTasks=2),
        endpoint(id="10", name="slow", status="INITIALIZING", runningWorkers=0),
        endpoint(id="11", name="off", status="STOPPED", runningWorkers=0),
        endpoint(id="12", name="idle", totalWorkers=0, runningWorkers=0, queuedTasks=0),
        endpoint(id="13", name="starts", status="INITIALIZING", runningWorkers=0, queuedTasks=0),
    ]
    details = {"8": "container exited with status 3", "9": None, "10": "the image is missing\x1b[2J"}
    answers = answer() | {"GET /v2/serverless": endpoints}
    answers |= {f"GET /v2/serverless/{name}": endpoint(error=error) for name, error in details.items()}
    assert FakeApi(answers).run("system").stdout.splitlines() == [
        "the installation is sound",
        "3 endpoints need attention (`queue-engine endpoints list` shows all):",
        "  8 (broken): no worker comes up, 1 task waits: container exited with status 3",
        "  9 (empty): it has 0 workers, and 2 tasks wait",
        "  10 (slow): none of 2 workers runs, 3 tasks wait: the image is missing\\x1b[2J",
    ]


def test_an_endpoint_that_was_deleted_since_is_named_without_a_reason() -> None:
    answers = answer() | {"GET /v2/serverless": [endpoint(status="FAILED", runningWorkers=0)]}
    answers["GET /v2/serverless/7"] = failure(404, "no such endpoint")
    lines = FakeApi(answers).run("system").stdout.splitlines()
    assert lines[1:] == [
        "1 endpoint needs attention (`queue-engine endpoints list` shows all):",
        "  7 (echo): no worker comes up, 3 tasks wait",
    ]


def test_at_most_seven_endpoints_are_named_and_read() -> None:
    answers = answer() | {"GET /v2/serverless": [endpoint(id=str(n), status="FAILED") for n in range(10, 20)]}
    answers |= {f"GET /v2/serverless/{n}": endpoint(error=None) for n in range(10, 17)}
    lines = FakeApi(answers).run("system").stdout.splitlines()
    assert lines[1].startswith("10 endpoints need attention")
    assert lines[-1] == "  and 3 more"
    assert len(lines) == 2 + 7 + 1
