"""The order of members by the slot time that they have used."""

from collections import Counter

from queue_engine.delivery.slot_time import FIRST_EXPECTED_SECONDS, MAX_DEBT_SECONDS, Account, FairQueue


def served(seconds: dict[str, float], total_seconds: float) -> Counter[str]:
    """Serve members with one slot, each taking this long, and return how often each was served."""
    queue: FairQueue[str] = FairQueue()
    accounts = {name: Account() for name in seconds}
    for member, account in accounts.items():
        queue.put(member, member, account)
    now, turns, counts, latest = 0.0, 0, Counter[str](), 0.0
    while now < total_seconds:
        first = queue.first(lambda _: True)
        assert first is not None
        name = first
        turns += 1
        account = accounts[name]
        latest = max(latest, account.charged)
        account.end(account.begin(turns), seconds[name], served=latest)
        queue.put(name, name, account)
        counts[name] += 1
        now += seconds[name]
    return counts


def test_members_get_the_same_slot_time_and_not_the_same_number_of_turns() -> None:
    counts = served({"slow": 2.0, "quick": 0.01}, 400.0)
    assert 90 <= counts["slow"] <= 110
    assert 18_000 <= counts["quick"] <= 22_000


def test_equal_members_are_served_in_turn() -> None:
    assert set(served({"a": 1.0, "b": 1.0, "c": 1.0}, 30.0).values()) == {10}


def test_a_member_that_was_idle_has_saved_up_nothing() -> None:
    account = Account()
    account.catch_up(served=100.0)
    assert account.charged == 100.0


def test_a_debt_is_limited() -> None:
    account = Account()
    charge = account.begin(1)
    assert charge == FIRST_EXPECTED_SECONDS
    account.end(charge, 100_000.0, served=5.0)
    assert account.charged == 5.0 + MAX_DEBT_SECONDS


def test_a_member_that_does_not_fit_keeps_its_place() -> None:
    queue: FairQueue[str] = FairQueue()
    for number, name in enumerate("abc"):
        queue.put(name, name, Account(charged=float(number)))
    assert queue.first(lambda name: name != "a") == "b"
    assert queue.first(lambda _: False) is None
    assert queue.first(lambda _: True) == "a"
    queue.remove("a")
    assert ("a" in queue, queue.first(lambda _: True)) == (False, "b")


def test_entries_of_members_that_have_moved_do_not_gather() -> None:
    queue: FairQueue[str] = FairQueue()
    queue.put("first", "first", Account())
    for number in range(10_000):
        queue.put("moves", "moves", Account(charged=1.0 + number))
    assert len(queue._heap) < 200
    assert len(queue) == 2
