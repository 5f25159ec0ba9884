"""The order of what waits: tenants take turns, and the endpoints of a tenant too."""

from collections.abc import Collection

from queue_engine.backends.turns import Party, Turns

A1, A2, B3 = Party("a", "1"), Party("a", "2"), Party("b", "3")


def filled(**counts: int) -> Turns[str]:
    turns: Turns[str] = Turns()
    for party, name in ((A1, "a1"), (A2, "a2"), (B3, "b3")):
        for number in range(counts.get(name, 0)):
            turns.add(party, f"{name}-{number}")
    return turns


def test_tenants_take_turns_and_so_do_the_endpoints_of_a_tenant() -> None:
    turns = filled(a1=4, a2=1, b3=2)
    popped = []
    while turns:
        popped.append(turns.pop())
    assert popped == ["a1-0", "b3-0", "a2-0", "b3-1", "a1-1", "a1-2", "a1-3"]


def test_a_tenant_that_arrives_gets_its_turn_after_those_that_wait() -> None:
    turns = filled(a1=500)
    turns.pop()
    turns.add(B3, "first")
    assert [turns.pop(), turns.pop()] == ["a1-1", "first"]


def test_a_removed_item_gets_no_turn_and_nothing_is_kept_of_its_endpoint() -> None:
    turns = filled(a1=1, b3=1)
    turns.remove(A1, "a1-0")
    turns.remove(A1, "a1-0")
    turns.remove(A2, "never added")
    assert turns.pop() == "b3-0"
    assert not turns


def test_places_are_offered_in_turns_until_each_endpoint_was_refused_once() -> None:
    turns = filled(a1=3, a2=2, b3=2)
    places, offered = 4, []

    def take(items: Collection[str]) -> str | None:
        nonlocal places
        item = next(iter(items))
        offered.append(item)
        if item.startswith("a2") or not places:
            return None
        places -= 1
        return item

    turns.offer(take)
    assert offered == ["a1-0", "b3-0", "a2-0", "a1-1", "b3-1", "a1-2"]
    assert [turns.pop() for _ in range(3)] == ["a2-0", "a1-2", "a2-1"]
    assert not turns
