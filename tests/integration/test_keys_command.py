"""`queue-engine keys` as an operator runs it."""

import subprocess
from pathlib import Path

import pytest

from queue_engine.domain.audit import Action
from queue_engine.domain.principals import Role
from queue_engine.store.api_keys import OPERATORS, hash_of
from tests.forked import run_command
from tests.integration.parts import Programs, open_store, programs_on
from tests.store.bench import config, tenant_of
from tests.waiting import wait_until

FIRST_KEY = "configured-first-key"


def run(url: str, *arguments: str, group: str = "keys") -> subprocess.CompletedProcess[str]:
    return run_command(("queue_engine", group, *arguments, "--redis-url", url))


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


async def test_a_key_has_the_limits_of_the_options(valkey_url: str) -> None:
    store = open_store(valkey_url)
    try:
        endpoint_id = (await store.endpoints.create("default", config())).endpoint_id
        options = ("--name", "ci", "--role", "submit", "--endpoint", endpoint_id, "--expires", "2d")
        key = await store.api_keys.find(hash_of(run(valkey_url, "create", *options).stdout.strip()))
        assert key is not None
        assert (key.tenant, key.role, key.endpoints) == ("default", Role.SUBMIT, frozenset({endpoint_id}))
        assert key.expires_at_ms is not None
        assert abs(key.expires_at_ms - key.created_at_ms - 2 * 86_400_000) < 600_000
        (line,) = run(valkey_url, "list", "--tenant", "default").stdout.splitlines()
        assert line.split()[:3] == [key.key_id, "default", "submit"]
        (record,) = (await store.audit.page("default", before=None, size=10)).records
        assert (record.change.action, record.change.target) == (Action.CREATE_KEY, f"key {key.key_id}")
    finally:
        await store.close()


async def test_a_valid_key_is_printed_although_its_audit_record_cannot_be_written(valkey_url: str) -> None:
    store = open_store(valkey_url)
    try:
        await store.redis.set("{qe}:audit:default", "no stream")
        created = run(valkey_url, "create")
        rotated = run(valkey_url, "rotate", hash_of(created.stdout.strip())[:12])
        for made in (created, rotated):
            assert made.returncode != 0
            assert await store.api_keys.find(hash_of(made.stdout.strip())) is not None, made.stderr
    finally:
        await store.close()


async def test_an_operators_key_belongs_to_no_tenant(valkey_url: str) -> None:
    store = open_store(valkey_url)
    try:
        key = await store.api_keys.find(hash_of(run(valkey_url, "create", "--operator").stdout.strip()))
        assert key is not None
        assert (key.tenant, key.role) == (OPERATORS, Role.OPERATOR)
        assert "(operator)" in run(valkey_url, "list").stdout
        assert await store.redis.smembers("{qe}:tenants") == set()  # type: ignore[misc]
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--role", "operator"), "'operator' is not one of"),
        (("--endpoint", "7"), "--endpoint: the tenant has no endpoint with the id '7'"),
        (("--endpoint", "x"), "--endpoint: the tenant has no endpoint with the id 'x'"),
        (("--expires", "soon"), "--expires: must be like 10m"),
        (("--expires", "2020-01-01"), "--expires: must be in the future"),
        (("--tenant", "a/b"), "--tenant: must be 1–64"),
        (("--tenant", ""), "--tenant: must be 1–64"),
        (("--operator", "--role", "read"), "--operator: cannot be combined"),
    ],
)
def test_wrong_options_create_no_key(valkey_url: str, options: tuple[str, ...], message: str) -> None:
    made = run(valkey_url, "create", *options)
    assert (made.returncode, made.stdout) == (2, "")
    assert message in made.stderr


def test_a_rotated_key_is_replaced(valkey_url: str) -> None:
    old = hash_of(run(valkey_url, "create", "--name", "laptop").stdout.strip())
    assert "--overlap: must be a duration" in run(valkey_url, "rotate", old[:12], "--overlap", "8d").stderr
    new = run(valkey_url, "rotate", old[:12], "--overlap", "1h").stdout.strip()
    assert new.startswith("qe_")
    listed = run(valkey_url, "list").stdout
    assert hash_of(new)[:16] in listed
    assert old[:16] in listed
    assert "has been rotated before" in run(valkey_url, "rotate", old[:12]).stderr
    assert run(valkey_url, "rotate", hash_of(new)[:12], "--overlap", "0s").returncode == 0
    assert hash_of(new)[:16] not in run(valkey_url, "list").stdout
    assert "0 keys have a hash" in run(valkey_url, "rotate", hash_of(new)[:12]).stderr


def test_tenants_are_created_listed_and_limited(valkey_url: str) -> None:
    def tenants(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(valkey_url, *arguments, group="tenants")

    run(valkey_url, "create")
    made = tenants("create", "acme", "--workers-per-endpoint", "5")
    assert "there is a second tenant now" in made.stderr
    assert [line.split() for line in made.stdout.splitlines()] == [
        ["endpoints", "1000", "(default)"], ["credentials", "1000", "(default)"], ["workersPerEndpoint", "5"],
        ["workers", "1000", "(default)"], ["storedBytes", "half", "of", "maxmemory", "(default)"],
        ["waitingTasks", "0", "(default)"], ["waitingDeliveries", "0", "(default)"],
        ["submitsPerSecond", "0", "(default)"],
    ]  # fmt: skip
    assert "there is a tenant acme already" in tenants("create", "acme").stderr
    assert "NAME: must be 1–64" in tenants("create", "a/b").stderr
    limited = tenants("limits", "acme", "--workers-per-endpoint", "default", "--endpoints", "0").stdout
    assert limited.splitlines()[0].split() == ["endpoints", "0"]
    limited = tenants("limits", "acme", "--stored-bytes", "5000000000", "--submits-per-second", "50").stdout
    assert "storedBytes          5000000000" in limited
    assert "submitsPerSecond     50" in limited
    assert "from 0 (no limit) to 1000000, or" in tenants("limits", "acme", "--submits-per-second", "1000001").stderr
    names = [line.split()[0] for line in tenants("list").stdout.splitlines()]
    assert names == ["acme", "default"]
    assert tenants("list").stdout.splitlines()[0].endswith("endpoints=0 storedBytes=5000000000 submitsPerSecond=50")
    assert "--workers-per-endpoint: must be a number" in tenants("limits", "acme", "--workers-per-endpoint", "x").stderr
    assert tenants("limits", "none", "--workers", "1").returncode == 2


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
        tenant = await tenant_of(store, hash_of(FIRST_KEY))
        assert tenant == (None if state == "revoked" else "acme")
    finally:
        await store.close()


def assert_says_so(programs: Programs) -> None:
    api = programs.start("api", "queue_engine", "api", "--port", "0", QUEUE_ENGINE_API_KEY=FIRST_KEY)
    wait_until(lambda: '"started"' in api.output() or not api.running, 60, "the API does not start")
    assert "the first API key (QUEUE_ENGINE_API_KEY)" in api.output()
    assert FIRST_KEY not in api.output()
