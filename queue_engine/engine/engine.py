"""All use cases of one process, built in one place."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from queue_engine.domain.ceilings import NO_CEILINGS, Ceilings
from queue_engine.domain.tenants import DEFAULT_LIMITS, LimitValues
from queue_engine.domain.workers import DEFAULT_AGENT_TIMES, AgentTimes
from queue_engine.engine.agent_tokens import AgentTokens
from queue_engine.engine.agents.work import AgentWork
from queue_engine.engine.audit import Audit
from queue_engine.engine.batches import Batches
from queue_engine.engine.clones import Clones
from queue_engine.engine.credentials import Credentials
from queue_engine.engine.cursors import Cursors
from queue_engine.engine.deliveries import Deliveries
from queue_engine.engine.destination_notes import DestinationNotes
from queue_engine.engine.destinations import AddressLookup, DestinationGuard
from queue_engine.engine.endpoints import Endpoints
from queue_engine.engine.error_groups import ErrorGrouping
from queue_engine.engine.key_watch import KeyWatch
from queue_engine.engine.keys import Keys
from queue_engine.engine.lanes_gate import LanesGate
from queue_engine.engine.operations import TaskOperations
from queue_engine.engine.orders import Orders
from queue_engine.engine.patience import from_store
from queue_engine.engine.principals import AgentPrincipals, Principals
from queue_engine.engine.queries import Queries
from queue_engine.engine.search import Search
from queue_engine.engine.series import FigureSeries
from queue_engine.engine.sessions import SessionPrincipals, Sessions
from queue_engine.engine.submissions import Submissions
from queue_engine.engine.system import System
from queue_engine.engine.task_lists import TaskLists
from queue_engine.engine.tenant_limits import TenantLimits
from queue_engine.engine.tenants import Tenants
from queue_engine.engine.topics import Topics
from queue_engine.engine.upstreams import Listings
from queue_engine.engine.waiting import WaitingReasons
from queue_engine.engine.waits import DEFAULT_WAIT_LIMITS, WaitLimits, Waits
from queue_engine.engine.webhook_tests import WebhookTesting
from queue_engine.engine.workers import Workers
from queue_engine.rules.webhook_urls import DestinationRules
from queue_engine.store.store import Store


class Engine:
    """All use cases, for the API and the other surfaces of the engine. Creating it opens no connection.

    `secret_keys` are the server's keys, the current key first. `limits` are those of tenants for which an operator has
    set no others. `ceilings` are the highest values of endpoints' settings. `agent_times` are those of agents that call
    this process. `wait_limits` are those of clients that wait for tasks.
    """

    def __init__(
        self,
        store: Store,
        lookup: AddressLookup,
        rules: DestinationRules,
        secret_keys: Sequence[bytes],
        *,
        limits: LimitValues = DEFAULT_LIMITS,
        ceilings: Ceilings = NO_CEILINGS,
        agent_times: AgentTimes = DEFAULT_AGENT_TIMES,
        local_agents: bool = False,
        wait_limits: WaitLimits = DEFAULT_WAIT_LIMITS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        sealer, destinations = store.sealer, DestinationGuard(lookup, rules, store.api_keys)
        self.principals = Principals(store.api_keys, monotonic=monotonic)
        self.key_watch = KeyWatch(store.api_keys)
        self.agent_principals = AgentPrincipals(store.agent_tokens, monotonic=monotonic)
        tenant_limits = TenantLimits(store.tenants, store.usage, store, limits, monotonic=monotonic)
        lanes = LanesGate(store.workers, store.endpoints.index.is_complete, monotonic=monotonic)
        self.submissions = Submissions(
            store.tasks, store.endpoints, sealer, destinations, secret_keys, tenant_limits, lanes
        )
        self.batches = Batches(self.submissions)
        self.clones = Clones(store.tasks)
        self.audit = Audit(store.audit)
        self.orders = Orders(store.tasks, store.endpoints, self.audit)
        self.operations = TaskOperations(store.operations, store.endpoints, tenant_limits, self.audit)
        self.deliveries = Deliveries(store.tasks, store.deliveries, store.given_up, store.recoveries, self.audit)
        self.workers = Workers(store.endpoints, store.workers, self.audit)
        self.webhook_tests = WebhookTesting(store.webhook_tests, destinations, sealer, self.audit)
        self.destinations = DestinationNotes(store.standings, self.audit)
        self.queries = Queries(store.tasks, store.workers, store.logs, store.endpoint_logs)
        self.waiting = WaitingReasons(
            store.tasks,
            store.workers,
            store.platform_note,
            store.check_records,
            agent_times.lease,
            monotonic=monotonic,
        )
        self.task_lists = TaskLists(store.task_scan, self.queries, Cursors(secret_keys))
        self.error_groups = ErrorGrouping(store.failures, store.now_ms, monotonic=monotonic)
        self.series = FigureSeries(store.series, store.endpoints, store.now_ms)
        self.waits = Waits(self.queries, store.task_watch, wait_limits)
        self.topics = Topics()
        self.task_watch = store.task_watch
        """Tells of the ends of tasks."""
        self.endpoints = Endpoints(
            store.endpoints,
            store.credentials,
            sealer,
            destinations,
            tenant_limits,
            ceilings,
            self.audit,
            store.one_tenant,
            store.workers,
            lanes,
        )
        self.search = Search(self.endpoints, self.queries)
        self.credentials = Credentials(store.credentials, sealer, tenant_limits, self.audit)
        self.keys = Keys(store.api_keys, store.endpoints, self.audit)
        self.sessions = Sessions(store.sessions, SessionPrincipals(store.sessions, monotonic=monotonic))
        self.agent_tokens = AgentTokens(store.agent_tokens, self.audit)
        self.system = System(store, tenant_limits, monotonic=monotonic)
        self.tenants = Tenants(store.tenants, tenant_limits, self.audit)
        self.listings = Listings(store.endpoints, store.workers)
        self.agent_work = AgentWork(store, agent_times, local_agents=local_agents)

    def drain(self) -> None:
        """Respond to all that wait at this process, clients and agents. Safe to call from a signal handler."""
        self.waits.drain()
        self.task_lists.drain()
        self.batches.drain()
        self.topics.drain()
        self.agent_work.drain()

    async def now_ms(self) -> int:
        """Return the store's clock, to which all times of the API belong. Raises StoreUnavailable."""
        return await from_store(self._store.now_ms())

    async def check_ready(self) -> None:
        """Raise StoreUnavailable if the store cannot be reached or does not accept writes."""
        await from_store(self._store.check_ready())
