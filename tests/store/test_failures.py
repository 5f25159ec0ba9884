"""Groups of errors: signatures, the newest failures of a period, and the tasks that a signature selects."""

import pytest

from queue_engine.domain.error_groups import BUCKETS, MAX_GROUPS, Failure, Failures, grouped
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.tasks import ContainerResponse, Failed, Succeeded, error_of
from queue_engine.store.failures import FailureIndex
from tests.store.bench import Bench

UUID = "7b1f3a52-0c1d-4e2f-9a3b-4c5d6e7f8091"
SIGNATURES = [
    ("HTTP 500: no model 17", "HTTP 500: no model #"),
    (error_of(ContainerResponse(status=404, excerpt="no model 17")), "the worker's container answered 404: no model #"),
    (error_of(ContainerResponse(status=500, excerpt="no model 4")), "the worker's container answered 500: no model #"),
    ("HTTP 503: no model 17", "HTTP 503: no model #"),
    (f"task {UUID} took 1.5 s at 2026-01-31", "task # took # s at #"),
    ("pointer 0x7ffe12 of block 7f3a9c21 in layer_3", "pointer # of block # in layer_#"),
    ("no file \"a.png\" in `b` or 'c'", "no file \"#\" in `#` or '#'"),
    ('HTTP 500: {"detail": "no model 4"}', 'HTTP 500: {"detail": "no model #"}'),
    ('HTTP 500: "model not loaded"', 'HTTP 500: "model not loaded"'),
    ("HTTP 500: \"model 7 'x' not loaded\" ", "HTTP 500: \"model # 'x' not loaded\""),
    (
        error_of(ContainerResponse(status=500, excerpt='"input has no text"')),
        'the worker\'s container answered 500: "input has no text"',
    ),
    (r'HTTP 500: "no \"text\" in 7"', r'HTTP 500: "no \"text\" in #"'),
    ('HTTP 500: "' + "no text " * 40, 'HTTP 500: "' + ("no text " * 40)[:189].rstrip()),
    ('"input has no text"', '"input has no text"'),
    ('HTTP 500: "a" is no "b"', 'HTTP 500: "#" is no "#"'),
    ('no file "a"', 'no file "#"'),
    ("it can't and won't", "it can't and won't"),
    ("a\n\tb", "a b"),
    ("é" * 300, "é" * 99),
    ("x" * 600, "x" * 200),
    ("a%d+(", "a%d+("),
]


def index_of(bench: Bench, limit: int = 1000) -> FailureIndex:
    store = bench.store
    return FailureIndex(store.redis, store.scripts, store.partitions, limit)


async def newest(bench: Bench, limit: int = 1000, from_ms: int | None = None, to_ms: int | None = None) -> Failures:
    return await index_of(bench, limit).newest(bench.endpoint_id, from_ms=from_ms, to_ms=to_ms)


async def fail(bench: Bench, task_id: str, error: str = "no model") -> int:
    task = await bench.finish(task_id, outcome=Failed(error))
    assert task.finished_at_ms is not None
    return task.finished_at_ms


@pytest.mark.parametrize(("error", "signature"), SIGNATURES)
async def test_the_signature_is_what_errors_of_one_cause_share(bench: Bench, error: str, signature: str) -> None:
    await fail(bench, "bad", error)
    await fail(bench, "other", "another error")
    found = await newest(bench)
    assert [one.signature for one in found.items if one.task_id == "bad"] == [signature]
    selected = await bench.store.task_scan.ids(
        bench.endpoint_id, TaskFilters(error_signature=signature), after=None, limit=10
    )
    assert selected.task_ids == ("bad",)


async def test_a_task_without_an_error_text_has_a_signature_too(bench: Bench) -> None:
    await fail(bench, "bad", "")
    await bench.finish("good", outcome=Succeeded(b"1"))
    await bench.submit("waits")
    (one,) = (await newest(bench)).items
    filters = TaskFilters(error_signature=one.signature)
    selected = await bench.store.task_scan.ids(bench.endpoint_id, filters, after=None, limit=10)
    assert selected.task_ids == ("bad",)


async def test_only_failures_that_are_there_are_read(bench: Bench) -> None:
    for name in ("again", "removed"):
        await fail(bench, name)
    await bench.finish("good", outcome=Succeeded(b"1"))
    await bench.store.tasks.rerun(bench.endpoint_id, "again", "call")
    await bench.store.tasks.delete(bench.endpoint_id, "removed")
    found = await newest(bench)
    assert (found.items, found.is_complete) == ((), True)


async def test_the_limit_leaves_out_the_oldest(bench: Bench) -> None:
    for number in range(7):
        await fail(bench, f"t{number}", f"error {'abc'[number % 3]}")
    found = await newest(bench, limit=4)
    assert {one.task_id for one in found.items} == {"t3", "t4", "t5", "t6"}
    assert (found.looked_at, found.kept, found.is_complete) == (4, 7, False)
    whole = await newest(bench, limit=7)
    assert (whole.looked_at, whole.kept, len(whole.items)) == (7, 7, 7)


async def test_a_period_begins_where_it_says(bench: Bench) -> None:
    for number in range(6):
        await fail(bench, f"t{number}")
        # Ends of the tests are milliseconds apart, so they are moved: one each ten seconds.
        await bench.probe.ask("HSET", bench.keys.task(f"t{number}"), "finished", 1_000_000 + number * 10_000)
    found = await newest(bench, from_ms=1_010_000, to_ms=1_030_000)
    assert [one.task_id for one in found.items] == ["t2", "t1"]
    assert found.is_complete
    assert found.looked_at <= 4
    assert (await newest(bench, to_ms=1_000_000)).items == ()
    assert (await newest(bench, from_ms=1_050_001)).items == ()
    (one,) = (await newest(bench, limit=1, to_ms=1_015_000)).items
    assert one.task_id == "t1"


def test_groups_count_their_failures_over_time() -> None:
    items = [Failure(f"t{at}", "failed", at, "a" if at < 20 else "b", "x" if at == 19 else "") for at in range(24)]
    found = grouped(Failures(items[::-1], 24, 30, False), from_ms=None, to_ms=24, now_ms=100)
    a, b = found.groups
    assert (a.signature, a.count, a.first_ms, a.last_ms, a.error, a.states) == ("a", 20, 0, 19, "x", {"failed": 20})
    assert a.task_ids == ("t19", "t18", "t17", "t16", "t15")
    assert (sum(a.over_time), len(a.over_time), b.over_time[-4:]) == (20, BUCKETS, (1, 1, 1, 1))
    assert (found.from_ms, found.to_ms, found.as_of_ms) == (0, 24, 100)


def test_groups_beyond_the_limit_are_counted() -> None:
    items = [Failure("t", "failed", 5, str(number), "") for number in range(MAX_GROUPS + 3)]
    found = grouped(Failures(items, 23, 23, True), from_ms=None, to_ms=None, now_ms=5)
    assert (len(found.groups), found.others) == (MAX_GROUPS, 3)
    assert grouped(Failures((), 0, 0, True), from_ms=None, to_ms=None, now_ms=5).groups == []
