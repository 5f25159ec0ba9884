"""Endpoints: configuration, desired state and the records that show their observed state."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from queue_engine.crypto.sealing import SealBroken, Sealer, SecretKeyMissing
from queue_engine.crypto.signing import new_secret
from queue_engine.domain.definitions import Defined
from queue_engine.domain.endpoints import (
    SETTINGS,
    DesiredState,
    Endpoint,
    EndpointConfig,
    Expose,
    RateLimit,
    Resource,
    Setting,
    needs_new_workers,
    with_stored_values,
)
from queue_engine.domain.errors import PreconditionFailed
from queue_engine.domain.workers import WorkerStatus
from queue_engine.rules.webhook_urls import parse_webhook
from queue_engine.store.call_ids import new_call_id
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import COUNTS, counts_from
from queue_engine.store.endpoint_index import PAGE_SIZE, EndpointIndex
from queue_engine.store.keys import ENDPOINT_IDS, Partitions
from queue_engine.store.policies import retry_delays_of, retry_delays_text, retry_on_of, retry_on_text
from queue_engine.store.resealing import Resealed, worst
from queue_engine.store.workers import Stop

MAX_REPLACED_SECRETS = 4
"""Limit of an endpoint's replaced signing secrets in their overlap. Each adds a signature of 47 bytes to a webhook."""


class StateChange(StrEnum):
    """Result of setting the desired state of an endpoint, or of pausing or resuming its queue."""

    OK = "OK"
    UNCHANGED = "UNCHANGED"
    """The endpoint was in this state."""
    CONFLICT = "CONFLICT"
    """The endpoint has another version than the client accepts."""
    NOT_FOUND = "NOT_FOUND"


class Updated(NamedTuple):
    """An endpoint after a change of its configuration."""

    endpoint: Endpoint
    is_written: bool
    """False if nothing was to be changed, so that no call wrote to the store."""


class EndpointLimitReached(Exception):
    """The tenant has as many endpoints as it may have."""


class TooManySecrets(Exception):
    """MAX_REPLACED_SECRETS are in their overlap. The first of them ends at `free_at_ms`."""

    def __init__(self, free_at_ms: int) -> None:
        super().__init__(free_at_ms)
        self.free_at_ms = free_at_ms


class EndpointStore:
    """The endpoints of all tenants."""

    def __init__(self, redis: Redis, scripts: Scripts, partitions: Partitions, sealer: Sealer) -> None:
        self._redis = redis
        self._scripts = scripts
        self._partitions = partitions
        self._sealer = sealer
        self.index = EndpointIndex(redis, scripts, partitions)

    async def new_id(self) -> str:
        """Return an id that no endpoint has.

        A fail-over may set the counter back while endpoints on other servers of a cluster keep their ids, so ids in use
        are skipped.
        """
        while True:
            endpoint_id = str(await self._redis.incr(ENDPOINT_IDS))
            if not await self._redis.exists(self._partitions.of(endpoint_id).endpoint):
                return endpoint_id

    async def create(
        self,
        tenant: str,
        config: EndpointConfig,
        endpoint_id: str | None = None,
        *,
        limit: int = 0,
        signing_secret: str | None = None,
    ) -> Endpoint:
        """Store a new endpoint, and return it.

        `endpoint_id` is an id from `new_id`; without it a new id is assigned. `signing_secret` signs its webhooks;
        without it a new one is made. Raises SecretKeyMissing when there are
        environment variables and no key to seal them with, and EndpointLimitReached when the tenant has `limit`
        endpoints. 0 means no limit.
        """
        endpoint_id = endpoint_id or await self.new_id()
        keys = self._partitions.of(endpoint_id)
        fields: dict[str, str | int] = {
            "tenant": tenant,
            "wanted": DesiredState.RUNNING.value,
            "signing": self._sealed_secret(endpoint_id, signing_secret or new_signing_secret()),
            **_fields(config, self._sealed(endpoint_id, config.environment), sorted(config.environment)),
        }
        if not await self._note(tenant, endpoint_id, config.name, limit):
            raise EndpointLimitReached
        await self._scripts.create_endpoint(keys, endpoint_id=endpoint_id, fields=fields)
        noting = self._note_again(tenant, endpoint_id, config.name)
        endpoint, _ = await asyncio.gather(self.get(endpoint_id, tenant), noting)
        if endpoint is None:
            raise LookupError(f"endpoint {endpoint_id} does not exist right after it was created")
        return endpoint

    async def _note(self, tenant: str, endpoint_id: str, name: str, limit: int) -> bool:
        """Note the endpoint; at the limit once more without ids whose endpoint was never stored."""
        if await self.index.note(tenant, endpoint_id, name, limit=limit):
            return True
        below: str | None = None
        while ids := await self.index.ids_of(tenant, below=below):
            below = ids[-1]
            pipeline = self._redis.pipeline(transaction=False)
            for one in ids:
                pipeline.exists(self._partitions.of(one).endpoint)
            stored = await pipeline.execute()
            await self._forget(tenant, [one for one, exists in zip(ids, stored, strict=True) if not exists])
        return await self.index.note(tenant, endpoint_id, name, limit=limit)

    async def _note_again(self, tenant: str, endpoint_id: str, name: str) -> None:
        """Note a stored endpoint, because a list may have removed the first note before the endpoint was stored."""
        with suppress(RedisError):  # the first note is there unless a list came in between
            await self.index.note(tenant, endpoint_id, name)

    async def update(
        self,
        endpoint_id: str,
        tenant: str,
        edit: Callable[[EndpointConfig], EndpointConfig],
        environment: Mapping[str, str | None] | None = None,
        *,
        versions: Collection[int] | None = None,
    ) -> Updated | None:
        """Replace the configuration by the result of `edit`, and the environment unless it is None.

        A variable whose value is None keeps its stored one. Workers are replaced when the change affects them. Without
        a change the store is not written. Return None when the tenant has no such endpoint. `edit` is called again when
        the endpoint was changed at the same time. Raises the exceptions of `edit` and of `with_stored_values`,
        SecretKeyMissing as `create` does, and PreconditionFailed if the endpoint has none of `versions`.
        """
        keys = self._partitions.of(endpoint_id)
        # Stays True after a conflict, because a call that was repeated after a lost reply conflicts with itself.
        is_written = False
        while (endpoint := await self.get(endpoint_id, tenant)) is not None:
            config = edit(endpoint.config)
            before = await self._environment_if_readable(endpoint_id) if environment is not None else None
            after = None if environment is None else with_stored_values(environment, before)
            if config == endpoint.config and after == before:
                return Updated(endpoint, is_written)
            if versions is not None and endpoint.version not in versions:
                raise PreconditionFailed("endpoint")
            renew = needs_new_workers(endpoint.config, config) or after != before
            if after is None:
                sealed, names = await self._sealed_environment(endpoint_id), list(endpoint.environment_names)
            else:
                sealed, names = self._sealed(endpoint_id, after), sorted(after)
            is_written = True
            is_renamed = config.name != endpoint.config.name
            if is_renamed:
                await self.index.note_name(tenant, endpoint_id, config.name)
            reply = await self._scripts.update_endpoint(
                keys,
                tenant=tenant,
                version=endpoint.version,
                needs_new_workers=renew,
                fields=_fields(config, sealed, names),
            )
            if reply.word == "OK":
                if is_renamed:
                    await self._note_renamed(tenant, endpoint_id, config.name, former=endpoint.config.name)
                written = await self.get(endpoint_id, tenant)
                return None if written is None else Updated(written, is_written)
        return None

    async def drain_worker(self, endpoint_id: str, worker_id: str, tenant: str, *, reason: str, call_id: str) -> Stop:
        """Let a managed worker finish or release its tasks and end, and lower the number of workers, in one step."""
        keys = self._partitions.of(endpoint_id).of_worker(worker_id)
        while (endpoint := await self.get(endpoint_id, tenant)) is not None:
            config = replace(endpoint.config, workers=max(0, endpoint.config.workers - 1))
            sealed = await self._sealed_environment(endpoint_id)
            reply = await self._scripts.stop_worker(
                keys,
                tenant=tenant,
                reason=reason,
                call_id=call_id,
                version=endpoint.version,
                fields=_fields(config, sealed, list(endpoint.environment_names)),
            )
            if reply.word != "CONFLICT":
                return Stop(reply.word)
        return Stop.NOT_FOUND

    async def _note_renamed(self, tenant: str, endpoint_id: str, name: str, *, former: str) -> None:
        """Note a stored name, because a list may have removed the first note before it was stored."""
        with suppress(RedisError):  # a list by the former name removes its entry, and the resync adds a missing one
            await self.index.note_name(tenant, endpoint_id, name)
            await self._forget_name(tenant, [endpoint_id], former)

    async def set_desired_state(
        self, endpoint_id: str, tenant: str, desired: DesiredState, versions: Collection[int] | None = None
    ) -> StateChange:
        """Record the desired state of an endpoint, if it has one of `versions`. None means any version."""
        reply = await self._scripts.set_desired_state(
            self._partitions.of(endpoint_id),
            tenant=tenant,
            desired=desired.value,
            call_id=new_call_id(),
            versions=_accepted(versions),
        )
        return StateChange(reply.word)

    async def set_paused(
        self, endpoint_id: str, tenant: str, *, paused: bool, versions: Collection[int] | None = None
    ) -> StateChange:
        """Pause the queue of an endpoint, or resume it, if it has one of `versions`. None means any version.

        No agent claims a task between the two calls.
        """
        reply = await self._scripts.set_paused(
            self._partitions.of(endpoint_id),
            tenant=tenant,
            is_paused=paused,
            call_id=new_call_id(),
            versions=_accepted(versions),
        )
        return StateChange(reply.word)

    async def remove(self, endpoint_id: str) -> bool:
        """Remove a deleted endpoint from the store. Return False while it has workers, tasks or deliveries."""
        keys = self._partitions.of(endpoint_id)
        reply = await self._scripts.remove_endpoint(keys, endpoint_id=endpoint_id)
        if reply.word != "OK":
            return False
        if reply.tenant is not None:
            await self.index.forget(reply.tenant, [endpoint_id])
            await self.index.forget_name(reply.tenant, [endpoint_id], reply.name or "")
        return True

    async def get(self, endpoint_id: str, tenant: str | None) -> Endpoint | None:
        """Return the endpoint if it belongs to the tenant and is not deleted, else None.

        With `tenant=None` return an endpoint of any tenant, also while it is being deleted.
        """
        endpoint = (await self.read([endpoint_id])).get(endpoint_id)
        return endpoint if endpoint is not None and (tenant is None or _is_visible(endpoint, tenant)) else None

    async def read(self, endpoint_ids: Sequence[str]) -> dict[str, Endpoint]:
        """Return endpoints of any tenant by id, also while they are being deleted, without those that do not exist.

        A pipeline reads a page of them.
        """
        found: dict[str, Endpoint] = {}
        for first in range(0, len(endpoint_ids), PAGE_SIZE):
            found |= await self._read_page(endpoint_ids[first : first + PAGE_SIZE])
        return found

    async def _read_page(self, endpoint_ids: Sequence[str]) -> dict[str, Endpoint]:
        pipeline = self._redis.pipeline(transaction=False)
        for endpoint_id in endpoint_ids:
            keys = self._partitions.of(endpoint_id)
            pipeline.hgetall(keys.endpoint)
            pipeline.hvals(keys.workers)
            pipeline.hmget(keys.counts, COUNTS)
        replies = iter(await pipeline.execute())
        found = zip(endpoint_ids, replies, replies, replies, strict=True)
        return {
            endpoint_id: _endpoint(endpoint_id, record, statuses, counts)
            for endpoint_id, record, statuses, counts in found
            if record
        }

    async def of_tenant(self, tenant: str) -> list[Endpoint]:
        """Return the tenant's endpoints, newest first."""
        return [endpoint async for page in self.pages_of(tenant) for endpoint in page]

    async def pages_of(self, tenant: str, *, below: str | None = None) -> AsyncIterator[list[Endpoint]]:
        """Yield the tenant's endpoints, newest first, in pages. The cost depends on the tenant's endpoints only.

        With `below`, yield only endpoints that are older than the one with this id.
        """
        while ids := await self.index.ids_of(tenant, below=below):
            below = ids[-1]
            found = await self.read(ids)
            strays = [one for one in ids if one not in found or found[one].tenant != tenant]
            with suppress(RedisError):  # the next list removes them
                await self._forget(tenant, strays)
            yield [endpoint for endpoint in found.values() if _is_visible(endpoint, tenant)]
            if len(ids) < PAGE_SIZE:
                return
        if ids is None:  # an unfinished migration
            async for page in self._all_pages():
                yield [endpoint for endpoint in page if _is_visible(endpoint, tenant)]

    async def named(self, tenant: str, name: str) -> list[Endpoint]:
        """Return the tenant's endpoints with this name, newest first. No others are read.

        While the index of names lacks some, the configuration of all is read.
        """
        ids = await self.index.ids_named(tenant, name)
        if ids is None:
            return await self._named_in_list(tenant, name)
        found = await self.read(ids)
        named = [one for one in ids if one in found and (found[one].tenant, found[one].config.name) == (tenant, name)]
        with suppress(RedisError):  # the next call removes them
            await self._forget_name(tenant, [one for one in ids if one not in named], name)
        return [found[one] for one in named if _is_visible(found[one], tenant)]

    async def _named_in_list(self, tenant: str, name: str) -> list[Endpoint]:
        named: list[Endpoint] = []
        below: str | None = None
        while ids := await self.index.ids_of(tenant, below=below):
            below = ids[-1]
            found = await self.read(await self._ids_named(ids, name))
            named += [one for one in found.values() if _is_visible(one, tenant) and one.config.name == name]
            if len(ids) < PAGE_SIZE:
                break
        if ids is None:  # an unfinished migration
            return [one for one in await self.of_tenant(tenant) if one.config.name == name]
        return named

    async def _ids_named(self, endpoint_ids: Sequence[str], name: str) -> list[str]:
        pipeline = self._redis.pipeline(transaction=False)
        for endpoint_id in endpoint_ids:
            pipeline.hget(self._partitions.of(endpoint_id).endpoint, "config")
        configs = zip(endpoint_ids, await pipeline.execute(), strict=True)
        return [endpoint_id for endpoint_id, text in configs if text and json.loads(text)["name"] == name]

    async def _forget(self, tenant: str, endpoint_ids: Sequence[str]) -> None:
        """Remove ids without an endpoint of the tenant from its index.

        One of them may have been stored since it was read, and its second note may have come before the removal, so
        they are read again. If an endpoint is stored after that, its second note follows the removal.
        """
        await self.index.forget(tenant, endpoint_ids)
        for endpoint_id, endpoint in (await self.read(endpoint_ids)).items():
            if endpoint.tenant == tenant:
                await self.index.note(tenant, endpoint_id, endpoint.config.name)

    async def _forget_name(self, tenant: str, endpoint_ids: Sequence[str], name: str) -> None:
        """Remove endpoints from the index of names, as `_forget` does from that of ids."""
        await self.index.forget_name(tenant, endpoint_ids, name)
        for endpoint_id, endpoint in (await self.read(endpoint_ids)).items():
            if endpoint.tenant == tenant and endpoint.config.name == name:
                await self.index.note_name(tenant, endpoint_id, name)

    async def _all_pages(self) -> AsyncIterator[list[Endpoint]]:
        """Yield the endpoints of all tenants, newest first, in pages."""
        ids = sorted(await self.ids(), key=int, reverse=True)
        for first in range(0, len(ids), PAGE_SIZE):
            yield list((await self.read(ids[first : first + PAGE_SIZE])).values())

    async def ids(self) -> list[str]:
        """Return the ids of all endpoints of all tenants."""
        pipeline = self._redis.pipeline(transaction=False)
        for partition in self._partitions.all():
            pipeline.zrange(partition.endpoints, 0, -1)
        return [endpoint_id.decode() for ids in await pipeline.execute() for endpoint_id in ids]

    async def environment(self, endpoint_id: str) -> dict[str, str]:
        """Return the endpoint's environment variables in clear text. Raises SecretKeyMissing or SealBroken."""
        sealed = await self._sealed_environment(endpoint_id)
        if not sealed:
            return {}
        environment: dict[str, str] = json.loads(self._sealer.open(sealed, _environment_context(endpoint_id)))
        return environment

    async def _environment_if_readable(self, endpoint_id: str) -> dict[str, str] | None:
        """Return the environment; None when it cannot be opened, so that a new one can replace it."""
        try:
            return await self.environment(endpoint_id)
        except (SealBroken, SecretKeyMissing):
            return None

    async def set_failed(self, endpoint_id: str, failed: bool) -> None:
        """Record if all workers of the endpoint crash on start or are not ready in time.

        Does nothing when the endpoint no longer exists.
        """
        keys = self._partitions.of(endpoint_id)
        await self._scripts.mark_endpoint(keys, has_failed=failed)

    async def signing_secret(self, endpoint_id: str) -> str | None:
        """Return the `whsec_…` secret that the endpoint's webhooks are signed with. Raises as `open_signing_secret`."""
        sealed: bytes | None = await self._redis.hget(self._partitions.of(endpoint_id).endpoint, "signing")  # type: ignore[misc]
        return open_signing_secret(self._sealer, endpoint_id, sealed.decode()) if sealed else None

    async def signing_secrets(self, endpoint_id: str, now_ms: int) -> tuple[str, ...]:
        """Return the secrets that sign the endpoint's webhooks now, the newest first. Raises as `signing_secret`."""
        key = self._partitions.of(endpoint_id).endpoint
        current, replaced = await self._redis.hmget(key, ["signing", "signing_replaced"])  # type: ignore[misc]
        parts = replaced.decode().split() if replaced else []
        valid = [secret for secret, end in zip(parts[::2], parts[1::2], strict=True) if int(end) > now_ms]
        stored = [*([current.decode()] if current else []), *valid]
        return tuple(open_signing_secret(self._sealer, endpoint_id, one) for one in stored)

    async def is_secret_rotated(self, endpoint_id: str) -> bool:
        """Return True if the endpoint's signing secret has been rotated."""
        key = self._partitions.of(endpoint_id).endpoint
        return bool(await self._redis.hexists(key, "signing_replaced_until"))  # type: ignore[misc]

    async def rotate_signing_secret(
        self, endpoint_id: str, tenant: str, secret: str, *, overlap_seconds: int
    ) -> int | None:
        """Replace the signing secret. Webhooks are signed with both until the overlap ends. Return that time.

        The time is in epoch milliseconds; None when the tenant has no such endpoint. Raises TooManySecrets.
        """
        reply = await self._scripts.rotate_signing_secret(
            self._partitions.of(endpoint_id),
            tenant=tenant,
            secret=self._sealed_secret(endpoint_id, secret),
            overlap_ms=overlap_seconds * 1000,
            max_replaced=MAX_REPLACED_SECRETS,
        )
        if reply.word == "FULL":
            raise TooManySecrets(reply.free_at_ms)
        return reply.replaced_until_ms if reply.word == "OK" else None

    async def reseal(self, endpoint_id: str) -> Resealed:
        """Seal environment and signing secrets with the current key, unless they already are.

        Safe during concurrent changes of the endpoint: a write of an outdated value is refused and repeated.
        """
        return worst(
            [
                await self._reseal(endpoint_id, "config", self._resealed_config),
                await self._reseal(endpoint_id, "signing", self._resealed_signing_secret),
                await self._reseal(endpoint_id, "signing_replaced", self._resealed_replaced_secrets),
            ]
        )

    async def _reseal(self, endpoint_id: str, field: str, resealed: Callable[[str, str], str]) -> Resealed:
        key = self._partitions.of(endpoint_id).endpoint
        while (stored := await self._redis.hget(key, field)) is not None:  # type: ignore[misc]
            try:
                renewed = resealed(endpoint_id, stored.decode())
            except SealBroken:
                return Resealed.UNREADABLE
            if renewed == stored.decode():
                return Resealed.CURRENT
            reply = await self._scripts.reseal_field(
                record=key, field=field, before=stored.decode(), after=renewed, has_version=True
            )
            if reply.word == "OK":
                return Resealed.RESEALED
        return Resealed.CURRENT

    def _resealed_config(self, endpoint_id: str, stored: str) -> str:
        config = json.loads(stored)
        sealed = config["environment"]
        renewed = self._sealer.resealed(sealed, _environment_context(endpoint_id)) if sealed else sealed
        return stored if renewed == sealed else json.dumps(config | {"environment": renewed})

    def _resealed_signing_secret(self, endpoint_id: str, stored: str) -> str:
        """Return the secret sealed with the current key, also when it was stored in clear text without a key."""
        context = _signing_context(endpoint_id)
        if _is_in_clear(stored):
            return self._sealer.seal(stored.encode(), context)
        return self._sealer.resealed(stored, context)

    def _resealed_replaced_secrets(self, endpoint_id: str, stored: str) -> str:
        """Return the replaced secrets, each sealed with the current key and followed by its end, as they are stored."""
        parts = stored.split()
        sealed = [self._resealed_signing_secret(endpoint_id, one) for one in parts[::2]]
        return " ".join(f"{one} {end}" for one, end in zip(sealed, parts[1::2], strict=True))

    def _sealed_secret(self, endpoint_id: str, secret: str) -> str:
        """Return the signing secret as it is stored: in clear text without a key."""
        if not self._sealer.has_key:
            return secret
        return self._sealer.seal(secret.encode(), _signing_context(endpoint_id))

    def _sealed(self, endpoint_id: str, environment: Mapping[str, str]) -> str:
        if not environment:
            return ""
        return self._sealer.seal(json.dumps(dict(environment)).encode(), _environment_context(endpoint_id))

    async def _sealed_environment(self, endpoint_id: str) -> str:
        stored = await self._redis.hget(self._partitions.of(endpoint_id).endpoint, "config")  # type: ignore[misc]
        return str(json.loads(stored)["environment"]) if stored else ""


def _endpoint(
    endpoint_id: str, record: Mapping[bytes, bytes], statuses: Sequence[bytes], counts: Sequence[Any]
) -> Endpoint:
    fields = {name.decode(): value.decode() for name, value in record.items()}
    return Endpoint(
        endpoint_id=endpoint_id,
        tenant=fields["tenant"],
        config=_config(fields),
        version=int(fields["version"]),
        revision=int(fields["revision"]),
        environment_names=tuple(json.loads(fields["config"])["environment_names"]),
        desired=DesiredState(fields["wanted"]),
        failed=fields.get("failed") == "1",
        paused=fields.get("paused") == "1",
        created_at_ms=int(fields["created"]),
        updated_at_ms=int(fields["updated"]),
        worker_statuses=tuple(WorkerStatus(status.decode()) for status in statuses),
        counts=counts_from(counts),
    )


def _is_visible(endpoint: Endpoint, tenant: str) -> bool:
    return endpoint.tenant == tenant and endpoint.desired is not DesiredState.DELETED


_IN_HASH = tuple(one for one in SETTINGS if one.definition.for_scripts)
_IN_JSON = tuple(one for one in SETTINGS if not one.definition.for_scripts)


def _fields(config: EndpointConfig, sealed_environment: str, environment_names: list[str]) -> dict[str, str | int]:
    """Return the settings as fields of the endpoint's hash. Settings that scripts do not read are in one JSON field."""
    stored = {one.stored: _encoded(one, getattr(config, one.name)) for one in _IN_JSON}
    stored |= {"environment": sealed_environment, "environment_names": environment_names}
    return {
        **{one.stored: _text(_encoded(one, getattr(config, one.name))) for one in _IN_HASH},
        "webhook_destination": parse_webhook(config.webhook).destination if config.webhook else "",
        "config": json.dumps(stored),
    }


def _config(fields: Mapping[str, str]) -> EndpointConfig:
    """Return the settings in an endpoint's hash. Settings that an older version did not store have their defaults."""
    stored = json.loads(fields["config"])
    values = {one.name: _decoded(one, stored[one.stored]) for one in _IN_JSON if one.stored in stored}
    values |= {one.name: _decoded(one, _value(one, fields[one.stored])) for one in _IN_HASH if one.stored in fields}
    return EndpointConfig(**values)


def _text(value: Any) -> str | int:
    """Return a value as stored in a hash: None as empty text, a number with all its digits."""
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, bool):
        return int(value)
    return "" if value is None else value


def _value(setting: Defined[Setting], text: str) -> Any:
    """Return the value that is stored in a hash as `text`."""
    if not text and setting.nullable:
        return None
    if setting.kind is bool:
        return text == "1"
    return setting.kind(text) if setting.kind in (int, float) else text


def _encoded(setting: Defined[Setting], value: Any) -> Any:
    codec = _CODECS.get(setting.name)
    return value if value is None or codec is None else codec[0](value)


def _decoded(setting: Defined[Setting], value: Any) -> Any:
    codec = _CODECS.get(setting.name)
    if value is None:
        return None
    if codec is None:
        return setting.kind(value) if issubclass(setting.kind, StrEnum) else value
    return codec[1](value)


def _rate_limit_of(stored: str) -> RateLimit:
    per_second, burst = stored.split(" ")
    return RateLimit(float(per_second), int(burst))


# Functions that encode and decode the settings with a structure of their own, as text or JSON.
_CODECS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "resources": (
        lambda resources: [[one.region, one.gpu_type, one.gpu_count] for one in resources],
        lambda stored: tuple(Resource(*one) for one in stored),
    ),
    "plain_variables": (sorted, frozenset),
    "expose": (lambda expose: [expose.port, expose.protocol], lambda stored: Expose(*stored)),
    "rate_limit": (lambda limit: f"{limit.per_second!r} {limit.burst}", _rate_limit_of),
    "retry_on": (retry_on_text, retry_on_of),
    "retry_delays_seconds": (retry_delays_text, retry_delays_of),
}


def new_signing_secret() -> str:
    """Return a new random signing secret."""
    return new_secret(secrets.token_bytes(32))


def open_signing_secret(sealer: Sealer, endpoint_id: str, stored: str) -> str:
    """Return the signing secret in clear text. Raises SecretKeyMissing or SealBroken when it cannot be opened."""
    if _is_in_clear(stored):
        return stored
    return sealer.open(stored, _signing_context(endpoint_id)).decode()


def _accepted(versions: Collection[int] | None) -> list[str]:
    """Return the versions as the scripts take them, for which an empty list means any. No endpoint has version 0."""
    return [] if versions is None else [str(one) for one in versions] or ["0"]


def _is_in_clear(signing_secret: str) -> bool:
    return signing_secret.startswith("whsec_")


def _signing_context(endpoint_id: str) -> str:
    return f"endpoint:{endpoint_id}:signing"


def _environment_context(endpoint_id: str) -> str:
    return f"endpoint:{endpoint_id}:environment"
