import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from queue_engine.backends.base import (
    STOP_MARGIN_SECONDS,
    BackendError,
    EndNotConfirmed,
    WorkerSpec,
)
from queue_engine.backends.process import ProcessBackend
from queue_engine.domain import agent_protocol as protocol
from queue_engine.domain.agent_protocol import container_end
from queue_engine.domain.endpoints import Resource
from queue_engine.net.private_sockets import sockets_of
from queue_engine.processes.process_groups import birth_of, processes_with
from tests.integration.backend_contract import (
    FOREVER,
    EndsWithController,
    MakeSpec,
    Platform,
    ended,
    has_containers,
    observed,
)
from tests.waiting import wait_until, wait_until_async

ROOT = Path(__file__).resolve().parents[2]
STUB_AGENT = (sys.executable, "-m", "tests.integration.stub_agent")
INHERITED = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
SECRET = "canary-7d2c"
SIGKILLED = "agent killed by signal 9"


def spec_for(
    worker_id: str, command: str | None, *, run: int = 1, drain: str = "quick", **environment: str
) -> WorkerSpec:
    return WorkerSpec(
        endpoint_id="7",
        worker_id=worker_id,
        image="demo/image:1",
        command=command,
        run=run,
        environment=environment,
        exposed_port=8000,
        protocol="HTTP",
        resources=(Resource("local", "NONE", 1),),
        volume_gb=20,
        concurrency=4,
        ready_path="/healthz",
        start_timeout_seconds=60,
        agent_environment={"WORKER_AGENT_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1/0", "STUB_DRAIN": drain},
    )


def backend_in(
    directory: Path,
    instance_id: str,
    environment: dict[str, str] | None = None,
    *,
    end_margin_seconds: float = 1.0,
    kill_seconds: float = STOP_MARGIN_SECONDS,
) -> ProcessBackend:
    return ProcessBackend(
        directory,
        instance_id=instance_id,
        environment=environment or INHERITED,
        agent_command=STUB_AGENT,
        end_margin_seconds=end_margin_seconds,
        kill_seconds=kill_seconds,
    )


@pytest.fixture
def instance_id(tmp_path: Path) -> str:
    return f"test-{os.getpid()}-{tmp_path}"


@pytest.fixture
async def backend(tmp_path: Path, instance_id: str) -> AsyncIterator[ProcessBackend]:
    backend = backend_in(tmp_path / "work", instance_id)
    yield backend
    await backend.aclose(0)
    assert pids_of(instance_id) == []


@pytest.fixture
def make_spec() -> MakeSpec:
    return spec_for


def pids_of(instance_id: str, worker_id: str | None = None) -> list[int]:
    marks = {protocol.INSTANCE: instance_id} | ({protocol.WORKER_ID: worker_id} if worker_id else {})
    return [process.pid for process, _ in processes_with(marks)]


async def agent_of(instance_id: str, worker_id: str) -> int:
    """The agent's process id, as soon as there is one."""

    def agent() -> int | None:
        found = processes_with({protocol.INSTANCE: instance_id, protocol.WORKER_ID: worker_id})
        return next((process.pid for process, marks in found if protocol.CONTAINER_COMMAND in marks), None)

    pid = await wait_until_async(agent)
    assert pid is not None
    return pid


async def pid_in(path: Path) -> int:
    return int(await wait_until_async(lambda: path.exists() and path.read_text().strip(), message=f"no {path}"))


def sockets_in(directory: Path) -> list[Path]:
    """The sockets for metrics of all workers of the backends in this directory."""
    return sockets_of(directory / "work")


class Processes:
    """The platform, as the operating system shows it."""

    def __init__(self, instance_id: str, directory: Path) -> None:
        self._instance_id = instance_id
        self._directory = directory

    async def containers(self, worker_id: str) -> int:
        found = processes_with({protocol.INSTANCE: self._instance_id, protocol.WORKER_ID: worker_id})
        return sum(protocol.CONTAINER_COMMAND not in environment for _, environment in found)

    async def left(self) -> list[str]:
        return [*map(str, pids_of(self._instance_id)), *map(str, sockets_in(self._directory))]

    async def kill_agent(self, worker_id: str) -> None:
        os.kill(await agent_of(self._instance_id, worker_id), signal.SIGKILL)

    def next_backend(self) -> ProcessBackend:
        return backend_in(self._directory / "work", self._instance_id)


class TestContract(EndsWithController):
    """The promises of every backend."""

    @pytest.fixture
    def platform(self, instance_id: str, tmp_path: Path) -> Platform:
        return Processes(instance_id, tmp_path)

    async def test_a_worker_that_does_not_end_is_reported_and_can_be_stopped_later(
        self, tmp_path: Path, instance_id: str, platform: Platform
    ) -> None:
        """As a process that the kernel does not let go: here the backend does not wait for any end."""
        hasty = backend_in(tmp_path / "work", instance_id, end_margin_seconds=0.1, kill_seconds=0)
        for worker_id, stop in (("w1", partial(hasty.stop, "w1")), ("w2", hasty.aclose)):
            await hasty.start(spec_for(worker_id, FOREVER, drain="never"))
            await has_containers(platform, worker_id, 1)
            with pytest.raises(EndNotConfirmed):
                await stop(0)
            assert (await observed(hasty, worker_id)).run == 1
            await ended(hasty, worker_id)
            await hasty.stop(worker_id, 0)
        await hasty.aclose(0)
        assert await platform.left() == []


class TestAgreement:
    async def test_a_command_runs_in_the_folder_of_the_controller(
        self, backend: ProcessBackend, tmp_path: Path
    ) -> None:
        place = tmp_path / "place"
        await backend.start(spec_for("w1", f"pwd -P > {place}; {FOREVER}"))
        found = await wait_until_async(lambda: place.exists() and place.read_text().strip())
        assert found == str(Path.cwd().resolve())

    async def test_values_that_are_no_secrets_are_not_named_as_secrets(
        self, backend: ProcessBackend, instance_id: str
    ) -> None:
        spec = replace(spec_for("w1", FOREVER, MODEL="tiny", TOKEN="secret"), plain_variables=frozenset({"MODEL"}))
        await backend.start(spec)
        found = psutil.Process(await agent_of(instance_id, "w1")).environ()
        assert json.loads(found[protocol.SECRET_NAMES]) == ["TOKEN"]
        assert json.loads(found[protocol.CONTAINER_ENVIRONMENT])["MODEL"] == "tiny"

    async def test_the_agent_gets_the_agreed_variables_and_its_secrets(
        self, backend: ProcessBackend, instance_id: str
    ) -> None:
        await backend.start(spec_for("w1", FOREVER, MODEL="tiny"))
        found = psutil.Process(await agent_of(instance_id, "w1")).environ()
        container = json.loads(found.pop(protocol.CONTAINER_ENVIRONMENT))
        port = container["PORT"]
        lifeline = found.pop(protocol.LIFELINE_FD)
        assert found.pop(protocol.METRICS_FD).isdigit()
        assert found.pop(protocol.END_FD).isdigit()
        marks = {
            "QUEUE_ENGINE_INSTANCE": instance_id,
            "QUEUE_ENGINE_CONTROLLER_PID": str(os.getpid()),
            "QUEUE_ENGINE_CONTROLLER_STARTED": birth_of(os.getpid()),
            "WORKER_AGENT_WORKER_ID": "w1",
        }
        assert lifeline.isdigit()
        assert 1024 < int(port) < 65536
        assert (
            container
            == {
                "PATH": INHERITED["PATH"],
                "PYTHONUNBUFFERED": "1",
                "MODEL": "tiny",
                "PORT": port,
            }
            | marks
        )
        assert found == INHERITED | marks | {
            "WORKER_AGENT_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:1/0",
            "WORKER_AGENT_ENDPOINT": "7",
            "WORKER_AGENT_RUN": "1",
            "WORKER_AGENT_SERVICE_MODE": "QUEUE",
            "WORKER_AGENT_CONCURRENCY": "4",
            "WORKER_AGENT_READY_PATH": "/healthz",
            "WORKER_AGENT_START_TIMEOUT_SECONDS": "60",
            "WORKER_AGENT_CONTAINER_URL": f"http://127.0.0.1:{port}",
            "WORKER_AGENT_EXPOSED_PORT": "8000",
            "WORKER_AGENT_CONTAINER_COMMAND": FOREVER,
            "WORKER_AGENT_SECRET_NAMES": '["MODEL"]',
            "WORKER_AGENT_OVERRIDDEN_NAMES": "[]",
            "STUB_DRAIN": "quick",
        }

    async def test_secrets_are_on_no_command_line_and_not_in_the_container(
        self, backend: ProcessBackend, instance_id: str, tmp_path: Path
    ) -> None:
        seen = tmp_path / "seen"
        await backend.start(spec_for("w1", f"env > {seen}.tmp; mv {seen}.tmp {seen}; {FOREVER}"))
        await wait_until_async(seen.exists)
        assert SECRET not in seen.read_text()
        for pid in pids_of(instance_id):
            assert SECRET not in " ".join(psutil.Process(pid).cmdline())

    async def test_the_controllers_own_secrets_are_not_passed_on(
        self, tmp_path: Path, instance_id: str, backend: ProcessBackend
    ) -> None:
        leaky = backend_in(
            tmp_path / "work", instance_id, INHERITED | {"QUEUE_ENGINE_SECRET_KEY": SECRET, "HTTP_PROXY": "http://x"}
        )
        await leaky.start(spec_for("w1", FOREVER))
        found = psutil.Process(await agent_of(instance_id, "w1")).environ()
        await leaky.aclose(0)
        assert "QUEUE_ENGINE_SECRET_KEY" not in found
        assert "HTTP_PROXY" not in found

    async def test_an_endpoint_cannot_take_its_marks_off(
        self, backend: ProcessBackend, instance_id: str, tmp_path: Path
    ) -> None:
        seen = tmp_path / "seen"
        spec = spec_for("w1", f"echo $PORT > {seen}; {FOREVER}", PORT="1", QUEUE_ENGINE_INSTANCE="other")
        await backend.start(spec)
        assert await pid_in(seen) != 1
        await wait_until_async(lambda: len(pids_of(instance_id, "w1")) == 2, message="the container is not marked")

    async def test_workers_get_ports_of_their_own_that_are_free(self, backend: ProcessBackend, tmp_path: Path) -> None:
        for index in range(8):
            await backend.start(spec_for(f"w{index}", f"echo $PORT > {tmp_path}/port{index}; {FOREVER}"))
        ports = {await pid_in(tmp_path / f"port{index}") for index in range(8)}
        assert len(ports) == 8
        for port in ports:
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", port))

    @pytest.mark.parametrize("end", ["exit 3", FOREVER])
    async def test_the_socket_for_metrics_is_private_and_ends_with_the_worker(
        self, backend: ProcessBackend, tmp_path: Path, end: str
    ) -> None:
        await backend.start(spec_for("w1", f"while [ ! -e {tmp_path}/end ]; do sleep 0.1; done; {end}"))
        [target] = backend.metrics_targets()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(target.address))
        assert target.address.parent.stat().st_mode & 0o077 == 0
        assert sockets_in(tmp_path) == [target.address]
        (tmp_path / "end").touch()
        if end == FOREVER:
            await backend.kill("w1")
        else:
            await ended(backend, "w1")
        assert sockets_in(tmp_path) == []
        assert backend.metrics_targets() == []

    async def test_without_an_exposed_port_the_agent_gets_none(self, backend: ProcessBackend, instance_id: str) -> None:
        await backend.start(WorkerSpec("7", "w1", "image", command=FOREVER))
        assert protocol.EXPOSED_PORT not in psutil.Process(await agent_of(instance_id, "w1")).environ()


class TestRefusal:
    @pytest.mark.parametrize("command", [None, "", "  \n"])
    async def test_without_a_command_there_is_nothing_to_run(
        self, backend: ProcessBackend, command: str | None
    ) -> None:
        spec = spec_for("w1", command)
        assert "initializationCommand" in (backend.refusal(spec) or "")
        with pytest.raises(BackendError, match="initializationCommand"):
            await backend.start(spec)

    @pytest.mark.parametrize(
        "environment", [{"A": "x\0y"}, {"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {"A": "\ud800"}], ids=repr
    )
    async def test_variables_that_no_process_can_get_are_refused(
        self, backend: ProcessBackend, environment: dict[str, str]
    ) -> None:
        with pytest.raises(BackendError, match="environmentVars"):
            await backend.start(replace(spec_for("w1", FOREVER), environment=environment))

    async def test_what_the_system_refuses_leaves_nothing_behind(
        self, backend: ProcessBackend, instance_id: str, tmp_path: Path
    ) -> None:
        with pytest.raises(BackendError, match="Argument list too long"):
            await backend.start(spec_for("w1", FOREVER, BIG="x" * 3_000_000))
        assert await backend.observe() == {}
        assert sockets_in(tmp_path) == []
        assert pids_of(instance_id) == []

    async def test_an_agent_that_cannot_be_executed_is_an_error(self, tmp_path: Path) -> None:
        backend = ProcessBackend(tmp_path, instance_id="i", environment=INHERITED, agent_command=["/no/such/agent"])
        with pytest.raises(BackendError, match="/no/such/agent: No such file"):
            await backend.start(spec_for("w1", FOREVER))
        await backend.aclose(0)

    async def test_the_log_of_an_agent_that_ends_without_saying_why_is_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        dying = [sys.executable, "-c", "import no_such_module"]
        backend = ProcessBackend(tmp_path, instance_id="i", environment=INHERITED, agent_command=dying)
        await backend.start(spec_for("w1", FOREVER))
        assert (await ended(backend, "w1")).reason == "agent exited with status 1"
        assert (
            f"w1: the agent exited with status 1 without reporting a reason; its log: {tmp_path / 'w1.log'}"
            in caplog.text
        )
        assert "no_such_module" in (tmp_path / "w1.log").read_text()
        await backend.aclose(0)

    async def test_a_work_directory_that_cannot_be_made_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        backend = backend_in(tmp_path / "file" / "work", "i")
        with pytest.raises(BackendError, match="Not a directory"):
            await backend.start(spec_for("w1", FOREVER))
        await backend.aclose(0)


class TestEnd:
    async def test_when_the_agent_is_killed_the_container_and_its_children_go_too(
        self, backend: ProcessBackend, instance_id: str, tmp_path: Path
    ) -> None:
        child = tmp_path / "child"
        await backend.start(spec_for("w1", f"sleep 600 & echo $! > {child}; wait"))
        pid = await pid_in(child)
        os.kill(await agent_of(instance_id, "w1"), signal.SIGKILL)
        assert (await ended(backend, "w1")).reason == SIGKILLED
        assert birth_of(pid) is None
        assert pids_of(instance_id) == []

    async def test_a_container_that_has_left_the_group_goes_too(
        self, backend: ProcessBackend, instance_id: str, tmp_path: Path
    ) -> None:
        daemon = tmp_path / "daemon"
        await backend.start(spec_for("w1", f"setsid sh -c 'echo $$ > {daemon}; exec sleep 600' & wait"))
        pid = await pid_in(daemon)
        assert os.getpgid(pid) != os.getpgid(await agent_of(instance_id, "w1"))
        await backend.stop("w1", 10)
        assert birth_of(pid) is None

    async def test_a_killed_container_is_distinguished_from_a_killed_agent(
        self, backend: ProcessBackend, tmp_path: Path
    ) -> None:
        container = tmp_path / "container"
        await backend.start(spec_for("w1", f"echo $$ > {container}; {FOREVER}"))
        os.kill(await pid_in(container), signal.SIGKILL)
        assert (await ended(backend, "w1")).reason == container_end(-signal.SIGKILL)

    async def test_an_agent_that_fails_is_named(self, tmp_path: Path) -> None:
        command = ("/bin/sh", "-c", "echo a line of the agent's log >&2; exit 2")
        backend = ProcessBackend(tmp_path, instance_id="i", environment=INHERITED, agent_command=command)
        await backend.start(spec_for("w1", FOREVER))
        observed = await ended(backend, "w1")
        assert observed.reason == "agent exited with status 2"
        assert observed.last_lines == ()
        await backend.aclose(0)

    async def test_a_drain_lets_the_container_finish(self, backend: ProcessBackend, tmp_path: Path) -> None:
        ready, go, done = tmp_path / "ready", tmp_path / "go", tmp_path / "done"
        command = f"touch {ready}; until [ -e {go} ]; do sleep 0.02; done; touch {done}"
        await backend.start(spec_for("w1", command, drain="container"))
        await wait_until_async(ready.exists)
        stopping = asyncio.create_task(backend.stop("w1", 60))
        assert not (await asyncio.wait({stopping}, timeout=0.3))[0]
        assert (await observed(backend, "w1")).alive
        go.touch()
        await stopping
        assert done.exists()

    async def test_after_the_grace_the_agent_has_time_to_release_its_tasks(
        self, tmp_path: Path, instance_id: str
    ) -> None:
        backend = backend_in(tmp_path / "work", instance_id, end_margin_seconds=60)
        ready, go, done = tmp_path / "ready", tmp_path / "go", tmp_path / "done"
        command = f"touch {ready}; until [ -e {go} ]; do sleep 0.02; done; touch {done}"
        await backend.start(spec_for("w1", command, drain="container"))
        await wait_until_async(ready.exists)
        stopping = asyncio.create_task(backend.stop("w1", 0))
        assert not (await asyncio.wait({stopping}, timeout=0.3))[0]
        go.touch()
        await stopping
        assert done.exists()

    async def test_a_killed_worker_has_no_time_at_all(self, tmp_path: Path, instance_id: str) -> None:
        backend = backend_in(tmp_path / "work", instance_id, end_margin_seconds=600)
        ready = tmp_path / "ready"
        await backend.start(spec_for("w1", f"touch {ready}; {FOREVER}", drain="never"))
        await wait_until_async(ready.exists)
        async with asyncio.timeout(30):
            await backend.kill("w1")
        assert await backend.observe() == {}
        assert pids_of(instance_id) == []
        await backend.aclose(0)

    async def test_an_agent_that_does_not_drain_is_killed_after_the_grace(
        self, backend: ProcessBackend, instance_id: str, tmp_path: Path
    ) -> None:
        ready = tmp_path / "ready"
        await backend.start(spec_for("w1", f"touch {ready}; {FOREVER}", drain="never"))
        await wait_until_async(ready.exists)
        await backend.stop("w1", 0.2)
        assert pids_of(instance_id) == []

    async def test_the_shortest_grace_counts(self, backend: ProcessBackend, instance_id: str, tmp_path: Path) -> None:
        ready = tmp_path / "ready"
        await backend.start(spec_for("w1", f"touch {ready}; {FOREVER}", drain="never"))
        await wait_until_async(ready.exists)
        async with asyncio.timeout(30):
            await asyncio.gather(backend.stop("w1", 600), backend.stop("w1", 0))
        assert pids_of(instance_id) == []

    async def test_a_stopped_agent_process_is_no_obstacle(self, backend: ProcessBackend, instance_id: str) -> None:
        await backend.start(spec_for("w1", FOREVER))
        os.kill(await agent_of(instance_id, "w1"), signal.SIGSTOP)
        await backend.stop("w1", 0.1)
        assert pids_of(instance_id) == []


class TestLog:
    async def test_output_is_kept_in_private_files_under_the_limit(
        self, backend: ProcessBackend, tmp_path: Path
    ) -> None:
        await backend.start(spec_for("w1", "yes 0123456789012345678901234567890 | head -c 5000000 >&2"))
        await ended(backend, "w1")
        logs = sorted((tmp_path / "work").iterdir())
        assert [path.name for path in logs] == ["sockets", "w1.log", "w1.log.1"]
        assert all(path.stat().st_size <= 1024 * 1024 for path in logs)
        assert all(path.stat().st_mode & 0o077 == 0 for path in [*logs, tmp_path / "work"])

    async def test_the_logs_of_old_workers_are_forgotten_in_the_end(
        self, backend: ProcessBackend, tmp_path: Path
    ) -> None:
        work = tmp_path / "work"
        work.mkdir(mode=0o700)
        for index in range(60):
            (work / f"old{index}.log").write_text("x")
            os.utime(work / f"old{index}.log", (index, index))
        await backend.start(spec_for("w1", FOREVER))
        kept = {path.name for path in work.iterdir()}
        assert kept == {"w1.log", "sockets"} | {f"old{index}.log" for index in range(10, 60)}


CONTROLLER = """
import asyncio, os, sys
from pathlib import Path
from tests.integration.test_process_backend import backend_in, spec_for

async def main(directory, instance_id, drain):
    backend = backend_in(Path(directory) / "work", instance_id)
    await backend.start(spec_for("w1", f"touch {directory}/up; exec sleep 600", drain=drain))
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def sleeping(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that leads its group, as one of a worker."""
    return subprocess.Popen(["/bin/sleep", "600"], env=environment, start_new_session=True)


class TestDeadController:
    @pytest.fixture
    def controller(self, tmp_path: Path, instance_id: str, drain: str) -> Iterator[subprocess.Popen[bytes]]:
        """Another controller with a worker that is up."""
        process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, str(tmp_path), instance_id, drain], env=INHERITED, cwd=ROOT
        )
        wait_until((tmp_path / "up").exists)
        yield process
        process.kill()
        process.wait()

    @pytest.mark.parametrize("drain", ["quick"])
    async def test_workers_do_not_outlive_a_killed_controller(
        self, controller: subprocess.Popen[bytes], instance_id: str
    ) -> None:
        assert len(pids_of(instance_id)) == 2
        controller.kill()
        await wait_until_async(lambda: pids_of(instance_id) == [], message="a worker lives on")

    @pytest.mark.parametrize("drain", ["never"])
    async def test_what_is_left_of_a_dead_controller_is_ended_at_start(
        self, backend: ProcessBackend, controller: subprocess.Popen[bytes], instance_id: str, tmp_path: Path
    ) -> None:
        [left] = sockets_in(tmp_path)
        controller.kill()
        controller.wait()
        assert await backend.reap_orphans(grace_seconds=0.2) == {"w1"}
        assert not left.exists()
        assert pids_of(instance_id) == []
        assert await backend.reap_orphans(0) == frozenset()

    @pytest.mark.parametrize("drain", ["never"])
    async def test_a_container_without_its_agent_is_ended_without_waiting(
        self, backend: ProcessBackend, controller: subprocess.Popen[bytes], instance_id: str
    ) -> None:
        controller.kill()
        os.kill(await agent_of(instance_id, "w1"), signal.SIGKILL)
        # Not reaped yet: a zombie is no controller that lives.
        async with asyncio.timeout(30):
            assert await backend.reap_orphans(grace_seconds=600) == {"w1"}
        assert pids_of(instance_id) == []

    async def test_a_container_without_its_agent_is_ended_while_another_worker_drains(
        self, backend: ProcessBackend, instance_id: str
    ) -> None:
        marks = {protocol.INSTANCE: instance_id, protocol.CONTROLLER_PID: "1", protocol.CONTROLLER_STARTED: "never"}
        agent = {protocol.WORKER_ID: "w1", protocol.CONTAINER_COMMAND: FOREVER}
        draining, abandoned = sleeping(marks | agent), sleeping(marks | {protocol.WORKER_ID: "w2"})
        reaping = asyncio.create_task(backend.reap_orphans(grace_seconds=600))
        await wait_until_async(lambda: birth_of(abandoned.pid) is None, message="it waits for the other worker")
        assert birth_of(draining.pid) is not None
        draining.kill()
        assert await reaping == {"w1", "w2"}
        for process in (draining, abandoned):
            process.wait()

    async def test_a_process_that_cannot_be_killed_does_not_keep_a_controller_from_starting(
        self, instance_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may wait for a device for any time."""
        marks = {protocol.INSTANCE: instance_id, protocol.CONTROLLER_PID: "1", protocol.CONTROLLER_STARTED: "never"}
        left = sleeping(marks | {protocol.WORKER_ID: "w1"})
        backend = backend_in(tmp_path / "work", instance_id, end_margin_seconds=0, kill_seconds=0.1)
        with monkeypatch.context() as held_back:
            held_back.setattr("queue_engine.backends.process.kill_group_of", lambda process: None)
            async with asyncio.timeout(30):
                assert await backend.reap_orphans(grace_seconds=0) == frozenset()
        assert f"do not end: process {left.pid} of w1" in caplog.text
        assert await backend.reap_orphans(grace_seconds=0) == {"w1"}
        left.wait()
        await backend.aclose(0)

    @pytest.mark.parametrize("drain", ["never"])
    async def test_the_workers_of_a_controller_that_lives_are_left_alone(
        self, backend: ProcessBackend, controller: subprocess.Popen[bytes], instance_id: str, tmp_path: Path
    ) -> None:
        await backend.start(spec_for("w2", FOREVER))
        before = {await agent_of(instance_id, "w1"), await agent_of(instance_id, "w2")}
        assert await backend.reap_orphans(grace_seconds=0) == frozenset()
        assert len(sockets_in(tmp_path)) == 2
        assert before <= set(pids_of(instance_id))
        assert await backend_in(Path("/nowhere"), "another").reap_orphans(grace_seconds=0) == frozenset()
        assert before <= set(pids_of(instance_id))
        controller.kill()
        controller.wait()
        await backend.reap_orphans(grace_seconds=0)
