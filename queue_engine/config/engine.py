"""Settings of the engine's processes, from environment variables `QUEUE_ENGINE_…`.

Importing a module never reads the environment: a composition root creates the settings of its process and passes them
on.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from queue_engine.config.base import ProcessSettings
from queue_engine.config.docker import DockerSettings
from queue_engine.config.kubernetes import ClusterSettings, KubernetesSettings
from queue_engine.config.limits import LimitSettings
from queue_engine.config.shared import AgentTimeSettings, MetricsSettings, SharedSettings, StoreSettings
from queue_engine.config.store_url import DEFAULT_PORT, Topology, parse_store_url
from queue_engine.domain.gpus import GpuSetting, parse_gpu_setting
from queue_engine.domain.retry import DELIVERY_DELAYS_SECONDS
from queue_engine.domain.user_ids import UserIds, parse_user_ids
from queue_engine.domain.workers import AgentTimes
from queue_engine.net.ports import machine_addresses
from queue_engine.rules.addresses import DEFAULT_WORKER_NETWORKS, WorkerPolicy
from queue_engine.rules.agent_urls import agent_url_refusal
from queue_engine.rules.hosts import is_loopback
from queue_engine.rules.webhook_urls import LOOPBACK, AddressPolicy, DestinationRules, OwnHost, parse_own_host

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Number = TypeVar("Number", int, float)
MAX_ENVIRONMENT = 32
ENVIRONMENT_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9 ._-]*[A-Za-z0-9])?$"
TRACE_URL_PATTERN = r"^https?://[^\s\x00-\x1f\x7f{}<>\"]+\{traceId\}[^\s\x00-\x1f\x7f{}<>\"]*$"
_PUBLIC_URL = re.compile(
    r"(?P<origin>https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[1-9][0-9]{0,4})?)(?P<prefix>(?:/[A-Za-z0-9._~-]+)*)/?"
)


@dataclass(frozen=True)
class StorePlaces:
    """Places of a store's servers and sentinels, as far as its URLs name them."""

    here: frozenset[int]
    """Ports on this machine."""
    ports: frozenset[int]
    """All ports, here and elsewhere. Behind sentinels this includes the default port, which a later master may use."""
    hosts: tuple[OwnHost, ...]
    """Hosts other than this machine."""

    @classmethod
    def of(cls, urls: Iterable[str]) -> StorePlaces:
        stores = [parse_store_url(url) for url in urls]
        addresses = [address for store in stores for address in store.addresses]
        behind = {DEFAULT_PORT for store in stores if store.topology is Topology.SENTINEL}
        here = [address for address in addresses if _is_this_machine(address.host)]
        elsewhere = [OwnHost(address.host.lower(), address.port) for address in addresses if address not in here]
        return cls(
            frozenset(address.port for address in here),
            frozenset(behind.union(address.port for address in addresses)),
            tuple(elsewhere),
        )


class ControlSettings(ProcessSettings):
    """Server of the background jobs' own queue. Processes that send webhooks refuse webhooks to it."""

    control_redis_url: SecretStr | None = Field(
        None,
        description="Redis server, or master behind sentinels, for the queue of background jobs; the store by default. "
        "The controller requires it when the store is a cluster. Webhooks to it are refused",
    )

    @field_validator("control_redis_url")
    @classmethod
    def _check_control_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and parse_store_url(value.get_secret_value()).topology is Topology.CLUSTER:
            raise ValueError("the background jobs' own queue cannot be in a cluster: use redis:// or redis+sentinel://")
        return value


class WebhookSettings(StoreSettings, ControlSettings):
    """Allowed destinations of webhooks."""

    webhook_allow: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Networks that are not public and to which webhooks are allowed, comma-separated CIDRs. "
        "With `up`, an empty value refuses webhooks to loopback",
    )

    webhook_loopback: bool = Field(
        False,
        description="Also allow webhooks to loopback while there is one tenant. Once there was a second tenant, they "
        "stay refused. `up` sets it, unless `--host` or `QUEUE_ENGINE_WEBHOOK_ALLOW` is given",
    )
    own_ports: Annotated[tuple[int, ...], NoDecode] = Field(
        (),
        description="Ports of the engine on this machine, comma-separated. Webhooks to them are refused on all its "
        "addresses, even in allowed networks. Each process adds its own port, and `up` adds all. The ports of the "
        "store and of `QUEUE_ENGINE_CONTROL_REDIS_URL` are refused on every private address, because a store has more "
        "addresses than its URL names",
    )
    own_hosts: Annotated[tuple[OwnHost, ...], NoDecode] = Field(
        (),
        description="Public hosts of this engine, comma-separated `host` or `host:port`. Webhooks to these hosts are "
        "refused, even in allowed networks. A task whose webhook is the engine's own API would submit itself forever",
    )

    def store_places(self) -> StorePlaces:
        """Return the places of the store and of the background jobs' own queue."""
        urls = [secret.get_secret_value() for secret in (self.redis_url, self.control_redis_url) if secret is not None]
        return StorePlaces.of(urls)

    def destination_rules(
        self, own_ports: frozenset[int], store_ports: frozenset[int] = frozenset()
    ) -> DestinationRules:
        """Return the allowed destinations of webhooks. `own_ports` are the engine's on this machine.

        `store_ports` are further ports of the store besides those that are configured.
        """
        places = self.store_places()
        return DestinationRules(
            AddressPolicy(self.webhook_allow),
            own_ports=own_ports | places.here,
            store_ports=store_ports | places.ports,
            own_hosts=(*self.own_hosts, *places.hosts),
            policy_for_one_tenant=AddressPolicy((*self.webhook_allow, *LOOPBACK)) if self.webhook_loopback else None,
        )

    @field_validator("own_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(parse_own_host(part.strip()) for part in value.split(",") if part.strip())
        return value

    @field_validator("own_ports", mode="before")
    @classmethod
    def _split_ports(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = _numbers(value, int, "ports")
        return value

    @field_validator("own_ports")
    @classmethod
    def _check_ports(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 1 <= port <= 65535 for port in value):
            raise ValueError("must be ports between 1 and 65535, separated by commas")
        return value

    @field_validator("webhook_allow", mode="before")
    @classmethod
    def _split_networks(cls, value: Any) -> Any:
        return _networks(value)


class CatalogueSettings(ProcessSettings):
    """The GPU types of this installation."""

    catalogue_file: Path | None = Field(
        None,
        description="TOML file with further GPU types, regions, and the prices for `cost`; for example "
        "`deploy/examples/catalogue.toml`",
    )


class ApiSettings(
    AgentTimeSettings, WebhookSettings, LimitSettings, CatalogueSettings, ClusterSettings, MetricsSettings
):
    """`queue-engine api`."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on")
    api_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Number of API processes that share the port, one for each processor core that the API may use",
    )
    agent_host: IpAddress | None = Field(
        None,
        description="Address at which the API also listens for agents in containers of this machine: the gateway of "
        "their network. It serves `/agent/v1` only, over plain HTTP, so the address must be private",
    )
    agent_port: int = Field(8003, ge=0, le=65535, description="Port to listen on at `QUEUE_ENGINE_AGENT_HOST`")
    api_metrics: Literal["private", "public"] = Field(
        "private",
        description="Address of the API's `/metrics`. `private`: that of `QUEUE_ENGINE_METRICS_HOST` and "
        "`QUEUE_ENGINE_METRICS_PORT`; `public`: the API's own port, for everybody who reaches it, as with `up`",
    )
    api_key: SecretStr | None = Field(
        None,
        description="First API key, added for the tenant `default` at start. A key that was revoked or belongs to "
        "another tenant is not changed, and a warning is logged",
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Maximum size of a request body, in bytes")
    max_batch_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        description="Maximum size of the JSON body of a batch of tasks, in bytes. At most "
        "`QUEUE_ENGINE_MAX_BODY_BYTES_PER_TENANT` if that is lower. Each task in it has at most "
        "`QUEUE_ENGINE_MAX_BODY_BYTES`",
    )
    max_body_bytes_per_tenant: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Maximum number of bytes of a tenant's request bodies that an API process has in progress, without "
        "the first 8 KiB of each and without requests to ALB endpoints; 0: no limit. A body of the maximum size is "
        "always accepted",
    )
    agent_max_body_bytes: int = Field(
        64 * 1024 * 1024,
        ge=1024 * 1024,
        description="Maximum size of a request of an agent that calls the API, in bytes: the outputs of tasks that it "
        "settles together. Such requests count for a limit of their own that is as high as "
        "`QUEUE_ENGINE_MAX_BODY_BYTES_PER_TENANT`, and at least this",
    )
    read_timeout_seconds: float = Field(
        9.0, gt=0, description="Timeout for receiving the request headers, and between chunks of the body"
    )
    tls_cert: Path | None = Field(
        None,
        description="PEM file with the certificate of the API and its chain; the API then speaks HTTPS only. It is "
        "read again when it changes, without a restart",
    )
    tls_key: Path | None = Field(
        None, description="PEM file with the key of `QUEUE_ENGINE_TLS_CERT`, not encrypted; by default in the same file"
    )
    max_connections: int = Field(
        10_000,
        ge=0,
        description="Maximum number of connections to an API process; 0: no limit. Further ones get 429 and are "
        "closed. At start the process raises its limit of open files to fit, or logs a warning if it may not",
    )
    max_connections_per_address: int = Field(
        256,
        ge=0,
        description="Maximum number of connections of an address (IPv6: a /64 network) to an API process on which no "
        "request has had a valid API key; 0: no limit",
    )
    max_connections_per_tenant: int = Field(
        5000,
        ge=0,
        description="Maximum number of connections of a tenant to an API process; 0: no limit. A connection counts for "
        "the tenant of its first valid API key. Connections of agents count apart, with the same limit",
    )
    unknown_keys_per_minute: float = Field(
        60.0,
        ge=0,
        description="Maximum number of unknown API keys per minute that an API process refuses with 401 for an address "
        "(IPv6: a /64 network); 0: no limit. Beyond it, unknown keys get 429, and they are looked up together, at most "
        "ten times a second. Valid keys are always admitted",
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (),
        description="Networks of the reverse proxies in front of the API, comma-separated CIDRs. The client of a "
        "request from them is the last address in `X-Forwarded-For` that is not in these networks. Their connections "
        "have no limit per address or tenant",
    )
    alb_max_body_bytes: int = Field(
        1024**3, ge=1, description="Maximum size of the body of a request to an ALB endpoint, in bytes"
    )
    alb_timeout_seconds: float = Field(
        300.0,
        gt=0,
        description="Timeout of a request to an ALB endpoint while no data is transferred",
    )
    alb_keepalive_seconds: float = Field(
        1.0,
        ge=0,
        le=30,
        description="Time for which an idle connection to a worker of an ALB endpoint is kept for the next request; 0: "
        "each request has a new connection. It must be shorter than the keep-alive timeout of the workers' servers",
    )
    alb_max_requests_per_tenant: int = Field(
        1000,
        ge=0,
        description="Maximum number of requests to ALB endpoints that a tenant has in progress in an API process; 0: "
        "no limit",
    )
    alb_max_websockets_per_tenant: int = Field(
        500,
        ge=0,
        description="Maximum number of WebSockets to ALB endpoints that a tenant has in an API process; 0: no limit. "
        "Each also counts as a request in progress",
    )
    alb_websocket_idle_seconds: float = Field(
        300.0,
        gt=0,
        description="Time without data in either direction after which a WebSocket is closed; pings count as data",
    )
    alb_local_agents: bool = Field(
        False,
        description="Workers of ALB endpoints may be on the API's machine if their agents use the API and were started "
        "by hand. Not behind a reverse proxy on that machine without `QUEUE_ENGINE_TRUSTED_PROXIES`: a token from "
        "anywhere could then name every port of the machine",
    )
    worker_networks: Annotated[tuple[Network, ...], NoDecode] = Field(
        DEFAULT_WORKER_NETWORKS,
        description="Networks to which requests to ALB endpoints may be sent, comma-separated CIDRs; loopback and "
        "private networks by default. Link-local and metadata addresses and the engine's own ports are always refused",
    )
    console: Literal["on", "off"] = Field(
        "on", description="`off` removes the web console: no path under `/console` exists, nor `/v2/console-links`"
    )
    console_payloads: Literal["show", "hidden", "never"] = Field(
        "show",
        description="Inputs, outputs, headers and logs of tasks in the web console. `hidden` shows each after a click, "
        "and `never` keeps them, and lists by a text of the input, out of the responses to the console",
    )
    environment: str | None = Field(
        None,
        max_length=MAX_ENVIRONMENT,
        pattern=ENVIRONMENT_PATTERN,
        description="Name of this installation, such as `production` or `staging`: letters, digits, and between them "
        "spaces and `._-`. `GET /v2/me` has it, and the top bar of the web console shows it, `production` in red",
    )
    trace_url: str | None = Field(
        None,
        max_length=2000,
        pattern=TRACE_URL_PATTERN,
        description="URL of a trace in your tracing system, with `{traceId}`, such as "
        "`https://grafana.example.com/explore?traceId={traceId}`. `GET /v2/me` has it, and the web console links the "
        "trace of a task",
    )
    public_url: str | None = Field(
        None,
        description="URL at which browsers find the API behind a reverse proxy: scheme, host, port, and the path that "
        "the proxy removes, such as `https://queue.example.com/engine`. The web console accepts requests of its own "
        "pages only, which it knows by this origin",
    )
    example_worker: str | None = Field(
        None,
        description="Command of the example worker that `GET /v2/templates` offers, and the web console for a first "
        "task. `up` sets it where workers are processes",
    )
    max_waits: int = Field(
        20_000,
        ge=0,
        description="Maximum number of tasks that clients wait for at an API process (`?wait=`, `…/tasks/wait`); 0: no "
        "limit. A wait beyond it ends at once: the response has the task as it is, and `Retry-After: 1`",
    )
    max_waits_per_tenant: int = Field(
        5000,
        ge=0,
        description="Maximum number of tasks that the clients of a tenant wait for at an API process; 0: no limit. A "
        "wait beyond it ends at once, as with `QUEUE_ENGINE_MAX_WAITS`",
    )
    rate_limit_per_second: float = Field(
        0.0,
        ge=0,
        description="Maximum number of requests per second of a tenant to an API process, in which each task of a "
        "batch counts; 0: no limit. Registrations and removals of its agents have the same limit apart from it",
    )

    @field_validator("worker_networks", "trusted_proxies", mode="before")
    @classmethod
    def _split_worker_networks(cls, value: Any) -> Any:
        return _networks(value)

    @field_validator("agent_host")
    @classmethod
    def _check_agent_host(cls, value: IpAddress | None) -> IpAddress | None:
        if value is not None and (value.is_unspecified or not value.is_private):
            raise ValueError("must be a private address of one network, because tokens are sent to it over plain HTTP")
        return value

    @field_validator("tls_key")
    @classmethod
    def _check_tls_key(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("tls_cert") is None:
            raise ValueError("needs QUEUE_ENGINE_TLS_CERT")
        return value

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, value: str | None) -> str | None:
        if value is not None and _PUBLIC_URL.fullmatch(value) is None:
            raise ValueError("must be a URL such as https://queue.example.com/engine, in lower case")
        return value

    @property
    def public_origin(self) -> str | None:
        """The scheme, host and port of the public URL, as browsers write them; None without one."""
        found = _PUBLIC_URL.fullmatch(self.public_url or "")
        return None if found is None else found["origin"]

    @property
    def public_prefix(self) -> str:
        """The path of the public URL without a slash at its end; empty without one."""
        found = _PUBLIC_URL.fullmatch(self.public_url or "")
        return "" if found is None else found["prefix"] or ""

    @property
    def url(self) -> str:
        """Return the URL of the API without its port."""
        return f"{'http' if self.tls_cert is None else 'https'}://{self.host}"

    def agent_times(self) -> AgentTimes:
        """Return the times of agents that call the API."""
        return AgentTimes(timedelta(seconds=self.lease_seconds), timedelta(seconds=self.log_retention_seconds))

    def worker_policy(self, own_ports: frozenset[int], store_ports: frozenset[int] = frozenset()) -> WorkerPolicy:
        """Return the addresses of workers to which this process may connect. `own_ports` are the engine's on this
        machine.

        `store_ports` are further ports of the store besides those that are configured.
        """
        return WorkerPolicy(self.worker_networks, own_ports, store_ports | self.store_places().ports)

    @field_validator("api_key")
    @classmethod
    def _check_api_key(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else None
        if text is not None and not (8 <= len(text) <= 255 and all("!" <= one <= "~" for one in text)):
            raise ValueError("must be 8–255 visible ASCII characters without spaces")
        return value


class DeliverySettings(WebhookSettings, MetricsSettings):
    """`queue-engine delivery`."""

    delivery_schedule: Annotated[tuple[float, ...], NoDecode] = Field(
        DELIVERY_DELAYS_SECONDS, description="Seconds to wait after each failed attempt, comma-separated, each ± 20 %"
    )
    delivery_timeout_seconds: float = Field(15.0, gt=0, le=300, description="Total time limit of a delivery attempt")
    delivery_connect_timeout_seconds: float = Field(
        5.0, gt=0, le=60, description="Connection timeout of a delivery attempt"
    )
    delivery_slots: int = Field(
        256, ge=1, le=10_000, description="Maximum number of concurrent delivery attempts of a process"
    )
    webhook_ca: Path | None = Field(
        None,
        description="PEM file with certificate authorities that are trusted besides the system's, for webhooks to "
        "receivers with certificates of a private authority. It is read again when it changes, without a restart",
    )
    delivery_lease_seconds: float = Field(
        10.0, ge=1, description="Time without a renewal after which a delivery process is assumed to be dead"
    )

    @field_validator("delivery_schedule", mode="before")
    @classmethod
    def _split_schedule(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _numbers(value, float, "seconds")
        return value

    @field_validator("delivery_schedule")
    @classmethod
    def _check_schedule(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= delay <= 30 * 86400 for delay in value):
            raise ValueError("each delay must be between 0 seconds and 30 days")
        return value


class UpSettings(ProcessSettings):
    """`queue-engine up`, besides the settings of its processes."""

    embedded_max_memory_bytes: int | None = Field(
        None,
        ge=0,
        description="Memory limit of the embedded store in bytes, its `maxmemory`; 0: no limit. By default half of the "
        "machine's or the container's memory, because writing the data to disk may take as much again",
    )


class ControllerSettings(
    SharedSettings, ControlSettings, CatalogueSettings, MetricsSettings, DockerSettings, KubernetesSettings
):
    """`queue-engine controller`."""

    backend: Literal["process", "docker", "kubernetes"] = Field(
        "process",
        description="Backend that runs the workers. `process`: as local processes; `docker`: as containers of Docker "
        "or podman on this machine; `kubernetes`: as pods of one or more clusters",
    )
    end_workers: bool = Field(
        False,
        description="Drain and remove all workers when the controller ends, although they could go on without it. "
        "`up` sets it. Workers of the process backend always end with their controller",
    )
    agent_url: str | None = Field(
        None,
        description="URL of the API for agents in containers: `https://…`, or `http://…` with the gateway of their "
        "network. By default that of `QUEUE_ENGINE_AGENT_HOST` and `QUEUE_ENGINE_AGENT_PORT`, with `up`",
    )
    agent_ca: Path | None = Field(
        None,
        description="PEM file with certificate authorities that agents in pods trust for `QUEUE_ENGINE_AGENT_URL` "
        "besides the system's. Workers that start later have a changed file only after a restart of the controller",
    )
    agent_redis_url: SecretStr | None = Field(
        None,
        description="URL of the store for the agents that the controller starts, with the store's user `agent` "
        "(`deploy/redis/users.acl`); `up` sets it for its own store. By default agents have the controller's URL, and "
        "with it all rights in the store",
    )
    worker_silence_seconds: float = Field(
        30.0, ge=1, description="Time without a report after which a worker is restarted"
    )
    work_dir: Path = Field(
        Path("queue-engine-data/workers"), description="Folder for the workers' files (process backend)"
    )
    gpus: str = Field(
        "auto",
        description="GPUs of the controller's host that workers get, each for one worker at a time. `auto`: all, or "
        "those in the controller's own `CUDA_VISIBLE_DEVICES`; numbers of `nvidia-smi`, comma-separated: these; "
        "`none`: none; `shared`: every worker sees all of them, as before version 0.3",
    )
    worker_uids: str | None = Field(
        None,
        description="Range of user ids, such as `1900000000-1900000999`, of which each endpoint gets one while there "
        "is more than one tenant (process backend, controller as root). By default a range that no account uses; it "
        "is logged at start",
    )
    process_backend_shared: bool = Field(
        False,
        description="Run the workers of all tenants as the controller's user (process backend). They can then read "
        "each other's data. `docs/operations/isolation.md` lists what they can do",
    )
    max_lost: int = Field(
        3, ge=0, description="Number of times that a task may lose its worker before it ends as failed"
    )
    leader_lease_seconds: float = Field(
        10.0, ge=1, description="Time without a renewal after which the leading controller is replaced"
    )
    worker_grace_seconds: float = Field(
        30.0, ge=0, description="Grace period for the tasks of a worker that is stopped; 10 with `up`"
    )
    logs_follow: bool = Field(
        True,
        description="Write the output of containers to the workers' logs, with backends whose platform stores it. "
        "`false` leaves it to the platform",
    )
    metrics_endpoint_limit: int = Field(
        0,
        ge=0,
        le=1000,
        description="Maximum number of endpoints with metrics of their own, for alerts that name the endpoint; further "
        "endpoints are summed up as `other`. 0: none. `docs/operations/metrics.md` has the rule",
    )

    @field_validator("agent_url")
    @classmethod
    def _check_agent_url(cls, value: str | None) -> str | None:
        if value is not None and (refusal := agent_url_refusal(value, None)) is not None:
            raise ValueError(refusal)
        return value

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, value: str) -> str:
        parse_gpu_setting(value)
        return value

    @field_validator("worker_uids")
    @classmethod
    def _check_worker_uids(cls, value: str | None) -> str | None:
        if value is not None:
            parse_user_ids(value)
        return value

    @property
    def gpu_setting(self) -> GpuSetting:
        """Return which GPUs of the host workers get."""
        return parse_gpu_setting(self.gpus)

    @property
    def worker_user_ids(self) -> UserIds | None:
        """Return the configured user ids for containers; None: a range is to be found."""
        return None if self.worker_uids is None else parse_user_ids(self.worker_uids)

    @field_validator("agent_redis_url")
    @classmethod
    def _check_agent_redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_store_url(value.get_secret_value())
        return value

    @property
    def jobs_redis_url(self) -> str:
        """Return the URL of the background jobs' own queue."""
        return (self.control_redis_url or self.redis_url).get_secret_value()

    @property
    def needs_control_redis_url(self) -> bool:
        """Return True if `control_redis_url` is required and missing."""
        return parse_store_url(self.jobs_redis_url).topology is Topology.CLUSTER


def _numbers(value: str, number: Callable[[str], Number], what: str) -> tuple[Number, ...]:
    """Return comma-separated numbers. Raises ValueError that says `what` they must be."""
    try:
        return tuple(number(part) for part in value.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"must be {what}, separated by commas") from None


def _networks(value: Any) -> Any:
    """Return comma-separated CIDRs as networks, and another value unchanged. Raises ValueError that names a bad one."""
    if isinstance(value, str):
        return tuple(ipaddress.ip_network(part.strip(), strict=True) for part in value.split(",") if part.strip())
    return value


def _is_this_machine(host: str) -> bool:
    """Return True if the host is `localhost` or an address of this machine. Other names are not looked up."""
    return is_loopback(host) or host in ("0.0.0.0", "::") or host in machine_addresses()  # noqa: S104 - compared only
