"""A container with a user of its own starts in a folder that this user can enter."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to run a container as another user")

OTHER = 1_950_000_102
START = """
import asyncio, os, sys
from worker_agent.container import ContainerProcess

async def main(home, user_id):
    process = ContainerProcess.start("pwd", {"PATH": os.environ["PATH"], "HOME": home}, 1, user_id=int(user_id))
    await process.wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder of the user, below no closed one."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chown(directory, OTHER, OTHER)
        yield Path(directory)


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_container_starts_in_its_home_or_in_the_root_folder(home: Path, tmp_path: Path, is_closed: bool) -> None:
    tmp_path.chmod(0o700)
    given = tmp_path if is_closed else home
    seen = tmp_path / "seen"
    with seen.open("wb") as output:
        # In another process, because a start takes away rights of the one that makes it.
        subprocess.run([sys.executable, "-c", START, str(given), str(OTHER)], stdout=output, check=True)
    assert seen.read_text().strip() == ("/" if is_closed else str(home))
