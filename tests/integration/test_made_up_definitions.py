"""A setting or a field has two places in the code: its definition, and what uses it.

Each test runs a copy of the engine in which these two were added, and finds the new name accepted, checked, stored,
shown, changed, described and documented.
"""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from queue_engine.store.store import Store
from tests.api_server import ENDPOINT, TASK
from tests.environment import inherited
from tests.integration.parts import HttpServer, Program, Programs, new_endpoint
from tests.waiting import GIVE_UP_SECONDS, wait_until, wait_until_async

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-of-tests"
pytestmark = pytest.mark.timeout(300)  # a copy of the code is compiled, and many processes import it

ENDPOINT_SETTING = """\
    made_up_seconds: Annotated[
        float, Field(ge=1, le=60), Setting("A made-up setting", renews_workers=False, for_scripts=True)
    ] = 7.5
    made_up_label: Annotated[
        Annotated[str, Field(max_length=9)] | None, Setting("A made-up label of workers")
    ] = None

"""
TASK_FIELD = """\
    made_up: Annotated[Annotated[str, Field(max_length=9)] | None, TaskField("A made-up field")] = None
    made_up_secret: Annotated[
        Annotated[str, Field(max_length=99)] | None, TaskField("A made-up secret", secret=True, is_shown=False)
    ] = None
"""
PROCESS_SETTING = """\
    made_up_seconds: float = Field(7.5, ge=1, description="A made-up variable")

"""
# File, a text that is there once, and what stands in its place.
EDITS = [
    ("queue_engine/domain/endpoints.py", "    @property\n    def retry_policy", ENDPOINT_SETTING + "{}"),
    ("queue_engine/domain/catalogue.py", "return round(", "return round(config.made_up_seconds + "),
    ("queue_engine/domain/tasks.py", "    traceparent: str | None = None\n", "{}" + TASK_FIELD),
    ("worker_agent/requests.py", '"X-Task-Attempt": str(task.attempt),', '{} "X-Made-Up": f"{task.spec.made_up}",'),
    ("queue_engine/config/shared.py", "    def agent_environment", PROCESS_SETTING + "{}"),
    ("worker_agent/cli.py", '"container": str(address),', '{} "made_up": settings.made_up_seconds,'),
]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for PYTHONPATH with the edited packages, and what makes the reference pages."""
    folder = tmp_path_factory.mktemp("code")
    for package in ("queue_engine", "worker_agent"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for page in ("__init__.py", *(path.name for path in (ROOT / "tests").glob("reference_*.py"))):
        shutil.copy(ROOT / "tests" / page, folder / "tests" / page)
    (folder / "docs").mkdir()
    for name, old, new in EDITS:
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r}"
        (folder / name).write_text(text.replace(old, new.replace("{}", old, 1) if "{}" in new else new))
    return folder


@pytest.fixture(scope="module")
def pages(code: Path) -> Path:
    """Return the folder of the reference pages that the copy makes."""
    run_python(code, "-m", "tests.reference_pages")
    return code / "docs" / "reference"


@pytest.fixture
async def api(programs: Programs, code: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the copy's API."""
    url = url_of(programs.start("api", "queue_engine", "api", "--port", "0", **path_to(code), QUEUE_ENGINE_API_KEY=KEY))
    async with httpx.AsyncClient(base_url=f"{url}/v2/serverless", headers={"X-Api-Key": KEY}, timeout=60) as client:

        async def is_ready() -> bool:
            return (await client.get(f"{url}/readyz")).status_code == 200

        await wait_until_async(is_ready, GIVE_UP_SECONDS)
        yield client


def path_to(code: Path) -> dict[str, str]:
    """Return the variables with which Python imports the copy, and nothing of the current folder."""
    return {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}


def url_of(program: Program) -> str:
    found = wait_until(lambda: re.findall(r'"url": "(http://[^"/]+)"', program.output()), GIVE_UP_SECONDS)
    return str(found[0])


def run_python(code: Path, *arguments: str, **environment: str) -> str:
    """Run Python on the copy and return its output, whatever its status."""
    given = {**inherited(), "COLUMNS": "300"} | path_to(code) | environment
    done = subprocess.run(
        [sys.executable, *arguments], cwd=code, env=given, capture_output=True, text=True, check=False, timeout=100
    )
    return done.stdout + done.stderr


def command(code: Path, api: httpx.AsyncClient, *arguments: str) -> str:
    url = f"{api.base_url.scheme}://{api.base_url.netloc.decode()}"
    return run_python(code, "-m", "queue_engine", *arguments, QUEUE_ENGINE_URL=url, QUEUE_ENGINE_API_KEY=KEY)


async def data_of(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()["data"]


async def stored(store: Store, key: str, *fields: str) -> list[bytes]:
    values: list[bytes] = await store.redis.hmget(key, list(fields))  # type: ignore[misc]
    return values


async def schema(api: httpx.AsyncClient, model: str) -> dict[str, Any]:
    document = (await api.get(api.base_url.copy_with(path="/openapi.json"))).json()
    properties: dict[str, Any] = document["components"]["schemas"][model]["properties"]
    return properties


async def test_a_made_up_setting_of_an_endpoint_is_defined_and_used_and_all_else_follows(
    api: httpx.AsyncClient, code: Path, pages: Path, store: Store
) -> None:
    refused = await api.post("", json=ENDPOINT | {"madeUpSeconds": 61, "madeUpLabel": "far too long"})
    assert refused.json()["message"] == (
        "madeUpSeconds: must be at most 60; madeUpLabel: must be at most 9 characters long"
    )
    made = await data_of(await api.post("", json=ENDPOINT | {"madeUpSeconds": 12}))
    assert (made["madeUpSeconds"], made["madeUpLabel"], made["cost"]) == (12, None, 12)
    path, key = f"/{made['id']}", store.partitions.of(made["id"]).endpoint
    assert (await data_of(await api.get(path)))["madeUpSeconds"] == 12

    changed = await data_of(await api.patch(path, json={"madeUpSeconds": 13.5}))
    assert (changed["madeUpSeconds"], changed["cost"]) == (13.5, 13.5)
    assert await stored(store, key, "made_up_seconds", "revision") == [b"13.5", b"1"]
    changed = await data_of(await api.patch(path, json={"madeUpSeconds": None, "madeUpLabel": "blue"}))
    assert (changed["madeUpSeconds"], changed["madeUpLabel"]) == (7.5, "blue")
    config, revision = await stored(store, key, "config", "revision")
    assert (json.loads(config)["made_up_label"], revision) == ("blue", b"2")

    output = command(code, api, "endpoints", "update", made["id"], "--made-up-seconds", "14", "--made-up-label", "red")
    changed = await data_of(await api.get(path))
    assert (changed["madeUpSeconds"], changed["madeUpLabel"]) == (14, "red"), output
    # As an older version has stored it.
    await store.redis.hdel(key, "made_up_seconds")  # type: ignore[misc]
    assert (await data_of(await api.get(path)))["madeUpSeconds"] == 7.5

    for model in ("CreateEndpoint", "UpdateEndpoint", "EndpointView"):
        assert (await schema(api, model))["madeUpSeconds"]["description"] == "A made-up setting"
    assert (await schema(api, "CreateEndpoint"))["madeUpSeconds"] == {
        "type": "number", "minimum": 1, "maximum": 60, "default": 7.5, "description": "A made-up setting"
    }  # fmt: skip
    page = (pages / "endpoint-settings.md").read_text()
    row = (
        "| `madeUpSeconds` | `7.5` | number, ≥ 1, ≤ 60 | `--made-up-seconds` | replaces no worker | A made-up setting |"
    )
    assert row in page
    assert "| `madeUpLabel` | – | text, ≤ 9 characters | `--made-up-label` | replaces the workers |" in page


async def test_a_made_up_field_of_a_task_is_defined_and_used_and_all_else_follows(
    api: httpx.AsyncClient, code: Path, pages: Path, programs: Programs, container: HttpServer, store: Store
) -> None:
    endpoint_id = (await data_of(await api.post("", json=ENDPOINT)))["id"]
    tasks = f"/{endpoint_id}/tasks"
    body = TASK | {"taskId": "one", "madeUp": "abc", "madeUpSecret": "canary-77a1"}
    refused = await api.post(tasks, json=body | {"madeUp": "far too long"})
    assert refused.json()["message"] == "madeUp: must be at most 9 characters long"
    await data_of(await api.post(tasks, json=body))
    await data_of(await api.post(tasks, json=body))
    for other in ({"madeUp": "xyz"}, {"madeUpSecret": "another"}):
        assert (await api.post(tasks, json=body | other)).status_code == 409
    output = command(
        code,
        api,
        "tasks",
        "submit",
        endpoint_id,
        "--port",
        "8000",
        "--input",
        "1",
        "--task-id",
        "two",
        "--made-up",
        "cli",
    )
    for task_id, value in (("one", "abc"), ("two", "cli")):
        task = await data_of(await api.get(f"{tasks}/{task_id}"))
        assert task["madeUp"] == value, output
        assert "canary-77a1" not in json.dumps(task)
    listed = (await data_of(await api.get(tasks)))["items"]
    assert [task["madeUp"] for task in listed] == ["cli", "abc"]
    kept = await store.redis.get(store.partitions.of(endpoint_id).body("one"))
    assert b'"made_up":"abc"' in kept
    assert b"canary-77a1" not in kept

    programs.start(
        "agent", "worker_agent", "--endpoint", endpoint_id, "--container-url", container.url, **path_to(code)
    )
    seen = sorted(
        (container.next(GIVE_UP_SECONDS).headers["x-made-up"], container.next(GIVE_UP_SECONDS).headers["x-made-up"])
    )
    assert seen == ["abc", "cli"]

    for model in ("SubmitTask", "TaskView", "TaskDetailView"):
        assert (await schema(api, model))["madeUp"]["description"] == "A made-up field"
    assert "madeUpSecret" in await schema(api, "SubmitTask")
    assert "madeUpSecret" not in await schema(api, "TaskDetailView")
    page = (pages / "task-fields.md").read_text()
    assert "| `madeUp` | text, ≤ 9 characters | `--made-up` | yes | A made-up field |" in page
    assert "| `madeUpSecret` | text, ≤ 99 characters | `--made-up-secret` | no | A made-up secret |" in page


async def test_a_made_up_shared_variable_is_defined_and_used_and_all_else_follows(
    code: Path, pages: Path, programs: Programs, store: Store, tmp_path: Path
) -> None:
    listening = f"exec {sys.executable} -m http.server $PORT --bind 127.0.0.1"
    endpoint_id = await new_endpoint(store, workers=1, initialization_command=listening)
    programs.start("controller", "queue_engine", "controller", QUEUE_ENGINE_MADE_UP_SECONDS="9", **path_to(code))
    command_line = ("worker_agent", "--endpoint", endpoint_id, "--container-url", "http://127.0.0.1:9")
    by_hand = programs.start("agent", *command_line, QUEUE_ENGINE_MADE_UP_SECONDS="8", **path_to(code))
    wait_until(lambda: '"made_up": 8.0' in by_hand.output(), GIVE_UP_SECONDS)
    handed_on = tmp_path / "workers"
    wait_until(lambda: any('"made_up": 9.0' in log.read_text() for log in handed_on.glob("*.log")), GIVE_UP_SECONDS)

    output = run_python(code, "-m", "queue_engine", "controller", QUEUE_ENGINE_MADE_UP_SECONDS="0")
    assert "QUEUE_ENGINE_MADE_UP_SECONDS: Input should be greater than or equal to 1" in output
    names = ["QUEUE_ENGINE_MADE_UP_SECONDZ", "QUEUE_ENGINE_MADE_UP_SECONDS", "WORKER_AGENT_MADE_UP_SECONDS"]
    output = run_python(
        code, "-c", f"from queue_engine.config import variables as v; print(v.unknown_variables({names}))"
    )
    hint = "unknown variable QUEUE_ENGINE_MADE_UP_SECONDZ: did you mean QUEUE_ENGINE_MADE_UP_SECONDS?"
    assert output == f"[{hint!r}]\n"
    page = (pages / "configuration.md").read_text()
    assert "| `QUEUE_ENGINE_MADE_UP_SECONDS` | `7.5` | number, ≥ 1 | controller | A made-up variable |" in page
    assert "| `WORKER_AGENT_MADE_UP_SECONDS` | `7.5` | number, ≥ 1 | A made-up variable. *Shared.* |" in page
