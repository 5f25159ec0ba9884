"""API keys: the rights of a key, and the rule that no key makes a key with more than its own."""

from __future__ import annotations

from dataclasses import dataclass

from queue_engine.domain.principals import ROLE_RIGHTS, Principal, Role, rights_of

KEY_ID_CHARACTERS = 16
"""Length of a key's id. Shorter beginnings of the hash are accepted on the command line only."""
MAX_KEYS_PER_TENANT = 1000
MAX_ENDPOINTS_PER_KEY = 100
MAX_NAME_CHARACTERS = 100
MAX_OVERLAP_SECONDS = 7 * 86_400
DEFAULT_OVERLAP_SECONDS = 86_400


@dataclass(frozen=True)
class Grant:
    """The properties of a key that is to be created."""

    name: str
    role: Role = Role.ADMIN
    endpoints: frozenset[str] | None = None
    """The ids of the only endpoints that the key gives access to; None means all endpoints of the tenant."""
    expires_at_ms: int | None = None
    """The end of the key on the store's clock; None means no end."""
    max_submits_per_second: int | None = None
    """Limit of submissions with the key; None means no limit."""
    bucket: str | None = None
    """The bucket of the limit, which is that of the key that makes this one; None for a bucket of its own."""

    @property
    def is_limited(self) -> bool:
        """True if the key allows less than all calls inside its tenant at all times."""
        return self.role is not Role.ADMIN or self.endpoints is not None or self.expires_at_ms is not None


@dataclass(frozen=True)
class ApiKey:
    """The stored data of an API key: its hash, never the key itself."""

    key_hash: str
    tenant: str
    """Empty for an operator's key."""
    name: str
    created_at_ms: int
    role: str = Role.ADMIN
    """A Role, or a role that only a later version has."""
    endpoints: frozenset[str] | None = None
    expires_at_ms: int | None = None
    last_used_at_ms: int | None = None
    """Time of a recent use, at most a minute and a second older than the latest use."""
    origin: str | None = None
    """The id of the key that was rotated first to become this key; None for a key that was created."""
    is_replaced: bool = False
    """True if the key has been rotated: it is valid until its end, beside the key that replaces it."""
    max_submits_per_second: int | None = None
    """Limit of submissions with the key, and with keys that it was rotated from or to; None means no limit."""
    bucket: str | None = None
    """The bucket of the limit, if it is shared with the key that made this one."""

    @property
    def has_known_role(self) -> bool:
        """True if this version knows the role."""
        return self.role in ROLE_RIGHTS

    @property
    def key_id(self) -> str:
        """The beginning of the hash, by which the key is shown and found."""
        return self.key_hash[:KEY_ID_CHARACTERS]

    def principal(self) -> Principal:
        """Return the principal of a request with this key."""
        return Principal(
            self.tenant,
            self.role,
            self.key_id,
            key_name=self.name,
            endpoints=self.endpoints,
            expires_at_ms=self.expires_at_ms,
            submitter=self.origin or self.key_id,
            max_submits_per_second=self.max_submits_per_second,
            bucket=self.bucket or "",
            key_hash=self.key_hash,
        )


def has_access_of(holder: Principal, key: Grant | ApiKey) -> bool:
    """Return True if every right and every endpoint of `key` is also the holder's. Does not compare tenants.

    The rights of a role that only a later version has are unknown, so a holder with a list of endpoints has no access.
    """
    if isinstance(key, ApiKey) and not key.has_known_role:
        return holder.endpoints is None
    if not rights_of(key.role, key.endpoints) <= holder.rights:
        return False
    return holder.endpoints is None or (key.endpoints is not None and key.endpoints <= holder.endpoints)


def lives_as_long_as(holder: Principal, key: Grant | ApiKey) -> bool:
    """Return True if the holder's key ends no earlier than `key`."""
    if holder.expires_at_ms is None:
        return True
    return key.expires_at_ms is not None and key.expires_at_ms <= holder.expires_at_ms


def submits_as_slowly_as(holder: Principal, key: Grant | ApiKey) -> bool:
    """Return True if the limit of submissions of `key` is not above that of the holder's key."""
    if holder.max_submits_per_second is None:
        return True
    return key.max_submits_per_second is not None and key.max_submits_per_second <= holder.max_submits_per_second
