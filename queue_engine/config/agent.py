"""Settings of the agent: command line options, or environment variables `WORKER_AGENT_…`."""

from __future__ import annotations

import json
import socket
import uuid
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from queue_engine.config.base import text_of
from queue_engine.config.names import AGENT_PREFIX
from queue_engine.config.shared import MetricsSettings, SharedSettings
from queue_engine.config.store_url import parse_store_url
from queue_engine.crypto.sealing import Sealer, parse_secret_keys
from queue_engine.domain.agent_tokens import holder_of
from queue_engine.domain.endpoints import MAX_START_TIMEOUT_SECONDS, MIN_START_TIMEOUT_SECONDS, ServiceMode
from queue_engine.domain.ids import is_endpoint_id, is_worker_id
from queue_engine.domain.user_ids import MAX_USER_ID
from queue_engine.domain.workers import MAX_IDLE_REPORT_SECONDS
from queue_engine.net.gateways import default_gateways
from queue_engine.rules.agent_urls import agent_url_refusal
from queue_engine.rules.hosts import is_host
from queue_engine.rules.paths import normalize_process_uri

TOKEN_RULE = "must be an agent token, which `queue-engine agents token` makes"  # noqa: S105 - not a token
AUTO = "auto"
"""The value of a setting that the agent finds out."""


class AgentSettings(SharedSettings, MetricsSettings):
    """`worker-agent`. Each secret may also be in a file: `WORKER_AGENT_…_FILE`."""

    model_config = SettingsConfigDict(env_prefix=AGENT_PREFIX)

    # Before `server`, whose rule depends on it.
    container_network: bool = Field(
        False,
        description="The agent's default gateway is that of a container network, and so the engine's machine: the "
        "backend that starts the agent sets it. `http://` is then accepted for the gateway",
    )
    server: str | None = Field(
        None,
        description="URL of the engine's API: `https://…`. The agent then needs no store and no secret key, but a "
        "token. `http://…` only for a loopback address, and for the gateway of a container network "
        "(`WORKER_AGENT_CONTAINER_NETWORK`)",
    )
    token: SecretStr | None = Field(
        None,
        description="Token of the endpoint for `WORKER_AGENT_SERVER` (`queue-engine agents token`). A token in a file "
        "can be replaced while the agent runs",
    )
    server_ca: Path | None = Field(
        None,
        description="PEM file with certificate authorities that are trusted besides the system's, for "
        "`WORKER_AGENT_SERVER`. The file is read again when it changes",
    )
    # Without a default URL, because an agent is rarely on the machine of the engine's default URL.
    redis_url: SecretStr = Field(
        SecretStr(""), description=f"{text_of(SharedSettings, 'redis_url')}. Required without `WORKER_AGENT_SERVER`"
    )
    endpoint: str = Field(description="Id of the endpoint whose tasks are claimed")
    endpoint_key: SecretStr | None = Field(
        None,
        description="Key that decrypts the headers of this endpoint's tasks; `queue-engine agents key` prints it. "
        "During a change of the secret key several, comma-separated. With it, the agent does not use the secret key",
    )
    container_url: str = Field(
        "http://127.0.0.1",
        description="URL of the container. With a port, every task is sent to that port; without, to the exposed port",
    )
    exposed_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="The only workerPort that tasks may have; the agent maps it to the container's port. "
        "Default: the endpoint's `expose`",
    )
    own_network: bool = Field(
        False,
        description="Set it if only this agent and its container share a network, as in a pod: each task is sent to "
        "its workerPort, which may be any port except the agent's own",
    )
    advertise_host: str | None = Field(
        None,
        description="Host at which the API reaches the container of an ALB or CUSTOM endpoint, in place of the host of "
        "`WORKER_AGENT_CONTAINER_URL`. `auto`: the agent's own address on its connection to `WORKER_AGENT_SERVER`; the "
        "default with a server, if the container's host is a loopback address",
    )
    worker_id: str = Field(
        default_factory=lambda: f"{_hostname()}-{uuid.uuid4().hex[:12]}",
        description="Name of the worker; generated from the host's name by default",
    )
    service_mode: ServiceMode | None = Field(
        None, description="The endpoint's mode: QUEUE, ALB or CUSTOM; read from the store by default"
    )
    ready_path: str | None = Field(
        None,
        description="Path that responds 2xx while the container is ready; the endpoint's setting by default. "
        "Without a path, the container is ready while its port is open",
    )
    start_timeout_seconds: float | None = Field(
        None,
        ge=MIN_START_TIMEOUT_SECONDS,
        le=MAX_START_TIMEOUT_SECONDS,
        description="Time limit for one start of the container; the endpoint's setting by default",
    )
    managed: bool = Field(False, description="A controller started this worker and removes its record")
    idle_report_seconds: float = Field(
        MAX_IDLE_REPORT_SECONDS,
        ge=0.1,
        description="Maximum time between two reports of an idle worker; while tasks run it is 1. The controller sets "
        "it to a quarter of `QUEUE_ENGINE_WORKER_SILENCE_SECONDS`, and to 3 at most",
    )
    run: int = Field(
        0, ge=0, description="Sequence number of this start, set by the controller; 0 for an agent started by hand"
    )
    concurrency: int | None = Field(
        None, ge=1, le=1000, description="Maximum number of concurrent tasks; the endpoint's setting by default"
    )
    grace_seconds: float = Field(30.0, ge=0, description="Time limit for running tasks to finish after SIGTERM")
    max_answer_bytes: int = Field(
        8 * 1024 * 1024, ge=1, description="Maximum size of the container's response, in bytes"
    )
    container_command: str | None = Field(None, description="Command that the agent runs as its container")
    container_environment: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="The complete environment of that command, as a JSON object"
    )
    container_user: int | None = Field(
        None,
        ge=1,
        le=MAX_USER_ID,
        description="Id of the user, and of the group, as which that command runs; as the agent by default",
    )
    log_notes: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Lines at the beginning of the container's log, as a JSON array"
    )
    secret_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Variables of that command whose values are masked in the container's log, as a JSON array"
    )
    overridden_names: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Variables of the endpoint that have other values for that command, as a JSON array"
    )
    end_fd: int | None = Field(
        None,
        ge=0,
        description="File descriptor to which the agent writes the reason when it ends without being stopped",
    )
    metrics_fd: int | None = Field(
        None, description="File descriptor of a listening socket for `/metrics`, instead of an address and a port"
    )
    drain_hook: bool = Field(
        False,
        description="Also serve `/drained` and `/healthz` at the address of `/metrics`. `/drained` responds when the "
        "agent has drained, at most 5 s after the grace period: for the preStop hook of a container that must not end "
        "before. The Kubernetes backend sets it",
    )
    lifeline_fd: int | None = Field(
        None, description="File descriptor of a pipe that is closed when the parent process has died"
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, value: SecretStr) -> SecretStr:
        """Check the URL, unless it is the default."""
        if text := value.get_secret_value():
            parse_store_url(text)
        return value

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str) -> str:
        if not is_endpoint_id(value):
            raise ValueError("must be the id of an endpoint: a positive whole number")
        return value

    @field_validator("endpoint_key")
    @classmethod
    def _check_endpoint_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not parse_secret_keys(value.get_secret_value(), made_by="agents key"):
            raise ValueError("has no key")
        return value

    @field_validator("ready_path")
    @classmethod
    def _check_ready_path(cls, value: str | None) -> str | None:
        return None if value is None else normalize_process_uri(value)

    @field_validator("worker_id")
    @classmethod
    def _check_worker_id(cls, value: str) -> str:
        if not is_worker_id(value):
            raise ValueError("must be 1–63 letters, digits, `_` and `-`")
        return value

    @field_validator("container_url")
    @classmethod
    def _check_container_url(cls, value: str) -> str:
        parts = urlsplit(value)
        plain = parts.path in ("", "/") and not parts.query and not parts.fragment and parts.username is None
        if parts.scheme != "http" or not parts.hostname or not plain:
            raise ValueError("must be http://<host> or http://<host>:<port>, without a path")
        _ = parts.port  # raises ValueError for an invalid port
        return value

    @field_validator("server")
    @classmethod
    def _check_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        gateways = default_gateways() if info.data.get("container_network") else ()
        if value is not None and (refusal := agent_url_refusal(value, gateways)) is not None:
            raise ValueError(refusal)
        return value

    @field_validator("advertise_host")
    @classmethod
    def _check_advertise_host(cls, value: str | None) -> str | None:
        if value is not None and not is_host(value):
            raise ValueError("must be `auto`, a host name, or an IP address without brackets")
        return value

    @model_validator(mode="after")
    def _check_way(self) -> Self:
        """Check that there is one way to the engine."""
        has_store = bool(self.redis_url.get_secret_value())
        if self.server is None and not has_store:
            raise ValueError("--server (WORKER_AGENT_SERVER) or --redis-url (WORKER_AGENT_REDIS_URL) is required")
        if self.server is not None and has_store:
            raise ValueError("WORKER_AGENT_SERVER and WORKER_AGENT_REDIS_URL are both set: set only one of them")
        if self.server is not None and self.token is None:
            raise ValueError("WORKER_AGENT_SERVER needs a token: set WORKER_AGENT_TOKEN, or --token-file")
        if self.server is None and self.advertise_host == AUTO:
            raise ValueError("WORKER_AGENT_ADVERTISE_HOST=auto needs WORKER_AGENT_SERVER")
        return self

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        """Check that the token is one of the endpoint and the worker. Only the API knows if it is valid."""
        if self.token is not None:
            self.check_token(self.token.get_secret_value())
        return self

    def check_token(self, token: str) -> None:
        """Raise ValueError if the text is not a token of the endpoint and the worker."""
        holder = holder_of(token)
        if holder is None:
            raise ValueError(f"WORKER_AGENT_TOKEN {TOKEN_RULE}")
        if holder.endpoint_id != self.endpoint:
            raise ValueError(f"WORKER_AGENT_TOKEN is a token of endpoint {holder.endpoint_id}, not {self.endpoint}")
        if holder.worker_id not in (None, self.worker_id):
            raise ValueError(f"WORKER_AGENT_TOKEN is the token of worker {holder.worker_id}, not {self.worker_id}")

    @property
    def is_complete(self) -> bool:
        """True for a worker that a backend manages, if the backend has passed all settings of the endpoint."""
        return self.managed and None not in (self.service_mode, self.concurrency, self.start_timeout_seconds)

    def completed_by(
        self,
        *,
        service_mode: ServiceMode,
        concurrency: int,
        exposed_port: int | None,
        ready_path: str | None,
        start_timeout_seconds: float,
    ) -> Self:
        """Return the settings with these of the endpoint in place of those that were not given."""
        found = {
            "service_mode": self.service_mode or service_mode,
            "concurrency": self.concurrency or concurrency,
            "exposed_port": self.exposed_port or exposed_port,
            "ready_path": self.ready_path or ready_path,
            "start_timeout_seconds": self.start_timeout_seconds or start_timeout_seconds,
        }
        return self.model_copy(update=found)

    @field_validator("container_environment", "secret_names", "overridden_names", "log_notes", mode="before")
    @classmethod
    def _parse_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    def sealer(self) -> Sealer:
        """Return the engine's ring, for an agent that has the secret key in place of the endpoint's keys."""
        return super().sealer() if self.endpoint_key is None else Sealer(None)

    def endpoint_sealer(self) -> Sealer | None:
        """Return the ring of the endpoint's keys; None without one."""
        if self.endpoint_key is None:
            return None
        return Sealer.of(parse_secret_keys(self.endpoint_key.get_secret_value(), made_by="agents key"))

    def masked_values(self) -> tuple[str, ...]:
        """Return the values of the endpoint's variables that the container's log must not show."""
        return tuple(self.container_environment.get(name, "") for name in self.secret_names)

    def own_secrets(self) -> tuple[str, ...]:
        """Return the agent's own secrets, which the container's log must not show either."""
        given = (self.endpoint_key, self.secret_key, self.secret_key_previous, self.token)
        own = [secret.get_secret_value() for secret in given if secret]
        store_url = self.redis_url.get_secret_value()
        passwords = parse_store_url(store_url).secrets if store_url else ()
        return (*passwords, *(key.strip() for text in own for key in text.split(",")))


def _hostname() -> str:
    name = "".join(one if one.isalnum() and one.isascii() else "-" for one in socket.gethostname().split(".")[0])
    return name[:40].strip("-") or "agent"
