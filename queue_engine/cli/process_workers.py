"""Put the process backend together: the GPUs of this machine, and the users as which containers run."""

from __future__ import annotations

import logging
import os
from functools import partial

from queue_engine.aio import retry_while_unavailable
from queue_engine.backends.gpus import NvmlInventory, host_gpus
from queue_engine.backends.process import ProcessBackend
from queue_engine.backends.process_environment import CUDA_VISIBLE_DEVICES
from queue_engine.backends.worker_users import Isolation, WorkerUsers, isolation
from queue_engine.cli.hosting import HostedWorkers
from queue_engine.cli.process import or_fail
from queue_engine.config.catalogue import load_catalogue
from queue_engine.config.engine import ControllerSettings
from queue_engine.domain.errors import EngineError
from queue_engine.domain.gpus import Gpus
from queue_engine.processes.orphans import become_subreaper
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import Store

log = logging.getLogger("queue_engine")

SHOWN_TENANTS = 20
"""Maximum number of tenants that a log line names."""
_APART = "with one tenant, containers run as this user and can read what it can; with more, each endpoint has a user id"
_NOT_APART = "containers run as this user: they can read the agents' environment and all files that this user can read"


async def process_workers(settings: ControllerSettings, store: Store) -> HostedWorkers:
    """Return the backend for this machine, and log what it hands out and what it isolates. Raises EngineError."""
    kept_apart = or_fail(
        "QUEUE_ENGINE_WORKER_UIDS",
        lambda: isolation(settings.worker_user_ids, shared=settings.process_backend_shared),
    )
    backend = ProcessBackend(
        settings.work_dir,
        instance_id=await store.instance_id(),
        environment=os.environ,
        adopts_orphans=become_subreaper(),
        gpus=await gpus_of_host(settings),
        users=WorkerUsers(kept_apart.ids, store.has_one_tenant),
    )
    await _log_isolation(kept_apart, store)
    recover = partial(backend.reap_orphans, settings.worker_grace_seconds)
    return HostedWorkers(backend, kept_apart.one_tenant_reason, backend.metrics_targets, recover)


async def gpus_of_host(settings: ControllerSettings) -> Gpus:
    """Return the GPUs that this machine hands out to workers. Raises EngineError that names a setting."""
    catalogue = or_fail("QUEUE_ENGINE_CATALOGUE_FILE", lambda: load_catalogue(settings.catalogue_file))
    visible = os.environ.get(CUDA_VISIBLE_DEVICES)
    try:
        return await host_gpus(settings.gpu_setting, NvmlInventory(), cpu_types=catalogue.cpu_types, visible=visible)
    except ValueError as error:
        raise EngineError(f"QUEUE_ENGINE_GPUS: {error}") from None


async def _log_isolation(kept_apart: Isolation, store: Store) -> None:
    """Log what keeps containers apart, and the tenants whose endpoints run as one user in spite of the rule."""
    user = {"user": os.getuid()}
    if kept_apart.ids is not None:
        log.info(_APART, extra=user | {"user_ids": str(kept_apart.ids)})
        return
    log.warning(_NOT_APART, extra=user)
    owners = await retry_while_unavailable(store.one_tenant.owners, passing=unavailability, what="the tenants")
    if len(owners) > 1:
        shown = ", ".join(owners[:SHOWN_TENANTS])
        log.warning("endpoints of several tenants run as one user", extra={"count": len(owners), "tenants": shown})
