"""The alerts of deploy/prometheus, fired and kept from firing by the metrics of real processes."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from queue_engine.domain.endpoints import DesiredState
from queue_engine.store import keys
from queue_engine.store.api_keys import hash_of
from queue_engine.store.store import Store
from tests.integration.parts import (
    TENANT,
    HttpServer,
    Program,
    Programs,
    Reply,
    ended,
    new_endpoint,
    open_store,
    programs_on,
    submit,
    wait_for_port,
)
from tests.ports import free_port
from tests.promtool import BEGINS_AT_SECONDS, RULES, Scrape, check, check_alerts, check_rules, scrape
from tests.servers import StoreServer, valkey_binary
from tests.waiting import wait_until, wait_until_async

pytestmark = pytest.mark.promtool

API_KEY = "a-key-of-the-alert-tests"
HEARTBEAT = "worker_agent_last_heartbeat_timestamp_seconds"
JOB = "queue_engine_background_job_last_success_timestamp_seconds"
JOBS = [
    (JOB, f'{{instance="controller",name="{name}"}}') for name in ("sweep", "purge", "delete", "recover", "reconcile")
]
ENDPOINT_DEPTH = "queue_engine_endpoint_waiting_tasks"
ENDPOINT_OLDEST = "queue_engine_endpoint_oldest_task_timestamp_seconds"
PAUSED_SECONDS = 90_000
"""Age of a pause that was forgotten: an hour more than a day."""
OLDEST = "queue_engine_queue_oldest_task_timestamp_seconds"


class Stage:
    """An API, a controller and a delivery process over a store of their own, and agents; all of them are scraped."""

    def __init__(self, server: StoreServer, programs: Programs, directory: Path, promtool: str) -> None:
        self.server = server
        self.programs = programs
        self.promtool = promtool
        self._directory = directory
        self.urls: dict[str, str] = {}
        self._running: dict[str, Program] = {}
        self.api_port = free_port()
        self._start(
            "api",
            self.api_port,
            QUEUE_ENGINE_PORT=str(self.api_port),
            QUEUE_ENGINE_API_KEY=API_KEY,
            QUEUE_ENGINE_API_METRICS="public",
        )
        for role in ("controller", "delivery"):
            port = free_port()
            environment = {
                "QUEUE_ENGINE_LEADER_LEASE_SECONDS": "2",
                "QUEUE_ENGINE_LEASE_SECONDS": "2",
                "QUEUE_ENGINE_METRICS_ENDPOINT_LIMIT": "1",
            }
            self._start(
                role, port, QUEUE_ENGINE_METRICS_PORT=str(port), QUEUE_ENGINE_DELIVERY_SCHEDULE="0.05", **environment
            )
        for url in self.urls.values():
            wait_for_port(int(url.rsplit(":", 1)[1].split("/")[0]))

    def _start(self, role: str, port: int, **environment: str) -> None:
        self._running[role] = self.programs.start(role, "queue_engine", role, **environment)
        self.urls[role] = f"http://127.0.0.1:{port}/metrics"

    def agent(self, endpoint_id: str, container: HttpServer, concurrency: int = 1) -> Program:
        port = free_port()
        agent = self.programs.agent(
            endpoint_id, container.url, WORKER_AGENT_METRICS_PORT=str(port),
            WORKER_AGENT_CONCURRENCY=str(concurrency),
        )  # fmt: skip
        wait_for_port(port)
        self.urls["agent"] = f"http://127.0.0.1:{port}/metrics"
        self._running["agent"] = agent
        return agent

    def end(self, role: str) -> None:
        """End a process: it is scraped no longer."""
        self._running.pop(role).stop()
        del self.urls[role]

    def kill(self, role: str) -> None:
        self._running.pop(role).kill()
        del self.urls[role]

    def scrape(self) -> dict[str, Scrape]:
        return {role: scrape(url, role) for role, url in self.urls.items()}

    def wait_for(self, condition: Callable[[dict[str, Scrape]], bool], message: str) -> dict[str, Scrape]:
        """Return the first scrapes for which `condition` holds."""

        def scraped() -> dict[str, Scrape] | None:
            found = self.scrape()
            return found if condition(found) else None

        scrapes = wait_until(scraped, 60, message)
        assert scrapes is not None
        return scrapes

    def begun(self) -> dict[str, Scrape]:
        """Return scrapes of an engine whose controller leads and has run every job."""
        return self.wait_for(lambda found: all(job in found["controller"].samples for job in JOBS), "no jobs run")

    def gone_on(
        self, before: dict[str, Scrape], condition: Callable[[dict[str, Scrape]], bool] = lambda _: True
    ) -> dict[str, Scrape]:
        """Return the first scrapes for which `condition` holds, and all jobs and heartbeats have gone on."""

        def moved(found: dict[str, Scrape]) -> bool:
            return all(
                value > before[role].samples.get(series, 0.0)
                for role in found
                if role in before
                for series, value in found[role].samples.items()
                if series[0] in (JOB, HEARTBEAT)
            )

        return self.wait_for(lambda found: moved(found) and condition(found), "it did not come to this")

    def check(
        self,
        before: dict[str, Scrape],
        after: dict[str, Scrape],
        firing: set[str],
        *,
        begins_at_seconds: int = BEGINS_AT_SECONDS,
    ) -> None:
        pairs = [(before.get(role, found), found) for role, found in after.items()]
        names = sorted(f"QueueEngine{name}" for name in firing)
        check_alerts(self.promtool, self._directory, pairs, names, begins_at_seconds=begins_at_seconds)

    def get(self, path: str, key: str = API_KEY) -> int:
        return httpx.get(
            f"http://127.0.0.1:{self.api_port}{path}", headers={"X-Api-Key": key}, trust_env=False, timeout=20
        ).status_code


def sample(found: dict[str, Scrape], role: str, name: str, **labels: str) -> float:
    """The sum of the samples of that name with these labels."""
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(
        value
        for (one, written), value in found[role].samples.items()
        if one == name and all(part in written for part in wanted)
    )


@pytest.fixture
def stage(tmp_path: Path, promtool: str) -> Iterator[Stage]:
    with StoreServer(valkey_binary(), tmp_path / "store") as server, programs_on(server.url, tmp_path) as programs:
        yield Stage(server, programs, tmp_path, promtool)


@pytest.fixture
async def store(stage: Stage) -> AsyncIterator[Store]:
    opened = open_store(stage.server.url)
    await opened.prepare()
    yield opened
    await opened.close()


def test_the_rules_are_well_formed(promtool: str) -> None:
    check(promtool, "rules", str(RULES))
    check(promtool, "config", str(RULES.with_name("prometheus.yml")))


def test_each_rule_holds_on_made_up_series(promtool: str) -> None:
    check_rules(promtool, RULES.with_name("alerts_test.yml"))


async def test_no_alert_fires_in_an_engine_that_works_with_an_endpoint_that_is_stopped(
    stage: Stage, store: Store, container: HttpServer, receiver: HttpServer
) -> None:
    stopped = await new_endpoint(store, workers=1)
    await submit(store, stopped, "waits_on_purpose")
    await store.endpoints.set_desired_state(stopped, TENANT, DesiredState.STOPPED)
    scaled_to_zero = await new_endpoint(store, workers=0)
    await submit(store, scaled_to_zero, "waits_on_purpose")
    endpoint_id = await new_endpoint(store)
    stage.agent(endpoint_id, container)
    await submit(store, endpoint_id, "first", webhook=f"{receiver.url}/hook")
    receiver.next(30)
    before = stage.begun()
    after = stage.gone_on(
        before,
        lambda found: (
            sample(found, "controller", "queue_engine_queue_tasks") == 2
            and sample(found, "controller", ENDPOINT_DEPTH, endpoint=stopped) == 1
            and sample(found, "controller", ENDPOINT_DEPTH, endpoint="other") == 1
            and sample(found, "controller", ENDPOINT_OLDEST) == 0
        ),
    )
    stage.check(before, after, firing=set())
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in stage.urls.values():
            check(stage.promtool, "metrics", given=(await client.get(url)).text)


async def test_workers_that_crash_tasks_that_wait_a_forgotten_pause_and_the_first_internal_error_fire(
    stage: Stage, store: Store
) -> None:
    broken = "a-key-whose-record-is-broken"
    await store.redis.rpush(keys.api_key(hash_of(broken)), "no hash")  # type: ignore[misc]
    before = stage.begun()
    assert stage.get("/v2/serverless", broken) == 500
    paused = await new_endpoint(store)
    await submit(store, paused)
    await store.endpoints.set_paused(paused, TENANT, paused=True)
    paused_at_ms = await store.now_ms() - PAUSED_SECONDS * 1000
    await store.redis.hset(store.partitions.of(paused).endpoint, "paused_at", str(paused_at_ms))  # type: ignore[misc]
    endpoint_id = await new_endpoint(store, workers=1, initialization_command="exit 3")
    await submit(store, endpoint_id)
    after = stage.gone_on(
        before,
        lambda found: (
            sample(found, "controller", "queue_engine_workers", status="FAILED") == 1
            and sample(found, "controller", OLDEST) > 0
            and sample(found, "controller", ENDPOINT_OLDEST, endpoint=endpoint_id) > 0
            and sample(found, "controller", "queue_engine_oldest_pause_timestamp_seconds") == paused_at_ms / 1000
        ),
    )
    stage.check(
        before,
        after,
        firing={"WorkersFailed", "QueueLatency", "QueuePaused", "ApiErrors"},
        begins_at_seconds=PAUSED_SECONDS + 1200,
    )


async def test_a_store_that_is_away_fires(stage: Stage, store: Store, container: HttpServer) -> None:
    endpoint_id = await new_endpoint(store)
    stage.agent(endpoint_id, container)
    await submit(store, endpoint_id)
    await ended(store, endpoint_id)
    before = stage.begun()
    stage.server.kill()
    refused = [stage.get(f"/v2/serverless/{endpoint_id}") for _ in range(3)]
    assert refused == [503, 503, 503]

    def noticed(found: dict[str, Scrape]) -> bool:
        away = all(sample(found, role, "queue_engine_store_away") == 1 for role in found)
        return away and sample(found, "controller", "queue_engine_controller_leading") == 0

    away = stage.wait_for(noticed, "the outage is not noticed")
    later = stage.wait_for(
        lambda found: found["agent"].at > away["agent"].at + 3 and noticed(found), "the outage does not go on"
    )
    expected = {"StoreAway", "StoreErrors", "NoLeader", "JobNotRunning", "AgentCutOff", "ApiUnavailable"}
    stage.check({**away, "api": before["api"]}, later, firing=expected)


async def test_processes_that_are_absent_fire(stage: Stage, store: Store, container: HttpServer) -> None:
    stage.agent(await new_endpoint(store), container)
    for role in ("api", "controller", "delivery"):
        stage.end(role)
    before = stage.scrape()
    stage.check(before, stage.gone_on(before), firing={"ApiAbsent", "ControllerAbsent", "DeliveryAbsent", "NoLeader"})


async def test_receivers_that_are_down_or_removed_and_tasks_that_lose_their_worker_fire(
    stage: Stage, store: Store, container: HttpServer, receiver: HttpServer
) -> None:
    held = threading.Event()
    container.answer = lambda _: Reply(hold=held)
    receiver.answer = lambda _: Reply(status=410)
    endpoint_id = await new_endpoint(store)
    stage.agent(endpoint_id, container, concurrency=8)
    before = stage.begun()
    for number in range(8):
        await submit(store, endpoint_id, f"held_{number}")
    await wait_until_async(lambda: len(container.requests) == 8, 60, "the tasks do not run")
    stage.kill("agent")
    nobody = f"http://127.0.0.1:{free_port()}/hook"
    for number, webhook in enumerate([f"{receiver.url}/hook", *[nobody] * 60]):
        await submit(store, endpoint_id, f"task_{number}", webhook=webhook)
        await store.tasks.cancel(endpoint_id, f"task_{number}")
    after = stage.gone_on(
        before,
        lambda found: (
            sample(found, "delivery", "queue_engine_deliveries_pending", lane="parked") > 0
            and sample(found, "delivery", "queue_engine_deliveries_total", status="max_retries_exceeded") > 0
            and sample(found, "controller", "queue_engine_leases_reclaimed_total") == 8
            and sample(found, "controller", OLDEST) > 0
        ),
    )
    held.set()
    of_deliveries = {"DeliveriesGivenUp", "DeliveriesFailing", "DeliveriesParked"}
    stage.check(before, after, firing=of_deliveries | {"LeasesLost", "QueueLatency"})
