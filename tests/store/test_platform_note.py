"""The leading controller notes why the platform of the workers does not respond."""

from queue_engine.store.keys import PLATFORM_PROBLEM
from queue_engine.store.store import Store
from tests.store.probe import Probe

PROBLEM = "the container engine cannot be reached: Connection refused"


async def test_a_note_is_read_until_it_is_removed(store: Store) -> None:
    assert await store.platform_note.read() == ""
    await store.platform_note.write(PROBLEM)
    assert await store.platform_note.read() == PROBLEM
    await store.platform_note.write(None)
    await store.platform_note.write(None)
    assert await store.platform_note.read() == ""


async def test_a_note_expires_after_the_end_of_its_controller(store: Store, probe: Probe) -> None:
    await store.platform_note.write(PROBLEM)
    assert 10_000 < await probe.ask("PTTL", PLATFORM_PROBLEM) <= 30_000
