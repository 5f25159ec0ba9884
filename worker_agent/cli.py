"""The command line of the agent: read the settings, connect the parts and run them."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import socket
import sys
from collections.abc import Collection
from contextlib import closing
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from queue_engine import __version__
from queue_engine.aio import end_tasks, run_forever
from queue_engine.config.agent import AgentSettings
from queue_engine.config.base import secret_fields, text_of
from queue_engine.config.names import AGENT_PREFIX, ENGINE_PREFIX, without_prefix
from queue_engine.config.shared import SharedSettings
from queue_engine.config.variables import unknown_variables
from queue_engine.crypto.secret_files import FILE_SUFFIX, secret_from
from queue_engine.domain.agent_protocol import (
    CONTAINER_PORT,
    CONTAINER_STOP_SECONDS,
    STATUS_CONTAINER_ENDED,
    STATUS_REFUSED,
)
from queue_engine.domain.endpoints import DEFAULT_CONCURRENCY, DEFAULT_START_TIMEOUT_SECONDS, ServiceMode
from queue_engine.domain.errors import EngineError
from queue_engine.logs.masking import Secrets
from queue_engine.net.listening import CannotListen, listen
from queue_engine.observability.exporter import own_metrics, port_of, serve_pages
from queue_engine.observability.logs import configure_logging
from queue_engine.observability.metrics import Role, registry_of
from queue_engine.processes.interpreter import collect_rarely
from queue_engine.processes.interrupts import exit_on_interrupt
from queue_engine.processes.lifeline import watch_lifeline
from queue_engine.processes.memory import return_large_blocks
from queue_engine.processes.orphans import become_subreaper
from queue_engine.processes.process_groups import end_own_group
from queue_engine.processes.standard_files import guarded_output
from worker_agent.agent import Agent, AgentConfig
from worker_agent.container import LOOPBACKS, ContainerAddress, ContainerProcess, ContainerWatch, watch_over
from worker_agent.drain_hook import DrainHook
from worker_agent.end_report import say_end
from worker_agent.engine import AgentRefused, EngineLink
from worker_agent.forward import HttpForwarder
from worker_agent.logs.capture import Capture
from worker_agent.logs.shipper import LogShipper
from worker_agent.server.token import TOKEN_FILE
from worker_agent.service_work import ServiceWork
from worker_agent.tasks import TaskWork

log = logging.getLogger("worker_agent")

EXIT_USAGE = 2
REAP_SECONDS = 0.1
"""Minimum time between two rounds of reaping, because a program that forks in a loop may end thousands of processes a
second, and reaping them one by one would delay the agent's tasks."""
UNPROBED_SETTLE_SECONDS = 3.0
"""Time after which a container without a known port counts as running, unless it has crashed by then."""
_SECRETS = frozenset(secret_fields(AgentSettings))
TOKEN_FILE_HELP = f"File with the token for --server, as in {TOKEN_FILE}. The file is read again when it changes"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _option(name: str, *flags: str) -> Any:
    """Return the command line option for a setting, with the setting's description as help."""
    return typer.Option(*flags, help=text_of(AgentSettings, name))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.command(
    help="Run beside a container: claim tasks of an endpoint, forward each to the container, and record the result. "
    "For an ALB or CUSTOM endpoint, only report the address and the status of the container. "
    "Every option is also an environment variable WORKER_AGENT_…; prefer variables for the store's password and the "
    "secret key. With --server the agent needs neither: it has a token, in WORKER_AGENT_TOKEN or in a file.",
)
def run(
    server: Annotated[str | None, _option("server")] = None,
    token_file: Annotated[str | None, typer.Option(help=TOKEN_FILE_HELP)] = None,
    redis_url: Annotated[str | None, _option("redis_url")] = None,
    endpoint: Annotated[str | None, _option("endpoint")] = None,
    container_url: Annotated[str | None, _option("container_url")] = None,
    worker_id: Annotated[str | None, _option("worker_id")] = None,
    own_network: Annotated[bool | None, _option("own_network", "--own-network")] = None,
    concurrency: Annotated[int | None, _option("concurrency")] = None,
    grace_seconds: Annotated[float | None, _option("grace_seconds")] = None,
    metrics_port: Annotated[int | None, _option("metrics_port")] = None,
    log_level: Annotated[str | None, _option("log_level")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit")
    ] = False,
) -> None:
    given = {name: value for name, value in locals().items() if value is not None}
    for name in ("token_file", "version"):  # not settings
        given.pop(name, None)
    if token_file is not None:
        os.environ[TOKEN_FILE] = token_file  # so that it follows the rules of all secrets in files
    settings = _settings(given)
    configure_logging("worker-agent", settings.log_level)
    for hint in unknown_variables(os.environ):
        log.warning(hint)
    try:
        import uvloop
    except ImportError:  # not on Windows
        status = asyncio.run(serve(settings))
    else:
        status = uvloop.run(serve(settings))
    exit_on_interrupt()  # again, because the event loop has restored Python's own handler
    sys.exit(status)


def main() -> None:
    """Run the command line."""
    with guarded_output("worker-agent"):
        app()


def _settings(given: dict[str, Any]) -> AgentSettings:
    """Return the settings. Settings that all processes share default to the engine's variables."""
    shared: dict[str, str] = {}
    try:
        names = SharedSettings.model_fields if not _has_server(given) else ("log_level",)
        shared = {name: value for name in names if name not in given and (value := _shared(name))}
        return AgentSettings(**(given | shared))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        messages = [f"{_said_of(one['loc'], shared)}{without_prefix(one['msg'])}" for one in problems]
    except ValueError as error:  # a secret whose file cannot be read, or that is set twice
        messages = [str(error)]
    for message in (*messages, *unknown_variables(os.environ)):
        typer.echo(f"worker-agent: {message}", err=True)
    say_end("the agent cannot start: " + "; ".join(messages))
    sys.exit(EXIT_USAGE)


def _has_server(given: Collection[str]) -> bool:
    """Return True if the agent uses the engine's API, and needs none of the settings of the store."""
    return "server" in given or bool(os.environ.get(f"{AGENT_PREFIX}SERVER"))


def _shared(name: str) -> str | None:
    """Return the engine's setting of this name; None if the agent's own setting is set."""
    own, variable = f"{AGENT_PREFIX}{name.upper()}", f"{ENGINE_PREFIX}{name.upper()}"
    if os.environ.get(own) or (name in _SECRETS and os.environ.get(own + FILE_SUFFIX)):
        return None
    return secret_from(os.environ, variable) if name in _SECRETS else os.environ.get(variable)


def _said_of(place: tuple[int | str, ...], shared: Collection[str]) -> str:
    """Return the beginning of a message about a setting: its option, and the variable that it was read from.

    Empty for a rule about several settings, whose message names them.
    """
    if not place:
        return ""
    name = str(place[0])
    prefix = ENGINE_PREFIX if name in shared else AGENT_PREFIX
    return f"--{name.replace('_', '-')} ({prefix}{name.upper()}): "


async def serve(settings: AgentSettings) -> int:
    """Run an agent until it has ended; return the exit status."""
    engine: EngineLink | None = None
    try:
        engine = _engine_of(settings)
        return await _serve(settings, engine)
    except EngineError as error:
        log.error("the agent cannot run: %s", error)
        say_end(f"the agent cannot run: {error}")
        return STATUS_REFUSED if isinstance(error, AgentRefused) else EXIT_USAGE
    finally:
        if engine is not None:
            await engine.close()


def _engine_of(settings: AgentSettings) -> EngineLink:
    """Return the way to the engine. Each loads its own packages: an agent of a server needs no client of the store."""
    if settings.server is not None:
        from worker_agent.on_server import ServerLink

        return ServerLink(settings)
    from worker_agent.on_store import StoreLink

    return StoreLink(settings)


async def _serve(settings: AgentSettings, engine: EngineLink) -> int:
    settings, description = await engine.open(settings)
    hook = DrainHook(settings.grace_seconds) if settings.drain_hook else None
    listener = _listener_of_pages(settings)
    server = serve_pages(listener, own_metrics(registry_of(Role.AGENT)) | (hook.pages if hook is not None else {}))
    try:
        return await _serve_endpoint(settings, engine, description, listener)
    finally:
        if hook is not None:
            await hook.finish(server)


async def _serve_endpoint(
    settings: AgentSettings, engine: EngineLink, description: str, listener: socket.socket
) -> int:
    port = port_of(listener)
    address = ContainerAddress.parse(
        settings.container_url,
        exposed_port=settings.exposed_port,
        refused_ports=frozenset() if port is None else frozenset({port}),
        own_network=settings.own_network,
    )
    _check_address(settings, address)
    log.info(
        "started",
        extra={
            "endpoint": settings.endpoint,
            "worker": settings.worker_id,
            "container": str(address),
            "mode": settings.service_mode,
            "concurrency": settings.concurrency,
            "metrics": _metrics_place(settings, listener),
            "server": description,
        },
    )
    if settings.service_mode is not ServiceMode.QUEUE:
        return await _serve_requests(settings, engine, address)
    return await _run_tasks(settings, engine, address)


def _listener_of_pages(settings: AgentSettings) -> socket.socket:
    try:
        return _metrics_listener(settings)
    except CannotListen as error:
        where = f"{settings.metrics_host}:{settings.metrics_port}"
        variable = f"{AGENT_PREFIX}METRICS_{error.part.upper()}"
        raise EngineError(f"{variable}: metrics cannot be served on {where}: {error.reason}") from error
    except OSError as error:
        raise EngineError(f"{AGENT_PREFIX}METRICS_FD: metrics cannot be served: {error.strerror}") from error


def _metrics_place(settings: AgentSettings, listener: socket.socket) -> str:
    port = port_of(listener)
    return "/metrics/agents of the controller" if port is None else f"http://{settings.metrics_host}:{port}/metrics"


def _metrics_listener(settings: AgentSettings) -> socket.socket:
    if settings.metrics_fd is not None:
        return socket.socket(fileno=settings.metrics_fd)
    return listen(settings.metrics_host, settings.metrics_port)


def _check_address(settings: AgentSettings, address: ContainerAddress) -> None:
    """Raise EngineError if no task could be sent, or if tasks would be sent to the agent itself."""
    if settings.ready_path is not None and address.probed_port is None:
        raise EngineError("WORKER_AGENT_READY_PATH needs a port: set --container-url http://<host>:<port>")
    if settings.service_mode is ServiceMode.QUEUE and address.probed_port is None and not address.own_network:
        raise EngineError(
            "no port for tasks: set --container-url http://<host>:<port>, or `expose` of the endpoint; "
            "or --own-network if only this agent and its container are in their network"
        )
    is_near = address.host in (*LOOPBACKS, "localhost")
    if is_near and not address.own_network and address.probed_port in address.refused_ports:
        raise EngineError(f"port {address.probed_port} is the agent's own: --metrics-port must be another one")


async def _run_tasks(settings: AgentSettings, engine: EngineLink, address: ContainerAddress) -> int:
    """Run an agent of a QUEUE endpoint."""
    config = _config(settings)
    forwarder = HttpForwarder(max_response_bytes=settings.max_answer_bytes, max_connections=config.concurrency)
    watch = _watch_over(settings, address, settle_seconds=0)
    work = TaskWork(config, engine.source(settings), forwarder, watch)
    try:
        return await _work(settings, engine, Agent(config, engine.record(settings), watch, work))
    finally:
        await forwarder.aclose()


async def _serve_requests(settings: AgentSettings, engine: EngineLink, address: ContainerAddress) -> int:
    """Run an agent of an ALB or CUSTOM endpoint, whose requests do not pass through the agent."""
    config = _config(settings)
    watch = _watch_over(settings, address, settle_seconds=UNPROBED_SETTLE_SECONDS)
    work = ServiceWork(address, grace_seconds=config.grace_seconds)
    return await _work(settings, engine, Agent(config, engine.record(settings), watch, work))


def _watch_over(settings: AgentSettings, address: ContainerAddress, *, settle_seconds: float) -> ContainerWatch:
    given_port = settings.container_environment.get(CONTAINER_PORT) if settings.container_command is not None else None
    return watch_over(
        address,
        ready_path=settings.ready_path,
        start_timeout_seconds=settings.start_timeout_seconds or DEFAULT_START_TIMEOUT_SECONDS,
        sees_calls=settings.service_mode is ServiceMode.QUEUE,
        port_name=f"${CONTAINER_PORT}" if given_port == str(address.port) else "",
        settle_seconds=settle_seconds,
        user_id=settings.container_user,
    )


def _config(settings: AgentSettings) -> AgentConfig:
    return AgentConfig(
        endpoint_id=settings.endpoint,
        worker_id=settings.worker_id,
        concurrency=settings.concurrency or DEFAULT_CONCURRENCY,
        lease_seconds=settings.lease_seconds,
        grace_seconds=settings.grace_seconds,
        managed=settings.managed,
        idle_report_seconds=settings.idle_report_seconds,
        runs_container=settings.container_command is not None,
        advertise_host=settings.advertise_host,
    )


async def _work(settings: AgentSettings, engine: EngineLink, agent: Agent) -> int:
    """Run the agent until it has ended; return the exit status."""
    _drain_on_signals(agent, settings)
    collect_rarely()
    return_large_blocks()
    refusing = asyncio.create_task(engine.refusal(), name="refusal")
    refusing.add_done_callback(lambda task: _note_refusal(agent, task))
    try:
        if settings.container_command is None:
            await agent.run()
            status = 0
        else:
            status = await _run_with_container(agent, settings.container_command, settings, engine)
        return STATUS_REFUSED if refusing.done() else status
    finally:
        await end_tasks(refusing)


def _note_refusal(agent: Agent, refusing: asyncio.Task[str]) -> None:
    if not refusing.cancelled():
        agent.note_refusal(refusing.result())


async def _run_with_container(agent: Agent, command: str, settings: AgentSettings, engine: EngineLink) -> int:
    """Run the command as the container, and the agent as long as it lives; ship the container's output.

    Afterwards no process that the command has started is left, even if it was detached from its parent.
    """
    become_subreaper()
    with closing(Capture()) as output:
        _write_notes(settings, output)
        try:
            container = ContainerProcess.start(
                command, settings.container_environment, output.fd, user_id=settings.container_user
            )
        except OSError as error:
            raise EngineError(f"the container's command cannot be started: {error.strerror or error}") from error
        logs = _container_log(output, settings, engine)
        logs.start()
        ended = asyncio.create_task(container.wait())
        ended.add_done_callback(lambda task: _note_end(agent, task))
        reaping = asyncio.create_task(run_forever(container.reap_step, idle_seconds=REAP_SECONDS, name="reap"))
        how: str | None = None
        try:
            await agent.run()
            how = ended.result() if ended.done() else None
        finally:
            ended.cancel()
            await end_tasks(reaping)
            await container.stop(CONTAINER_STOP_SECONDS)
            if how is not None:
                output.write_line(how)
            await logs.finish()
        if how is None:
            return 0
        say_end(how, logs.tail()[:-1])
        return STATUS_CONTAINER_ENDED


def _write_notes(settings: AgentSettings, output: Capture) -> None:
    """Write the backend's notes, and the endpoint's variables that the engine overrides, before the container's log."""
    for note in settings.log_notes:
        output.write_line(note)
    for name in settings.overridden_names:
        value = settings.container_environment.get(name, "")
        output.write_line(f"the endpoint's variable {name} is overridden: the engine sets {name}={value}")


def _note_end(agent: Agent, ended: asyncio.Task[str]) -> None:
    if not ended.cancelled():
        agent.note_container_end(ended.result())


def _container_log(output: Capture, settings: AgentSettings, engine: EngineLink) -> LogShipper:
    secrets = Secrets(settings.masked_values(), settings.own_secrets())
    return LogShipper(output, engine.log(settings), secrets, retention_seconds=settings.log_retention_seconds)


def _drain_on_signals(agent: Agent, settings: AgentSettings) -> None:
    loop = asyncio.get_running_loop()

    def orphaned() -> None:
        agent.drain("the process that started this agent has died")
        atexit.register(end_own_group)  # because no other process is left that would end the command's processes

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.drain, f"signal {signal.Signals(number).name}")
    if settings.lifeline_fd is not None:
        watch_lifeline(settings.lifeline_fd, orphaned)
