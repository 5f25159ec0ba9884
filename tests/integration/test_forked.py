"""Programs that the tests start by fork are like those that are executed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.forked import ForkedProcess, program_environment, run_command
from tests.integration.parts import Program, Programs
from tests.ports import free_port
from tests.waiting import wait_until


def delivery(directory: Path, **variables: str) -> Program:
    """A program that waits for its store, which is down."""
    store = {"QUEUE_ENGINE_REDIS_URL": f"redis://127.0.0.1:{free_port()}"}
    return Program("delivery", ("queue_engine", "delivery"), program_environment() | store | variables, directory)


@pytest.mark.parametrize(
    ("arguments", "given", "status"),
    [
        (("no-such-command",), "", 2),
        (("version",), "", 0),
        (("config", "api"), "", 0),
        (("tasks", "submit", "7", "--port", "80", "--input-file", "-"), "{", 2),
    ],
    ids=("wrong use", "version", "variables", "input"),
)
def test_a_command_prints_and_ends_as_an_executed_one(arguments: tuple[str, ...], given: str, status: int) -> None:
    variables = {
        "QUEUE_ENGINE_URL": "http://127.0.0.1:1",
        "QUEUE_ENGINE_API_KEY": "a-key-of-tests",
        "QUEUE_ENGINE_PORT": "9001",
    }
    executed = subprocess.run(
        [sys.executable, "-m", "queue_engine", *arguments],
        env=program_environment() | variables,
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )
    forked = run_command(("queue_engine", *arguments), variables, given=given)
    assert forked.returncode == status
    found, expected = ((one.returncode, one.stdout, one.stderr) for one in (forked, executed))
    assert found == expected


def test_it_is_a_process_of_its_own_that_a_signal_ends(tmp_path: Path) -> None:
    program = delivery(tmp_path)
    assert program.running
    assert os.getsid(program.pid) == program.pid != os.getsid(0)
    assert psutil.Process(program.pid).cwd() == os.getcwd()
    program.kill()
    assert (program.running, program.wait()) == (False, -signal.SIGKILL)
    program.signal(signal.SIGTERM)  # does nothing
    assert not psutil.pid_exists(program.pid)


def test_it_has_no_files_of_the_server_and_of_other_programs(tmp_path: Path) -> None:
    first, second = delivery(tmp_path), delivery(tmp_path)
    try:
        wait_until(second.output, message="it does not start")
        files = [Path(one.path) for one in psutil.Process(second.pid).open_files()]
        assert first.log not in files
        assert second.log in files
    finally:
        for program in (first, second):
            program.kill()


def test_it_is_asked_to_end_in_order(programs: Programs) -> None:
    program = programs.delivery()
    wait_until(lambda: '"started"' in program.output(), message="it does not start")
    assert program.stop() == 0


def test_a_program_whose_interpreter_is_set_otherwise_is_executed(tmp_path: Path) -> None:
    for variables, forked in (({}, True), ({"PYTHONHASHSEED": "1"}, False), ({"PYTHONPATH": str(tmp_path)}, False)):
        program = delivery(tmp_path, **variables)
        assert isinstance(program._process, ForkedProcess) is forked
        program.kill()
