"""When the store is looked into for due deliveries."""

from queue_engine.store.outbox.due_times import MAX_STALE, DueTimes


def test_the_earliest_time_of_each_place_counts() -> None:
    due: DueTimes[str] = DueTimes()
    assert due.next_at is None
    assert due.note("a", 10.0)
    assert not due.note("a", 20.0), "a is looked at before"
    assert not due.note("b", 12.0)
    assert due.note("b", 5.0)
    assert due.next_at == 5.0


def test_places_are_taken_once_when_they_are_due() -> None:
    due: DueTimes[str] = DueTimes()
    for place, at in (("a", 10.0), ("b", 5.0), ("c", 7.0), ("c", 6.0)):
        due.note(place, at)
    assert due.take(4.0) == []
    assert due.take(7.0) == ["b", "c"]
    assert (due.take(7.0), due.next_at) == ([], 10.0)
    due.note("b", 8.0)
    assert due.next_at == 8.0


def test_notes_of_many_deliveries_take_no_room() -> None:
    due: DueTimes[str] = DueTimes()
    for number in range(10_000):
        due.note("a", float(number))
    assert len(due._heap) == 1


def test_times_that_are_replaced_by_earlier_ones_take_no_room() -> None:
    due: DueTimes[str] = DueTimes()
    due.note("last", 20_000.0)
    for number in range(10_000, 0, -1):
        due.note("ab"[number % 2], float(number))
        assert len(due._heap) <= 2 * 3 + MAX_STALE
    assert (due.take(2.0), due.next_at) == (["b", "a"], 20_000.0)
