"""The end of a process that held a card is noticed, at whatever moment it comes."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_engine.backends.held_elsewhere import HeldElsewhere
from queue_engine.domain import agent_protocol as protocol
from tests.waiting import wait_until_async


@pytest.fixture
def uuid(tmp_path: Path) -> str:
    return f"GPU-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def holder(uuid: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the card."""
    process = subprocess.Popen(["/bin/sleep", "600"], env={protocol.CARDS: uuid})
    yield process
    process.kill()
    process.wait()


class Noticed:
    """A look-out for a card, with the reports that it is free."""

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid
        self.freed = False
        self.elsewhere = HeldElsewhere({"NOT": "SET"}, self._note)

    def _note(self) -> None:
        self.freed = self.freed or self.uuid not in self.elsewhere.uuids()


async def test_an_end_just_before_another_look_is_noticed_in_that_look(
    uuid: str, holder: subprocess.Popen[bytes]
) -> None:
    noticed = Noticed(uuid)
    await noticed.elsewhere.look()
    assert uuid in noticed.elsewhere.uuids()
    holder.kill()
    holder.wait()
    await noticed.elsewhere.look()
    assert noticed.freed
    noticed.elsewhere.close()


async def test_an_end_after_a_cancelled_look_is_noticed(uuid: str, holder: subprocess.Popen[bytes]) -> None:
    noticed = Noticed(uuid)
    await noticed.elsewhere.look()
    looking = asyncio.create_task(noticed.elsewhere.look())
    await asyncio.sleep(0)
    looking.cancel()
    await asyncio.wait({looking})
    holder.kill()
    holder.wait()
    await wait_until_async(lambda: noticed.freed, message="the end is not noticed")
    noticed.elsewhere.close()
