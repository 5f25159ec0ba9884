"""The use case "submit a task": accepts once, compares repeated requests, and refuses with a reason."""

import asyncio

import pytest

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.endpoints import DesiredState, ServiceMode
from queue_engine.domain.errors import (
    EndpointClosed,
    EngineError,
    InvalidRequest,
    NotFound,
    QuotaReached,
    RateLimitReached,
    Resource,
    StateConflict,
    StoreUnavailable,
    TooManyRequests,
)
from queue_engine.domain.rates import RateScope, RateState
from queue_engine.domain.tasks import TaskState
from queue_engine.domain.tenants import Limit
from queue_engine.engine.engine import Engine
from queue_engine.engine.submissions import MAX_COMPARED_BYTES, counted_rejections
from queue_engine.observability import metrics
from queue_engine.store.store import Store
from queue_engine.store.tasks import Enqueued, Submission
from tests.store.bench import TENANT, Bench, config
from tests.store.use_cases import OWNER, STRANGER, engine_on, request

NEW_KEY = bytes(range(1, 33))


@pytest.fixture
def engine(store: Store) -> Engine:
    return engine_on(store)


def _count(result: str) -> float:
    value: float = metrics.tasks_submitted.labels(result=result)._value.get()
    return value


async def test_a_task_is_accepted_with_what_was_asked_for(engine: Engine, bench: Bench) -> None:
    asked = request(webhook="https://hooks.example/done", auth_key="k", headers={"X-A": "1"}, timeout=7)
    submitted = await engine.submissions.submit(OWNER, bench.endpoint_id, asked)
    assert (submitted.task_id, submitted.is_new) == ("t1", True)
    task = await bench.store.tasks.get(bench.endpoint_id, "t1")
    assert task is not None
    assert (task.state, task.input, task.spec.headers) == (TaskState.QUEUED, asked.input, {"X-A": "1"})
    assert (task.spec.webhook, task.timeout_seconds) == ("https://hooks.example/done", 7)


async def test_a_task_without_an_id_gets_one_of_its_own(engine: Engine, bench: Bench) -> None:
    both = [await engine.submissions.submit(OWNER, bench.endpoint_id, request(None)) for _ in range(2)]
    assert len({one.task_id for one in both}) == 2
    assert all(one.is_new for one in both)


async def test_the_order_of_metadata_does_not_count(engine: Engine, bench: Bench) -> None:
    await engine.submissions.submit(OWNER, bench.endpoint_id, request(metadata={"a": "1", "b": "2"}))
    again = await engine.submissions.submit(OWNER, bench.endpoint_id, request(metadata={"b": "2", "a": "1"}))
    assert not again.is_new


@pytest.mark.parametrize("again", [b'{"n": 1}', b'{"n":1}', b'{ "\\u006e" : 1 }'])
async def test_the_same_request_in_any_spelling_is_accepted_once(engine: Engine, bench: Bench, again: bytes) -> None:
    await engine.submissions.submit(OWNER, bench.endpoint_id, request())
    submitted = await engine.submissions.submit(OWNER, bench.endpoint_id, request(input_=again))
    assert (submitted.task_id, submitted.is_new) == ("t1", False)
    assert (await bench.store.tasks.counts(bench.endpoint_id)).queued == 1


@pytest.mark.parametrize(
    "other",
    [
        request(input_=b'{"n": 2}'),
        request(input_=b'{"n": 1.0}'),
        request(headers={"X-A": "1"}),
        request(webhook="https://hooks.example/done"),
        request(timeout=7),
        request(metadata={"a": "1"}),
        request(tags=["a"]),
    ],
)
async def test_another_request_for_a_taken_id_is_a_conflict(engine: Engine, bench: Bench, other: object) -> None:
    await engine.submissions.submit(OWNER, bench.endpoint_id, request())
    with pytest.raises(StateConflict, match="taskId: is already used by a task with a different body"):
        await engine.submissions.submit(OWNER, bench.endpoint_id, other)  # type: ignore[arg-type]


async def test_long_inputs_are_compared_by_their_bytes_only(engine: Engine, bench: Bench) -> None:
    text = b'"' + b"x" * MAX_COMPARED_BYTES + b'"'
    await engine.submissions.submit(OWNER, bench.endpoint_id, request(input_=b"[" + text + b"]"))
    same = await engine.submissions.submit(OWNER, bench.endpoint_id, request(input_=b"[" + text + b"]"))
    assert not same.is_new
    with pytest.raises(StateConflict):
        await engine.submissions.submit(OWNER, bench.endpoint_id, request(input_=b"[ " + text + b"]"))


async def test_a_request_accepted_under_a_previous_secret_key_is_known(store: Store, bench: Bench) -> None:
    await engine_on(store).submissions.submit(OWNER, bench.endpoint_id, request())
    rotated = engine_on(store, (NEW_KEY, bytes(range(32))))
    assert not (await rotated.submissions.submit(OWNER, bench.endpoint_id, request())).is_new
    assert not (await rotated.submissions.submit(OWNER, bench.endpoint_id, request(input_=b'{"n":1}'))).is_new
    with pytest.raises(StateConflict):
        await engine_on(store, (NEW_KEY,)).submissions.submit(OWNER, bench.endpoint_id, request())


async def test_an_id_that_is_freed_during_the_comparison_is_taken(engine: Engine, bench: Bench) -> None:
    """The task is removed between the script that finds the conflict and the script that reads the request."""
    await bench.finish("t1")
    tasks = bench.store.tasks
    read = tasks.accepted_request

    async def read_after_removal(endpoint_id: str, task_id: str, *, max_input_bytes: int) -> object:
        await tasks.delete(endpoint_id, task_id)
        return await read(endpoint_id, task_id, max_input_bytes=max_input_bytes)

    tasks.accepted_request = read_after_removal  # type: ignore[method-assign, assignment]
    assert (await engine.submissions.submit(OWNER, bench.endpoint_id, request())).is_new


async def test_a_refusal_after_an_id_is_freed_is_reported(engine: Engine, bench: Bench) -> None:
    """The task is removed, and the endpoint gets a rate limit that is reached, before the second try."""
    replies = [Enqueued(Submission.CONFLICT), Enqueued(Submission.LIMITED, RateState(RateScope.ENDPOINT, 1, 0))]

    async def enqueue(*_given: object) -> Enqueued:
        return replies.pop(0)

    bench.store.tasks.enqueue = enqueue  # type: ignore[method-assign, assignment]
    with pytest.raises(RateLimitReached):
        await engine.submissions.submit(OWNER, bench.endpoint_id, request())
    assert replies == []


async def test_no_quota_refuses_a_repeated_submission(store: Store, bench: Bench) -> None:
    theirs = await store.endpoints.create(STRANGER.tenant, config())
    bench.endpoint_ids.append(theirs.endpoint_id)
    for principal, endpoint_id in ((OWNER, bench.endpoint_id), (STRANGER, theirs.endpoint_id)):
        await store.tenants.create(principal.tenant)
        await engine_on(store).submissions.submit(principal, endpoint_id, request())
        assert await store.tenants.set_limits(principal.tenant, {Limit.WAITING_TASKS: 1})
    submit = engine_on(store).submissions.submit
    for again in (b'{"n": 1}', b'{"n":1}'):
        submitted = await submit(OWNER, bench.endpoint_id, request(input_=again))
        assert (submitted.task_id, submitted.is_new) == ("t1", False)
    with pytest.raises(StateConflict):
        await submit(OWNER, bench.endpoint_id, request(input_=b"2"))
    for new in (request("t2"), request(None)):
        with pytest.raises(QuotaReached):
            await submit(OWNER, bench.endpoint_id, new)
    for task_id in ("t1", "t2"):  # tasks of another tenant that exist and that do not exist look the same
        with pytest.raises(QuotaReached):
            await submit(STRANGER, bench.endpoint_id, request(task_id))


async def test_a_repeated_submission_at_a_quota_costs_a_token(store: Store, bench: Bench) -> None:
    await store.tenants.create(TENANT)
    await engine_on(store).submissions.submit(OWNER, bench.endpoint_id, request())
    assert await store.tenants.set_limits(TENANT, {Limit.WAITING_TASKS: 1, Limit.SUBMITS_PER_SECOND: 5})
    submitted = await engine_on(store).submissions.submit(OWNER, bench.endpoint_id, request())
    assert submitted.rates == (RateState(RateScope.TENANT, 5, 4),)


async def test_many_that_submit_the_same_at_once_make_one_task(engine: Engine, bench: Bench) -> None:
    spellings = [b'{"n": 1}', b'{"n":1}'] * 10
    submitted = await asyncio.gather(
        *(engine.submissions.submit(OWNER, bench.endpoint_id, request(input_=one)) for one in spellings)
    )
    assert [one.is_new for one in submitted].count(True) == 1


async def test_another_tenants_endpoint_is_not_found(engine: Engine, bench: Bench) -> None:
    with pytest.raises(NotFound) as caught:
        await engine.submissions.submit(STRANGER, bench.endpoint_id, request())
    assert caught.value.resource is Resource.ENDPOINT


async def test_an_endpoint_that_takes_no_tasks_says_why(engine: Engine, bench: Bench) -> None:
    other = await bench.store.endpoints.create(TENANT, config(service_mode=ServiceMode.ALB))
    bench.endpoint_ids.append(other.endpoint_id)
    with pytest.raises(InvalidRequest, match="serviceMode: only endpoints with service mode QUEUE take tasks"):
        await engine.submissions.submit(OWNER, other.endpoint_id, request())
    await bench.store.endpoints.set_desired_state(bench.endpoint_id, TENANT, DesiredState.STOPPED)
    with pytest.raises(EndpointClosed):
        await engine.submissions.submit(OWNER, bench.endpoint_id, request())


async def test_a_full_queue_says_when_to_come_back(engine: Engine, bench: Bench) -> None:
    full = await bench.store.endpoints.create(TENANT, config(max_queued_tasks=1))
    bench.endpoint_ids.append(full.endpoint_id)
    await engine.submissions.submit(OWNER, full.endpoint_id, request("t1"))
    with pytest.raises(TooManyRequests) as caught:
        await engine.submissions.submit(OWNER, full.endpoint_id, request("t2"))
    assert (caught.value.scope, caught.value.retry_after_seconds) == ("queue", 5)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (request(headers={"A": "b"}), "headers"),
        (request(auth_key="k"), "webhookAuthKey"),
        (request(headers={"A": "b"}, auth_key="k"), "headers"),
    ],
)
async def test_a_server_without_a_secret_key_takes_no_secret(
    store_url: str, bench: Bench, asked: object, field: str
) -> None:
    without_key = Store(store_url, Sealer(None), partitions=bench.store.partitions.count)
    engine = engine_on(without_key, ())
    with pytest.raises(InvalidRequest) as caught:
        await engine.submissions.submit(OWNER, bench.endpoint_id, asked)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert (await engine.submissions.submit(OWNER, bench.endpoint_id, request())).is_new
    await without_key.close()


async def test_a_webhook_inside_the_network_is_refused_with_all_other_errors(engine: Engine, bench: Bench) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await engine.submissions.submit(OWNER, bench.endpoint_id, request(webhook="http://10.0.0.1/x"))
    assert caught.value.field == "webhook"
    assert (await bench.store.tasks.counts(bench.endpoint_id)).queued == 0


async def test_every_submission_is_counted_once(engine: Engine, bench: Bench) -> None:
    before = {result: _count(result) for result in ("accepted", "duplicate", "rejected")}
    for asked in (request(), request(), request(input_=b"2")):
        try:
            with counted_rejections():
                await engine.submissions.submit(OWNER, bench.endpoint_id, asked)
        except EngineError:
            pass
    assert {result: _count(result) - count for result, count in before.items()} == dict.fromkeys(before, 1.0)


@pytest.mark.parametrize(
    ("error", "counted"),
    [(InvalidRequest("input", "is required"), 1), (StoreUnavailable("away"), 0), (ValueError(), 0)],
)
def test_only_errors_of_the_client_count_as_rejected(error: Exception, counted: int) -> None:
    before = _count("rejected")
    with pytest.raises(type(error)), counted_rejections():
        raise error
    assert _count("rejected") - before == counted
