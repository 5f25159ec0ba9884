"""The composition root of the process `queue-engine api`."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial

from queue_engine.api.app import Api, create_app
from queue_engine.api.http.certificates import ServerCertificate
from queue_engine.api.http.server import certificate_of, serve, serve_agents
from queue_engine.api.proxy.access import WorkerAccess
from queue_engine.cli.api_listeners import ApiListeners
from queue_engine.cli.process import on_end, or_fail, serve_metrics
from queue_engine.cli.serve_api_group import join_group
from queue_engine.cli.store_access import open_store
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.clusters import load_clusters
from queue_engine.config.engine import ApiSettings
from queue_engine.crypto.api_keys import new_session_half
from queue_engine.crypto.certificates import expires_at_ms
from queue_engine.engine.engine import Engine
from queue_engine.engine.waits import WaitLimits
from queue_engine.net.resolver import CachingResolver, DnsLookup
from queue_engine.observability import metrics
from queue_engine.observability.exporter import Page, own_metrics
from queue_engine.processes.file_limit import ALL_FILES, raise_file_limit
from queue_engine.processes.interpreter import collect_rarely
from queue_engine.processes.memory import return_large_blocks
from queue_engine.processes.sharing import Membership
from queue_engine.processes.start_notice import NOTICE_VARIABLE, Facts, send_notice
from queue_engine.store.api_keys import hash_of
from queue_engine.store.store import MAX_WAITING_ENDPOINTS, Store

log = logging.getLogger("queue_engine")

OTHER_FILES = 256
"""Files that an API process opens besides connections in use and reads that wait for tasks: idle connections to workers
(MAX_KEPT), the store, logs."""


async def serve_api(settings: ApiSettings) -> int:
    # Before waiting for the store, because waiting does not fix errors of these settings.
    membership = Membership.from_environment(os.environ)
    listeners = ApiListeners.bound(settings) if membership is None else ApiListeners.inherited(membership)
    is_private = membership is None and settings.api_metrics == "private"
    metrics_ports = [serve_metrics(settings, metrics.Role.API)] if is_private else []
    certificate = or_fail("QUEUE_ENGINE_TLS_CERT", lambda: certificate_of(settings))
    types = or_fail("QUEUE_ENGINE_CATALOGUE_FILE", lambda: load_catalogue(settings.catalogue_file))
    catalogue = or_fail("QUEUE_ENGINE_CLUSTERS_FILE", lambda: types.within(load_clusters(settings.clusters_file)))
    async with open_store(settings) as store, store.noted(metrics.Role.API, partial(_facts, settings)):
        await store.wait_until_ready()
        facts = await _prepare_keys(settings, store)
        resolver = CachingResolver(DnsLookup())
        worker_access: WorkerAccess | None = None
        engine: Engine | None = None
        try:
            own_ports = frozenset({*settings.own_ports, *listeners.ports, *metrics_ports})
            store_ports = await store.ports()
            worker_access = WorkerAccess(settings.worker_policy(own_ports, store_ports), settings.alb_keepalive_seconds)
            rules = settings.destination_rules(own_ports, store_ports)
            limits, ceilings = settings.tenant_limits(), settings.ceilings()
            engine = Engine(
                store,
                resolver,
                rules,
                settings.secret_keys,
                limits=limits,
                ceilings=ceilings,
                agent_times=settings.agent_times(),
                local_agents=settings.alb_local_agents,
                wait_limits=WaitLimits(settings.max_waits, settings.max_waits_per_tenant),
            )
            app = create_app(settings, engine, worker_access, catalogue, _metrics_page(membership))
            stopping = asyncio.Event()
            on_end(partial(_stop, engine, stopping))
            _check_file_limit(settings)
            return_large_blocks()
            collect_rarely()
            # Only now, because a connection that waits for a process that starts cannot go to one that serves.
            listeners.listen()
            log.info("started", extra={"url": f"{settings.url}:{listeners.port}", **_agent_facts(listeners)})
            send_notice(os.environ, facts)
            await _serve_both(app, settings, listeners, stopping, certificate)
        finally:
            if engine is not None:
                await engine.agent_work.aclose()
            if worker_access is not None:
                await worker_access.aclose()
            await resolver.close()
    return 0


def _facts(settings: ApiSettings) -> dict[str, object]:
    """Return what the process tells about itself to operators."""
    until = None if settings.tls_cert is None else expires_at_ms(settings.tls_cert)
    return {} if until is None else {"certificates": [("QUEUE_ENGINE_TLS_CERT", until)]}


async def _serve_both(
    app: Api,
    settings: ApiSettings,
    listeners: ApiListeners,
    stopping: asyncio.Event,
    certificate: ServerCertificate | None,
) -> None:
    """Serve clients, and agents in containers if there is a socket for them, until `stopping` is set."""
    serving = [serve(app, settings, listeners.clients, stopping, certificate)]
    if listeners.agents is not None:
        serving.append(serve_agents(app.for_agents, settings, listeners.agents, stopping))
    await asyncio.gather(*serving)


def _stop(engine: Engine, stopping: asyncio.Event) -> None:
    """Stop serving. Agents and clients that wait get a response at once, and wait at another process."""
    engine.drain()
    stopping.set()


def _agent_facts(listeners: ApiListeners) -> dict[str, str]:
    return {} if listeners.agent_url is None else {"agent_url": listeners.agent_url}


def _metrics_page(membership: Membership | None) -> Page:
    """Return what makes the page `/metrics`: of this process, or of the group that it is a member of."""
    pages = own_metrics(metrics.registry_of(metrics.Role.API))
    return pages["/metrics"] if membership is None else join_group(membership, pages)


def _check_file_limit(settings: ApiSettings) -> None:
    """Raise the limit of open files so that it fits the limits of connections. Log a warning if it cannot be raised."""
    listeners = 1 if settings.agent_host is None else 2
    limits = (settings.max_connections * listeners, settings.alb_max_requests_per_tenant)
    needed = sum(limits) + MAX_WAITING_ENDPOINTS + OTHER_FILES
    limit = raise_file_limit(needed)
    if 0 in limits:  # no limit: the process may need any number of files
        limit = raise_file_limit(ALL_FILES)
    if limit < needed:
        log.warning(
            "the limit of open files is %d, but QUEUE_ENGINE_MAX_CONNECTIONS and "
            "QUEUE_ENGINE_ALB_MAX_REQUESTS_PER_TENANT need %d: raise it (ulimit -n, LimitNOFILE), or lower them",
            limit,
            needed,
        )


async def _prepare_keys(settings: ApiSettings, store: Store) -> Facts:
    """Store the first API key, and log warnings about missing or unusable keys. Return what `up` shows about them."""
    warning = None
    if settings.api_key is not None:
        warning = await store.api_keys.put_first(settings.api_key.get_secret_value())
        if warning is not None:
            log.warning("%s", warning)
    await store.api_keys.index_keys()
    if not store.sealer.has_key:
        log.warning("no secret key (QUEUE_ENGINE_SECRET_KEY): headers, webhook keys and environments are refused")
    return {
        "key_problem": warning,
        "has_one_tenant": await store.api_keys.has_one_tenant(),
        "console_link": await _console_link(settings, store) if NOTICE_VARIABLE in os.environ else None,
    }


async def _console_link(settings: ApiSettings, store: Store) -> str | None:
    """Return the token of a link to the console for the first API key; None without a console or a usable key."""
    if settings.console == "off" or settings.api_key is None:
        return None
    token = new_session_half()
    ends_at_ms = await store.sessions.create_link(token, hash_of(settings.api_key.get_secret_value()))
    return None if ends_at_ms is None else token
