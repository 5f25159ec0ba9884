"""Agent tokens: stored as hashes, limited in number, and ended with their endpoint or their worker."""

from queue_engine.crypto.api_keys import new_agent_token
from queue_engine.domain.agent_tokens import MAX_TOKENS_PER_ENDPOINT, AgentPrincipal, AgentToken, holder_of
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import managed_worker_id
from queue_engine.store.agent_tokens import TokenRefusal, place_of, token_id_of
from queue_engine.store.store import Store
from tests.store.bench import TENANT, Bench


async def made(bench: Bench, name: str = "office", endpoint_id: str | None = None) -> str:
    token = new_agent_token(endpoint_id or bench.endpoint_id)
    created = await bench.store.agent_tokens.create(endpoint_id or bench.endpoint_id, TENANT, token, name)
    assert isinstance(created, AgentToken)
    return token


async def principal_of(store: Store, token: str) -> AgentPrincipal | None:
    found = await store.agent_tokens.find(place_of(token))
    return None if found is None else found.principal()


async def started(bench: Bench, suffix: str) -> tuple[str, str]:
    """Start a managed worker; return its id and its token."""
    worker_id = managed_worker_id(bench.endpoint_id, suffix)
    await bench.store.workers.put(bench.endpoint_id, worker_id, managed=True)
    return worker_id, await started_again(bench, worker_id)


async def started_again(bench: Bench, worker_id: str) -> str:
    token = new_agent_token(worker_id)
    assert await bench.store.workers.begin_start(bench.endpoint_id, worker_id, token) is not None
    return token


async def test_a_token_is_valid_for_its_endpoint_and_only_its_hash_is_stored(bench: Bench) -> None:
    token = await made(bench, "two words")
    expected = AgentPrincipal(TENANT, bench.endpoint_id, token_id_of(token))
    assert await principal_of(bench.store, token) == expected
    (listed,) = await bench.store.agent_tokens.of_endpoint(bench.endpoint_id, TENANT)
    assert (listed.name, listed.principal(), listed.last_used_at_ms) == ("two words", expected, None)
    assert abs(await bench.probe.now_ms() - listed.created_at_ms) < 60_000
    _, of_worker = await started(bench, "3fa9c0d1e2")
    contents = await bench.probe.dump()
    for secret in (token, of_worker):
        assert not [key for key, content in contents.items() if secret[-43:].encode() in key.encode() + content]


async def test_a_made_up_token_is_unknown(bench: Bench) -> None:
    token = await made(bench)
    worker_id, of_worker = await started(bench, "3fa9c0d1e2")
    forged = [
        new_agent_token(bench.endpoint_id),
        new_agent_token("999"),
        new_agent_token(worker_id),
        new_agent_token(managed_worker_id(bench.endpoint_id, "0")),
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        # The secret of one token under the name of another holder.
        token.replace(f"qea_{bench.endpoint_id}_", "qea_999_"),
        token.replace(f"qea_{bench.endpoint_id}_", f"qea_{worker_id}_"),
        of_worker.replace(worker_id, bench.endpoint_id),
    ]
    assert all(holder_of(one) is not None for one in forged)
    assert [await principal_of(bench.store, one) for one in forged] == [None] * len(forged)
    found = await bench.store.agent_tokens.find_all([place_of(one) for one in (forged[0], token, of_worker)])
    assert [one is not None for one in found.values()] == [False, True, True]


async def test_the_number_of_an_endpoints_tokens_is_limited(bench: Bench) -> None:
    await started(bench, "3fa9c0d1e2")
    tokens = [await made(bench) for _ in range(MAX_TOKENS_PER_ENDPOINT)]
    store = bench.store.agent_tokens
    one_more = new_agent_token(bench.endpoint_id)
    assert await store.create(bench.endpoint_id, TENANT, one_more, "") is TokenRefusal.FULL
    assert await principal_of(bench.store, one_more) is None
    # A creation that is repeated after a lost reply succeeds at the limit too.
    assert isinstance(await store.create(bench.endpoint_id, TENANT, tokens[0], "office"), AgentToken)
    found = await store.find(place_of(tokens[0]))
    assert found is not None
    await store.revoke(found)
    await made(bench)


async def test_a_revoked_token_is_unknown_and_others_stay(bench: Bench) -> None:
    tokens = [await made(bench, name) for name in ("a", "b")]
    store = bench.store.agent_tokens
    (first,) = [one for one in await store.of_endpoint(bench.endpoint_id, TENANT) if one.name == "a"]
    for _ in range(2):
        await store.revoke(first)
    assert [await principal_of(bench.store, one) is not None for one in tokens] == [False, True]
    await store.note_use(place_of(tokens[0]))  # a late note does not make it valid again
    assert await principal_of(bench.store, tokens[0]) is None


async def test_the_latest_use_is_noted_once_a_minute(bench: Bench) -> None:
    place = place_of(await made(bench, "two words"))
    store = bench.store.agent_tokens

    async def used_at() -> int | None:
        found = await store.find(place)
        assert found is not None
        assert found.name == "two words"
        return found.last_used_at_ms

    await store.note_use(place)
    first = await used_at()
    assert first is not None
    await store.note_use(place)
    assert await used_at() == first
    await bench.probe.ask("HSET", bench.keys.agent_tokens, place.token_hash, f"5 {first - 61_000} two words")
    await store.note_use(place)
    assert (await used_at() or 0) >= first


async def test_no_token_is_made_for_another_tenants_a_deleted_or_a_missing_endpoint(bench: Bench) -> None:
    store = bench.store.agent_tokens
    token = new_agent_token(bench.endpoint_id)
    assert await store.create(bench.endpoint_id, "stranger", token, "") is TokenRefusal.NOT_FOUND
    assert await store.create("999", TENANT, new_agent_token("999"), "") is TokenRefusal.NOT_FOUND
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await store.create(bench.endpoint_id, TENANT, token, "") is TokenRefusal.NOT_FOUND
    assert await store.of_endpoint(bench.endpoint_id, TENANT) == []


async def test_tokens_work_while_the_endpoint_is_deleted_and_end_with_it(bench: Bench) -> None:
    token = await made(bench)
    worker_id, of_worker = await started(bench, "3fa9c0d1e2")
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    # Agents finish their tasks.
    assert not await bench.store.endpoints.remove(bench.endpoint_id)
    assert [await principal_of(bench.store, one) is not None for one in (token, of_worker)] == [True, True]
    await bench.store.workers.remove(bench.endpoint_id, worker_id)
    assert await bench.store.endpoints.remove(bench.endpoint_id)
    assert [await principal_of(bench.store, one) for one in (token, of_worker)] == [None, None]
    assert not [key for key in await bench.probe.keys() if "tokens" in key]


async def test_the_token_of_a_worker_may_act_for_this_worker_only(bench: Bench) -> None:
    worker_id, token = await started(bench, "3fa9c0d1e2")
    expected = AgentPrincipal(TENANT, bench.endpoint_id, token_id_of(token), worker_id)
    assert await principal_of(bench.store, token) == expected
    (listed,) = await bench.store.agent_tokens.of_endpoint(bench.endpoint_id, TENANT)
    assert listed.principal() == expected


async def test_the_token_of_a_worker_ends_with_its_next_start(bench: Bench) -> None:
    worker_id, first = await started(bench, "3fa9c0d1e2")
    (stored,) = await bench.store.agent_tokens.of_endpoint(bench.endpoint_id, TENANT)
    second = await started_again(bench, worker_id)
    assert [await principal_of(bench.store, one) is not None for one in (first, second)] == [False, True]
    await bench.store.agent_tokens.revoke(stored)  # of the first start: the second's stays
    assert await principal_of(bench.store, second) is not None
    await bench.store.workers.begin_start(bench.endpoint_id, worker_id)
    assert await principal_of(bench.store, second) is None


async def test_a_worker_can_be_revoked_without_others(bench: Bench) -> None:
    (_, one), (other_id, other) = await started(bench, "1"), await started(bench, "2")
    tokens = await bench.store.agent_tokens.of_endpoint(bench.endpoint_id, TENANT)
    await bench.store.agent_tokens.revoke(next(token for token in tokens if token.holder.worker_id != other_id))
    assert [await principal_of(bench.store, token) is not None for token in (one, other)] == [False, True]


async def test_no_token_is_made_for_a_worker_that_is_not_there(bench: Bench) -> None:
    token = new_agent_token(managed_worker_id(bench.endpoint_id, "1"))
    before = await bench.probe.keys()
    holder = holder_of(token)
    assert holder is not None
    assert await bench.store.workers.begin_start(bench.endpoint_id, holder.worker_id or "", token) is None
    assert await bench.probe.keys() == before


async def test_an_agent_on_the_store_removes_its_worker_without_access_to_tokens(bench: Bench) -> None:
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=False)
    script = bench.store.scripts  # as `remove` does for it: the list of keys of tokens is empty
    keys = bench.keys.of_worker("w1")
    assert (await script.remove_worker(keys, of_engine=[], worker_id="w1", status="STOPPED", reason="")).word == "OK"
    assert await bench.store.workers.of_endpoint(bench.endpoint_id) == []
