"""Endpoints are stored as configured, separately for each tenant, and their secrets only sealed."""

import asyncio
import json
from dataclasses import replace

import pytest

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.crypto.signing import sign
from queue_engine.domain.attempts import Renewal
from queue_engine.domain.endpoints import (
    DesiredState,
    Endpoint,
    EndpointConfig,
    EndpointStatus,
    Expose,
    Resource,
    ServiceMode,
    TaskCounts,
)
from queue_engine.domain.errors import PreconditionFailed
from queue_engine.domain.tasks import Succeeded, TaskState, TryAgain
from queue_engine.domain.workers import WorkerStatus
from queue_engine.store.endpoints import StateChange
from queue_engine.store.store import Store
from queue_engine.store.tasks import Rerun, Submission
from tests.store.bench import TENANT, Bench, config, spec
from tests.store.probe import Probe


async def test_a_full_configuration_is_kept(store: Store) -> None:
    wanted = config(
        resources=(Resource("r1", "NVIDIA_A100", 2), Resource("r2", "CPU", 1)),
        workers=3,
        image_registry="registry.example",
        credential_id=7,
        min_single_card_vram_in_gb=24,
        min_single_card_vcpu=0,
        min_single_card_ram_in_gb=64,
        initialization_command="python serve.py --näme 'x y'",
        expose=Expose(8000, "HTTP"),
        webhook="https://hooks.example/status",
        concurrency=4,
        execution_timeout_seconds=10,
        max_attempts=2,
        max_queued_tasks=5,
        result_retention_seconds=60,
        plain_variables=frozenset({"MODEL", "THREADS"}),
        ready_path="/healthz",
        start_timeout_seconds=12.5,
        max_busy_seconds=0.5,
    )
    created = await store.endpoints.create(TENANT, wanted)
    found = await store.endpoints.get(created.endpoint_id, TENANT)
    assert found == created
    assert created.config == wanted
    assert (created.tenant, created.desired, created.failed) == (TENANT, DesiredState.RUNNING, False)
    assert created.created_at_ms == created.updated_at_ms


async def test_optional_fields_may_be_absent(store: Store) -> None:
    created = await store.endpoints.create(TENANT, config(service_mode=ServiceMode.CUSTOM, workers=0))
    assert created.config == config(service_mode=ServiceMode.CUSTOM, workers=0)
    assert created.environment_names == ()


async def test_a_change_that_changes_nothing_is_not_written(store: Store, probe: Probe) -> None:
    created = await store.endpoints.create(TENANT, config(environment={"A": "1"}))
    before = (await probe.snapshot()).contents
    for environment in (None, {"A": "1"}):
        found = await store.endpoints.update(created.endpoint_id, TENANT, lambda same: same, environment)
        assert found == (created, False)
    assert (await probe.snapshot()).contents == before
    changed = await store.endpoints.update(created.endpoint_id, TENANT, lambda same: same, {"A": "2"})
    assert changed is not None
    assert changed.is_written
    assert (changed.endpoint.version, changed.endpoint.revision) == (2, 2)


async def test_an_endpoint_of_an_older_version_has_the_defaults(store: Store, probe: Probe) -> None:
    created = await store.endpoints.create(TENANT, config(ready_path="/x", start_timeout_seconds=60))
    key = store.partitions.of(created.endpoint_id).endpoint
    stored = json.loads(await probe.ask("HGET", key, "config"))
    older = {
        name: value for name, value in stored.items() if name not in ("ready_path", "start_timeout", "plain_variables")
    }
    await probe.ask("HSET", key, "config", json.dumps(older))
    await probe.ask("HDEL", key, "max_busy")
    found = await store.endpoints.get(created.endpoint_id, TENANT)
    assert found is not None
    assert found.config == config()


async def test_an_endpoint_is_seen_by_its_tenant_only(store: Store) -> None:
    created = await store.endpoints.create(TENANT, config())
    assert await store.endpoints.get(created.endpoint_id, "globex") is None
    assert await store.endpoints.get(created.endpoint_id, None) == created
    assert await store.endpoints.get("999", TENANT) is None
    assert await store.endpoints.get("999", None) is None


async def test_the_endpoints_of_a_tenant_are_listed_newest_first(store: Store) -> None:
    mine = [(await store.endpoints.create(TENANT, config())).endpoint_id for _ in range(12)]
    other = (await store.endpoints.create("globex", config())).endpoint_id
    assert [one.endpoint_id for one in await store.endpoints.of_tenant(TENANT)] == mine[::-1]
    assert [one.endpoint_id for one in await store.endpoints.of_tenant("globex")] == [other]
    assert await store.endpoints.of_tenant("nobody") == []
    assert sorted(await store.endpoints.ids(), key=int) == [*mine, other]


async def test_endpoints_created_at_once_get_different_ids(store: Store) -> None:
    created = await asyncio.gather(*(store.endpoints.create(TENANT, config()) for _ in range(20)))
    assert {one.endpoint_id for one in created} == {str(number) for number in range(1, 21)}


async def test_the_environment_is_given_to_who_has_the_key_only(store: Store) -> None:
    created = await store.endpoints.create(TENANT, config(environment={"TOKEN": "s3cr3t", "A": "ü=1\n2"}))
    assert created.config.environment == {}
    assert created.environment_names == ("A", "TOKEN")
    assert await store.endpoints.environment(created.endpoint_id) == {"TOKEN": "s3cr3t", "A": "ü=1\n2"}

    for key, error in [(None, SecretKeyMissing), (bytes(32), SealBroken)]:
        stranger = Store(store.url, Sealer(key), partitions=store.partitions.count)
        try:
            with pytest.raises(error):
                await stranger.endpoints.environment(created.endpoint_id)
            with pytest.raises(error):
                await stranger.endpoints.signing_secret(created.endpoint_id)
            seen = await stranger.endpoints.get(created.endpoint_id, TENANT)
        finally:
            await stranger.close()
        assert seen == created


async def test_no_environment_needs_no_key(store: Store) -> None:
    created = await store.endpoints.create(TENANT, config())
    assert await store.endpoints.environment(created.endpoint_id) == {}
    assert await store.endpoints.environment("999") == {}


async def test_a_sealed_environment_cannot_be_moved_to_another_endpoint(store: Store, probe: Probe) -> None:
    first = await store.endpoints.create(TENANT, config(environment={"TOKEN": "s3cr3t"}))
    second = await store.endpoints.create(TENANT, config())
    stolen = (await probe.hash(store.partitions.of(first.endpoint_id).endpoint))["config"]
    await probe.ask("HSET", store.partitions.of(second.endpoint_id).endpoint, "config", stolen)
    with pytest.raises(SealBroken):
        await store.endpoints.environment(second.endpoint_id)


async def test_without_a_key_secrets_are_refused_and_the_rest_is_kept(store: Store, probe: Probe) -> None:
    keyless = Store(store.url, Sealer(None), partitions=store.partitions.count)
    try:
        with pytest.raises(SecretKeyMissing):
            await keyless.endpoints.create(TENANT, config(environment={"TOKEN": "s3cr3t"}))
        assert await keyless.endpoints.ids() == []
        created = await keyless.endpoints.create(TENANT, config())
        secret = await keyless.endpoints.signing_secret(created.endpoint_id)
    finally:
        await keyless.close()
    assert secret is not None
    assert sign(secret, "msg_1", 1, b"{}").startswith("v1,")
    assert await store.endpoints.signing_secret(created.endpoint_id) == secret


async def test_every_endpoint_has_its_own_signing_secret(store: Store) -> None:
    ids = [(await store.endpoints.create(TENANT, config())).endpoint_id for _ in range(3)]
    secrets = [await store.endpoints.signing_secret(one) for one in ids]
    assert len(set(secrets)) == 3
    assert all(secret and secret.startswith("whsec_") for secret in secrets)
    assert await store.endpoints.signing_secret("999") is None


async def test_the_status_follows_the_workers(bench: Bench) -> None:
    async def status() -> EndpointStatus:
        found = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
        assert found is not None
        return found.status

    assert await status() is EndpointStatus.INITIALIZING
    await bench.store.endpoints.set_failed(bench.endpoint_id, True)
    assert await status() is EndpointStatus.FAILED
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.store.workers.mark(bench.endpoint_id, "w1", WorkerStatus.RUNNING, reason="a test")
    assert await status() is EndpointStatus.RUNNING
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert await status() is EndpointStatus.STOPPING
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    assert await status() is EndpointStatus.STOPPED


async def test_an_endpoint_knows_its_tasks_and_workers(bench: Bench) -> None:
    await bench.finish("t1")
    await bench.submit("t2")
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    found = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
    assert found is not None
    assert found.counts == TaskCounts(queued=1, success=1)
    assert (found.worker_statuses, found.running_workers) == ((WorkerStatus.INITIALIZING,), 0)


# Changes


async def test_a_change_keeps_what_it_does_not_name(bench: Bench) -> None:
    before = await _endpoint(bench)
    changed = await bench.store.endpoints.update(
        bench.endpoint_id, TENANT, lambda config: replace(config, workers=5, max_queued_tasks=1)
    )
    assert changed == (await _endpoint(bench), True)
    endpoint, _ = changed
    assert endpoint.config == replace(before.config, workers=5, max_queued_tasks=1)
    assert (endpoint.version, endpoint.revision) == (before.version + 1, before.revision)
    assert await bench.submit("t1") is Submission.ACCEPTED
    assert await bench.submit("t2") is Submission.FULL


async def test_a_change_that_needs_new_workers_says_so(bench: Bench) -> None:
    changed = await bench.store.endpoints.update(
        bench.endpoint_id, TENANT, lambda config: replace(config, initialization_command="serve")
    )
    assert changed is not None
    assert changed.endpoint.revision == 2


async def test_a_new_environment_takes_the_place_of_the_old_one(store: Store) -> None:
    endpoint_id = (await store.endpoints.create(TENANT, config(environment={"A": "1"}))).endpoint_id
    kept = await store.endpoints.update(endpoint_id, TENANT, lambda config: replace(config, workers=2))
    assert kept is not None
    assert (kept.endpoint.environment_names, kept.endpoint.revision) == (("A",), 1)
    assert await store.endpoints.environment(endpoint_id) == {"A": "1"}

    changed = await store.endpoints.update(endpoint_id, TENANT, lambda config: config, {"B": "2"})

    assert changed is not None
    assert (changed.endpoint.environment_names, changed.endpoint.revision) == (("B",), 2)
    assert await store.endpoints.environment(endpoint_id) == {"B": "2"}


async def test_a_change_of_another_version_is_not_made(bench: Bench) -> None:
    """The version is compared with that of the write: a change that came in between is not overwritten."""
    read = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
    assert read is not None

    def first(config: EndpointConfig) -> EndpointConfig:
        return replace(config, max_attempts=config.max_attempts + 1)

    changed = await bench.store.endpoints.update(bench.endpoint_id, TENANT, first, versions={read.version})
    assert changed is not None
    assert (changed.endpoint.version, changed.is_written) == (read.version + 1, True)
    with pytest.raises(PreconditionFailed):
        await bench.store.endpoints.update(bench.endpoint_id, TENANT, first, versions={read.version})
    assert await bench.store.endpoints.get(bench.endpoint_id, TENANT) == changed.endpoint
    same = await bench.store.endpoints.update(bench.endpoint_id, TENANT, lambda config: config, versions=())
    assert same is not None
    assert not same.is_written


async def test_changes_at_once_are_all_made(bench: Bench) -> None:
    def one_more(config: EndpointConfig) -> EndpointConfig:
        return replace(config, workers=config.workers + 1)

    await asyncio.gather(*(bench.store.endpoints.update(bench.endpoint_id, TENANT, one_more) for _ in range(10)))
    assert (await _endpoint(bench)).config.workers == 11


async def test_an_endpoint_is_changed_by_its_tenant_only(bench: Bench) -> None:
    before = await _endpoint(bench)
    endpoints = bench.store.endpoints
    for endpoint_id, tenant in ((bench.endpoint_id, "globex"), ("999", TENANT)):
        assert await endpoints.update(endpoint_id, tenant, lambda config: replace(config, workers=9)) is None
        found = await endpoints.set_desired_state(endpoint_id, tenant, DesiredState.DELETED)
        assert found is StateChange.NOT_FOUND
    assert await _endpoint(bench) == before


async def test_a_stopped_endpoint_takes_tasks_again_when_it_is_started(bench: Bench) -> None:
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert await bench.submit("t1") is Submission.CLOSED
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.RUNNING)
    assert await bench.submit("t1") is Submission.ACCEPTED


async def test_the_mark_of_a_failed_endpoint_goes_when_it_is_stopped_or_started(bench: Bench) -> None:
    await bench.store.endpoints.set_failed(bench.endpoint_id, True)
    assert (await _endpoint(bench)).failed
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert not (await _endpoint(bench)).failed


# The end of an endpoint


async def test_a_deleted_endpoint_is_not_found_and_cannot_come_back(bench: Bench) -> None:
    endpoints = bench.store.endpoints
    assert await endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED) is StateChange.OK
    assert await endpoints.get(bench.endpoint_id, TENANT) is None
    assert await endpoints.of_tenant(TENANT) == []
    started = await endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.RUNNING)
    assert started is StateChange.NOT_FOUND
    assert await endpoints.update(bench.endpoint_id, TENANT, lambda config: config) is None
    assert await bench.submit("t1") is Submission.NOT_FOUND


async def test_the_tasks_of_a_deleted_endpoint_end_wherever_they_are(bench: Bench) -> None:
    agent = bench.agent()
    ended = await bench.finish("ended", webhook=True)
    scheduled = await bench.submit_and_start("scheduled", agent, spec=spec(webhook=True), queue_ttl_seconds=30)
    await bench.settle(agent, scheduled, TryAgain("busy", 60))
    running = await bench.submit_and_start("running", agent, spec=spec(webhook=True))
    await bench.submit_and_start("back", agent)
    await bench.lose("back")
    await bench.submit("read", spec=spec(webhook=True))
    await agent.claim(1, block_ms=1)
    await bench.submit("queued", spec=spec(webhook=True), queue_ttl_seconds=30)
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert await bench.store.tasks.rerun(bench.endpoint_id, "ended", "call") is Rerun.NOT_FOUND
    assert len(await bench.probe.scores(bench.partition.deadlines)) == 2

    assert await bench.store.sweeper.end_waiting(bench.endpoint_id, "endpoint deleted") == 5
    assert await bench.probe.scores(bench.partition.deadlines) == {}
    assert await bench.store.sweeper.end_waiting(bench.endpoint_id, "endpoint deleted") == 0

    for name in ("scheduled", "running", "back", "read", "queued"):
        task = await bench.task(name)
        assert (task.state, task.error) == (TaskState.FAILED, "endpoint deleted")
    assert await bench.task("ended") == ended
    assert (await bench.settle(agent, running, Succeeded(b"1"))).word == "FENCED"
    assert await agent.renew([running.lease]) == [Renewal.FENCED]
    assert len(await bench.probe.stream(bench.partition.outbox)) == 5


async def test_only_a_deleted_endpoint_is_removed(bench: Bench) -> None:
    assert not await bench.store.endpoints.remove(bench.endpoint_id)
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    assert not await bench.store.endpoints.remove(bench.endpoint_id)
    assert (await _endpoint(bench)).desired is DesiredState.STOPPED


async def test_a_deleted_endpoint_is_removed_after_its_workers_and_deliveries(bench: Bench) -> None:
    outbox = await bench.outbox()
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.submit("t1", spec=spec(webhook=True))
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.DELETED)
    assert not await bench.store.endpoints.remove(bench.endpoint_id)
    await bench.store.workers.remove(bench.endpoint_id, "w1")
    assert not await bench.store.endpoints.remove(bench.endpoint_id)
    await bench.store.sweeper.end_waiting(bench.endpoint_id, "endpoint deleted")
    await bench.purge()
    assert not await bench.store.endpoints.remove(bench.endpoint_id)
    await bench.deliver(outbox)
    await bench.purge()

    assert await bench.store.endpoints.remove(bench.endpoint_id)
    assert await bench.store.endpoints.remove(bench.endpoint_id)

    bench.endpoint_ids.clear()
    assert await bench.store.endpoints.ids() == []
    assert [name for name in await bench.probe.keys() if name.endswith(f":{bench.endpoint_id}")] == []


async def _endpoint(bench: Bench) -> Endpoint:
    endpoint = await bench.store.endpoints.get(bench.endpoint_id, TENANT)
    assert endpoint is not None
    return endpoint
