import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop

from queue_engine.aio import Backoff
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.process_groups import birth_of
from queue_engine.processes.supervisor import Program, ProgramError, ProgramExit, Supervisor
from tests.waiting import wait_until_async

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"]}
FOREVER = "while :; do sleep 0.02; done"
QUICK = Backoff(0.01, 0.02)


def shell(name: str, script: str, directory: Path, *, grace_seconds: float = 10.0) -> Program:
    return Program(
        name, ("/bin/sh", "-c", script), ENVIRONMENT, BoundedLog(directory / f"{name}.log"), grace_seconds=grace_seconds
    )


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


async def says_up(log: Path) -> None:
    await wait_until_async(lambda: "up" in text_of(log), message=f"{log.name} says nothing")


@pytest.fixture
def exits() -> list[ProgramExit]:
    return []


@pytest.fixture
async def supervisor(exits: list[ProgramExit]) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(backoff=QUICK, on_exit=exits.append)
    yield supervisor
    supervisor.kill()
    await supervisor.aclose()
    assert supervisor.states() == {}


def pid_of(supervisor: Supervisor, name: str) -> int:
    pid = supervisor.states()[name].pid
    assert pid is not None
    return pid


async def test_a_program_that_dies_is_started_again(
    supervisor: Supervisor, exits: list[ProgramExit], tmp_path: Path
) -> None:
    supervisor.start(shell("api", "echo up; exit 3", tmp_path))
    await wait_until_async(lambda: text_of(tmp_path / "api.log").count("up") >= 4)
    assert exits[:3] == [
        ProgramExit("api", "api exited with status 3", 0.01),
        ProgramExit("api", "api exited with status 3", 0.02),
        ProgramExit("api", "api exited with status 3", 0.02),
    ]
    state = supervisor.states()["api"]
    assert state.restarts >= 3
    assert state.last_exit == "api exited with status 3"


async def test_a_program_that_is_killed_is_started_again(
    supervisor: Supervisor, exits: list[ProgramExit], tmp_path: Path
) -> None:
    supervisor.start(shell("api", FOREVER, tmp_path))
    first = pid_of(supervisor, "api")
    os.kill(first, signal.SIGKILL)
    await wait_until_async(lambda: supervisor.states()["api"].pid not in (None, first))
    assert [end.reason for end in exits] == ["api killed by signal 9"]


async def test_a_program_that_has_run_well_begins_with_the_shortest_wait_again(tmp_path: Path) -> None:
    exits: list[ProgramExit] = []
    supervisor = Supervisor(backoff=Backoff(0.01, 10.0), calm_seconds=0.0, on_exit=exits.append)
    supervisor.start(shell("api", "exit 1", tmp_path))
    await wait_until_async(lambda: len(exits) >= 4)
    await supervisor.aclose()
    assert {end.restart_in_seconds for end in exits} == {0.01}


async def test_a_program_that_cannot_be_started_again_is_tried_on(
    supervisor: Supervisor, exits: list[ProgramExit], tmp_path: Path
) -> None:
    script = tmp_path / "program"
    script.write_text(f"#!/bin/sh\n{FOREVER}\n")
    script.chmod(0o700)
    supervisor.start(Program("api", (str(script),), ENVIRONMENT))
    script.rename(tmp_path / "away")
    os.kill(pid_of(supervisor, "api"), signal.SIGKILL)
    await wait_until_async(lambda: len(exits) >= 3)
    assert "cannot be started" in exits[2].reason
    assert supervisor.states()["api"].pid is None
    (tmp_path / "away").rename(script)
    await wait_until_async(lambda: supervisor.states()["api"].pid)


@pytest.mark.parametrize("command", [("/no/such/program",), ("/bin/sh", "nul\0")])
async def test_what_cannot_be_executed_at_all_is_an_error(supervisor: Supervisor, command: tuple[str, ...]) -> None:
    with pytest.raises(ProgramError, match="api cannot be started"):
        supervisor.start(Program("api", command, ENVIRONMENT))
    assert supervisor.states() == {}


async def test_a_name_is_used_once(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(shell("api", FOREVER, tmp_path))
    with pytest.raises(ProgramError, match="api is running"):
        supervisor.start(shell("api", FOREVER, tmp_path))
    await supervisor.stop(["api"])
    supervisor.start(shell("api", FOREVER, tmp_path))


async def test_programs_are_stopped_one_after_the_other_in_the_order_given(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    order = tmp_path / "order"
    for name in ("a", "b", "c"):
        # Each takes a moment to end, and must be gone before the next is told.
        end = f"echo {name}+ >> {order}; sleep 0.05; echo {name}- >> {order}; exit"
        supervisor.start(shell(name, f"trap '{end}' TERM; echo up; {FOREVER}", tmp_path))
        await says_up(tmp_path / f"{name}.log")
    await supervisor.stop(["b", "unknown", "a", "b"])
    assert order.read_text().split() == ["b+", "b-", "a+", "a-"]
    assert list(supervisor.states()) == ["c"]
    await supervisor.stop()
    assert order.read_text().split()[4:] == ["c+", "c-"]


async def test_without_an_order_the_last_started_goes_first(supervisor: Supervisor, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("a", "b"):
        supervisor.start(shell(name, f"trap 'echo {name} >> {order}; exit' TERM; echo up; {FOREVER}", tmp_path))
        await says_up(tmp_path / f"{name}.log")
    await supervisor.stop()
    assert order.read_text().split() == ["b", "a"]


async def test_a_stopped_program_is_not_started_again(
    supervisor: Supervisor, exits: list[ProgramExit], tmp_path: Path
) -> None:
    slow = Supervisor(backoff=Backoff(600, 600), on_exit=exits.append)
    slow.start(shell("api", "echo up; exit 1", tmp_path))
    await wait_until_async(lambda: exits)
    async with asyncio.timeout(30):
        await slow.aclose()
    assert text_of(tmp_path / "api.log") == "up\n"


async def test_a_program_that_does_not_end_is_killed_after_its_grace(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(shell("api", f"trap '' TERM; echo up; {FOREVER}", tmp_path, grace_seconds=0.1))
    await says_up(tmp_path / "api.log")
    pid = pid_of(supervisor, "api")
    await supervisor.stop()
    assert birth_of(pid) is None


async def test_kill_cuts_a_stop_short(supervisor: Supervisor, tmp_path: Path) -> None:
    for name in ("api", "delivery"):
        supervisor.start(shell(name, f"trap '' TERM; echo up; {FOREVER}", tmp_path, grace_seconds=600))
        await says_up(tmp_path / f"{name}.log")
    stopping = asyncio.create_task(supervisor.stop())
    assert not (await asyncio.wait({stopping}, timeout=0.1))[0]
    supervisor.kill()
    async with asyncio.timeout(30):
        await stopping
    assert supervisor.states() == {}


async def test_what_a_program_has_started_ends_with_it(supervisor: Supervisor, tmp_path: Path) -> None:
    child = tmp_path / "child"
    supervisor.start(shell("api", f"[ -e {child} ] || {{ sleep 600 & echo $! > {child}; exit; }}; {FOREVER}", tmp_path))
    await wait_until_async(lambda: supervisor.states()["api"].restarts)
    assert birth_of(int(child.read_text())) is None


async def test_a_terminals_signal_does_not_reach_the_programs(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(shell("api", FOREVER, tmp_path))
    pid = pid_of(supervisor, "api")
    assert os.getsid(pid) == os.getpgid(pid) == pid


async def test_a_program_gets_its_environment_and_no_other(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start(Program("api", ("/usr/bin/env",), {"A": "b"}, BoundedLog(tmp_path / "api.log")))
    await wait_until_async(lambda: "QUEUE_ENGINE_LIFELINE_FD" in text_of(tmp_path / "api.log"))
    names = {line.partition("=")[0] for line in text_of(tmp_path / "api.log").splitlines()}
    assert names == {"A", "QUEUE_ENGINE_LIFELINE_FD"}


async def test_secrets_are_not_in_the_text_of_a_program() -> None:
    assert "canary-11" not in repr(Program("api", ("x",), {"KEY": "canary-11"}))


async def test_a_log_is_kept_under_its_limit_while_the_program_runs(supervisor: Supervisor, tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "api.log", limit_bytes=1000)
    supervisor.start(Program("api", ("/bin/sh", "-c", f"yes | head -c 5000; {FOREVER}"), ENVIRONMENT, log))
    await wait_until_async((tmp_path / "api.log.1").exists)
    assert log.path.stat().st_size == 0


PARENT = """
import asyncio, sys
from queue_engine.processes.supervisor import Program, Supervisor

CHILD = '''
import asyncio, os
from queue_engine.processes.lifeline import LIFELINE_VARIABLE, watch_lifeline

async def main():
    lost = asyncio.Event()
    watch_lifeline(int(os.environ[LIFELINE_VARIABLE]), lost.set)
    print("up", flush=True)
    await lost.wait()
    print("lost", flush=True)

asyncio.run(main())
'''

async def main():
    supervisor = Supervisor()
    for name in ("api", "delivery"):
        supervisor.start(Program(name, (sys.executable, "-c", CHILD), {"PYTHONPATH": sys.argv[1]}))
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_programs_notice_that_their_supervisor_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(ROOT)],
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(2)] == ["up\n"] * 2
        parent.kill()
        assert parent.stdout.read() == "lost\n" * 2


def test_it_works_on_uvloop_too(tmp_path: Path) -> None:
    async def run() -> list[ProgramExit]:
        exits: list[ProgramExit] = []
        supervisor = Supervisor(backoff=QUICK, on_exit=exits.append)
        supervisor.start(shell("api", "exit 3", tmp_path))
        supervisor.start(shell("delivery", FOREVER, tmp_path))
        await wait_until_async(lambda: len(exits) >= 2)
        await supervisor.aclose()
        return exits

    assert {end.reason for end in uvloop.run(run())} == {"api exited with status 3"}
