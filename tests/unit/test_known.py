"""The leader's memory of workers and starts is that of the last look at each endpoint."""

from queue_engine.controller.known import OVERDUE_SECONDS, WAITING_LOOKS_PER_SECOND, Known
from queue_engine.controller.plan import Start


def start(endpoint_id: str, worker_id: str = "w", tenant: str = "t") -> Start:
    return Start(tenant, endpoint_id, worker_id)


def test_a_look_replaces_the_workers_and_starts_of_its_endpoint_only() -> None:
    known = Known()
    known.replace("1", ["1-a", "1-b"], [start("1", "1-a")], 0)
    known.replace("2", ["2-a"], [start("2", "2-a")], 0)
    known.add("1", "1-c")
    assert known.replace("1", ["1-b"], [], 0) == {"1-a", "1-c"}
    assert {one for one in ("1-a", "1-b", "1-c", "2-a") if known.has(one)} == {"1-b", "2-a"}
    assert known.starts() == [start("2", "2-a")]
    known.note_start(start("1", "1-b"))
    known.note_start(start("1", "1-b"))
    assert len(known.starts()) == 2
    assert known.replace("2", [], [], 0) == {"2-a"}
    assert known.replace("1", [], [], 0) == {"1-b"}
    assert not any(map(known.has, ("1-b", "2-a")))
    assert known.starts() == []


def test_an_id_that_two_endpoints_have_is_that_of_the_endpoint_in_its_name() -> None:
    known = Known()
    known.replace("1", ["gpu", "2-a"], [], 0)
    known.replace("2", ["gpu", "2-a"], [], 0)
    assert known.replace("1", [], [], 1) == {"gpu", "2-a"}
    assert known.has("2-a")
    assert known.replace("2", [], [], 1) == {"gpu", "2-a"}
    assert not known.has("2-a")


def test_endpoints_wait_for_a_start_the_longer_the_more_of_their_tenant_wait() -> None:
    known = Known()
    for number in range(2 * WAITING_LOOKS_PER_SECOND):
        known.note_waiting(start(str(number), "a"))
        known.note_waiting(start(str(number), "b"))
    known.note_waiting(start("x", tenant="other"))
    assert known.wait_for_start("0") == 2.0
    assert known.wait_for_start("x") == 1 / WAITING_LOOKS_PER_SECOND
    known.replace("0", ["a", "b"], [], 0)
    assert known.wait_for_start("0") == 0.0
    assert known.wait_for_start("1") == 2.0 - 1 / WAITING_LOOKS_PER_SECOND
    assert known.wait_for_start("not known") == 0.0


def test_an_endpoint_with_workers_is_overdue_after_the_longest_time_between_two_looks() -> None:
    known = Known()
    known.replace("1", ["1-a"], [], 100)
    known.replace("2", ["2-a"], [], 101)
    known.replace("3", [], [], 100)
    assert known.overdue(100 + OVERDUE_SECONDS) == set()
    assert known.overdue(100.5 + OVERDUE_SECONDS) == {"1"}
    known.replace("1", [], [], 200)
    assert known.overdue(200 + OVERDUE_SECONDS) == {"2"}
