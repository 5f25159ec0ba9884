"""The use cases for existing tasks: cancel, retry, delete, and the queries."""

from collections.abc import Awaitable, Callable

import pytest

from queue_engine.domain.deliveries import Trigger
from queue_engine.domain.endpoints import DesiredState, Endpoint
from queue_engine.domain.errors import EndpointClosed, NotFound, Resource, StateConflict, TooManyRequests
from queue_engine.domain.logs import LogQuery
from queue_engine.domain.principals import Principal
from queue_engine.domain.tasks import TaskState, TaskStatus
from queue_engine.domain.workers import WorkerStatus
from queue_engine.engine.deliveries import SendOrder
from queue_engine.engine.engine import Engine
from queue_engine.observability import metrics
from queue_engine.store.store import Store
from tests.store.bench import TENANT, Bench, config
from tests.store.use_cases import OWNER, STRANGER, engine_on


@pytest.fixture
def engine(store: Store) -> Engine:
    return engine_on(store)


@pytest.fixture
async def endpoint(engine: Engine, bench: Bench) -> Endpoint:
    return await engine.endpoints.get(OWNER, bench.endpoint_id)


def _cancelled() -> float:
    value: float = metrics.tasks_finished.labels(state="cancelled")._value.get()
    return value


async def test_a_waiting_task_is_cancelled_and_counted_once(engine: Engine, bench: Bench, endpoint: Endpoint) -> None:
    before = _cancelled()
    await bench.submit("t1")
    first = await engine.orders.cancel(OWNER, endpoint, "t1")
    again = await engine.orders.cancel(OWNER, endpoint, "t1")
    assert [(one.task.state, one.result) for one in (first, again)] == [
        (TaskState.CANCELLED, "cancelled"),
        (TaskState.CANCELLED, "ended"),
    ]
    assert _cancelled() - before == 1


async def test_the_cancellation_of_a_running_task_is_requested(
    engine: Engine, bench: Bench, endpoint: Endpoint
) -> None:
    before = _cancelled()
    await bench.submit_and_start("t1")
    order = await engine.orders.cancel(OWNER, endpoint, "t1")
    assert (order.task.state, order.task.cancel_requested, order.result) == (TaskState.RUNNING, True, "requested")
    assert _cancelled() == before


async def test_an_ended_task_is_retried(engine: Engine, bench: Bench, endpoint: Endpoint) -> None:
    await bench.submit("t1")
    with pytest.raises(StateConflict, match="taskId: the task has not ended"):
        await engine.orders.retry(OWNER, endpoint, "t1")
    await engine.orders.cancel(OWNER, endpoint, "t1")
    assert (await engine.orders.retry(OWNER, endpoint, "t1")).state is TaskState.QUEUED


async def test_a_retry_needs_an_open_endpoint_with_room(engine: Engine, bench: Bench) -> None:
    small = await bench.store.endpoints.create(TENANT, config(max_queued_tasks=1))
    bench.endpoint_ids.append(small.endpoint_id)
    await bench.submit("t1", endpoint_id=small.endpoint_id)
    await engine.orders.cancel(OWNER, small, "t1")
    await bench.submit("t2", endpoint_id=small.endpoint_id)
    with pytest.raises(TooManyRequests):
        await engine.orders.retry(OWNER, small, "t1")
    await bench.store.endpoints.set_desired_state(small.endpoint_id, TENANT, DesiredState.STOPPED)
    with pytest.raises(EndpointClosed):
        await engine.orders.retry(OWNER, small, "t1")


async def test_only_an_ended_task_is_deleted(engine: Engine, bench: Bench, endpoint: Endpoint) -> None:
    await bench.submit("t1")
    with pytest.raises(StateConflict, match="cancel it first"):
        await engine.orders.delete(OWNER, endpoint, "t1")
    await engine.orders.cancel(OWNER, endpoint, "t1")
    await engine.orders.delete(OWNER, endpoint, "t1")
    with pytest.raises(NotFound):
        await engine.orders.delete(OWNER, endpoint, "t1")


def send(engine: Engine) -> Callable[[Principal, Endpoint, str], Awaitable[SendOrder]]:
    return lambda principal, endpoint, task_id: engine.deliveries.send(principal, endpoint, task_id, Trigger.RETRY)


async def test_an_unknown_task_is_not_found_by_any_use_case(engine: Engine, endpoint: Endpoint) -> None:
    orders, queries, ledger = engine.orders, engine.queries, engine.deliveries.ledger
    for use_case in (orders.cancel, orders.retry, orders.delete, queries.task, queries.attempts, ledger, send(engine)):
        with pytest.raises(NotFound) as caught:
            await use_case(OWNER, endpoint, "none")
        assert caught.value.resource is Resource.TASK


async def test_an_endpoint_of_another_tenant_is_not_found_by_any_use_case(
    engine: Engine, bench: Bench, endpoint: Endpoint
) -> None:
    """Also when the caller has the endpoint itself, as from a cache of all tenants' endpoints."""
    await bench.finish("t1")
    orders, queries, endpoints, deliveries = engine.orders, engine.queries, engine.endpoints, engine.deliveries
    calls = [
        *(call(STRANGER, endpoint, "t1") for call in (orders.cancel, orders.retry, orders.delete)),
        *(call(STRANGER, endpoint, "t1") for call in (queries.task, queries.attempts, deliveries.ledger, send(engine))),
        deliveries.given_up(STRANGER, endpoint, page=1, size=10),
        deliveries.recover(STRANGER, endpoint, since_ms=0, until_ms=None),
        deliveries.recovery(STRANGER, endpoint),
        deliveries.cancel_recovery(STRANGER, endpoint),
        queries.tasks(STRANGER, endpoint, None, page=1, size=10),
        queries.workers(STRANGER, endpoint, frozenset()),
        queries.log(STRANGER, endpoint, "w1", LogQuery(10)),
        endpoints.webhook_secret(STRANGER, endpoint),
    ]
    for call in calls:
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.resource is Resource.ENDPOINT
    assert (await bench.task("t1")).state is TaskState.SUCCEEDED


async def test_what_belongs_to_an_endpoint_is_read(engine: Engine, bench: Bench, endpoint: Endpoint) -> None:
    await bench.finish("t1")
    await bench.submit("t2")
    await bench.store.workers.put(bench.endpoint_id, "w1", managed=True)
    await bench.store.logs.append(bench.endpoint_id, "w1", "b1", ["ready"], retention_ms=60_000)
    queries = engine.queries
    assert [one.task_id for one in (await queries.tasks(OWNER, endpoint, None, page=1, size=10)).items] == ["t2", "t1"]
    ended = await queries.tasks(OWNER, endpoint, TaskStatus.SUCCESS, page=1, size=10)
    assert [one.task_id for one in ended.items] == ["t1"]
    assert (await queries.task(OWNER, endpoint, "t1")).output == b"42"
    assert len(await queries.attempts(OWNER, endpoint, "t1")) == 1
    assert await engine.deliveries.ledger(OWNER, endpoint, "t1") == []
    assert [one.worker_id for one in await queries.workers(OWNER, endpoint, frozenset())] == ["w1"]
    assert await queries.workers(OWNER, endpoint, {WorkerStatus.RUNNING}) == []
    assert [one.text for one in (await queries.log(OWNER, endpoint, "w1", LogQuery(10))).lines] == ["ready"]
    with pytest.raises(NotFound) as caught:
        await queries.log(OWNER, endpoint, "w2", LogQuery(10))
    assert caught.value.resource is Resource.WORKER
