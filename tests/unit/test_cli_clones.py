"""`queue-engine tasks clone`, against a scripted API."""

import pytest

from tests.unit.cli_api import FakeApi

CLONE = "POST /v2/serverless/7/tasks/first/clone"


def test_a_copy_without_options_is_that_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUEUE_ENGINE_WEBHOOK_AUTH_KEY", "for another webhook")
    api = FakeApi({CLONE: {"taskId": "made"}})
    done = api.run("tasks", "clone", "7", "first")
    assert (done.exit_code, done.stdout) == (0, "made\n")
    assert api.body() == {}


def test_options_are_the_changes_of_the_copy() -> None:
    api = FakeApi({CLONE: {"taskId": "second"}})
    given = ["--task-id", "second", "--input", '{"n": 1}', "--path", "/run", "--port", "9", "--no-webhook"]
    assert api.run("tasks", "clone", "7", "first", *given).exit_code == 0
    changes = {"taskId": "second", "input": {"n": 1}, "processUri": "/run", "workerPort": 9, "webhook": None}
    assert api.body() == changes


def test_an_input_alone_is_sent_unchanged() -> None:
    api = FakeApi({CLONE: {"taskId": "made"}})
    assert api.run("tasks", "clone", "7", "first", "--input", "[18446744073709551615]").exit_code == 0
    assert api.body() == {"input": [18446744073709551615]}


def test_contradicting_options_are_refused() -> None:
    api = FakeApi({})
    done = api.run("tasks", "clone", "7", "first", "--webhook", "http://a.example/x", "--no-webhook")
    assert done.exit_code == 2
    assert api.calls == []
