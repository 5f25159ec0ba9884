"""Create, read and change endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TypeVar

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.audit import Action, endpoint_target
from queue_engine.domain.ceilings import Ceilings
from queue_engine.domain.endpoints import DesiredState, Endpoint, EndpointConfig, EndpointStatus
from queue_engine.domain.errors import InvalidRequest, NotFound, PreconditionFailed, Resource, StateConflict
from queue_engine.domain.field_errors import FieldError, raise_for
from queue_engine.domain.principals import Principal, Right
from queue_engine.domain.retry import RetryOn
from queue_engine.domain.tenants import Limit
from queue_engine.engine.access import check_has_access, check_may, check_sees
from queue_engine.engine.audit import Audit
from queue_engine.engine.destinations import DestinationGuard
from queue_engine.engine.lanes_gate import LanesGate
from queue_engine.engine.patience import found_in_store, from_store
from queue_engine.engine.secret_fields import secret_errors
from queue_engine.engine.tenant_limits import Reached, TenantLimits
from queue_engine.rules.webhook_urls import Webhook, parse_webhook
from queue_engine.store.credentials import CredentialStore
from queue_engine.store.endpoints import (
    MAX_REPLACED_SECRETS,
    EndpointLimitReached,
    EndpointStore,
    StateChange,
    TooManySecrets,
    new_signing_secret,
)
from queue_engine.store.one_tenant import OneTenant
from queue_engine.store.workers import WorkerStore

SECRET_OVERLAP_SECONDS = 86_400
"""Time for which webhooks are also signed with a replaced secret: receivers change theirs within a day."""

T = TypeVar("T")
_UNKNOWN_CREDENTIAL: FieldError = ("containerRegistryAuthId", "unknown credential")


@dataclass(frozen=True)
class Page:
    """A page of a list."""

    number: int
    """From 1."""
    size: int

    @property
    def start(self) -> int:
        """Number of entries before the page."""
        return (self.number - 1) * self.size

    @property
    def end(self) -> int:
        """Number of entries up to the end of the page."""
        return self.number * self.size


@dataclass(frozen=True)
class References:
    """New values of an endpoint that must be encrypted, reached or found. None means no such value."""

    environment: Mapping[str, str | None] | None = None
    """Values by name. None keeps the stored value of a variable."""
    webhook: Webhook | None = None
    credential_id: int | None = None


@dataclass(frozen=True)
class NewEndpoint:
    """An endpoint that was just created, and the secret that signs its webhooks."""

    endpoint: Endpoint
    signing_secret: str = field(repr=False)


@dataclass(frozen=True)
class RotatedSecret:
    """A new signing secret, and the time until which webhooks are signed with the replaced one too."""

    secret: str = field(repr=False)
    replaced_until_ms: int


class Endpoints:
    """The endpoints of each tenant.

    Each use case raises StoreUnavailable. Use cases for one endpoint also raise NotFound.
    """

    def __init__(
        self,
        endpoints: EndpointStore,
        credentials: CredentialStore,
        sealer: Sealer,
        destinations: DestinationGuard,
        limits: TenantLimits,
        ceilings: Ceilings,
        audit: Audit,
        one_tenant: OneTenant,
        workers: WorkerStore,
        lanes: LanesGate,
    ) -> None:
        self._endpoints = endpoints
        self._lanes = lanes
        self._workers = workers
        self._credentials = credentials
        self._sealer = sealer
        self._destinations = destinations
        self._limits = limits
        self._ceilings = ceilings
        self._audit = audit
        self._one_tenant = one_tenant

    async def get(self, principal: Principal, endpoint_id: str) -> Endpoint:
        """Return the endpoint, if the principal may see it. `endpoint_id` has the form of an id."""
        check_has_access(principal, endpoint_id)
        return await found_in_store(self._endpoints.get(endpoint_id, principal.tenant), Resource.ENDPOINT)

    async def all(
        self,
        principal: Principal,
        statuses: AbstractSet[EndpointStatus],
        page: Page | None = None,
        *,
        name: str | None = None,
    ) -> list[Endpoint]:
        """Return the endpoints with one of the statuses, newest first. An empty set means all statuses.

        With a page, return only the endpoints on it; with a name, only those that have it.
        """
        return await from_store(self._all(principal, statuses, page, name))

    async def _all(
        self, principal: Principal, statuses: AbstractSet[EndpointStatus], page: Page | None, name: str | None
    ) -> list[Endpoint]:
        chosen: list[Endpoint] = []
        async for endpoints in self._pages_of(principal, name):
            chosen += [
                one for one in endpoints if (not statuses or one.status in statuses) and name in (None, one.config.name)
            ]
            if page is not None and len(chosen) >= page.end:
                break
        return chosen if page is None else chosen[page.start : page.end]

    async def _pages_of(self, principal: Principal, name: str | None) -> AsyncIterator[list[Endpoint]]:
        """Yield the endpoints that the principal sees, newest first, in pages; with a name, others may be left out."""
        if principal.endpoints is None and name is not None:
            yield await self._endpoints.named(principal.tenant, name)
            return
        if principal.endpoints is None:
            async for page in self._endpoints.pages_of(principal.tenant):
                yield page
            return
        found = await self._endpoints.read(sorted(principal.endpoints, key=int, reverse=True))
        yield [
            one for one in found.values() if one.tenant == principal.tenant and one.desired is not DesiredState.DELETED
        ]

    async def field_errors(
        self, principal: Principal, references: References, before: Endpoint | None = None
    ) -> list[FieldError]:
        """Return the errors of well-formed fields whose values this server cannot encrypt, reach or find.

        `create` and `update` raise them. A caller whose parser found other errors calls this to report all of them in
        one message. `before` is the endpoint to update. Raises Forbidden if the principal may not use credentials and
        the credential is not the one that the endpoint has.
        """
        if references.credential_id not in (None, before.config.credential_id if before else None):
            check_may(principal, Right.MANAGE_TENANT)  # first, so that no error reveals which credentials exist
        errors = secret_errors(self._sealer, "environmentVars" if references.environment else None)
        if references.webhook is not None:
            errors += await self._destinations.errors(references.webhook, principal.tenant)
        if references.credential_id is not None:
            found = await from_store(self._credentials.get(principal.tenant, references.credential_id))
            errors += [] if found else [_UNKNOWN_CREDENTIAL]
        return errors

    async def create(self, principal: Principal, config: EndpointConfig) -> NewEndpoint:
        """Create an endpoint. Raises InvalidRequest, and QuotaReached at a limit of the tenant.

        Raises StateConflict if another tenant has endpoints, and the engine cannot keep their workers apart, and for
        settings of lanes while a process of an earlier version works.
        """
        config = self._ceilings.applied(config)
        webhook = parse_webhook(config.webhook) if config.webhook else None
        references = References(config.environment, webhook, config.credential_id)
        raise_for(await self.field_errors(principal, references))
        await self._limits.check_room(principal.tenant)
        await self._limits.check_workers(principal.tenant, config.workers)
        await self._check_is_kept_apart(principal)
        endpoint_id = await from_store(self._endpoints.new_id())
        if any(_lanes_of(config)):
            await self._lanes.check(endpoint_id)
        call = self._create(principal, config, endpoint_id)
        created = await self._change(principal, Action.CREATE_ENDPOINT, endpoint_id, call)
        await self._note(principal, Action.CREATE_ENDPOINT, endpoint_id)
        return created

    async def _create(self, principal: Principal, config: EndpointConfig, endpoint_id: str) -> NewEndpoint:
        """Create the endpoint after marking its credential as used, so that the credential is not deleted."""
        credential_id = config.credential_id
        if credential_id is None:
            return await self._stored(principal, config, endpoint_id)
        if not await self._credentials.use(principal.tenant, credential_id, endpoint_id):
            raise InvalidRequest(*_UNKNOWN_CREDENTIAL)
        try:
            return await self._stored(principal, config, endpoint_id)
        except Exception:
            await self._credentials.release(credential_id, endpoint_id)
            raise

    async def _stored(self, principal: Principal, config: EndpointConfig, endpoint_id: str) -> NewEndpoint:
        limit = (await self._limits.of(principal.tenant))[Limit.ENDPOINTS] or 0
        secret = new_signing_secret()
        try:
            endpoint = await self._endpoints.create(
                principal.tenant, config, endpoint_id, limit=limit, signing_secret=secret
            )
        except EndpointLimitReached:
            raise Reached(Limit.ENDPOINTS, limit).error() from None
        return NewEndpoint(endpoint, secret)

    async def update(
        self,
        principal: Principal,
        before: Endpoint,
        edit: Callable[[EndpointConfig], EndpointConfig],
        references: References,
        versions: Collection[int] | None = None,
    ) -> Endpoint:
        """Change the configuration to the value that `edit` returns, and the environment to that of `references`.

        An environment of None stays as it is. `references` holds the new values. `edit` is called again if another
        request changed the endpoint in between. Raises InvalidRequest, Forbidden for another credential if the
        principal may not use those of the tenant, QuotaReached for more workers and for an environment while the tenant
        may not store more, StateConflict for settings of lanes, another rate limit and a retried 409 while a process
        works that is too old for them, PreconditionFailed if the endpoint has none of `versions` and the change is not
        made already, and the errors of `edit`.
        """
        check_sees(principal, before)
        raise_for(await self.field_errors(principal, references, before))

        def edited(config: EndpointConfig) -> EndpointConfig:
            return self._ceilings.applied(edit(config), config)

        if references.environment:
            await self._limits.check_room(principal.tenant)
        after = edited(before.config)
        # Before the credential is marked as used. The store checks again.
        if versions is not None and before.version not in versions and after != before.config:
            raise PreconditionFailed("endpoint")
        await self._limits.check_workers(principal.tenant, after.workers, before=before.config.workers)
        if any(_lanes_of(after)) and _lanes_of(after) != _lanes_of(before.config):
            await self._lanes.check(before.endpoint_id)
        if _needs_new_agents(after, before.config):
            await self._check_agents(before.endpoint_id)
        credential_id = references.credential_id
        if credential_id is not None and not await from_store(
            self._credentials.use(principal.tenant, credential_id, before.endpoint_id)
        ):
            raise InvalidRequest(*_UNKNOWN_CREDENTIAL)
        call = self._endpoints.update(
            before.endpoint_id, principal.tenant, edited, references.environment, versions=versions
        )
        updated = await self._change(principal, Action.UPDATE_ENDPOINT, before.endpoint_id, call)
        if updated is None:
            raise NotFound(Resource.ENDPOINT)
        endpoint, is_written = updated
        if is_written:
            await self._note(principal, Action.UPDATE_ENDPOINT, endpoint.endpoint_id)
        if endpoint.config.credential_id != before.config.credential_id:
            await self._release_credential(before)
        return endpoint

    async def scale(self, principal: Principal, endpoint_id: str, workers: int) -> None:
        """Set the number of workers. Raises QuotaReached for more workers than the tenant's limits allow."""
        before = await self.get(principal, endpoint_id)
        await self._limits.check_workers(principal.tenant, workers, before=before.config.workers)
        call = self._endpoints.update(endpoint_id, principal.tenant, lambda config: replace(config, workers=workers))
        updated = await self._change(principal, Action.SCALE_ENDPOINT, endpoint_id, call)
        if updated is None:
            raise NotFound(Resource.ENDPOINT)
        if updated.is_written:
            await self._note(principal, Action.SCALE_ENDPOINT, endpoint_id)

    async def start(self, principal: Principal, endpoint_id: str, versions: Collection[int] | None = None) -> None:
        """Start the endpoint. Does nothing if it is started. Raises StateConflict as `create` does.

        This and the following changes raise PreconditionFailed if they are not made already and the endpoint has none
        of `versions`.
        """
        if (await self.get(principal, endpoint_id)).desired is not DesiredState.RUNNING:
            await self._check_is_kept_apart(principal)
        await self._set_state(principal, endpoint_id, DesiredState.RUNNING, Action.START_ENDPOINT, versions)

    async def stop(self, principal: Principal, endpoint_id: str, versions: Collection[int] | None = None) -> None:
        """Stop the endpoint. Queued tasks are kept. Does nothing if it is stopped."""
        await self._set_state(principal, endpoint_id, DesiredState.STOPPED, Action.STOP_ENDPOINT, versions)

    async def pause(self, principal: Principal, endpoint_id: str, versions: Collection[int] | None = None) -> None:
        """Let no agent claim tasks of the queue until `resume`. Does nothing if it is paused.

        Raises StateConflict while an agent works that is too old to notice.
        """
        check_has_access(principal, endpoint_id)
        await self._check_agents(endpoint_id)
        await self._set_paused(principal, endpoint_id, Action.PAUSE_ENDPOINT, versions, paused=True)

    async def resume(self, principal: Principal, endpoint_id: str, versions: Collection[int] | None = None) -> None:
        """Let agents claim tasks of the queue again. Does nothing if it is not paused."""
        check_has_access(principal, endpoint_id)
        await self._set_paused(principal, endpoint_id, Action.RESUME_ENDPOINT, versions, paused=False)

    async def _set_paused(
        self, principal: Principal, endpoint_id: str, action: Action, versions: Collection[int] | None, *, paused: bool
    ) -> None:
        call = self._endpoints.set_paused(endpoint_id, principal.tenant, paused=paused, versions=versions)
        await self._set(principal, endpoint_id, action, call)

    async def _check_agents(self, endpoint_id: str) -> None:
        """Raise StateConflict while an agent of an earlier version claims tasks of the endpoint."""
        workers = await from_store(self._workers.of_endpoint(endpoint_id))
        if any(one.is_outdated for one in workers):
            raise StateConflict("workers are being upgraded: an agent of an earlier version still works")

    async def delete(self, principal: Principal, endpoint_id: str, versions: Collection[int] | None = None) -> None:
        """Delete the endpoint: the controller stops its workers, ends its tasks and removes it.

        Every request for it gets NotFound from now on.
        """
        endpoint = await self.get(principal, endpoint_id)
        await self._set_state(principal, endpoint_id, DesiredState.DELETED, Action.DELETE_ENDPOINT, versions)
        await self._release_credential(endpoint)

    async def webhook_secret(self, principal: Principal, endpoint: Endpoint) -> str:
        """Return the secret that signs the endpoint's webhooks. Raises StateConflict once it has been rotated."""
        check_sees(principal, endpoint)
        secret = await found_in_store(self._endpoints.signing_secret(endpoint.endpoint_id), Resource.ENDPOINT)
        # Asked after reading, because a rotation in between may have replaced the secret.
        if await from_store(self._endpoints.is_secret_rotated(endpoint.endpoint_id)):
            raise StateConflict(
                "webhook-secret: has been rotated: only the response to the rotation has the new secret"
            )
        return secret

    async def rotate_webhook_secret(self, principal: Principal, endpoint_id: str) -> RotatedSecret:
        """Replace the secret that signs the endpoint's webhooks. The replaced one signs too for SECRET_OVERLAP_SECONDS.

        Raises StateConflict if too many replaced secrets still sign.
        """
        check_has_access(principal, endpoint_id)
        secret = new_signing_secret()
        call = self._endpoints.rotate_signing_secret(
            endpoint_id, principal.tenant, secret, overlap_seconds=SECRET_OVERLAP_SECONDS
        )
        try:
            until_ms = await self._change(principal, Action.ROTATE_WEBHOOK_SECRET, endpoint_id, call)
        except TooManySecrets as error:
            raise StateConflict(
                f"webhook-secret: {MAX_REPLACED_SECRETS} replaced secrets still sign webhooks: rotate it again after "
                f"{error.free_at_ms} (epoch milliseconds)"
            ) from None
        if until_ms is None:
            raise NotFound(Resource.ENDPOINT)
        await self._note(principal, Action.ROTATE_WEBHOOK_SECRET, endpoint_id)
        return RotatedSecret(secret, until_ms)

    async def _check_is_kept_apart(self, principal: Principal) -> None:
        reason = await from_store(self._one_tenant.refusal(principal.tenant))
        if reason is not None:
            raise StateConflict(reason)

    async def _note(self, principal: Principal, action: Action, endpoint_id: str) -> None:
        await self._audit.note(principal, action, endpoint_target(endpoint_id))

    async def _change(self, principal: Principal, action: Action, endpoint_id: str, call: Awaitable[T]) -> T:
        return await self._audit.change(principal, action, endpoint_target(endpoint_id), call)

    async def _set_state(
        self,
        principal: Principal,
        endpoint_id: str,
        desired: DesiredState,
        action: Action,
        versions: Collection[int] | None,
    ) -> None:
        check_has_access(principal, endpoint_id)
        call = self._endpoints.set_desired_state(endpoint_id, principal.tenant, desired, versions)
        await self._set(principal, endpoint_id, action, call)

    async def _set(
        self, principal: Principal, endpoint_id: str, action: Action, change: Awaitable[StateChange]
    ) -> None:
        match await self._change(principal, action, endpoint_id, change):
            case StateChange.NOT_FOUND:
                raise NotFound(Resource.ENDPOINT)
            case StateChange.CONFLICT:
                raise PreconditionFailed("endpoint")
            case StateChange.OK:
                await self._note(principal, action, endpoint_id)

    async def _release_credential(self, endpoint: Endpoint) -> None:
        credential_id = endpoint.config.credential_id
        if credential_id is not None:
            await from_store(self._credentials.release(credential_id, endpoint.endpoint_id))


def _needs_new_agents(after: EndpointConfig, before: EndpointConfig) -> bool:
    """Return True for a change that an agent of an earlier version would not carry out, or not understand."""
    has_new_rate = after.rate_limit is not None and after.rate_limit != before.rate_limit
    return has_new_rate or RetryOn.CONFLICT in after.retry_on - before.retry_on


def _lanes_of(config: EndpointConfig) -> tuple[object, object]:
    """Return the settings that processes and agents of an earlier version do not know."""
    return config.default_priority, config.max_concurrency_per_key
