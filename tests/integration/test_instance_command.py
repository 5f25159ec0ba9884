"""`queue-engine instance` as an operator runs it."""

from queue_engine.store.keys import LEADER
from queue_engine.store.store import Store
from tests.integration.test_keys_command import run


async def test_the_installation_of_a_copied_store_is_renewed_unless_a_controller_leads(
    store: Store, valkey_url: str
) -> None:
    before = await store.instance_id()
    await store.redis.set(LEADER, "a-controller")
    refused = run(valkey_url, "renew", group="instance")
    assert (refused.returncode, "stop all controllers first" in refused.stderr) == (2, True)
    assert await store.instance_id() == before
    await store.redis.delete(LEADER)
    renewed = run(valkey_url, "renew", group="instance")
    assert renewed.stdout == f"the installation is {await store.instance_id()} now\n"
    assert await store.instance_id() != before
