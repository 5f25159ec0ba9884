"""`queue-engine tasks list` with filters and `tasks export`: what they ask of the API, and what they print."""

import json
from typing import Any

import httpx
import pytest

from tests.unit.cli_api import NOW_MS, FakeApi, Script, failure, task

TASKS = "GET /v2/serverless/7/tasks"
EXPORT = f"{TASKS}/export"


def page(*names: str, following: str | None = None) -> dict[str, Any]:
    return {"items": [task(taskId=name) for name in names], "nextCursor": following, "scanned": 9}


def lines(*members: dict[str, Any], end: bytes = b"") -> httpx.Response:
    text = b"".join(json.dumps(one).encode() + b"\n" for one in members)
    return httpx.Response(200, content=text + end)


def asked(api: FakeApi) -> list[dict[str, str]]:
    return [dict(request.url.params) for request in api.requests]


def test_filters_and_ages_are_sent_and_the_first_page_with_tasks_is_printed() -> None:
    api = FakeApi({TASKS: Script(page(following="a"), page("t2", "t1", following="b"))})
    options = ("--state", "failed,dead", "--created-after", "2h", "--error-contains", "x y", "--status", "failed")
    result = api.run("tasks", "list", "7", *options, terminal=True)
    query = {
        "state": "failed,dead",
        "createdAfter": str(NOW_MS - 7_200_000),
        "errorContains": "x y",
        "status": "failed",
        "pageSize": "20",
    }
    assert asked(api) == [query | {"cursor": ""}, query | {"cursor": "a"}]
    assert "t2" in result.stdout
    assert "more: --cursor b, or --all" in result.stderr


def test_all_pages_are_printed_on_request() -> None:
    api = FakeApi({TASKS: Script(page("t3", "t2", following="a"), page(following="b"), page("t1"))})
    result = api.run("tasks", "list", "7", "--all", "--json")
    assert [[one["taskId"] for one in json.loads(line)["items"]] for line in result.stdout.splitlines()] == [
        ["t3", "t2"],
        ["t1"],
    ]
    assert [query["cursor"] for query in asked(api)] == ["", "a", "b"]


def test_a_list_without_tasks_is_an_empty_table() -> None:
    result = FakeApi({TASKS: page()}).run("tasks", "list", "7", "--tag", "a")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--page", "2", "--tag", "a"), "--page cannot be combined"),
        (("--page", "1", "--all"), "--page cannot be combined"),
        (("--created-after", "yesterday"), "--created-after: must be like 10m"),
    ],
)
def test_wrong_options_are_named_before_anything_is_asked(options: tuple[str, ...], message: str) -> None:
    api = FakeApi({})
    result = api.run("tasks", "list", "7", *options)
    assert (result.exit_code, api.requests) == (2, [])
    assert message in result.stderr


def test_an_export_prints_its_tasks_unchanged() -> None:
    text = b'{"taskId":"t1","output":1.10,"cursor":"a"}\n\n{"taskId":"t2","cursor":"b"}\n'
    answer = httpx.Response(200, content=text + b'{"end":true,"nextCursor":null}\n')
    api = FakeApi({EXPORT: answer})
    result = api.run("tasks", "export", "7", "--state", "succeeded", "--include", "input,output")
    assert result.stdout.encode() == text.replace(b"\n\n", b"\n")
    assert asked(api) == [{"state": "succeeded", "include": "input,output"}]


def test_an_export_continues_after_a_lost_connection_and_after_an_outage() -> None:
    api = FakeApi(
        {
            EXPORT: Script(
                lines({"taskId": "t1", "cursor": "a"}, {"taskId": "t2", "cursor": "b"}, end=b'{"taskId": "t3", "cur'),
                httpx.ConnectError("refused"),
                failure(503, "the store is away", retry_after="3"),
                lines({"taskId": "t3", "cursor": "c"}, {"end": False, "nextCursor": "d", "reason": "it stops"}),
                lines({"taskId": "t4", "cursor": "e"}, {"end": True, "nextCursor": None}),
            )
        }
    )
    result = api.run("tasks", "export", "7")
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["taskId"] for line in result.stdout.splitlines()] == ["t1", "t2", "t3", "t4"]
    assert [query.get("cursor") for query in asked(api)] == [None, "b", "b", "b", "d"]


def test_a_line_that_an_outage_has_cut_off_is_not_printed() -> None:
    cut = b'{"taskId":"t1","input":"x\n{"end":false,"nextCursor":"a","reason":"the store is away"}\n'
    api = FakeApi({EXPORT: Script(httpx.Response(200, content=cut), lines({"end": True, "nextCursor": None}))})
    result = api.run("tasks", "export", "7")
    assert (result.exit_code, result.stdout) == (0, "")


def test_an_export_that_cannot_continue_says_with_which_cursor_it_can() -> None:
    begun = lines({"taskId": "t1", "cursor": "a"})
    api = FakeApi(
        {EXPORT: Script(begun, lines({"end": False, "nextCursor": "b", "reason": "the server is shutting down"}))}
    )
    result = api.run("tasks", "export", "7")
    assert result.exit_code == 3
    assert "not complete: the server is shutting down; --cursor b continues it" in result.stderr


def test_a_refused_export_is_not_repeated() -> None:
    api = FakeApi({EXPORT: failure(400, "state: must be one or more of …")})
    result = api.run("tasks", "export", "7", "--state", "busy")
    assert (result.exit_code, len(api.requests)) == (1, 1)
    assert "state: must be" in result.stderr
