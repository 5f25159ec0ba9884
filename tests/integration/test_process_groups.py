import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from queue_engine.processes.process_groups import (
    ProcessGroup,
    birth_of,
    describe_exit,
    end_own_group,
    kill_group_of,
    kill_processes_with,
    passed_on,
    processes_with,
    wait_for_group,
)
from tests.waiting import wait_until, wait_until_async

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def start(script: str, **environment: str) -> ProcessGroup:
    return ProcessGroup.start(("/bin/sh", "-c", script), environment=ENVIRONMENT | environment)


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [("exit 0", 0, "x exited with status 0"), ("kill -9 $$", -9, "x killed by signal 9")],
)
async def test_the_leaders_status_is_reported(script: str, status: int, text: str) -> None:
    group = start(script)
    assert await group.wait() == status
    assert await group.wait() == status
    assert describe_exit("x", status) == text


async def test_waiting_may_be_given_up_and_taken_up_again() -> None:
    group = start("exec sleep 600")
    waiting = asyncio.create_task(group.wait())
    assert not await group.ended_within(0.01)
    waiting.cancel()
    await asyncio.wait({waiting})
    group.terminate()
    assert await group.wait() == -signal.SIGTERM


async def test_only_the_leader_is_asked_to_end(tmp_path: Path) -> None:
    told = tmp_path / "told"
    # The leader sets its trap first, so that the child's file says that both are set.
    group = start(
        f"trap 'echo leader >> {told}; exit' TERM; "
        f"sh -c 'trap \"echo child >> {told}\" TERM; touch {told}.up; while :; do sleep 0.02; done' & "
        "while :; do sleep 0.02; done"
    )
    await wait_until_async((tmp_path / "told.up").exists)
    group.terminate()
    await group.wait()
    assert told.read_text() == "leader\n"


async def test_signals_after_the_end_go_nowhere() -> None:
    group = start("exit 0")
    await group.wait()
    group.terminate()
    group.kill()


async def test_processes_are_found_by_their_environment() -> None:
    group = start("exec sleep 600", MARK_A="1", MARK_B="2")

    def found() -> list[int]:
        return [process.pid for process, _ in processes_with({"MARK_A": "1", "MARK_B": "2"})]

    await wait_until_async(lambda: found() == [group.pid])
    assert not processes_with({"MARK_A": "1", "MARK_B": "other"})
    group.kill()
    await group.wait()
    assert found() == []


async def test_all_generations_of_a_marked_process_are_killed() -> None:
    # Each process leaves its parent's group at once, and has a child of its own.
    spawner = "setsid sh -c 'setsid sleep 600 & setsid sleep 600 & exec sleep 600' & exit"
    await start(spawner, MARK_C="1").wait()
    await kill_processes_with({"MARK_C": "1"})
    assert processes_with({"MARK_C": "1"}) == []


async def test_processes_that_do_not_end_in_time_are_reported() -> None:
    group = start("exec sleep 600", MARK_E="1")
    await wait_until_async(lambda: processes_with({"MARK_E": "1"}))
    assert not await wait_for_group(group.pid, give_up_seconds=0)
    assert not await kill_processes_with({"MARK_E": "1"}, give_up_seconds=0)
    await group.wait()
    assert await wait_for_group(group.pid, give_up_seconds=0)
    assert await kill_processes_with({"MARK_E": "1"}, give_up_seconds=0)


async def test_our_own_group_is_never_killed() -> None:
    assert kill_group_of(psutil.Process()) is None


def test_who_does_not_lead_a_group_ends_no_group() -> None:
    script = "from queue_engine.processes.process_groups import end_own_group; end_own_group(); print('lives')"
    # In the group of the tests.
    answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "lives\n"
    assert callable(end_own_group)


def test_a_birth_tells_a_living_process_from_all_others() -> None:
    first = subprocess.Popen(["sleep", "600"])
    birth = birth_of(first.pid)
    assert birth is not None
    assert birth_of(first.pid) == birth
    first.kill()
    wait_until(lambda: birth_of(first.pid) is None, message="a zombie counts as living")
    first.wait()
    assert birth_of(first.pid) is None


def test_only_harmless_variables_are_passed_on() -> None:
    own = {"PATH": "/bin", "HOME": "/root", "QUEUE_ENGINE_SECRET_KEY": "s", "AWS_SECRET_ACCESS_KEY": "s", "PORT": "1"}
    assert passed_on(own) == {"PATH": "/bin", "HOME": "/root"}


PROCESS_ONE = """
import asyncio, ctypes, os, psutil
from queue_engine.processes.process_groups import ProcessGroup, kill_processes_with

async def main():
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans become our children
    environment = {"PATH": os.environ["PATH"], "MARK_D": str(os.getpid())}
    script = "sleep 600 & setsid sleep 600 & sleep 0.2"
    group = ProcessGroup.start(("/bin/sh", "-c", script), environment=environment)
    await group.wait()
    await kill_processes_with({"MARK_D": environment["MARK_D"]})
    print(psutil.Process().children())

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_orphans_that_become_our_children_are_reaped() -> None:
    answer = subprocess.run([sys.executable, "-c", PROCESS_ONE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"
