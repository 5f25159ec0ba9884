import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from queue_engine.processes.lifeline import LIFELINE_VARIABLE, Lifeline, watch_lifeline
from queue_engine.processes.tether import tether_command
from tests.waiting import wait_until, wait_until_async

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}

CHILD = """
import asyncio, sys
from queue_engine.processes.lifeline import watch_lifeline

async def main():
    lost = asyncio.Event()
    watch_lifeline(int(sys.argv[1]), lost.set)
    print("watching", flush=True)
    await lost.wait()
    print("lost", flush=True)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""

PARENT = """
import os, subprocess, sys
from queue_engine.processes.lifeline import Lifeline

fd = Lifeline().fd
children = [
    subprocess.Popen([sys.executable, "-c", sys.argv[1], str(fd), loop], pass_fds=(fd,))
    for loop in ("asyncio", "uvloop", "uvloop")
]
children[0].wait()
"""


def test_children_notice_that_their_parent_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    with parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline() for _ in range(3)] == ["watching\n"] * 3
        parent.kill()
        # The end of the output: no child holds it open any more.
        assert parent.stdout.read() == "lost\n" * 3


async def test_a_closed_lifeline_is_reported_once() -> None:
    lifeline = Lifeline()
    watched = os.dup(lifeline.fd)
    calls: list[None] = []
    watch_lifeline(watched, lambda: calls.append(None))
    lifeline.close()
    lifeline.close()
    await wait_until_async(lambda: calls)
    await asyncio.sleep(0)
    assert len(calls) == 1
    os.close(watched)


async def test_a_watch_that_was_ended_reports_nothing() -> None:
    lifeline = Lifeline()
    watched = os.dup(lifeline.fd)
    calls: list[None] = []
    end = watch_lifeline(watched, lambda: calls.append(None))
    end()
    end()
    lifeline.close()
    other = asyncio.Event()
    watch_lifeline(watched, other.set)
    await other.wait()
    assert calls == []
    os.close(watched)


async def test_what_is_no_pipe_is_refused() -> None:
    with socket.socket() as stranger, pytest.raises(ValueError, match="not a pipe"):
        watch_lifeline(stranger.fileno(), lambda: None)
    with pytest.raises(ValueError, match="not open"):
        watch_lifeline(987_654, lambda: None)


class TestTether:
    """Run with a lifeline whose writing end is ours to cut."""

    @pytest.fixture(autouse=True)
    def _nothing_is_left(self) -> Iterator[None]:
        self.started: list[subprocess.Popen[str]] = []
        yield
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def start(self, tmp_path: Path, script: str, *, linger_seconds: float = 0.1) -> tuple[subprocess.Popen[str], int]:
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            tether_command(linger_seconds, ["/bin/sh", "-c", script]),
            env=ENVIRONMENT | {LIFELINE_VARIABLE: str(read_end)},
            pass_fds=(read_end,),
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            start_new_session=True,
        )
        self.started.append(process)
        os.close(read_end)
        return process, write_end

    @pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
    def test_it_ends_as_the_program_ends(self, tmp_path: Path, script: str, status: int) -> None:
        process, write_end = self.start(tmp_path, script)
        with process:
            assert process.wait(30) == status
        os.close(write_end)

    def test_it_hands_on_the_wish_to_end(self, tmp_path: Path) -> None:
        process, write_end = self.start(
            tmp_path, "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.02; done"
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            process.terminate()
            assert process.stdout.read() == "told\n"
            assert process.wait(30) == 5
        os.close(write_end)

    def test_when_the_lifeline_is_cut_the_program_gets_sigterm_after_a_while(self, tmp_path: Path) -> None:
        process, write_end = self.start(
            tmp_path, "trap 'echo told; exit 5' TERM; echo up; while :; do sleep 0.02; done"
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            os.close(write_end)
            assert process.stdout.read() == "told\n"
            assert process.wait(30) == 5

    def test_a_program_that_ends_while_it_lingers_gets_no_signal(self, tmp_path: Path) -> None:
        process, write_end = self.start(
            tmp_path, "trap 'echo told' TERM; until [ -e go ]; do sleep 0.02; done; exit 4", linger_seconds=600
        )
        with process:
            os.close(write_end)
            (tmp_path / "go").touch()
            wait_until(lambda: process.poll() is not None)
            assert process.stdout is not None
            assert process.stdout.read() == ""
            assert process.returncode == 4
