"""`queue-engine agents key` as an operator runs it, and the agent that gets the key."""

import subprocess
from pathlib import Path

from queue_engine.crypto.sealing import endpoint_keys_text, new_secret_key, parse_secret_key
from queue_engine.domain.tasks import TaskState
from queue_engine.store.store import Store
from tests.forked import run_command
from tests.integration.parts import SECRET_KEY, HttpServer, Programs, ended, new_endpoint, submit

HEADERS = {"X-Any": "canary-31c9"}


def run(url: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_command(("queue_engine", "agents", "key", *arguments, "--redis-url", url), environment)


async def test_an_agent_with_the_key_in_a_file_runs_tasks_with_headers(
    store: Store, valkey_url: str, programs: Programs, container: HttpServer, tmp_path: Path
) -> None:
    endpoint_id, file = await new_endpoint(store), tmp_path / "key"
    made = run(valkey_url, endpoint_id, "--file", str(file), QUEUE_ENGINE_SECRET_KEY=SECRET_KEY)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    assert file.stat().st_mode & 0o777 == 0o600
    agent = programs.agent(
        endpoint_id, container.url, WORKER_AGENT_ENDPOINT_KEY_FILE=str(file), QUEUE_ENGINE_SECRET_KEY=""
    )
    await submit(store, endpoint_id, headers=HEADERS, port=container.port)
    assert (await ended(store, endpoint_id)).state is TaskState.SUCCEEDED
    assert container.next().headers["x-any"] == HEADERS["X-Any"]
    assert "secret key" not in agent.output()


async def test_during_a_change_of_the_secret_key_it_prints_the_keys_from_both(store: Store, valkey_url: str) -> None:
    endpoint_id, old = await new_endpoint(store), new_secret_key()
    environment = {"QUEUE_ENGINE_SECRET_KEY": SECRET_KEY, "QUEUE_ENGINE_SECRET_KEY_PREVIOUS": old}
    expected = endpoint_keys_text([parse_secret_key(SECRET_KEY), parse_secret_key(old)], endpoint_id)
    assert run(valkey_url, endpoint_id, **environment).stdout == f"{expected}\n"


def test_a_key_that_would_open_nothing_is_refused(valkey_url: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    for endpoint_id, key, message in (
        ("4711", SECRET_KEY, "there is no endpoint with the id '4711'"),
        ("x", SECRET_KEY, "there is no endpoint with the id 'x'"),
        ("1", "", "QUEUE_ENGINE_SECRET_KEY: is required"),
    ):
        refused = run(valkey_url, endpoint_id, "--file", str(file), QUEUE_ENGINE_SECRET_KEY=key)
        assert refused.returncode == 2
        assert message in refused.stderr
        assert not file.exists()


async def test_a_file_that_cannot_be_written_is_named(store: Store, valkey_url: str, tmp_path: Path) -> None:
    file = tmp_path / "missing" / "key"
    refused = run(valkey_url, await new_endpoint(store), "--file", str(file), QUEUE_ENGINE_SECRET_KEY=SECRET_KEY)
    assert refused.returncode == 2
    assert f"--file: cannot write {file}: No such file or directory" in refused.stderr


async def test_an_agent_with_the_secret_key_works_and_is_warned(
    store: Store, programs: Programs, container: HttpServer
) -> None:
    endpoint_id = await new_endpoint(store)
    agent = programs.agent(endpoint_id, container.url)
    await submit(store, endpoint_id, headers=HEADERS, port=container.port)
    assert (await ended(store, endpoint_id)).state is TaskState.SUCCEEDED
    assert f"queue-engine agents key {endpoint_id}" in agent.output()
