"""Which shelf is taken from next."""

from queue_engine.store.keys import Partition
from queue_engine.store.outbox.shelves import FIRST_REST_SECONDS, MAX_REST_SECONDS, SHELVES_OF_TENANT, Shelves, shelf_of

PARTITION = Partition(3)
A = shelf_of(PARTITION, "a", "http://192.0.2.1:80")
B = shelf_of(PARTITION, "b:with:colons", "http://192.0.2.1:80")


def anybody(_tenant: str) -> bool:
    return True


def test_a_shelf_names_its_tenant_and_depends_on_the_destination() -> None:
    assert (A.tenant, B.tenant) == ("a", "b:with:colons")
    names = {shelf_of(PARTITION, "a", f"http://192.0.2.1:{port}").name for port in range(1000)}
    assert len(names) == SHELVES_OF_TENANT


def test_tenants_with_room_are_served_in_turn() -> None:
    shelves = Shelves()
    shelves.note(A)
    shelves.note(B)
    found = [shelves.next(0.0, anybody) for _ in range(4)]
    assert [place[0] for place in found if place] == [A, B, A, B]
    assert shelves.next(0.0, lambda tenant: tenant != "a") == (B, "0")
    assert shelves.next(0.0, lambda _: False) is None


def test_the_shelves_of_a_tenant_are_served_in_turn() -> None:
    shelves = Shelves()
    own = {shelf_of(PARTITION, "a", f"http://192.0.2.1:{port}") for port in range(1000)}
    for shelf in own:
        shelves.note(shelf)
    places = [shelves.next(0.0, anybody) for _ in own]
    assert {place[0] for place in places if place} == own


def test_an_empty_shelf_is_forgotten() -> None:
    shelves = Shelves()
    shelves.note(A)
    shelves.took(A, 0.0, last="5-0", is_empty=True)
    assert (shelves.next(0.0, anybody), len(shelves), shelves.ready_at) == (None, 0, None)
    shelves.took(A, 0.0, last=None, is_empty=True)


def test_the_next_look_goes_behind_what_was_taken_and_begins_again_at_the_end() -> None:
    shelves = Shelves()
    shelves.note(A)
    shelves.took(A, 0.0, last="5-0", is_empty=False)
    assert shelves.next(0.0, anybody) == (A, "5-0")
    shelves.took(A, 0.0, last=None, is_empty=False)
    assert shelves.next(0.0, anybody) == (A, "0")


def test_a_shelf_whose_deliveries_come_back_rests_longer_and_longer() -> None:
    shelves, now, rests = Shelves(), 0.0, []
    shelves.note(A)
    for _ in range(8):
        shelves.note(A, was_returned=True)
        shelves.took(A, now, last=None, is_empty=False)
        assert shelves.next(now, anybody) is None
        assert shelves.ready_at is not None
        rests.append(shelves.ready_at - now)
        now = shelves.ready_at
        assert shelves.next(now, anybody) == (A, "0")
    assert (rests[0], rests[-1]) == (FIRST_REST_SECONDS, MAX_REST_SECONDS)
    shelves.took(A, now, last=None, is_empty=False)
    assert shelves.next(now, anybody) == (A, "0"), "none came back, so it does not rest"
