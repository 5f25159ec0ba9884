"""`queue-engine agents` as an operator runs it."""

from subprocess import CompletedProcess

import pytest

from queue_engine.domain.audit import Action
from queue_engine.store.agent_tokens import place_of, token_id_of
from tests.integration.parts import open_store
from tests.integration.test_keys_command import run
from tests.store.bench import TENANT, config


def agents(url: str, *arguments: str) -> CompletedProcess[str]:
    return run(url, *arguments, group="agents")


async def test_a_token_is_created_listed_and_revoked(valkey_url: str) -> None:
    store = open_store(valkey_url)
    try:
        endpoint_id = (await store.endpoints.create(TENANT, config())).endpoint_id
        made = agents(valkey_url, "token", endpoint_id, "--name", "GPU hosts")
        assert (made.returncode, made.stderr) == (0, "")
        token = made.stdout.strip()
        found = await store.agent_tokens.find(place_of(token))
        assert found is not None
        assert (found.tenant, found.holder.endpoint_id, found.name) == (TENANT, endpoint_id, "GPU hosts")
        (line,) = agents(valkey_url, "tokens", endpoint_id).stdout.splitlines()
        assert line.startswith(token_id_of(token))
        assert line.endswith("GPU hosts")
        revoked = agents(valkey_url, "revoke", endpoint_id, line[:12])
        assert (revoked.returncode, revoked.stdout) == (0, "1 revoked\n")
        assert await store.agent_tokens.find(place_of(token)) is None
        assert agents(valkey_url, "revoke", endpoint_id, line[:12]).returncode == 1
        records = (await store.audit.page(TENANT, before=None, size=10)).records
        target = f"endpoint {endpoint_id}, agent token {found.token_id}"
        assert [(one.change.action, one.change.target) for one in records] == [
            (Action.REVOKE_AGENT_TOKEN, target),
            (Action.CREATE_AGENT_TOKEN, target),
        ]
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("token", "999"), "there is no endpoint with the id '999'"),
        (("token", "x"), "there is no endpoint with the id 'x'"),
        (("token", "1", "--name", "a\nb"), "--name: must be at most 100 printable characters"),
        (("tokens", "999"), "there is no endpoint with the id '999'"),
        (("revoke", "1", "0f3a"), "give at least 8 characters of the id"),
    ],
)
def test_wrong_arguments_are_named(valkey_url: str, arguments: tuple[str, ...], message: str) -> None:
    result = agents(valkey_url, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in result.stderr
