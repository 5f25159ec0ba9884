"""Command line of the engine: the composition roots of its processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from queue_engine import __version__
from queue_engine.cli.commands import commands as console_commands
from queue_engine.config.base import ProcessSettings, text_of, variable_of
from queue_engine.config.engine import ApiSettings, ControllerSettings, DeliverySettings
from queue_engine.config.shared import MetricsSettings, StoreSettings
from queue_engine.config.variables import removed_variables, unknown_variables
from queue_engine.crypto.sealing import new_secret_key
from queue_engine.domain.errors import EngineError
from queue_engine.observability import metrics
from queue_engine.observability.exporter import Page, listen, own_metrics, serve_pages
from queue_engine.observability.logs import configure_logging
from queue_engine.processes.interpreter import Loading
from queue_engine.processes.interrupts import exit_on_interrupt
from queue_engine.processes.lifeline import LIFELINE_VARIABLE, watch_lifeline
from queue_engine.processes.orphans import become_subreaper
from queue_engine.processes.standard_files import guarded_output
from queue_engine.store.api_keys import FIRST_TENANT, new_api_key
from queue_engine.store.deliveries import PARKED_MS
from queue_engine.store.redis.client import store_errors
from queue_engine.store.rotation import Progress, Rotated
from queue_engine.store.store import Store

log = logging.getLogger("queue_engine")
Settings = TypeVar("Settings", bound=BaseSettings)
Made = TypeVar("Made")

EXIT_USAGE = 2
_LOGGING = ("api", "controller", "delivery")


def _option(settings: type[ProcessSettings], name: str) -> Any:
    """Return a command line option for a setting, with its text and its variable."""
    return typer.Option(help=f"{text_of(settings, name)} ({variable_of(settings, name)})")


RedisUrl = Annotated[str | None, _option(StoreSettings, "redis_url")]
MetricsPort = Annotated[int | None, _option(MetricsSettings, "metrics_port")]
SECOND_TENANT = (
    "queue-engine: there is a second tenant now: `queue-engine up` sends webhooks to loopback no longer, because one "
    "tenant could reach what belongs to another. QUEUE_ENGINE_WEBHOOK_ALLOW=127.0.0.0/8,::1/128 allows it again"
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-hosted engine for QUEUE-mode serverless endpoints. Start with `queue-engine up`.",
)
keys_app = typer.Typer(no_args_is_help=True, help="API keys: make, list and revoke them.")
app.add_typer(keys_app, name="keys")
secret_key_app = typer.Typer(help="The secret key: make one, and change it for another. By itself prints a new one.")
app.add_typer(secret_key_app, name="secret-key")
app.add_typer(console_commands)


def main() -> None:
    """Run the command line."""
    with guarded_output("queue-engine"):
        app()


@app.callback()
def warn_of_unknown_variables(context: typer.Context) -> None:
    """Name misspelled variables on standard error; the processes that log do so in their log."""
    if context.invoked_subcommand not in _LOGGING:
        for hint in unknown_variables(os.environ):
            typer.echo(f"queue-engine: {hint}", err=True)


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API")] = 8000,
    host: Annotated[str, typer.Option(help="Address of the API")] = "127.0.0.1",
    data_dir: Annotated[Path, typer.Option(help="Folder for the data; kept and used again")] = Path(
        "queue-engine-data"
    ),
    redis_url: Annotated[
        str | None, typer.Option(help="An external Redis or Valkey instead of the embedded one")
    ] = None,
) -> None:
    """Everything on this machine: store, API, controller, delivery. Ctrl-C drains and stops it.

    Workers are processes of this user: every API key gives a shell on this machine, because an endpoint's
    initializationCommand runs here. Give keys only to people who may log in.
    """
    with Loading():
        from queue_engine.local.up import UpOptions, run_up

    for kind in (ApiSettings, DeliverySettings):
        _settings(kind, redis_url=redis_url)  # a bad value is named before anything starts
    controller_settings = _settings(ControllerSettings, redis_url=redis_url)
    if redis_url is not None:
        _check_jobs_place(controller_settings)
    options = UpOptions(
        host=host,
        port=port,
        data_dir=data_dir,
        redis_url=redis_url,
        environment=dict(os.environ),
        on_terminal=sys.stdout.isatty(),
    )
    sys.exit(_run(run_up(options)))


@app.command()
def api(
    host: Annotated[str | None, _option(ApiSettings, "host")] = None,
    port: Annotated[int | None, _option(ApiSettings, "port")] = None,
    redis_url: RedisUrl = None,
) -> None:
    """The HTTP API. Any number of replicas."""
    settings = _settings(ApiSettings, host=host, port=port, redis_url=redis_url)
    _start("api", settings)
    sys.exit(_run(_serve_api(settings)))


@app.command()
def delivery(
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Sends webhooks. Any number of replicas."""
    settings = _settings(DeliverySettings, redis_url=redis_url, metrics_port=metrics_port)
    _start("delivery", settings)
    sys.exit(_run(_serve_delivery(settings)))


@app.command()
def controller(
    redis_url: RedisUrl = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Starts and stops workers, and runs the background jobs. Safe to run twice."""
    settings = _settings(ControllerSettings, redis_url=redis_url, metrics_port=metrics_port)
    _check_jobs_place(settings)
    _start("controller", settings)
    sys.exit(_run(_serve_controller(settings)))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for")] = "",
    tenant: Annotated[str, typer.Option(help="Whose it is")] = FIRST_TENANT,
    redis_url: RedisUrl = None,
) -> None:
    """Make an API key and print it. It is shown this once; only its hash is stored."""
    key = new_api_key()
    typer.echo(_run(_with_store(redis_url, lambda store: _put_key(store, key, tenant, name))))


async def _put_key(store: Store, key: str, tenant: str, name: str) -> str:
    """Make the key valid; say so when its tenant is a second one."""
    had_one_tenant = await store.api_keys.has_one_tenant()
    await store.api_keys.put(key, tenant=tenant, name=name)
    if had_one_tenant and not await store.api_keys.has_one_tenant():
        typer.echo(SECOND_TENANT, err=True)
    return key


@keys_app.command("list")
def list_keys(
    redis_url: RedisUrl = None,
) -> None:
    """List the API keys by the start of their hash."""
    for key in _run(_with_store(redis_url, lambda store: store.api_keys.all())):
        created = datetime.fromtimestamp(key.created_at_ms / 1000, UTC)
        typer.echo(f"{key.key_hash[:12]}  {key.tenant:<20} {created:%Y-%m-%d %H:%M}  {key.name}")


@keys_app.command("revoke")
def revoke_key(
    key_hash: Annotated[str, typer.Argument(help="At least 8 characters of the key's hash, as `keys list` shows it")],
    redis_url: RedisUrl = None,
) -> None:
    """Revoke an API key. It stops working within a second."""
    if len(key_hash) < 8:
        _fail("give at least 8 characters of the hash")
    revoked = _run(_with_store(redis_url, lambda store: store.api_keys.revoke(key_hash)))
    typer.echo(f"{len(revoked)} revoked")
    if not revoked:
        sys.exit(1)


@secret_key_app.callback(invoke_without_command=True)
def secret_key(context: typer.Context) -> None:
    """`queue-engine secret-key` alone is `queue-engine secret-key new`."""
    if context.invoked_subcommand is None:
        new_key()


@secret_key_app.command("new")
def new_key() -> None:
    """Print a new random key for QUEUE_ENGINE_SECRET_KEY."""
    typer.echo(new_secret_key())


@secret_key_app.command("rotate")
def rotate_key(
    redis_url: RedisUrl = None,
) -> None:
    """Seal every stored secret anew with QUEUE_ENGINE_SECRET_KEY.

    Opens what QUEUE_ENGINE_SECRET_KEY_PREVIOUS sealed. Safe while everything runs, and safe to repeat.
    docs/guides/secrets.md has the steps before and after.
    """
    settings = _settings(StoreSettings, redis_url=redis_url)
    if settings.secret_key is None:
        _fail("QUEUE_ENGINE_SECRET_KEY: is required, the new key")
    shown = _Progress()
    rotated: Rotated = _run(_with_store(redis_url, lambda store: store.rotation.run(shown)))
    for line in _summary(rotated):
        typer.echo(line)
    if not rotated.complete or rotated.progress.unreadable:
        sys.exit(1)


class _Progress:
    """Says at most once a second how far a rotation is."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self._said_at < 1.0:
            return
        self._said_at = time.monotonic()
        checked = ", ".join(f"{count} {kind}" for kind, count in progress.checked.items())
        typer.echo(f"round {progress.round}: {checked} checked; {progress.total_resealed} sealed anew", err=True)


def _summary(rotated: Rotated) -> Iterable[str]:
    progress = rotated.progress
    for kind, checked in progress.checked.items():
        yield f"{kind + ':':<13} {checked} checked, {progress.resealed.get(kind, 0)} sealed anew"
    if progress.unreadable:
        yield f"{progress.unreadable} cannot be opened with any of the configured keys and stay as they are:"
        yield from (f"  {name}" for name in progress.unreadable_names)
        if progress.unreadable > len(progress.unreadable_names):
            yield "  and others"
    if not rotated.complete:
        yield "not complete: some process still seals with an older key. Restart it with the new one, then repeat this"
    elif progress.unreadable:
        yield "all others are sealed with the current key"
    else:
        yield "complete: every secret is sealed with the current key"


# The processes


async def _serve_api(settings: ApiSettings) -> int:
    with Loading():
        from queue_engine.api.app import create_app
        from queue_engine.api.catalogue import load_catalogue
        from queue_engine.api.http.server import BACKLOG, bind, serve
        from queue_engine.api.proxy.exchange import WorkerClient
        from queue_engine.engine.engine import Engine
        from queue_engine.net.resolver import CachingResolver, DnsLookup

    # Before the store is waited for, because waiting does not correct these.
    listener = _or_fail("QUEUE_ENGINE_PORT", lambda: bind(settings))
    catalogue = _or_fail("QUEUE_ENGINE_CATALOGUE_FILE", lambda: load_catalogue(settings.catalogue_file))
    async with _opened(settings) as store, store.noted(metrics.Role.API):
        await store.wait_until_ready()
        if settings.api_key is not None:
            fault = await store.api_keys.put_first(settings.api_key.get_secret_value())
            if fault is not None:
                log.warning("%s", fault)
        if settings.webhook_loopback:
            await store.api_keys.note_tenants()
        if not store.sealer.has_key:
            log.warning("no secret key (QUEUE_ENGINE_SECRET_KEY): headers, webhook keys and environments are refused")
        resolver = CachingResolver(DnsLookup())
        worker_client = None
        try:
            _or_fail("QUEUE_ENGINE_PORT", lambda: listener.listen(BACKLOG))
            own_ports = frozenset({*settings.own_ports, listener.getsockname()[1]})
            store_ports = await store.ports()
            worker_client = WorkerClient(settings.worker_policy(own_ports, store_ports))
            rules = settings.destination_rules(own_ports, store_ports)
            engine = Engine(store, resolver, rules, settings.secret_keys)
            app = create_app(settings, engine, worker_client, catalogue)
            stopping = asyncio.Event()
            _on_end(stopping.set)
            log.info("started", extra={"url": f"http://{settings.host}:{listener.getsockname()[1]}"})
            await serve(app, settings, listener, stopping)
        finally:
            if worker_client is not None:
                await worker_client.aclose()
            await resolver.close()
    return 0


async def _serve_delivery(settings: DeliverySettings) -> int:
    with Loading():
        from queue_engine.delivery.guard import Guard
        from queue_engine.delivery.loopback import LoopbackSender
        from queue_engine.delivery.sender import SenderLimits, open_sender
        from queue_engine.delivery.service import DeliveryConfig, DeliveryService
        from queue_engine.domain.retry import Schedule
        from queue_engine.net.resolver import CachingResolver, DnsLookup
        from queue_engine.rules.webhook_urls import LOOPBACK, AddressPolicy

    metrics_port = _serve_metrics(settings, metrics.Role.DELIVERY)
    config = DeliveryConfig(
        schedule=Schedule(settings.delivery_schedule),
        slots=settings.delivery_slots,
        lease_seconds=settings.delivery_lease_seconds,
        attempt_seconds=settings.delivery_timeout_seconds,
    )
    limits = SenderLimits(settings.delivery_timeout_seconds, settings.delivery_connect_timeout_seconds)
    places = settings.store_places()
    own_ports = frozenset({*settings.own_ports, *places.here, metrics_port})
    resolver = CachingResolver(DnsLookup())
    async with _opened(settings) as store, store.noted(metrics.Role.DELIVERY):
        await store.wait_until_ready()
        own_hosts = (*settings.own_hosts, *places.hosts)
        store_ports = places.ports | await store.ports()
        guard = Guard(AddressPolicy(settings.webhook_allow), own_ports, own_hosts, store_ports)
        local = replace(guard, policy=AddressPolicy((*settings.webhook_allow, *LOOPBACK)))
        await store.check_has_key()
        async with (
            open_sender(guard, resolver, limits, connections=config.slots) as strict,
            open_sender(local, resolver, limits, connections=config.slots) as to_loopback,
        ):
            if settings.webhook_loopback:
                await store.api_keys.note_tenants()
            alone = LoopbackSender(store.api_keys, to_loopback, strict)
            sender = alone if settings.webhook_loopback else strict
            most_age_ms = int(config.schedule.longest_seconds * 1000) + PARKED_MS
            service = DeliveryService(config, store.outbox(most_age_ms=most_age_ms), sender)
            _on_end(service.drain)
            log.info("started", extra={"max_attempts": config.schedule.max_attempts, "slots": config.slots})
            await service.run()
        await resolver.close()
    return 0


async def _serve_controller(settings: ControllerSettings) -> int:
    with Loading():
        from queue_engine.backends.process import ProcessBackend
        from queue_engine.controller.agent_metrics import AgentMetrics
        from queue_engine.controller.controller import Controller, ControllerConfig
        from queue_engine.controller.reconcile import Reconciler, ReconcilerConfig

    agents = AgentMetrics()
    _serve_metrics(settings, metrics.Role.CONTROLLER, agents=agents.page)
    async with _opened(settings) as store, store.noted(metrics.Role.CONTROLLER):
        info = await store.wait_until_ready()
        await store.check_has_key()
        instance_id = await store.instance_id()
        backend = ProcessBackend(
            settings.work_dir,
            instance_id=instance_id,
            environment=os.environ,
            adopts_orphans=become_subreaper(),
        )
        agents.targets = backend.metrics_targets
        # Beside the controller's work: the agents of a controller that was killed may drain for their whole grace.
        reaping = asyncio.create_task(backend.reap_orphans(settings.worker_grace_seconds))
        config = ControllerConfig(
            controller_id=f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}",
            jobs_redis_url=settings.jobs_redis_url,
            lease_seconds=settings.lease_seconds,
            max_lost=settings.max_lost,
            leader_lease_seconds=settings.leader_lease_seconds,
            grace_seconds=settings.worker_grace_seconds,
            metrics_endpoint_limit=settings.metrics_endpoint_limit,
        )

        def make_reconciler() -> Reconciler:
            rules = ReconcilerConfig(
                agent_environment=_agent_environment(settings),
                grace_seconds=settings.worker_grace_seconds,
                silence_seconds=settings.worker_silence_seconds,
            )
            return Reconciler(rules, store.endpoints, store.workers, store.credentials, backend, store.now_ms)

        running = Controller(config, store, backend, make_reconciler)
        _on_end(running.stop)
        log.info("started", extra={"backend": settings.backend, "server": str(info)})
        try:
            await running.run()
        finally:
            await reaping
    return 0


def _or_fail(variable: str, make: Callable[[], Made]) -> Made:
    """What `make` gives; a fault that the operator can mend becomes an EngineError that names the setting."""
    try:
        return make()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise EngineError(f"{variable}: {reason}") from None


def _agent_environment(settings: ControllerSettings) -> dict[str, str]:
    """Return what the agents of this controller's workers are given: the shared settings, and what it decides."""
    return settings.agent_environment() | {
        "WORKER_AGENT_GRACE_SECONDS": str(settings.worker_grace_seconds),
        "WORKER_AGENT_MANAGED": "true",
    }


# Common to all


def _settings(kind: type[Settings], **options: Any) -> Settings:
    """Return the settings from the environment, options first. Ends the program with a message that names a fault."""
    if removed := removed_variables(os.environ):
        _fail("\n".join(removed))
    try:
        return kind(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        _fail("\n".join(_setting_faults(error)))
    except ValueError as error:  # a secret whose file cannot be read, or that is given twice
        _fail(str(error))


def _setting_faults(error: ValidationError) -> Iterable[str]:
    for fault in error.errors(include_url=False, include_input=False, include_context=False):
        yield f"QUEUE_ENGINE_{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"queue-engine: {line}", err=True)
    sys.exit(EXIT_USAGE)


def _start(role: str, settings: StoreSettings) -> None:
    if settings.secret_key is None and settings.secret_key_previous is not None:
        _fail("QUEUE_ENGINE_SECRET_KEY: is required with QUEUE_ENGINE_SECRET_KEY_PREVIOUS")
    configure_logging(role, settings.log_level)
    for hint in unknown_variables(os.environ):
        log.warning(hint)


def _check_jobs_place(settings: ControllerSettings) -> None:
    if settings.needs_control_redis_url:
        _fail(
            "QUEUE_ENGINE_CONTROL_REDIS_URL: is required when the store is a cluster: the background jobs' own queue "
            "needs one server, or a master that sentinels name"
        )


def _serve_metrics(settings: MetricsSettings, role: metrics.Role, **more: Page) -> int:
    """Serve the role's metrics, and further pages below them; returns the port."""
    pages = own_metrics(metrics.registry_of(role)) | {f"/metrics/{name}": page for name, page in more.items()}
    listener = _or_fail("QUEUE_ENGINE_METRICS_PORT", lambda: listen(settings.metrics_host, settings.metrics_port))
    serve_pages(listener, pages)
    port: int = listener.getsockname()[1]
    log.info("metrics", extra={"url": f"http://{settings.metrics_host}:{port}/metrics"})
    return port


@asynccontextmanager
async def _opened(settings: StoreSettings) -> AsyncIterator[Store]:
    store = Store(
        settings.redis_url.get_secret_value(),
        settings.sealer(),
        partitions=settings.partitions,
        durability=settings.asked_durability(),
    )
    try:
        yield store
    finally:
        await store.close()


async def _with_store(redis_url: str | None, call: Callable[[Store], Coroutine[Any, Any, Any]]) -> Any:
    async with _opened(_settings(StoreSettings, redis_url=redis_url)) as store:
        await store.prepare()
        async with store_errors():
            return await call(store)


def _on_end(callback: Callable[[], None]) -> None:
    """Call `callback` on SIGTERM, on SIGINT, and when the process that started this one has died."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, callback)
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    if lifeline is not None:
        watch_lifeline(int(lifeline), callback)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on uvloop. What the caller can mend is said in a line, without a traceback."""
    try:
        import uvloop
    except ImportError:  # not on Windows
        run: Callable[[Coroutine[Any, Any, Any]], Any] = asyncio.run
    else:
        run = uvloop.run
    try:
        return run(work)
    except EngineError as error:
        _fail(str(error))
    finally:
        exit_on_interrupt()  # the loop has put Python's own handler back
