"""The composition root of the process `queue-engine controller`."""

from __future__ import annotations

import asyncio
import logging
import socket
import uuid
from collections.abc import Callable
from dataclasses import replace

from queue_engine.cli.hosted_workers import hosted_workers
from queue_engine.cli.process import on_end, serve_metrics
from queue_engine.cli.store_access import open_store
from queue_engine.config.engine import ControllerSettings
from queue_engine.controller.agent_metrics import AgentMetrics
from queue_engine.controller.controller import Controller, ControllerConfig
from queue_engine.controller.log_followers import followers
from queue_engine.controller.reconcile import Reconciler, ReconcilerConfig
from queue_engine.crypto.sealing import endpoint_keys_text
from queue_engine.domain.workers import MAX_IDLE_REPORT_SECONDS, REPORTS_PER_SILENCE
from queue_engine.observability import metrics
from queue_engine.processes.interpreter import collect_rarely

log = logging.getLogger("queue_engine")

AGENT_CONNECTIONS = 2
"""Connections of an agent to the store: for commands, and for the read that waits for tasks. A busy agent has more for
moments, when heartbeats, log lines and results are sent at the same time."""
OTHER_CONNECTIONS = 200
"""Connections of the engine's other processes, a few of each kind, and some for operators."""


async def serve_controller(settings: ControllerSettings) -> int:
    """Run until stopped; return the exit status, which is of `WorkersLeft` if workers are left that were to end."""
    agents = AgentMetrics()
    serve_metrics(settings, metrics.Role.CONTROLLER, agents=agents.page)
    base = _config(settings)
    facts = {"controller": base.controller_id}
    async with open_store(settings) as store, store.noted(metrics.Role.CONTROLLER, lambda: facts):
        info = await store.wait_until_ready()
        await store.check_has_key()
        workers = await hosted_workers(settings, store)
        backend = workers.backend
        if not backend.agents_over_https:
            warn_of_shared_user(settings)
            check_client_limit(await store.max_clients(), sum((await store.sweeper.workers()).values()))
        agents.targets = workers.metrics_targets
        # In the background, because agents of a killed controller may drain for their whole grace period.
        recovering = asyncio.create_task(workers.recover())

        def make_reconciler(leads: Callable[[], bool]) -> Reconciler:
            return Reconciler(
                _reconciler_config(settings, over_https=backend.agents_over_https),
                store.endpoints,
                store.workers,
                store.checks,
                store.credentials,
                store.platform_note,
                backend,
                store.now_ms,
                leads=leads,
                output=followers(settings, backend, store.logs, store.endpoints),
            )

        config = replace(base, one_tenant_reason=workers.one_tenant_reason)
        running = Controller(config, store, backend, make_reconciler)
        on_end(running.stop)
        collect_rarely()
        log.info("started", extra={"backend": settings.backend, "server": str(info)})
        try:
            left = await running.run()
        finally:
            await recovering
    return 0 if left is None else int(left)


def check_client_limit(limit: int | None, workers: int) -> None:
    """Log a warning when a store that accepts `limit` connections accepts too few for its workers. None: unknown."""
    needed = workers * AGENT_CONNECTIONS + OTHER_CONNECTIONS
    if limit is not None and limit < needed:
        log.warning(
            "the store accepts %d connections (maxclients), but %d workers need about %d: raise maxclients, and the "
            "store's limit of open files",
            limit,
            workers,
            needed,
        )


def _config(settings: ControllerSettings) -> ControllerConfig:
    return ControllerConfig(
        controller_id=f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}",
        jobs_redis_url=settings.jobs_redis_url,
        lease_seconds=settings.lease_seconds,
        max_lost=settings.max_lost,
        leader_lease_seconds=settings.leader_lease_seconds,
        grace_seconds=settings.worker_grace_seconds,
        metrics_endpoint_limit=settings.metrics_endpoint_limit,
        ends_workers=settings.end_workers,
    )


def _reconciler_config(settings: ControllerSettings, *, over_https: bool) -> ReconcilerConfig:
    without_store = {"WORKER_AGENT_LOG_LEVEL": settings.log_level} | _decided_for_agents(settings)
    return ReconcilerConfig(
        agent_environment=(lambda _: without_store) if over_https else agent_environment(settings),
        grace_seconds=settings.worker_grace_seconds,
        silence_seconds=settings.worker_silence_seconds,
    )


def agent_environment(settings: ControllerSettings) -> Callable[[str], dict[str, str]]:
    """Return a function of the endpoint's id that returns the variables of its agents.

    They are the shared settings, the settings that the controller decides, the store's URL for agents, and the keys of
    the endpoint, of which the first is the current one.
    """
    shared = settings.agent_environment() | _decided_for_agents(settings)
    if settings.agent_redis_url is not None:
        shared["WORKER_AGENT_REDIS_URL"] = settings.agent_redis_url.get_secret_value()
    secret_keys = settings.secret_keys

    def of_endpoint(endpoint_id: str) -> dict[str, str]:
        keys = endpoint_keys_text(secret_keys, endpoint_id)
        return shared | ({"WORKER_AGENT_ENDPOINT_KEY": keys} if keys else {})

    return of_endpoint


def _decided_for_agents(settings: ControllerSettings) -> dict[str, str]:
    """Return the variables of all agents that the controller decides. None is a secret."""
    return {
        "WORKER_AGENT_GRACE_SECONDS": str(settings.worker_grace_seconds),
        "WORKER_AGENT_IDLE_REPORT_SECONDS": str(
            min(MAX_IDLE_REPORT_SECONDS, settings.worker_silence_seconds / REPORTS_PER_SILENCE)
        ),
        "WORKER_AGENT_MANAGED": "true",
    }


def warn_of_shared_user(settings: ControllerSettings) -> None:
    """Log a warning when agents have the engine's user of the store."""
    if settings.agent_redis_url is None:
        log.warning(
            "agents use the store as the same user as the engine, so an agent can change all data, "
            "API keys too: set QUEUE_ENGINE_AGENT_REDIS_URL to a URL with the user `agent` of deploy/redis/users.acl"
        )
