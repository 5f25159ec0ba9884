"""Settings that several kinds of processes share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, field_validator

from queue_engine.config.base import ProcessSettings
from queue_engine.config.durability import (
    DEFAULT_TIMEOUT_SECONDS,
    MAX_TIMEOUT_SECONDS,
    Durability,
    parse_durability,
)
from queue_engine.config.names import AGENT_PREFIX
from queue_engine.config.store_url import parse_store_url
from queue_engine.crypto.sealing import Sealer, parse_secret_key, parse_secret_keys


class StoreSettings(ProcessSettings):
    """Settings of every process that uses the store."""

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis 7.0+ or Valkey 7.2+: `redis://[:password@]host:port/db`, `redis+sentinel://…/service` or "
        "`redis+cluster://…`; with TLS `rediss…`. `docs/operations/high-availability.md` has examples",
    )
    durability: str = Field(
        "store",
        description="Durability of a write before it is acknowledged: `store`, `replica`, `replicas:N`, `disk` or "
        "`disk+replica`",
    )
    durability_timeout_seconds: float = Field(
        DEFAULT_TIMEOUT_SECONDS,
        ge=0.01,
        le=MAX_TIMEOUT_SECONDS,
        description="Time limit of a write for reaching that durability",
    )
    secret_key: SecretStr | None = Field(
        None,
        description="32 random bytes as base64 (`queue-engine secret-key new` generates them): encrypts forwarded "
        "headers, webhook keys, environment variables and registry credentials at rest. Without a key, requests that "
        "contain these are refused. `up` generates and keeps a key",
    )
    secret_key_previous: SecretStr | None = Field(
        None,
        description="Previous keys, comma-separated. They decrypt existing secrets; new secrets are encrypted with the "
        "current key only. `docs/guides/secrets.md` describes how to change the key",
    )
    partitions: int = Field(16, ge=1, le=100, description="Number of partitions of the store's keys; fixed for a store")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Minimum level of log messages. Logs are JSON lines on standard error"
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        parse_store_url(value.get_secret_value())
        return value

    @field_validator("durability")
    @classmethod
    def _check_durability(cls, value: str) -> str:
        parse_durability(value)
        return value

    @field_validator("secret_key")
    @classmethod
    def _check_secret_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_secret_key(value.get_secret_value())
        return value

    @field_validator("secret_key_previous")
    @classmethod
    def _check_previous_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_secret_keys(value.get_secret_value())
        return value

    @property
    def secret_keys(self) -> tuple[bytes, ...]:
        """Return the current key, then the previous ones; empty without a current one."""
        if self.secret_key is None:
            return ()
        previous = self.secret_key_previous.get_secret_value() if self.secret_key_previous else ""
        return parse_secret_key(self.secret_key.get_secret_value()), *parse_secret_keys(previous)

    def asked_durability(self) -> Durability:
        """Return how durable a write must be before it is acknowledged."""
        return parse_durability(self.durability, self.durability_timeout_seconds)

    def sealer(self) -> Sealer:
        """Return the object that seals and opens secrets. Without a key it refuses to."""
        return Sealer.of(self.secret_keys)


class AgentTimeSettings(ProcessSettings):
    """Times of agents: settings of those that use the store, and of the API for those that call it."""

    lease_seconds: float = Field(
        30.0,
        ge=0.5,
        le=3600,
        description="Time without a renewal after which a task is requeued, because its agent is assumed to be dead. "
        "Below 4, a short outage of the store can have the same effect",
    )
    log_retention_seconds: float = Field(
        86_400, ge=1, le=365 * 86_400, description="Time for which a worker's log is kept after the worker's end"
    )


class SharedSettings(AgentTimeSettings, StoreSettings):
    """Settings that must be equal in the controller and its agents.

    The controller passes these to the agents that it starts, except the secret keys. An agent started by hand reads the
    engine's variables for those that it was not given.
    """

    def agent_environment(self) -> dict[str, str]:
        """Return the shared settings as variables of an agent, without the secret keys.

        SECRET: the store's password is in it.
        """
        names = SharedSettings.model_fields.keys() - _OF_THE_ENGINE
        values = {name: getattr(self, name) for name in names}
        return {AGENT_PREFIX + name.upper(): _text(value) for name, value in values.items() if value is not None}


_OF_THE_ENGINE = frozenset({"secret_key", "secret_key_previous"})
"""Settings that no agent gets, because an agent needs only the keys of its endpoint."""


class MetricsSettings(ProcessSettings):
    """Address and port of `/metrics`."""

    metrics_host: str = Field("127.0.0.1", description="Address for `/metrics`")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port for `/metrics`; 0 chooses a free port and logs it")


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
