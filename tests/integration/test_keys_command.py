"""`queue-engine keys` as an operator runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

from queue_engine.store.api_keys import hash_of
from tests.environment import inherited
from tests.integration.parts import Programs, open_store, programs_on
from tests.waiting import wait_until

FIRST_KEY = "configured-first-key"


def run(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "queue_engine", "keys", *arguments, "--redis-url", url],
        env={**inherited(), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_creating_a_key_for_a_second_tenant_says_that_loopback_is_closed(valkey_url: str) -> None:
    for _ in range(2):
        made = run(valkey_url, "create")
        assert (made.returncode, made.stderr) == (0, "")
    made = run(valkey_url, "create", "--tenant", "second")
    assert made.returncode == 0
    assert made.stdout.startswith("qe_")
    assert "there is a second tenant now" in made.stderr
    assert "QUEUE_ENGINE_WEBHOOK_ALLOW" in made.stderr
    assert run(valkey_url, "create", "--tenant", "third").stderr == ""


def test_a_key_is_revoked_by_the_hash_that_the_list_shows(valkey_url: str) -> None:
    key = run(valkey_url, "create", "--name", "laptop").stdout.strip()
    (line,) = run(valkey_url, "list").stdout.splitlines()
    assert line.startswith(hash_of(key)[:12])
    assert run(valkey_url, "revoke", line[:12]).stdout == "1 revoked\n"
    assert run(valkey_url, "list").stdout == ""
    assert run(valkey_url, "revoke", line[:12]).returncode == 1


@pytest.mark.parametrize("state", ["revoked", "another tenant's"])
async def test_an_api_that_restarts_leaves_its_first_key_as_it_is_and_says_so(
    valkey_url: str, tmp_path: Path, state: str
) -> None:
    store = open_store(valkey_url)
    try:
        if state == "revoked":
            await store.api_keys.put_first(FIRST_KEY)
            await store.api_keys.revoke(hash_of(FIRST_KEY))
        else:
            await store.api_keys.put(FIRST_KEY, tenant="acme", name="")
        with programs_on(valkey_url, tmp_path) as programs:
            assert_says_so(programs)
        tenant = await store.api_keys.tenant_of(hash_of(FIRST_KEY))
        assert tenant == (None if state == "revoked" else "acme")
    finally:
        await store.close()


def assert_says_so(programs: Programs) -> None:
    api = programs.start("api", "queue_engine", "api", "--port", "0", QUEUE_ENGINE_API_KEY=FIRST_KEY)
    wait_until(lambda: '"started"' in api.output() or not api.running, 60, "the API does not start")
    assert "the first API key (QUEUE_ENGINE_API_KEY)" in api.output()
    assert FIRST_KEY not in api.output()
