"""The command line for people: what each command asks of the API, and what it prints."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from queue_engine.cli.command import PATIENCE_SECONDS
from tests.unit.cli_api import NOW_MS, FakeApi, Script, endpoint, failure, raw, task

ONE = "/v2/serverless/7"
TASKS = f"{ONE}/tasks"
TASK = f"GET {TASKS}/t1"
NAMED = "GET /v2/serverless"
LOGS = f"GET {ONE}/workers/w1/logs"
RUNNING = task(status="PROCESSING", state="running", durationMs=None, finishedAt=None)


@pytest.mark.parametrize("command", [("events",), ("tasks", "wait")])
def test_the_help_of_a_command_that_waits_names_how_long_it_waits_for_the_api(command: tuple[str, ...]) -> None:
    shown = " ".join(FakeApi({}).run(*command, "--help").output.replace("│", " ").split())
    assert f"away for {PATIENCE_SECONDS:g} seconds" in shown


# Endpoints


def test_create_sends_what_the_options_say() -> None:
    api = FakeApi({"POST /v2/serverless": endpoint(), NAMED: [endpoint()]})
    result = api.run(
        "endpoints", "create", "--name", "echo", "--image", "python:3.11", "--command", "python serve.py",
        "--resource", "here:CPU", "--resource", "us-1:NVIDIA_H100_80G:4", "--port", "8000", "--env", "A=b=c",
        "--env", "MINE", "--workers", "3", "--volume-gb", "50", "--concurrency", "2", "--credential", "9",
        "--min-vram-gb", "24", "--execution-timeout-seconds", "60", "--webhook", "http://w.example/",
        env={"MINE": "from here"},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert api.body(0) == {
        "name": "echo",
        "image": "python:3.11",
        "initializationCommand": "python serve.py",
        "resources": [
            {"region": "here", "gpuType": "CPU", "gpuCount": 1},
            {"region": "us-1", "gpuType": "NVIDIA_H100_80G", "gpuCount": 4},
        ],
        "expose": {"protocol": "http", "port": 8000},
        "environmentVars": [{"key": "A", "value": "b=c"}, {"key": "MINE", "value": "from here"}],
        "workers": 3,
        "containerVolumeInGb": 50,
        "concurrency": 2,
        "containerRegistryAuthId": 9,
        "minSingleCardVramInGb": 24,
        "executionTimeoutSeconds": 60,
        "webhook": "http://w.example/",
        "serviceMode": "QUEUE",
    }
    assert "id                   7\n" in result.stdout


def test_create_takes_a_file_and_options_go_before_it(tmp_path: Path) -> None:
    file = tmp_path / "endpoint.json"
    file.write_text(json.dumps({"name": "a", "image": "i", "workers": 5, "serviceMode": "ALB", "ours": None}))
    api = FakeApi({"POST /v2/serverless": endpoint(), NAMED: [endpoint()]})
    api.run("endpoints", "create", "--file", str(file), "--name", "b")
    assert api.body(0) == {
        "name": "b", "image": "i", "workers": 5, "serviceMode": "ALB", "containerVolumeInGb": 20, "ours": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("others", "warning"),
    [
        ((), ""),
        ((3,), "warning: another endpoint, 3, has the name echo: name this one by its id, 7\n"),
        ((5, 3), "warning: the endpoints 5, 3 have the name echo: name this one by its id, 7\n"),
    ],
)
def test_create_warns_of_others_with_the_same_name(others: tuple[int, ...], warning: str) -> None:
    named = [endpoint(), endpoint(id="8", name="echo-2"), *(endpoint(id=str(other)) for other in others)]
    api = FakeApi({"POST /v2/serverless": endpoint(), NAMED: named})
    result = api.run("endpoints", "create", "--name", "echo", "--workers", "0", "--json")
    assert (result.exit_code, json.loads(result.stdout), result.stderr) == (0, endpoint(), warning)
    assert api.calls == ["POST /v2/serverless", "GET /v2/serverless?name=echo"]


@pytest.mark.parametrize(
    ("options", "templates", "warns"),
    [
        ((), ["example-worker", "own"], True),
        (("--workers", "3"), ["example-worker", "own"], True),
        (("--workers", "0"), ["example-worker", "own"], False),
        (("--command", "python serve.py"), ["example-worker", "own"], False),
        ((), ["own"], False),
        ((), None, False),
    ],
)
def test_create_warns_of_workers_without_a_command_where_they_are_processes(
    options: tuple[str, ...], templates: list[str] | None, warns: bool
) -> None:
    found = failure(403, "no") if templates is None else [{"id": one} for one in templates]
    api = FakeApi({"POST /v2/serverless": endpoint(), NAMED: [endpoint()], "GET /v2/templates": found})
    result = api.run("endpoints", "create", "--name", "echo", "--image", "i", *options)
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: workers run as processes here and no image is started") is warns
    assert ("queue-engine endpoints update 7 --command" in result.stderr) is warns


def test_an_endpoint_is_created_although_others_of_its_name_cannot_be_looked_up() -> None:
    api = FakeApi({"POST /v2/serverless": endpoint(), NAMED: failure(503, "away")})
    result = api.run("endpoints", "create", "--name", "echo", "--workers", "0")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resource", "here"), "--resource here: must be REGION:GPU"),
        (("--resource", "here:CPU:many"), "--resource here:CPU:many: must be"),
        (("--env", "NOT_SET_ANYWHERE"), "--env NOT_SET_ANYWHERE: has no value"),
        (("--file", "/nowhere/at.all"), "--file /nowhere/at.all: cannot be read: No such file"),
        (("--file", "pyproject.toml"), "--file pyproject.toml: is not JSON"),
    ],
)
def test_create_names_a_wrong_option(options: tuple[str, ...], message: str) -> None:
    api = FakeApi({})
    result = api.run("endpoints", "create", *options)
    assert (result.exit_code, api.requests) == (2, [])
    assert message in result.stderr


def test_update_keeps_what_is_not_given() -> None:
    api = FakeApi({f"GET {ONE}": endpoint(totalWorkers=2), f"PATCH {ONE}": endpoint()})
    api.run("endpoints", "update", "7", "--concurrency", "4", "--clear", "webhook", "--port", "81")
    assert api.body() == {
        "concurrency": 4,
        "webhook": None,
        "expose": {"protocol": "HTTP", "port": 81},
    }


def test_update_sends_only_what_is_given() -> None:
    api = FakeApi({f"PATCH {ONE}": endpoint()})
    api.run("endpoints", "update", "7", "--workers", "0")
    assert (api.calls, api.body()) == ([f"PATCH {ONE}"], {"workers": 0})


def test_update_cannot_change_what_the_api_does_not() -> None:
    assert FakeApi({}).run("endpoints", "update", "7", "--image", "other").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "call", "says"),
    [
        (("start", "7"), f"POST {ONE}/start", "endpoint 7: starting\n"),
        (("stop", "7"), f"POST {ONE}/stop", "endpoint 7: stopping\n"),
        (("pause", "7"), f"POST {ONE}/pause", "endpoint 7: paused\n"),
        (("resume", "7"), f"POST {ONE}/resume", "endpoint 7: resumed\n"),
        (("scale", "7", "4"), f"PUT {ONE}/workers?count=4", "endpoint 7: 4 workers desired\n"),
        (("scale", "7", "1"), f"PUT {ONE}/workers?count=1", "endpoint 7: 1 worker desired\n"),
    ],
)
def test_orders_are_passed_on(arguments: tuple[str, ...], call: str, says: str) -> None:
    api = FakeApi({call.partition("?")[0]: True})
    result = api.run("endpoints", *arguments)
    assert (result.exit_code, result.stdout, api.calls) == (0, says, [call])
    assert api.run("endpoints", *arguments, "--json").stdout == "true\n"


@pytest.mark.parametrize(
    ("waiting", "says"),
    [
        (0, "endpoint 7: deleting\n"),
        (None, "endpoint 7: deleting\n"),
        (1, "endpoint 7: deleting\n1 result is sent or given up before the endpoint is removed: after about 22 h of "),
        (
            6,
            "endpoint 7: deleting\n6 results are sent or given up before the endpoint is removed: after about 22 h of ",
        ),
    ],
)
def test_delete_says_how_many_results_wait_for_their_delivery(waiting: int | None, says: str) -> None:
    counts = {"total": 9} if waiting is None else {"total": 9, "waitingDeliveries": waiting}
    api = FakeApi({f"GET {ONE}/tasks/count": counts, f"DELETE {ONE}": True})
    shown = api.run("endpoints", "delete", "7", "--yes").stdout
    assert shown.startswith(says)
    assert api.calls == [f"GET {ONE}/tasks/count", f"DELETE {ONE}"]
    assert ("3 days when" in shown) is bool(waiting)
    assert api.run("endpoints", "delete", "7", "--yes", "--json").stdout == "true\n"


def test_a_rotated_secret_is_shown_with_the_end_of_the_replaced_one() -> None:
    api = FakeApi({f"POST {ONE}/webhook-secret/rotate": {"secret": "whsec_QUJD", "replacedSecretEndsAt": NOW_MS}})
    result = api.run("endpoints", "rotate-secret", "7")
    assert (result.exit_code, api.calls) == (0, [f"POST {ONE}/webhook-secret/rotate"])
    assert result.stdout == "secret                whsec_QUJD\nreplacedSecretEndsAt  2025-11-24T17:00:00.000+01:00\n"


@pytest.mark.parametrize(("typed", "deleted"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_delete_asks_first(typed: str, deleted: bool) -> None:
    api = FakeApi({f"GET {ONE}": endpoint(), f"GET {ONE}/tasks/count": {}, f"DELETE {ONE}": True})
    result = api.run("endpoints", "delete", "7", input=typed)
    assert "Delete endpoint 7 (echo, 3 tasks queued)? [y/N]" in result.stderr
    assert (f"DELETE {ONE}" in api.calls) is deleted
    assert result.exit_code == (0 if deleted else 1)


@pytest.mark.parametrize("what", [("endpoints", "delete", "7"), ("tasks", "delete", "7", "t1")])
def test_a_command_that_asks_names_the_option_when_standard_input_is_at_its_end(what: tuple[str, ...]) -> None:
    api = FakeApi({f"GET {ONE}": endpoint()})
    result = api.run(*what, input="")
    assert result.exit_code == 2
    assert result.stderr.endswith("\nerror: standard input is not a terminal and has no response: use --yes\n")
    assert [call for call in api.calls if call.startswith("DELETE")] == []


@pytest.mark.parametrize(("group", "path"), [(("endpoints", "list"), ""), (("workers", "list", "7"), "/7/workers")])
def test_lists_can_be_narrowed_by_status(group: tuple[str, ...], path: str) -> None:
    api = FakeApi({f"GET /v2/serverless{path}": []})
    api.run(*group, "--status", "running", "--status", "FAILED")
    assert api.calls == [f"GET /v2/serverless{path}?statusList=running%2CFAILED"]


# Tasks


def test_submit_prints_the_id_alone() -> None:
    api = FakeApi({f"GET {ONE}": endpoint(), f"POST {TASKS}": {"taskId": "t1"}})
    result = api.run("tasks", "submit", "7", "--path", "/run", "--input", '{"a": 1}')
    assert result.stdout == "t1\n"
    assert api.body() == {"processUri": "/run", "workerPort": 8000, "input": {"a": 1}}


def test_the_webhooks_key_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a key\n")
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    api.run(
        "tasks", "submit", "7", "--port", "1", "--input", "1",
        env={"QUEUE_ENGINE_WEBHOOK_AUTH_KEY_FILE": str(tmp_path / "key")},
    )  # fmt: skip
    assert api.body()["webhookAuthKey"] == "a key"


def test_submit_sends_everything_and_the_input_as_it_is() -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "mine"}})
    given = '{"n": 1.00000000000000000001,  "n": [123456789012345678901234567890]}'
    api.run(
        "tasks", "submit", "7", "--input", given, "--port", "9", "--task-id", "mine", "--header", "X-A: b:c",
        "--header", "X-B:", "--webhook", "http://h.example/", "--tag", "a", "--tag", "b:c", "--metadata", "order=7=x",
        env={"QUEUE_ENGINE_WEBHOOK_AUTH_KEY": "a key"},
    )  # fmt: skip
    assert given.encode() in api.requests[-1].content
    body = api.body()
    del body["input"]
    assert body == {
        "taskId": "mine", "workerPort": 9, "processUri": "/", "webhook": "http://h.example/",
        "webhookAuthKey": "a key", "headers": {"X-A": "b:c", "X-B": ""},
        "tags": ["a", "b:c"], "metadata": {"order": "7=x"},
    }  # fmt: skip


def test_a_task_is_submitted_with_its_priority_and_key() -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    options = ("--priority", "high", "--fairness-key", "acme")
    api.run("tasks", "submit", "7", "--port", "1", "--path", "/", "--input", "1", *options)
    assert api.body() == {
        "processUri": "/", "workerPort": 1, "input": 1, "priority": "high", "fairnessKey": "acme"
    }  # fmt: skip


def test_the_settings_of_lanes_are_options_of_an_endpoint() -> None:
    api = FakeApi({f"PATCH {ONE}": endpoint()})
    api.run("endpoints", "update", "7", "--max-concurrency-per-key", "2", "--default-priority", "low")
    assert api.body() == {"maxConcurrencyPerKey": 2, "defaultPriority": "low"}


def test_submit_reads_its_input_from_a_file_or_a_pipe(tmp_path: Path) -> None:
    file = tmp_path / "input.json"
    file.write_text('"grüße"')
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    api.run("tasks", "submit", "7", "--port", "1", "--input-file", str(file))
    api.run("tasks", "submit", "7", "--port", "1", "--input-file", "-", input="[1]\n")
    api.run("tasks", "submit", "7", "--port", "1", "--input", f"@{file}")
    api.run("tasks", "submit", "7", "--port", "1", "--input", "-", input="[2]\n")
    api.run("tasks", "submit", "7", "--port", "1", "--input", "@-", input="[3]\n")
    assert [api.body(index)["input"] for index in range(5)] == ["grüße", [1], "grüße", [2], [3]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the input is not JSON"),
        (b'{"a": 1,}', "the input is not JSON"),
        (b'{"a": NaN}', "the input is not JSON: NaN"),
        ("[1]".encode("utf-16"), "the input is not JSON: it must be in UTF-8"),
        (b"\xef\xbb\xbf[1]", "the input is not JSON"),
        (b'"' + b"x" * 2000 + b'"', "is longer than 2000 bytes"),
        (b'"' + b"x" * 1980 + b'"', "the request is longer than 2000 bytes"),
        (b"[" * 1500, "the input is not JSON"),
    ],
)
@pytest.mark.parametrize("option", ["--input", "--input-file"])
def test_an_input_that_cannot_be_sent_is_named_and_nothing_is_sent(
    tmp_path: Path, option: str, content: bytes, message: str
) -> None:
    (tmp_path / "input").write_bytes(content)
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    named = f"{'@' if option == '--input' else ''}{tmp_path / 'input'}"
    result = api.run("tasks", "submit", "7", "--port", "1", "--max-body-bytes", "2000", option, named)
    assert (result.exit_code, api.requests) == (2, [])
    source = "" if message.startswith("the request") else f"{option} {named}: "
    assert result.stderr.startswith(f"error: {source}{message}")


@pytest.mark.parametrize(
    "command",
    [
        ("tasks", "submit", "7", "--port", "1", "--input", "@"),
        ("tasks", "submit", "7", "--port", "1", "--input-file", ""),
        ("endpoints", "create", "--file", ""),
        ("endpoints", "update", "7", "--file", ""),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_option(tmp_path: Path, command: tuple[str, ...]) -> None:
    *before, option, at = command
    for name, reason in (("none", "No such file or directory"), (".", "Is a directory")):
        file = str(tmp_path / name)
        given = (option, at + file) if at else (option, file)
        result = FakeApi({}).run(*before, *given)
        assert (result.exit_code, result.stderr) == (2, f"error: {' '.join(given)}: cannot be read: {reason}\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff{}", "is not JSON: it must be in UTF-8"),
        (b"{,}", "is not JSON: Expecting property name"),
        (b"[]", "must be a JSON object"),
    ],
)
def test_a_file_of_fields_that_is_no_object_is_named(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "fields.json"
    file.write_bytes(content)
    result = FakeApi({}).run("endpoints", "create", "--file", str(file))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: --file {file}: {reason}")


def test_an_endless_input_is_not_read_to_its_end() -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    result = api.run("tasks", "submit", "7", "--port", "1", "--input", "@/dev/zero")
    assert (result.exit_code, api.requests) == (2, [])
    assert "--input @/dev/zero: is longer than 1048576 bytes" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --input or --input-file"),
        (("--input", "1", "--input-file", "-"), "give either --input or --input-file"),
        (("--input", "{"), "the input is not JSON"),
        (("--input", '1, "taskId": "x"'), "the input is not JSON"),
        (("--input", "[" * 100_000), "the input is not JSON"),
        (("--input-file", "/nowhere/at.all"), "--input-file /nowhere/at.all: cannot be read: No such file"),
        (("--input", "@/nowhere/at.all"), "--input @/nowhere/at.all: cannot be read: No such file"),
        (("--input", "@/"), "--input @/: cannot be read: Is a directory"),
        (("--input", "@"), "--input @: cannot be read: Is a directory"),
        (("--input", "1", "--header", "none"), "--header: must be NAME:VALUE"),
        (("--input", "1", "--metadata", "none"), "--metadata: must be NAME=TEXT"),
        (("--input", "1", "--metadata", "A=1", "--metadata", "A=2"), "--metadata: A is given twice"),
        (("--input", "1", "--header", "A:1", "--header", "A:2"), "--header: A is given twice"),
    ],
)
def test_submit_names_a_wrong_option(options: tuple[str, ...], message: str) -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    result = api.run("tasks", "submit", "7", "--port", "1", *options)
    assert (result.exit_code, api.requests) == (2, [])
    assert message in result.stderr


def test_submit_needs_a_port_when_none_is_exposed() -> None:
    result = FakeApi({f"GET {ONE}": endpoint(expose=None)}).run("tasks", "submit", "7", "--input", "1")
    assert (result.exit_code, result.stderr) == (
        2,
        "error: --port: is required, because the endpoint exposes no port\n",
    )


def test_waiting_is_left_to_the_api() -> None:
    api = FakeApi({})

    def wait(request: httpx.Request) -> dict[str, Any]:
        api.time += int(request.url.params["wait"])
        return task() if api.time > NOW_MS / 1000 + 25 else RUNNING

    api.answers = {TASK: wait}
    assert api.run("tasks", "wait", "7", "t1").exit_code == 0
    assert [request.url.params["wait"] for request in api.requests] == ["0", "10", "10", "10"]
    assert api.pauses == []


def test_waiting_for_less_than_a_second_is_left_to_pauses() -> None:
    api = FakeApi({TASK: RUNNING})
    assert api.run("tasks", "wait", "7", "t1", "--timeout", "0.5").exit_code == 124
    assert sum(api.pauses) == pytest.approx(0.5)


def test_waiting_at_an_api_that_does_not_wait_looks_again_until_the_task_has_ended() -> None:
    api = FakeApi({TASK: Script(RUNNING, RUNNING, RUNNING, task(output={"ok": 1}))})
    result = api.run("tasks", "wait", "7", "t1")
    assert result.exit_code == 0
    assert "status            SUCCESS" in result.stdout
    assert 'output            {"ok": 1}' in result.stdout
    assert api.pauses == sorted(api.pauses)
    assert len(api.pauses) == 2


def test_looking_again_gets_rarer_but_not_too_rare() -> None:
    api = FakeApi({TASK: Script(*[RUNNING] * 20, task())})
    api.run("tasks", "wait", "7", "t1")
    assert (api.pauses[0], api.pauses[-1]) == (0.1, 2.0)


def test_submit_and_wait_shows_the_ended_task() -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}, TASK: Script(RUNNING, task(output=5))})
    result = api.run("tasks", "submit", "7", "--port", "1", "--input", "1", "--wait", "--json")
    assert json.loads(result.stdout)["output"] == 5


def test_an_api_that_is_away_after_the_submission_is_waited_for() -> None:
    away = Script(httpx.ConnectError("refused"), failure(503, "store"), RUNNING, task())
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}, TASK: away})
    assert api.run("tasks", "submit", "7", "--port", "1", "--input", "1", "--wait").exit_code == 0


def test_an_api_that_is_away_at_the_first_request_is_not_waited_for() -> None:
    api = FakeApi({TASK: Script(httpx.ConnectError("refused"), task())})
    assert api.run("tasks", "wait", "7", "t1").exit_code == 3
    assert api.pauses == []


def test_a_task_that_failed_has_an_exit_status_of_its_own() -> None:
    result = FakeApi({TASK: task(status="FAILED", state="failed", error="HTTP 500")}).run("tasks", "wait", "7", "t1")
    assert result.exit_code == 4
    assert "error             HTTP 500" in result.stdout


def test_waiting_ends_at_the_time_limit() -> None:
    api = FakeApi({TASK: RUNNING})
    result = api.run("tasks", "wait", "7", "t1", "--timeout", "5")
    assert result.exit_code == 124
    assert result.stderr == "error: task t1 has not ended after 5 s; it is running\n"
    assert sum(api.pauses) == pytest.approx(5)


def test_waiting_tolerates_an_api_that_is_away_for_a_while() -> None:
    away = httpx.ConnectError("refused")
    api = FakeApi({TASK: Script(RUNNING, away, failure(503, "store", retry_after="3"), away, task())})
    assert api.run("tasks", "wait", "7", "t1").exit_code == 0
    assert 3 in api.pauses


def test_waiting_does_not_tolerate_it_forever() -> None:
    api = FakeApi({TASK: Script(RUNNING, httpx.ConnectError("refused"))})
    assert api.run("tasks", "wait", "7", "t1").exit_code == 3
    assert 30 <= sum(api.pauses) < 40


def test_waiting_for_a_missing_task_ends_at_once() -> None:
    api = FakeApi({TASK: Script(RUNNING, failure(404, "task not found"))})
    assert api.run("tasks", "wait", "7", "t1").exit_code == 1


def test_ctrl_c_ends_waiting_quietly() -> None:
    api = FakeApi({TASK: Script(RUNNING, KeyboardInterrupt())})
    result = api.run("tasks", "wait", "7", "t1")
    assert (result.exit_code, result.output) == (130, "")


def test_a_task_is_shown_with_its_input_and_output_as_they_are() -> None:
    given = (
        b'{"taskId": "t1", "status": "SUCCESS", "input": {"n": 1e999, "a": 1, "a": 2}, "output": null, "headers": {}}'
    )
    shown = FakeApi({TASK: raw(given)}).run("tasks", "get", "7", "t1").stdout
    assert shown.splitlines() == [
        "taskId   t1",
        "status   SUCCESS",
        "headers  {}",
        'input    {"n": 1e999, "a": 1, "a": 2}',
    ]


def test_a_task_is_shown_without_its_payload() -> None:
    api = FakeApi({TASK: task(purgeAt=NOW_MS, suspect=False, traceId=None)})
    shown = api.run("tasks", "get", "7", "t1", "--no-payload").stdout
    assert api.calls == [f"{TASK}?payload=none"]
    lines = [line.split() for line in shown.splitlines()]
    assert ["purgeAt", "2025-11-24T17:00:00.000+01:00"] in lines
    assert ["suspect", "false"] in lines


def test_a_large_output_is_cut() -> None:
    shown = FakeApi({TASK: task(output="x" * 10_000)}).run("tasks", "get", "7", "t1").stdout
    assert "x… (6002 more characters; --json prints all)" in shown


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        (("--delay", "90.5"), "delaySeconds", 90.5),
        (("--delay", "10m"), "delaySeconds", 600),
        (("--delay", "3d"), "delaySeconds", 259_200),
        (("--run-at", "10m"), "runAt", NOW_MS + 600_000),
        (("--run-at", "2025-11-24T18:00:00"), "runAt", NOW_MS + 7_200_000),
        (("--run-at", "2025-11-24T18:00:00+01:00"), "runAt", NOW_MS + 3_600_000),
        (("--run-at", str(NOW_MS + 5)), "runAt", NOW_MS + 5),
    ],
)
def test_a_task_is_submitted_for_later(option: tuple[str, str], field: str, value: float) -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    result = api.run("tasks", "submit", "7", "--port", "1", "--input", "1", *option)
    assert result.exit_code == 0, result.output
    assert api.body()[field] == value


@pytest.mark.parametrize("delay", ["soon", "nan", "inf", "10x", "2026-01-31"])
def test_a_delay_that_cannot_be_read_is_refused(delay: str) -> None:
    result = FakeApi({}).run("tasks", "submit", "7", "--port", "1", "--input", "1", "--delay", delay)
    assert (result.exit_code, result.stderr) == (
        2, "error: --delay: must be like 10m, 2h or 3d, or a number of seconds\n",
    )  # fmt: skip


def test_a_time_that_cannot_be_read_is_refused() -> None:
    result = FakeApi({}).run("tasks", "submit", "7", "--port", "1", "--input", "1", "--run-at", "soon")
    assert (result.exit_code, result.stderr) == (
        2, "error: --run-at: must be like 10m, 2h or 3d, an ISO 8601 time, or epoch milliseconds\n",
    )  # fmt: skip


REASON = {
    "code": "ALL_BUSY", "message": "1 task goes before it.", "since": NOW_MS - 5000, "until": None, "ahead": 1,
    "etaSeconds": 2.5, "approximate": False, "asOf": NOW_MS,
}  # fmt: skip


def test_a_task_that_waits_is_shown_with_the_reason() -> None:
    api = FakeApi({TASK: task(status="PROCESSING", state="queued", waiting=REASON)})
    shown = api.run("tasks", "get", "7", "t1").stdout
    assert "ALL_BUSY: 1 task goes before it." in shown
    assert api.run("tasks", "why", "7", "t1").stdout.splitlines() == [
        "code         ALL_BUSY",
        "message      1 task goes before it.",
        "since        2025-11-24T16:59:55.000+01:00",
        "until        -",
        "ahead        1",
        "etaSeconds   2.5",
        "approximate  false",
        "asOf         2025-11-24T17:00:00.000+01:00",
    ]
    assert json.loads(api.run("tasks", "why", "7", "t1", "--json").stdout) == REASON


def test_a_task_that_does_not_wait_has_no_reason() -> None:
    api = FakeApi({TASK: task(status="PROCESSING", state="running", waiting=None)})
    assert api.run("tasks", "why", "7", "t1").stdout == "task t1 does not wait: running\n"
    assert api.run("tasks", "why", "7", "t1", "--json").stdout == "null\n"
    earlier = FakeApi({TASK: raw(b'{"taskId": "t1", "status": "PROCESSING", "state": "queued"}')})
    result = earlier.run("tasks", "why", "7", "t1")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "does not tell why" in result.stderr


def test_a_page_of_tasks_is_asked_for_by_number() -> None:
    page = {"items": [task()], "page": 3, "size": 5, "total": 11, "pages": 3}
    api = FakeApi({f"GET {TASKS}": page})
    shown = api.run("tasks", "list", "7", "--status", "success", "--page", "3", "--size", "5")
    assert api.calls == [f"GET {TASKS}?status=success&pageNumber=3&pageSize=5"]
    assert shown.stdout.splitlines()[1].split() == [
        "t1", "SUCCESS", "succeeded", "1", "2025-11-24T16:58:30.000+01:00", "80000", "INIT", "-"
    ]  # fmt: skip
    assert "page 3 of 3, 11 tasks" in api.run("tasks", "list", "7", terminal=True).stdout


@pytest.mark.parametrize("terminal", [False, True])
def test_priorities_and_keys_are_columns_where_a_task_has_one(terminal: bool) -> None:
    def titles(*items: dict[str, Any]) -> set[str]:
        page = {"items": items, "page": 1, "size": 20, "total": len(items), "pages": 1}
        shown = FakeApi({f"GET {TASKS}": page}).run("tasks", "list", "7", terminal=terminal, width=200)
        return set(re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout).splitlines()[0].split()) & {"PRIORITY", "KEY"}

    plain = task(priority="normal", fairnessKey=None)
    assert titles(plain) == set()
    assert titles(plain, task(priority="low", fairnessKey=None)) == {"PRIORITY"}
    assert titles(plain, task(priority="normal", fairnessKey="acme")) == {"KEY"}


def test_a_table_for_a_pipe_has_the_unit_of_a_length() -> None:
    page = {"items": [task()], "page": 1, "size": 20, "total": 1, "pages": 1}
    lines = FakeApi({f"GET {TASKS}": page}).run("tasks", "list", "7").stdout.splitlines()
    assert dict(zip(*(line.split() for line in lines), strict=True))["TOOK_MS"] == "80000"


def test_counts_are_listed() -> None:
    shown = FakeApi({f"GET {TASKS}/count": {"processing": 3, "total": 12}}).run("tasks", "count", "7").stdout
    assert shown == "processing  3\ntotal       12\n"


def test_delivery_attempts_are_listed() -> None:
    time = "2025-11-24T17:00:00.000+01:00"
    phases = {"connectMs": 3, "tlsMs": None, "sendMs": 0, "waitMs": 27}
    old = {"at": NOW_MS, "status": 500, "error": "http_5xx", "durationMs": 31, "response": "no\nway"}
    new = old | {"trigger": "recover", "phases": phases, "nextAttemptAt": NOW_MS}
    shown = FakeApi({f"{TASK}/deliveries": [old | {"phases": None}, new]}).run("tasks", "deliveries", "7", "t1").stdout
    assert [line.split() for line in shown.splitlines()[1:]] == [
        [time, "-", "500", "http_5xx", "31", "-", "-", "-", "-", "-", "no\\nway"],
        [time, "recover", "500", "http_5xx", "31", "3", "-", "0", "27", time, "no\\nway"],
    ]


# Deliveries

DELIVERIES = f"{ONE}/deliveries"
RECOVERY = {
    "state": "running", "status": "MAX_RETRIES_EXCEEDED", "since": NOW_MS - 3_600_000, "until": NOW_MS, "total": 9,
    "recovered": 4, "remaining": 5, "createdAt": NOW_MS, "updatedAt": NOW_MS, "endedAt": None,
}  # fmt: skip


def test_given_up_deliveries_are_listed() -> None:
    one = {
        "taskId": "t1", "taskStatus": "SUCCESS", "status": "MAX_RETRIES_EXCEEDED", "webhook": "http://w.example/",
        "attempts": 12, "error": "http_5xx (status 500)", "finishedAt": NOW_MS, "givenUpAt": NOW_MS,
    }  # fmt: skip
    api = FakeApi({f"GET {DELIVERIES}": {"items": [one], "page": 2, "size": 1, "total": 3, "pages": 3}})
    shown = api.run("deliveries", "list", "7", "--page", "2", "--size", "1").stdout
    time = "2025-11-24T17:00:00.000+01:00"
    assert api.calls == [f"GET {DELIVERIES}?pageNumber=2&pageSize=1"]
    assert shown.splitlines()[1].split()[:5] == ["t1", "MAX_RETRIES_EXCEEDED", "12", time, time]
    assert "page 2 of 3, 3 deliveries" in api.run("deliveries", "list", "7", terminal=True).stdout


def test_given_up_deliveries_of_a_destination_are_printed_page_by_page() -> None:
    def part(following: str | None, *tasks: str) -> dict[str, Any]:
        items = [{"taskId": task, "status": "MAX_RETRIES_EXCEEDED", "attempts": 1} for task in tasks]
        return {"items": items, "nextCursor": following, "scanned": 2000}

    pages = Script(part("2-b", "c"), part("1-a"), part(None, "a"))
    api = FakeApi({f"GET {DELIVERIES}": pages})
    given = ["--destination", "http://a.example", "--all"]
    shown = api.run("deliveries", "list", "7", *given).stdout.splitlines()
    assert [line.split()[0] for line in shown if not line.startswith("TASK")] == ["c", "a"]
    asked = "destination=http%3A%2F%2Fa.example&pageSize=20"
    assert api.calls == [f"GET {DELIVERIES}?{asked}{more}" for more in ("&cursor=", "&cursor=2-b", "&cursor=1-a")]
    assert FakeApi({}).run("deliveries", "list", "7", "--page", "1", "--all").exit_code == 2


@pytest.mark.parametrize(
    ("order", "result", "says"),
    [
        ("retry", "queued", "task t1: the result is sent now\n"),
        ("retry", "due", "task t1: the result is already being sent\n"),
        ("retry", "delivered", "task t1: the result is already delivered (`deliveries redeliver` sends it again)\n"),
        ("redeliver", "queued", "task t1: the result is sent now\n"),
    ],
)
def test_a_result_is_sent_on_request(order: str, result: str, says: str) -> None:
    api = FakeApi({f"POST {TASKS}/t1/deliveries/{order}": {"taskId": "t1", "result": result}})
    assert api.run("deliveries", order, "7", "t1").stdout == says


def test_a_recovery_is_started_with_its_period() -> None:
    api = FakeApi({f"POST {DELIVERIES}/recover": RECOVERY})
    shown = api.run("deliveries", "recover", "7", "--since", "1h", "--until", "2025-11-24T16:30:00Z", "--yes").stdout
    assert api.body() == {"since": NOW_MS - 3_600_000, "until": NOW_MS + 1_800_000}
    assert "since      2025-11-24T16:00:00.000+01:00\n" in shown
    api.run("deliveries", "recover", "7", "--since", "2h", input="y\n")
    assert api.body() == {"since": NOW_MS - 7_200_000}
    refused = api.run("deliveries", "recover", "7", "--since", "soon", "--yes")
    assert (refused.exit_code, "--since: must be like" in refused.stderr) == (2, True)


def test_a_recovery_is_shown_and_cancelled() -> None:
    api = FakeApi({f"GET {DELIVERIES}/recover": RECOVERY, f"DELETE {DELIVERIES}/recover": RECOVERY})
    for order in ("recovery", "cancel-recovery"):
        assert "remaining  5\n" in api.run("deliveries", order, "7").stdout
    assert [call.split()[0] for call in api.calls] == ["GET", "DELETE"]


def test_attempts_are_listed() -> None:
    first = {
        "attempt": 1, "outcome": "busy", "workerId": "w1", "startedAt": NOW_MS, "endedAt": NOW_MS, "error": "full\nup"
    }  # fmt: skip
    now = first | {"attempt": 2, "outcome": "running", "endedAt": None, "error": None}
    shown = FakeApi({f"{TASK}/attempts": [first, now]}).run("tasks", "attempts", "7", "t1").stdout
    time = "2025-11-24T17:00:00.000+01:00"
    rows = [line.split() for line in shown.splitlines()[1:]]
    assert rows == [["1", "busy", "w1", time, time, "full\\nup"], ["2", "running", "w1", time, "-", "-"]]


@pytest.mark.parametrize(
    ("order", "stands", "says"),
    [
        ("cancel", {"state": "cancelled", "cancelRequested": True}, "task t1: cancelled\n"),
        ("cancel", {"state": "running", "cancelRequested": True}, "task t1: running, cancel requested\n"),
        ("cancel", {"state": "succeeded", "cancelRequested": False}, "task t1: succeeded\n"),
        ("retry", {"state": "queued", "cancelRequested": False}, "task t1: queued\n"),
    ],
)
def test_an_order_says_how_the_task_stands(order: str, stands: dict[str, Any], says: str) -> None:
    api = FakeApi({f"POST {TASKS}/t1/{order}": stands})
    result = api.run("tasks", order, "7", "t1")
    assert (result.exit_code, result.stdout, api.calls) == (0, says, [f"POST {TASKS}/t1/{order}"])
    assert json.loads(api.run("tasks", order, "7", "t1", "--json").stdout) == stands


def test_an_order_that_is_refused_says_why() -> None:
    api = FakeApi({f"POST {TASKS}/t1/retry": failure(409, "taskId: the task has not ended")})
    result = api.run("tasks", "retry", "7", "t1")
    assert (result.exit_code, result.stderr) == (1, "error: taskId: the task has not ended\n")


@pytest.mark.parametrize(("typed", "options", "deleted"), [("y\n", (), True), ("\n", (), False), ("", ("-y",), True)])
def test_a_task_is_deleted_when_that_is_meant(typed: str, options: tuple[str, ...], deleted: bool) -> None:
    api = FakeApi({f"DELETE {TASKS}/t1": True})
    result = api.run("tasks", "delete", "7", "t1", *options, input=typed)
    assert api.calls == ([f"DELETE {TASKS}/t1"] if deleted else [])
    assert (result.exit_code == 0) is deleted
    assert ("task t1: deleted" in result.stdout) is deleted


def test_a_task_is_submitted_with_limits_of_its_own() -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    api.run(
        "tasks", "submit", "7", "--port", "1", "--input", "1", "--execution-timeout", "60", "--queue-ttl", "2.5"
    )  # fmt: skip
    assert api.body().items() >= {"executionTimeoutSeconds": 60, "queueTtlSeconds": 2.5}.items()


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (("--retry-on", "500", "--retry-on", "timeout"), {"retryOn": ["500", "timeout"]}),
        (("--retry-on", "never"), {"retryOn": []}),
        (("--retry-delay", "0.5", "--retry-delay", "3"), {"retryDelaysSeconds": [0.5, 3]}),
        (("--ready-path", "/up", "--start-timeout-seconds", "60"), {"readyPath": "/up", "startTimeoutSeconds": 60}),
        (("--max-busy-seconds", "0"), {"maxBusySeconds": 0}),
        (("--queue-ttl-seconds", "60", "--cancel-uri", "/stop"), {"queueTtlSeconds": 60, "cancelUri": "/stop"}),
    ],
)
def test_how_tasks_are_tried_is_sent(options: tuple[str, ...], sent: dict[str, Any]) -> None:
    api = FakeApi(
        {f"GET {ONE}": endpoint(), f"PATCH {ONE}": endpoint(), "POST /v2/serverless": endpoint(), NAMED: [endpoint()]}
    )
    for command in (("create",), ("update", "7")):
        api.run("endpoints", *command, *options)
    bodies = [json.loads(request.content) for request in api.requests if request.method != "GET"]
    assert [body.items() >= sent.items() for body in bodies] == [True, True]


# Logs


def line(number: int, *, ms: int = 0, offset: int = 0) -> dict[str, Any]:
    return {"timestamp": f"2025-11-24T16:00:{number:02d}.{ms:03d}Z", "log": f"line {number}", "offset": offset}


def page(*lines: dict[str, Any], more: bool = False, token: str | None = None) -> dict[str, Any]:
    """One page of logs; `token` stands for both tokens."""
    return {"logs": list(lines), "hasMore": more, "nextSearchAfterTime": token, "nextSearchAfterOffset": token}


def test_the_logs_of_all_workers_are_walked_by_cursor() -> None:
    def part(text: str, worker: str, following: str, *, more: bool) -> dict[str, Any]:
        one = {"timestamp": "2025-11-24T16:00:00.000Z", "offset": 0, "workerId": worker, "log": text}
        return {"logs": [one], "hasMore": more, "nextCursor": following, "complete": True}

    pages = Script(part("a", "w1", "1-0-w1", more=True), part("b", "w2", "1-0-w2", more=False))
    api = FakeApi({f"GET {ONE}/logs": pages})
    assert api.run("logs", "7", "--no-times").stdout == "w1  a\nw2  b\n"
    assert api.calls == [f"GET {ONE}/logs?pageSize=1000&direction=Forward{more}" for more in ("", "&cursor=1-0-w1")]


def test_logs_are_walked_page_by_page() -> None:
    api = FakeApi({LOGS: Script(page(line(1), line(2), more=True, token="2"), page(line(3), token="3"))})
    result = api.run("logs", "7", "w1")
    assert result.stdout.splitlines() == [
        "2025-11-24T17:00:01.000+01:00  line 1",
        "2025-11-24T17:00:02.000+01:00  line 2",
        "2025-11-24T17:00:03.000+01:00  line 3",
    ]
    first, second = (request.url.params for request in api.requests)
    assert dict(first) == {"pageSize": "1000", "direction": "Forward"}
    assert dict(second) == dict(first) | {"searchAfterTime": "2", "searchAfterOffset": "2"}


def test_the_last_lines_are_looked_up_from_the_end() -> None:
    api = FakeApi({LOGS: Script(page(line(5), line(4), more=True, token="4"), page(line(3), line(2), more=True))})
    assert api.run("logs", "7", "w1", "-n", "3", "--no-times").stdout == "line 3\nline 4\nline 5\n"
    assert [request.url.params["direction"] for request in api.requests] == ["Backward", "Backward"]


def test_lines_are_chosen_by_time_and_word() -> None:
    api = FakeApi({LOGS: page()})
    api.run("logs", "7", "w1", "--since", "10m", "--until", "2025-11-24T15:59:00", "--grep", "Fehler & 1")
    assert dict(api.requests[0].url.params) == {
        "pageSize": "1000",
        "direction": "Forward",
        "keyword": "Fehler & 1",
        "startTime": str(NOW_MS - 600_000),
        "endTime": str(NOW_MS - 60_000),
    }


def follow(api: FakeApi, *options: str, pauses: int = 3) -> list[str]:
    """The lines of `logs --follow` that is interrupted in its last pause."""

    def interrupt() -> None:
        if len(api.pauses) == pauses - 1:
            raise KeyboardInterrupt

    api.before_pause = interrupt
    result = api.run("logs", "7", "w1", "-f", "--no-times", *options)
    assert (result.exit_code, result.stderr) == (130, "")
    return result.stdout.splitlines()


def test_following_goes_on_with_the_new_lines() -> None:
    api = FakeApi({LOGS: Script(page(line(1), token="1"), page(token="1"), page(line(2), token="2"))})
    assert follow(api) == ["line 1", "line 2"]
    assert [request.url.params.get("searchAfterTime") for request in api.requests] == [None, "1", "1"]


def test_following_from_an_empty_log_waits_for_the_first_line() -> None:
    api = FakeApi({LOGS: Script(page(), page(), page(line(1), token="1"))})
    assert follow(api) == ["line 1"]


@pytest.mark.parametrize(("last", "expected"), [("2", ["line 4", "line 5", "line 6"]), ("0", ["line 6"])])
def test_following_after_the_last_lines_shows_each_once(last: str, expected: list[str]) -> None:
    backward = page(line(5, offset=1), line(4), line(3), token="3")
    forward = page(line(5, offset=0), line(5, offset=1), line(6), token="6")
    api = FakeApi({LOGS: Script(backward, forward, page(token="6"))})
    assert follow(api, "-n", last, pauses=2) == expected
    assert api.requests[1].url.params["startTime"] == "2025-11-24T16:00:05.000Z"


def test_following_tolerates_an_api_that_is_away() -> None:
    api = FakeApi({LOGS: Script(page(line(1), token="1"), httpx.ConnectError("x"), page(line(2), token="2"))})
    assert follow(api) == ["line 1", "line 2"]


def test_a_page_that_says_more_but_moves_nowhere_ends_the_walk() -> None:
    api = FakeApi({LOGS: Script(page(line(1), more=True, token="1"), page(more=True, token="1"))})
    assert api.run("logs", "7", "w1").exit_code == 0
    assert len(api.requests) == 2


def test_lines_as_json_are_one_object_a_line() -> None:
    given = line(1) | {"log": "\x1b[31m grüße \ud800"}
    shown = FakeApi({LOGS: page(given, line(2))}).run("logs", "7", "w1", "--json").stdout.splitlines()
    assert [json.loads(one) for one in shown] == [given, line(2)]
    assert shown[0].isascii()


def test_lines_can_do_nothing_to_a_terminal() -> None:
    api = FakeApi({LOGS: page(line(1) | {"log": "a\tb \x1b]0;title\x07\r"})})
    assert api.run("logs", "7", "w1", "--no-times").stdout == "a\tb \\x1b]0;title\\x07\\r\n"


@pytest.mark.parametrize("options", [("--since", "soon"), ("--until", "-1"), ("-f", "--until", "1m"), ("-n", "-1")])
def test_wrong_times_and_combinations_are_refused(options: tuple[str, ...]) -> None:
    api = FakeApi({LOGS: page()})
    assert api.run("logs", "7", "w1", *options).exit_code == 2
    assert api.requests == []


@pytest.mark.parametrize("data", [{}, {"logs": None}, {"logs": [1]}, {"logs": [{}]}])
def test_a_page_that_is_none_is_no_traceback(data: Any) -> None:
    assert FakeApi({LOGS: data}).run("logs", "7", "w1").exit_code == 3


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize(
    "command", [("tasks", "get"), ("tasks", "delete", "--yes"), ("tasks", "retry"), ("tasks", "cancel"), ("logs",)]
)
def test_a_name_that_would_change_the_path_is_sent_nowhere(command: tuple[str, ...], name: str) -> None:
    api = FakeApi({})
    result = api.run(*command, "7", name)
    assert (result.exit_code, api.requests) == (2, [])
    assert f"{name!r} is not an id or a name" in result.stderr


# A key with the role submit, which cannot read endpoints

NO_ROLE = "X-Api-Key: the role submit does not allow this: it needs read or operate or admin"
GIVE_PORT = f"{NO_ROLE}; give --port, because a key with the role submit cannot read the endpoint's exposed port"
GIVE_ID = f"{NO_ROLE}; give the id of the endpoint, because a key with the role submit cannot look up its name"


def test_a_key_that_only_submits_is_told_to_give_the_port(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs.jsonl"
    inputs.write_text("1\n")
    api = FakeApi({f"GET {ONE}": failure(403, NO_ROLE)})
    for command in (("submit", "7", "--input", "1"), ("map", "7", str(inputs))):
        result = api.run("tasks", *command)
        assert (result.exit_code, result.stderr) == (1, f"error: {GIVE_PORT}\n")


def test_a_key_that_only_submits_is_told_to_give_the_id() -> None:
    api = FakeApi({"GET /v2/serverless": failure(403, NO_ROLE)})
    result = api.run("tasks", "cancel", "echo", "t1")
    assert (result.exit_code, result.stderr) == (1, f"error: {GIVE_ID}\n")


def test_a_key_that_only_submits_needs_no_right_to_read_the_endpoint() -> None:
    api = FakeApi({f"POST {TASKS}": {"taskId": "t1"}})
    result = api.run("tasks", "submit", "7", "--input", "1", "--port", "8000")
    assert (result.exit_code, result.stdout, api.calls) == (0, "t1\n", [f"POST {TASKS}"])


@pytest.mark.parametrize(("word", "meant"), [("replace", "restart"), ("remove", "drain"), ("restrat", "restart")])
def test_a_word_of_the_console_names_the_command_for_workers(word: str, meant: str) -> None:
    result = FakeApi({}).run("workers", word, "7", "w1")
    assert result.exit_code == 2
    assert f"No such command '{word}'. Did you mean '{meant}'?" in result.stderr
