"""The commands of bulk operations, against a scripted API."""

from typing import Any

import pytest

from tests.unit.cli_api import NOW_MS, FakeApi, Script

ONE = "/v2/serverless/7"
OPERATIONS = f"{ONE}/operations"


def operation(**members: Any) -> dict[str, Any]:
    return {
        "operationId": "op1", "endpointId": 7, "action": "cancel", "filter": {"state": ["queued"]}, "dryRun": False,
        "status": "done", "progress": 1.0, "total": 9, "scanned": 9, "matched": 9, "done": 9, "skipped": 0,
        "skipReasons": {}, "failed": 0, "error": None, "startedAt": NOW_MS, "updatedAt": NOW_MS, "endedAt": NOW_MS,
    } | members  # fmt: skip


RUNNING = operation(status="running", progress=0.5, done=4, endedAt=None)


def test_tasks_that_match_are_changed_and_the_end_is_shown() -> None:
    api = FakeApi({f"POST {OPERATIONS}": RUNNING, f"GET {OPERATIONS}/op1": Script(RUNNING, operation())})
    done = api.run("tasks", "cancel", "7", "--state", "queued", "--older-than", "1h", "--yes")
    assert done.exit_code == 0, done.output
    body = api.body(0)
    assert len(body.pop("operationId")) == 32
    assert body == {
        "action": "cancel", "dryRun": False, "filter": {"state": "queued", "createdBefore": NOW_MS - 3_600_000},
    }  # fmt: skip
    assert api.calls == [f"POST {OPERATIONS}", *[f"GET {OPERATIONS}/op1"] * 2]
    assert [line.split() for line in done.stdout.splitlines() if line.startswith(("status", "done"))] == [
        ["status", "done"],
        ["done", "9"],
    ]


@pytest.mark.parametrize("action", ["cancel", "retry", "delete"])
def test_without_yes_the_tasks_are_counted_before_the_question(action: str) -> None:
    api = FakeApi({f"POST {OPERATIONS}": Script(operation(dryRun=True), operation())})
    done = api.run("tasks", action, "7", "--error-contains", "CUDA", input="y\n")
    assert f"{action.capitalize()} 9 tasks of endpoint 7?" in done.output
    assert [api.body(place)["dryRun"] for place in (0, 1)] == [True, False]
    assert [api.body(place)["action"] for place in (0, 1)] == [action] * 2
    assert api.body(0)["operationId"] != api.body(1)["operationId"]
    refused = FakeApi({f"POST {OPERATIONS}": operation(dryRun=True)})
    assert refused.run("tasks", action, "7", "--state", "failed", input="n\n").exit_code == 1
    assert refused.calls == [f"POST {OPERATIONS}"]


def test_results_of_all_tasks_that_match_are_sent_again() -> None:
    api = FakeApi({f"POST {OPERATIONS}": operation(action="redeliver")})
    done = api.run("deliveries", "redeliver", "7", "--status", "DELIVERED", "--yes")
    assert done.exit_code == 0, done.output
    assert (api.body()["action"], api.body()["filter"]) == ("redeliver", {"status": "DELIVERED"})
    order = f"POST {ONE}/tasks/a/deliveries/redeliver"
    one = FakeApi({order: {"result": "queued"}})
    assert one.run("deliveries", "redeliver", "7", "a").exit_code == 0
    assert one.calls == [order]
    assert FakeApi({}).run("deliveries", "redeliver", "7", "a", "--status", "DELIVERED").exit_code == 2


def test_a_dry_run_needs_no_answer_and_changes_nothing() -> None:
    api = FakeApi({f"POST {OPERATIONS}": operation(dryRun=True)})
    assert api.run("tasks", "delete", "7", "--state", "failed", "--dry-run").exit_code == 0
    assert [api.body()["dryRun"], len(api.calls)] == [True, 1]


def test_a_dry_run_tells_what_would_be_changed() -> None:
    api = FakeApi({f"POST {OPERATIONS}": operation(dryRun=True, done=3)})
    shown = api.run("tasks", "delete", "7", "--state", "failed", "--dry-run").stdout.splitlines()
    assert [line.split() for line in shown if line.split()[-1] == "3"] == [["would", "be", "changed", "3"]]
    assert not any(line.startswith("done") for line in shown)


def test_a_detached_operation_prints_its_id() -> None:
    api = FakeApi({f"POST {OPERATIONS}": RUNNING})
    assert api.run("tasks", "retry", "7", "--state", "failed", "--no-wait", "--yes").stdout == "op1\n"


def test_a_failed_operation_is_an_exit_status() -> None:
    api = FakeApi({f"POST {OPERATIONS}": operation(status="failed", error="the endpoint was stopped")})
    assert api.run("tasks", "retry", "7", "--state", "failed", "--yes").exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the id of a task, or at least one filter such as --state"),
        (("t1", "--state", "queued"), "--state is for several tasks"),
        (("t1", "--dry-run"), "--dry-run is for several tasks"),
        (("t1", "--older-than", "1h"), "--older-than is for several tasks"),
        (("--older-than", "soon"), "--older-than: must be like"),
        (("--older-than", "1h", "--created-before", "2h"), "--older-than cannot be used with --created-before"),
        (("--created-after", "soon"), "--created-after: must be like"),
    ],
)
def test_wrong_options_ask_nothing(arguments: tuple[str, ...], message: str) -> None:
    api = FakeApi({})
    refused = api.run("tasks", "cancel", "7", *arguments, "--yes")
    assert (refused.exit_code, api.calls) == (2, [])
    assert message in refused.stderr


def test_operations_are_listed_for_an_endpoint_and_for_all() -> None:
    page = {"items": [operation(dryRun=True), RUNNING], "page": 1, "size": 20, "total": 2, "pages": 1}
    api = FakeApi({f"GET {OPERATIONS}": page, "GET /v2/operations": page})
    for arguments in (("7",), ()):
        shown = api.run("operations", "list", *arguments).stdout.splitlines()
        assert [line.split()[:5] for line in shown[1:]] == [
            ["op1", "7", "cancel", "done", "-"],
            ["op1", "7", "cancel", "running", "4"],
        ]
        assert [line.split()[7:9] for line in shown] == [["DRY_RUN", "WOULD_CHANGE"], ["yes", "9"], ["-", "-"]]
    assert api.calls == [f"GET {OPERATIONS}?pageNumber=1&pageSize=20", "GET /v2/operations?pageNumber=1&pageSize=20"]
    assert "page 1 of 1, 2 operations" in api.run("operations", "list", terminal=True).stdout


def test_an_operation_is_waited_for_and_cancelled() -> None:
    api = FakeApi({
        f"GET {OPERATIONS}/op1": Script(RUNNING, operation()),
        f"POST {OPERATIONS}/op1/cancel": operation(status="cancelled"),
    })  # fmt: skip
    assert "running" not in api.run("operations", "get", "7", "op1", "--wait").stdout
    assert api.calls == [f"GET {OPERATIONS}/op1"] * 2
    assert "cancelled" in api.run("operations", "cancel", "7", "op1").stdout
