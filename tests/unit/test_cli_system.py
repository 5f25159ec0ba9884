"""`queue-engine system`."""

from typing import Any

from tests.unit.cli_api import NOW_MS, FakeApi


def answer(**changes: Any) -> dict[str, Any]:
    nothing = {"version": "1", "asOf": NOW_MS, "warnings": [], "use": None, "store": None, "processes": None}
    return {"GET /v2/system": nothing | changes}


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
    text = FakeApi(answer(store=[store], processes=[process])).run("system").stdout
    assert "nothing is wrong" in text
    assert "valkey 8.1  5           -      0.2         9        yes      1" in text
    assert "controller  one   7" in text
    assert text.rstrip().endswith("yes")
