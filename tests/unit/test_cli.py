"""The command line for people: what all commands have in common."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from queue_engine import __version__
from tests.unit.cli_api import KEY, NOW_MS, FakeApi, endpoint, failure, raw, task

LIST = "GET /v2/serverless"
ESCAPE = "\x1b"


def test_the_key_goes_along_and_is_not_shown() -> None:
    api = FakeApi({LIST: []})
    shown = api.run("endpoints", "list")
    assert api.requests[0].headers["X-Api-Key"] == KEY
    assert KEY not in shown.output
    assert KEY not in api.run("endpoints", "list", "--help").output


def test_options_win_over_variables() -> None:
    api = FakeApi({LIST: []})
    env = {"QUEUE_ENGINE_URL": "http://variable.example:81"}
    api.run("endpoints", "list", "--url", "http://option.example:82/", "--api-key", "other", env=env)
    api.run("endpoints", "list", env=env)
    assert [str(request.url) for request in api.requests] == [
        "http://option.example:82/v2/serverless",
        "http://variable.example:81/v2/serverless",
    ]
    assert api.requests[0].headers["X-Api-Key"] == "other"


def test_the_api_may_live_below_a_path() -> None:
    api = FakeApi({"GET /engine/v2/serverless": []})
    assert api.run("endpoints", "list", "--url", "http://h.example/engine").exit_code == 0


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (failure(401, "X-Api-Key: one valid API key is required"), 1, "X-Api-Key: one valid API key is required"),
        (failure(429, "too many", retry_after="7"), 1, "too many (try again in 7 s)"),
        (failure(500, "internal error, id 12"), 1, "internal error, id 12"),
        (failure(400, f"name: {ESCAPE}[2J"), 1, r"name: \x1b[2J"),
        (httpx.ConnectError("[Errno 111] Connection refused"), 3, "http://127.0.0.1:8000: [Errno 111] Connection"),
        (httpx.ReadTimeout(""), 3, "http://127.0.0.1:8000: ReadTimeout"),
        (httpx.Response(200, text="<html>"), 3, "is not the API: it responds HTTP 200"),
        (httpx.Response(404, json={"detail": "Not Found"}), 3, "is not the API: it responds HTTP 404"),
        (httpx.Response(302, headers={"Location": "http://elsewhere.example/"}), 3, "it responds HTTP 302"),
        (httpx.Response(200, content=b"\xff"), 3, "is not the API"),
        (raw(b'{"a": 1}'), 3, "not the expected list"),
        (raw(b"[1]"), 3, "not the expected list"),
    ],
)
def test_an_error_is_reported_in_a_line_and_by_the_exit_status(answer: Any, status: int, message: str) -> None:
    result = FakeApi({LIST: answer}).run("endpoints", "list")
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["", "x", "ftp://h.example", "http://", "http://h.example:port", "http://[", "http://h é"]
)
def test_a_url_that_is_none_is_wrong_use(url: str) -> None:
    api = FakeApi({LIST: []})
    result = api.run("endpoints", "list", "--url", url)
    assert (result.exit_code, api.requests) == (2, [])
    assert "error: --url" in result.stderr


@pytest.mark.parametrize("key", ["", "a b", "schlüssel", "a\nb"])
def test_a_key_that_is_none_is_wrong_use(key: str) -> None:
    api = FakeApi({LIST: []})
    result = api.run("endpoints", "list", env={"QUEUE_ENGINE_API_KEY": key})
    assert (result.exit_code, api.requests) == (2, [])
    assert "API key" in result.stderr
    assert key == "" or key not in result.stderr


def test_the_key_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from-a-file\n")
    file = {"QUEUE_ENGINE_API_KEY_FILE": str(tmp_path / "key")}
    api = FakeApi({LIST: []})
    assert api.run("endpoints", "list", env={"QUEUE_ENGINE_API_KEY": "", **file}).exit_code == 0
    assert api.run("endpoints", "list", "--api-key", "given", env=file).exit_code == 0
    assert [request.headers["x-api-key"] for request in api.requests] == ["from-a-file", "given"]
    both = api.run("endpoints", "list", env=file)
    assert (both.exit_code, len(api.requests)) == (2, 2)
    assert "QUEUE_ENGINE_API_KEY and QUEUE_ENGINE_API_KEY_FILE are both set" in both.stderr


def test_an_endpoint_may_be_named() -> None:
    api = FakeApi({LIST: [endpoint(id="3", name="other"), endpoint()], "GET /v2/serverless/7": endpoint()})
    assert api.run("endpoints", "get", "echo").exit_code == 0
    assert api.calls == [f"{LIST}?name=echo", "GET /v2/serverless/7"]


def test_an_id_is_used_as_it_is() -> None:
    api = FakeApi({"GET /v2/serverless/7": endpoint()})
    assert api.run("endpoints", "get", "7").exit_code == 0


def test_a_name_that_is_not_there_is_as_good_as_refused() -> None:
    result = FakeApi({LIST: [endpoint()]}).run("endpoints", "get", "nope")
    assert (result.exit_code, result.stderr) == (1, "error: no endpoint is named nope\n")


def test_a_name_of_two_endpoints_is_not_guessed() -> None:
    result = FakeApi({LIST: [endpoint(id="3"), endpoint()]}).run("endpoints", "stop", "echo")
    assert (result.exit_code, result.stderr) == (2, "error: 2 endpoints are named echo; give the id: 3, 7\n")


def test_names_cannot_leave_their_place_in_the_path() -> None:
    api = FakeApi({LIST: []})
    assert api.run("endpoints", "get", "../x").exit_code == 1
    shown = FakeApi({"GET /v2/serverless/7/tasks/a/b?c#d": task()})
    shown.run("tasks", "get", "7", "a/b?c#d")
    assert shown.calls == ["GET /v2/serverless/7/tasks/a%2Fb%3Fc%23d"]


def test_json_is_printed_as_the_api_gave_it() -> None:
    given = '[{"id": "1", "n": 1.00000000000000000001, "big": 1e999, "twice": 1, "twice": 2, "name": "grüße"}]'.encode()
    result = FakeApi({LIST: raw(given)}).run("endpoints", "list", "--json")
    assert result.stdout_bytes == given + b"\n"


def test_json_can_do_nothing_to_a_terminal() -> None:
    result = FakeApi({LIST: raw('["\x9b2J \u202e"]'.encode())}).run("endpoints", "list", "--json")
    assert result.stdout == '["\\u009b2J \\u202e"]\n'
    assert json.loads(result.stdout) == ["\x9b2J \u202e"]


def test_a_table_for_a_pipe_is_plain_and_whole() -> None:
    api = FakeApi({LIST: [endpoint(), endpoint(id="12", name="b" * 19, status="STOPPED", runningWorkers=0)]})
    for width in (20, 200):
        assert api.run("endpoints", "list", width=width).stdout.splitlines() == [
            "ID  NAME                 STATUS   WORKERS  DESIRED  QUEUED  RUNNING  MODE   CREATED",
            "7   echo                 RUNNING  1        2        3       1        QUEUE  2025-11-24T16:00:00.000+01:00",
            "12  bbbbbbbbbbbbbbbbbbb  STOPPED  0        2        3       1        QUEUE  2025-11-24T16:00:00.000+01:00",
        ]


def test_a_cell_cannot_break_its_line() -> None:
    api = FakeApi({"GET /v2/serverless/7/workers": [{"workerId": "w", "error": f"a\tb\n{ESCAPE}[31mc\r\ud800\u202e"}]})
    lines = api.run("workers", "list", "7").stdout.splitlines()
    assert lines[1].endswith(r"  a\tb\n\x1b[31mc\r\ud800\u202e")
    assert len(lines) == 2


def test_an_empty_table_still_has_its_titles() -> None:
    assert FakeApi({LIST: []}).run("endpoints", "list").stdout.startswith("ID  NAME  STATUS")


def test_a_terminal_gets_colours_within_its_width() -> None:
    shown = FakeApi({LIST: [endpoint(name="n" * 20, status="INITIALIZING")]}).run("endpoints", "list", terminal=True)
    assert ESCAPE in shown.stdout
    plain = FakeApi({LIST: [endpoint(name="n" * 20, status="INITIALIZING")]}).run(
        "endpoints", "list", terminal=True, env={"TERM": "dumb"}
    )
    assert ESCAPE not in plain.stdout
    assert plain.stdout.splitlines()[1].split() == ["7", "n" * 20, "INITIALIZING", "1", "2", "3", "1", "QUEUE"]
    assert all(len(line) <= 80 for line in plain.stdout.splitlines())


def test_no_color_is_honoured() -> None:
    shown = FakeApi({LIST: [endpoint()]}).run("endpoints", "list", terminal=True, env={"NO_COLOR": "1"})
    assert not any(f"{ESCAPE}[3{colour}m" in shown.stdout for colour in range(8))


def test_a_pipe_gets_no_colour_whatever_the_variables_say() -> None:
    shown = FakeApi({LIST: [endpoint()]}).run("endpoints", "list", env={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})
    assert ESCAPE not in shown.stdout


def plain(text: str) -> list[str]:
    """The lines without colours."""
    return re.sub(rf"{ESCAPE}\[[0-9;]*m", "", text).splitlines()


@pytest.mark.parametrize("width", [60, 80])
def test_long_tables_fit_a_terminal(width: int) -> None:
    long = task(taskId="p" * 255, status="PROCESSING", state="scheduled", durationMs=None)
    failed = task(
        taskId="f" * 32, status="FAILED", deliveryStatus="MAX_RETRIES_EXCEEDED", error="HTTP 500: " + "x" * 999
    )
    page = {"items": [long, failed], "page": 1, "size": 20, "total": 2, "pages": 1}
    lines = plain(
        FakeApi({"GET /v2/serverless/7/tasks": page}).run("tasks", "list", "7", terminal=True, width=width).stdout
    )
    note = next(line for line in lines if line.startswith("f" * 32))
    assert note == f"{'f' * 32}: HTTP 500: {'x' * 109}…"
    table = lines[: lines.index(note)]
    assert all(len(line) <= width for line in table)
    first_column = [line[: table[0].index("STATUS")].strip() for line in table[1:]]
    assert "".join(first_column) == "p" * 255 + "f" * 32


def test_a_usual_list_has_a_line_for_each_task() -> None:
    items = [task(taskId=digit * 32, status="PROCESSING", state="queued", durationMs=None) for digit in "0123"]
    page = {"items": items, "page": 1, "size": 20, "total": 4, "pages": 1}
    lines = plain(FakeApi({"GET /v2/serverless/7/tasks": page}).run("tasks", "list", "7", terminal=True).stdout)
    assert len(lines) == 1 + 4 + 1
    assert lines[1].split() == ["0" * 32, "PROCESSING", "queued", "90s", "INIT"]


def test_ctrl_c_ends_quietly() -> None:
    result = FakeApi({LIST: KeyboardInterrupt()}).run("endpoints", "list")
    assert (result.exit_code, result.output) == (130, "")


HEAVY = {
    *("aiohttp", "arq", "fastapi", "httpx", "prometheus_client", "pydantic_settings", "redis", "rich"),
    *("starlette", "uvicorn", "queue_engine.cli.command", "queue_engine.store"),
}
"""What takes long to import, and packages of ours that bring it."""
STORE = {"prometheus_client", "pydantic_settings", "redis", "queue_engine.store"}


@pytest.mark.parametrize(
    ("commands", "module", "loaded"),
    [
        (("version",), "queue_engine", set()),
        (("endpoints", "workers", "logs", "tasks"), "queue_engine.cli.command", {"queue_engine.cli.command"}),
        (("config",), "queue_engine.cli.startup", {"pydantic_settings"}),
        (("keys", "secret-key"), "queue_engine.cli.store_access", STORE),
        (("api",), "queue_engine.cli.serve_api", STORE | {"starlette", "uvicorn"}),
        (("delivery",), "queue_engine.cli.serve_delivery", STORE),
        (("controller",), "queue_engine.cli.serve_controller", STORE | {"arq"}),
    ],
    ids=("version", "client", "settings", "store", "api", "delivery", "controller"),
)
def test_a_command_loads_what_it_needs(commands: tuple[str, ...], module: str, loaded: set[str]) -> None:
    """The client commands load httpx for their first request, and rich for a terminal."""
    script = (
        "import sys; from queue_engine.cli.main import app; from typer.main import get_command;"
        f"[get_command(app).commands[name] for name in {commands}]; import {module};"
        f"print(*{HEAVY} & sys.modules.keys())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) == loaded


def test_the_variables_of_the_client_are_known_without_the_settings() -> None:
    """The settings classes take as long to load as the rest of a client command."""
    script = "import sys; from queue_engine.__main__ import main\ntry: main()\nfinally: print(*sys.modules)"
    for variable, needs_settings in (("QUEUE_ENGINE_URL", False), ("QUEUE_ENGINE_URI", True)):
        run = subprocess.run(
            [sys.executable, "-c", script, "version"],
            cwd=Path(__file__).parents[2],
            env={"PATH": os.environ["PATH"], variable: "http://127.0.0.1:1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ("pydantic_settings" in run.stdout.split()) == needs_settings, run.stderr
        assert ("did you mean QUEUE_ENGINE_URL?" in run.stderr) == needs_settings


@pytest.mark.parametrize("program", ["queue_engine", "worker_agent"])
def test_the_option_version_prints_the_version_and_needs_no_settings(program: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", program, "--version"],
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{__version__}\n", "")


def test_now_is_what_the_tests_say() -> None:
    detail = FakeApi({"GET /v2/serverless/7": endpoint()}).run("endpoints", "get", "7").stdout
    assert NOW_MS == 1_764_000_000_000
    assert "updatedAt            2025-11-24T17:00:00.000+01:00" in detail
