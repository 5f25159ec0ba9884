"""Endpoints in the store."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import Any

from redis.asyncio import Redis

from queue_engine.domain.endpoints import (
    Endpoint,
    EndpointConfig,
    Expose,
    Resource,
    ServiceMode,
    TaskCounts,
    Wanted,
)
from queue_engine.domain.signing import new_secret
from queue_engine.domain.workers import WorkerStatus
from queue_engine.runtime.sealing import Sealer
from queue_engine.store.keys import ENDPOINT_IDS, Partitions
from queue_engine.store.scripts import ScriptRunner

_COUNTS = ["queued", "running", "scheduled", "success", "delivered", "failed"]


class EndpointStore:
    """What users configured, and how it stands."""

    def __init__(self, redis: Redis, scripts: ScriptRunner, partitions: Partitions, sealer: Sealer) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._sealer = sealer

    async def create(self, tenant: str, config: EndpointConfig) -> Endpoint:
        """Store a new endpoint under a new id, with a new signing secret for its webhooks.

        Raises SecretKeyMissing when it has environment variables and there is no key to seal them with.
        """
        endpoint_id = str(await self._redis.incr(ENDPOINT_IDS))
        keys = self._partitions.of(endpoint_id)
        fields: dict[str, str | int] = {
            "tenant": tenant,
            "mode": config.service_mode.value,
            "wanted": Wanted.RUNNING.value,
            "workers": config.workers,
            "max_queued": config.max_queued_tasks,
            "max_attempts": config.max_attempts,
            "timeout": config.execution_timeout_seconds,
            "retention": config.result_retention_seconds,
            "config": json.dumps(self._encode(endpoint_id, config)),
            "signing": self._new_signing_secret(endpoint_id),
        }
        flat = [item for pair in fields.items() for item in pair]
        await self._scripts.run(
            "create_endpoint",
            [keys.endpoint, keys.partition.endpoints, keys.queue, keys.retry_queue, keys.partition.outbox],
            [endpoint_id, *flat],
        )
        endpoint = await self.get(endpoint_id, tenant)
        if endpoint is None:
            raise LookupError(f"endpoint {endpoint_id} is gone right after it was created")
        return endpoint

    async def get(self, endpoint_id: str, tenant: str | None) -> Endpoint | None:
        """The endpoint when it exists and is this tenant's; any tenant's with None."""
        keys = self._partitions.of(endpoint_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(keys.endpoint)
        pipeline.hvals(keys.workers)
        pipeline.hmget(keys.counts, _COUNTS)
        record, statuses, counts = await pipeline.execute()
        return self._endpoint(endpoint_id, tenant, record, statuses, counts)

    async def of_tenant(self, tenant: str | None) -> list[Endpoint]:
        """The tenant's endpoints, newest first; every tenant's with None."""
        ids = await self.ids()
        endpoints = await asyncio.gather(*(self.get(endpoint_id, tenant) for endpoint_id in ids))
        return sorted((endpoint for endpoint in endpoints if endpoint), key=lambda one: -int(one.endpoint_id))

    async def ids(self) -> list[str]:
        """The ids of all endpoints of all tenants."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition in self._partitions.all():
            pipeline.zrange(partition.endpoints, 0, -1)
        return [endpoint_id.decode() for ids in await pipeline.execute() for endpoint_id in ids]

    async def environment(self, endpoint_id: str) -> dict[str, str]:
        """The endpoint's environment variables in clear. Raises SecretKeyMissing or SealBroken."""
        stored = await self._redis.hget(self._partitions.of(endpoint_id).endpoint, "config")  # type: ignore[misc]
        sealed = json.loads(stored)["environment"] if stored else ""
        if not sealed:
            return {}
        environment: dict[str, str] = json.loads(self._sealer.open(sealed, _environment_context(endpoint_id)))
        return environment

    async def set_failed(self, endpoint_id: str, failed: bool) -> None:
        """Say whether all workers of the endpoint crash on start."""
        await self._redis.hset(self._partitions.of(endpoint_id).endpoint, "failed", "1" if failed else "0")  # type: ignore[misc]

    async def signing_secret(self, endpoint_id: str) -> str | None:
        """The `whsec_…` that the endpoint's webhooks are signed with."""
        sealed: bytes | None = await self._redis.hget(self._partitions.of(endpoint_id).endpoint, "signing")  # type: ignore[misc]
        return open_signing_secret(self._sealer, endpoint_id, sealed.decode()) if sealed else None

    def _new_signing_secret(self, endpoint_id: str) -> str:
        secret = new_secret(secrets.token_bytes(32))
        if not self._sealer.has_key:
            return secret
        return self._sealer.seal(secret.encode(), _signing_context(endpoint_id))

    def _encode(self, endpoint_id: str, config: EndpointConfig) -> dict[str, Any]:
        environment = ""
        if config.environment:
            environment = self._sealer.seal(json.dumps(config.environment).encode(), _environment_context(endpoint_id))
        return {
            "name": config.name,
            "image": config.image,
            "image_registry": config.image_registry,
            "credential_id": config.credential_id,
            "resources": [[one.region, one.gpu_type, one.gpu_count] for one in config.resources],
            "min_single_card_vram_in_gb": config.min_single_card_vram_in_gb,
            "min_single_card_vcpu": config.min_single_card_vcpu,
            "min_single_card_ram_in_gb": config.min_single_card_ram_in_gb,
            "container_volume_in_gb": config.container_volume_in_gb,
            "initialization_command": config.initialization_command,
            "environment": environment,
            "environment_names": sorted(config.environment),
            "expose": [config.expose.port, config.expose.protocol] if config.expose else None,
            "webhook": config.webhook,
            "concurrency": config.concurrency,
        }

    def _endpoint(
        self, endpoint_id: str, tenant: str | None, record: dict[bytes, bytes], statuses: list[bytes], counts: list[Any]
    ) -> Endpoint | None:
        fields = {name.decode(): value.decode() for name, value in record.items()}
        if not fields or (tenant is not None and fields.get("tenant") != tenant):
            return None
        return Endpoint(
            endpoint_id=endpoint_id,
            tenant=fields["tenant"],
            config=_config(fields),
            environment_names=tuple(json.loads(fields["config"])["environment_names"]),
            wanted=Wanted(fields["wanted"]),
            failed=fields.get("failed") == "1",
            created_at_ms=int(fields["created"]),
            updated_at_ms=int(fields["updated"]),
            worker_statuses=tuple(WorkerStatus(status.decode()) for status in statuses),
            counts=TaskCounts(**{name: max(0, int(value or 0)) for name, value in zip(_COUNTS, counts, strict=True)}),
        )


def _config(fields: dict[str, str]) -> EndpointConfig:
    stored = json.loads(fields["config"])
    return EndpointConfig(
        name=stored["name"],
        image=stored["image"],
        service_mode=ServiceMode(fields["mode"]),
        resources=tuple(Resource(*one) for one in stored["resources"]),
        workers=int(fields["workers"]),
        container_volume_in_gb=stored["container_volume_in_gb"],
        image_registry=stored["image_registry"],
        credential_id=stored["credential_id"],
        min_single_card_vram_in_gb=stored["min_single_card_vram_in_gb"],
        min_single_card_vcpu=stored["min_single_card_vcpu"],
        min_single_card_ram_in_gb=stored["min_single_card_ram_in_gb"],
        initialization_command=stored["initialization_command"],
        expose=Expose(*stored["expose"]) if stored["expose"] else None,
        webhook=stored["webhook"],
        concurrency=stored["concurrency"],
        execution_timeout_seconds=int(fields["timeout"]),
        max_attempts=int(fields["max_attempts"]),
        max_queued_tasks=int(fields["max_queued"]),
        result_retention_seconds=int(fields["retention"]),
    )


def open_signing_secret(sealer: Sealer, endpoint_id: str, stored: str) -> str:
    """The secret as it was made. Raises SecretKeyMissing or SealBroken when this process cannot open it."""
    if stored.startswith("whsec_"):
        return stored
    return sealer.open(stored, _signing_context(endpoint_id)).decode()


def _signing_context(endpoint_id: str) -> str:
    return f"endpoint:{endpoint_id}:signing"


def _environment_context(endpoint_id: str) -> str:
    return f"endpoint:{endpoint_id}:environment"
