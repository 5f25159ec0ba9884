"""Cards are handed to workers one by one, and a worker that waits is begun by the end of another."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from queue_engine.backends.card_queue import CardQueue
from queue_engine.backends.turns import Party
from queue_engine.domain.endpoints import Resource
from queue_engine.domain.gpus import Card, Gpus, HandedOut, Refused, Waits
from tests.recorded_gpus import FOUR_L4


def want(count: int) -> list[Resource]:
    return [Resource("here", "NVIDIA_L4_24G", count)]


class Workers:
    """Workers of a queue, with the cards that they got."""

    def __init__(self, elsewhere: Callable[[], set[str]] = set) -> None:
        self.queue = CardQueue(Gpus(FOUR_L4), elsewhere)
        self.running: dict[str, tuple[Card, ...]] = {}
        self.begun: list[str] = []

    def ask(self, name: str, count: int, party: Party | None = None) -> HandedOut | Waits | Refused:
        """Ask for the cards of a worker, by default of an endpoint of its own."""

        def begin(handed_out: HandedOut) -> None:
            self.running[name] = handed_out.cards
            self.begun.append(name)

        decision = self.queue.ask(party or Party("t", name), name, want(count), begin)
        if isinstance(decision, HandedOut):
            self.running[name] = decision.cards
        return decision

    def end(self, name: str) -> None:
        self.running.pop(name, None)
        self.queue.release(name)


def test_the_end_of_a_worker_begins_the_one_that_waits() -> None:
    workers = Workers()
    workers.ask("a", 3)
    assert workers.ask("b", 2) == Waits("waits for 2 × NVIDIA L4: 1 of 4 free")
    assert workers.queue.reason("b") == "waits for 2 × NVIDIA L4: 1 of 4 free"
    workers.end("a")
    assert workers.begun == ["b"]
    assert len(workers.running["b"]) == 2
    assert workers.queue.reason("b") is None


def test_workers_begin_in_the_order_in_which_they_asked_and_a_smaller_one_does_not_wait_for_a_larger() -> None:
    workers = Workers()
    workers.ask("a", 2)
    workers.ask("b", 2)
    for name, count in (("large", 4), ("first", 1), ("second", 1), ("third", 1)):
        assert isinstance(workers.ask(name, count), Waits)
    workers.end("a")
    assert workers.begun == ["first", "second"]
    assert workers.queue.reason("large") == "waits for 4 × NVIDIA L4: 0 of 4 free"


def test_tenants_take_turns_for_cards_that_become_free() -> None:
    workers = Workers()
    for number in range(104):
        workers.ask(f"a{number}", 1, Party("a", "1"))
    workers.ask("b", 1, Party("b", "2"))
    workers.ask("other", 1, Party("a", "3"))
    for number in range(4):
        workers.end(f"a{number}")
    assert workers.begun == ["a4", "b", "other", "a5"]


def test_a_smaller_worker_does_not_wait_for_a_larger_one_of_its_endpoint() -> None:
    workers = Workers()
    workers.ask("x", 1)
    workers.ask("y", 3)
    workers.ask("before", 4, Party("a", "1"))
    workers.ask("after", 1, Party("a", "1"))
    workers.end("x")
    assert workers.begun == ["after"]


def test_a_worker_that_gives_up_its_place_is_not_begun() -> None:
    workers = Workers()
    workers.ask("a", 4)
    workers.ask("b", 1)
    workers.end("b")
    workers.end("a")
    assert workers.begun == []
    assert workers.queue.reason("b") is None


def test_the_reason_follows_what_others_take_and_return() -> None:
    workers = Workers()
    workers.ask("a", 2)
    workers.ask("b", 1)
    workers.ask("c", 4)
    assert workers.queue.reason("c") == "waits for 4 × NVIDIA L4: 1 of 4 free"
    workers.ask("d", 1)
    assert workers.queue.reason("c") == "waits for 4 × NVIDIA L4: 0 of 4 free"
    workers.end("a")
    assert workers.queue.reason("c") == "waits for 4 × NVIDIA L4: 2 of 4 free"


def test_cards_that_are_held_elsewhere_are_not_handed_out() -> None:
    elsewhere = {card.uuid for card in FOUR_L4[:3]}
    workers = Workers(lambda: elsewhere)
    assert workers.ask("a", 1) == HandedOut((FOUR_L4[3],))
    assert isinstance(workers.ask("b", 1), Waits)
    elsewhere.clear()
    workers.queue.offer()
    assert workers.begun == ["b"]


def test_a_worker_that_can_never_run_does_not_wait() -> None:
    workers = Workers()
    assert isinstance(workers.ask("a", 5), Refused)
    assert workers.queue.reason("a") is None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 4)), max_size=40))
def test_no_card_is_ever_held_by_two_workers(steps: list[tuple[str, int]]) -> None:
    workers = Workers()
    for name, count in steps:
        if count == 0:
            workers.end(name)
        elif name not in workers.running and workers.queue.reason(name) is None:
            workers.ask(name, count)
        held = [card.uuid for cards in workers.running.values() for card in cards]
        assert len(held) == len(set(held))
        free = len(FOUR_L4) - len(held)
        reasons = [reason for name in "abcdef" if (reason := workers.queue.reason(name)) is not None]
        assert all(f": {free} of 4 free" in reason for reason in reasons)
        assert all(int(reason.split()[2]) > free for reason in reasons)
