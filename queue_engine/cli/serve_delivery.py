"""The composition root of the process `queue-engine delivery`."""

from __future__ import annotations

import logging
from dataclasses import replace

from queue_engine.cli.process import on_end, or_fail, serve_metrics
from queue_engine.cli.store_access import open_store
from queue_engine.config.engine import DeliverySettings
from queue_engine.delivery.guard import Guard
from queue_engine.delivery.loopback import LoopbackSender
from queue_engine.delivery.sender import SenderLimits, open_sender
from queue_engine.delivery.service import DeliveryConfig, DeliveryService
from queue_engine.delivery.webhook_tests import WebhookTester
from queue_engine.domain.retry import Schedule
from queue_engine.net.authorities import Authorities
from queue_engine.net.resolver import CachingResolver, DnsLookup
from queue_engine.observability import metrics
from queue_engine.processes.interpreter import collect_rarely
from queue_engine.rules.webhook_urls import LOOPBACK, AddressPolicy
from queue_engine.store.outbox.outbox import PARKED_MS

log = logging.getLogger("queue_engine")


async def serve_delivery(settings: DeliverySettings) -> int:
    # Before waiting for the store, because waiting does not fix an error of this setting.
    authorities = or_fail("QUEUE_ENGINE_WEBHOOK_CA", lambda: Authorities(settings.webhook_ca))
    metrics_port = serve_metrics(settings, metrics.Role.DELIVERY)
    config = _config(settings)
    limits = SenderLimits(settings.delivery_timeout_seconds, settings.delivery_connect_timeout_seconds)
    places = settings.store_places()
    own_ports = frozenset({*settings.own_ports, *places.here, metrics_port})
    resolver = CachingResolver(DnsLookup())
    async with open_store(settings) as store, store.noted(metrics.Role.DELIVERY):
        await store.wait_until_ready()
        own_hosts = (*settings.own_hosts, *places.hosts)
        store_ports = places.ports | await store.ports()
        guard = Guard(AddressPolicy(settings.webhook_allow), own_ports, own_hosts, store_ports)
        local = replace(guard, policy=AddressPolicy((*settings.webhook_allow, *LOOPBACK)))
        await store.check_has_key()
        async with (
            open_sender(guard, resolver, limits, connections=config.slots, tls=authorities.context) as strict,
            open_sender(local, resolver, limits, connections=config.slots, tls=authorities.context) as to_loopback,
        ):
            if settings.webhook_loopback:
                await store.api_keys.index_keys()
            alone = LoopbackSender(store.api_keys, to_loopback, strict)
            sender = alone if settings.webhook_loopback else strict
            max_age_ms = int(config.schedule.longest_seconds * 1000) + PARKED_MS
            outbox = store.outbox(max_age_ms=max_age_ms)
            tester = WebhookTester(store.webhook_tests, store.endpoints, sender, config.attempt_seconds)
            service = DeliveryService(
                config,
                outbox,
                sender,
                seen_addresses=resolver.seen,
                standings=store.standings,
                tester=tester,
            )
            on_end(service.drain)
            collect_rarely()
            log.info("started", extra={"max_attempts": config.schedule.max_attempts, "slots": config.slots})
            await service.run()
        await resolver.close()
    return 0


def _config(settings: DeliverySettings) -> DeliveryConfig:
    return DeliveryConfig(
        schedule=Schedule(settings.delivery_schedule),
        slots=settings.delivery_slots,
        lease_seconds=settings.delivery_lease_seconds,
        attempt_seconds=settings.delivery_timeout_seconds,
    )
