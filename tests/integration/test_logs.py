"""Logs of workers, from what a real container prints to what the API shows."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from queue_engine.domain.logs import LogQuery
from queue_engine.domain.tasks import TaskStatus
from queue_engine.store.constants import MAX_LINES
from queue_engine.store.store import Store
from tests.integration.parts import Program, Programs, new_endpoint, submit
from tests.ports import free_port
from tests.servers import StoreServer
from tests.waiting import wait_until, wait_until_async

SECRET = "tiger-4711-canary"

PRINTER = """
import json, os, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "print" in given:
            print(given["print"], flush=True)
        if "error" in given:
            print(given["error"], file=sys.stderr, flush=True)
        if "flood" in given:
            threading.Thread(target=flood, args=(given["flood"],), daemon=True).start()
        if "exit" in given:
            os._exit(given["exit"])
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass

def flood(seconds):
    import time
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        lines = (b"flood %d of a line as a model server prints it\\n" % n for n in range(number, number + 500))
        os.write(1, b"".join(lines))
        number += 500
        time.sleep(0.01)
    print("the flood is over", number, flush=True)

print("listening", flush=True)
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
"""A container that does what its tasks say: print, print 50,000 lines a second for some seconds, exit."""


class Worker:
    """An agent with a container of its own, as the process backend starts them."""

    def __init__(self, programs: Programs, endpoint_id: str, directory: Path, command: str = "", **more: str) -> None:
        script = directory / "printer.py"
        script.write_text(PRINTER)
        self.endpoint_id = endpoint_id
        self.worker_id = f"w-{os.urandom(4).hex()}"
        port = free_port()
        environment = {"PATH": os.environ["PATH"], "PORT": str(port), "API_TOKEN": SECRET}
        self.agent: Program = programs.start(
            "agent",
            "worker_agent",
            WORKER_AGENT_ENDPOINT=endpoint_id,
            WORKER_AGENT_WORKER_ID=self.worker_id,
            WORKER_AGENT_CONTAINER_URL=f"http://127.0.0.1:{port}",
            WORKER_AGENT_CONTAINER_COMMAND=command or f"exec {sys.executable} {script}",
            WORKER_AGENT_CONTAINER_ENVIRONMENT=json.dumps(environment),
            WORKER_AGENT_SECRET_NAMES='["API_TOKEN"]',
            WORKER_AGENT_GRACE_SECONDS="2",
            QUEUE_ENGINE_LEASE_SECONDS="2",
            **more,
        )

    def container(self) -> psutil.Process:
        [child] = psutil.Process(self.agent.pid).children()
        return child


async def lines_of(store: Store, worker: Worker, **query: Any) -> list[str]:
    found = await store.logs.page(worker.endpoint_id, worker.worker_id, LogQuery(size=MAX_LINES + 1000, **query))
    return [line.text for line in found.lines] if found else []


async def has_line(store: Store, worker: Worker, text: str, timeout: float = 20) -> None:
    async def there() -> bool:
        return bool(await lines_of(store, worker, keyword=text))

    await wait_until_async(there, timeout, f"no line has {text!r}:\n{worker.agent.output()[-3000:]}")


async def run_task(store: Store, worker: Worker, task_id: str, given: dict[str, Any]) -> None:
    await submit(store, worker.endpoint_id, task_id, input=json.dumps(given).encode())

    async def ended() -> bool:
        task = await store.tasks.get(worker.endpoint_id, task_id)
        return task is not None and task.status is not TaskStatus.PROCESSING

    await wait_until_async(ended, message=f"{task_id} has not ended:\n{worker.agent.output()[-3000:]}")
    task = await store.tasks.get(worker.endpoint_id, task_id)
    assert task is not None
    assert task.status is TaskStatus.SUCCESS, task.error


async def test_what_a_container_prints_can_be_read_during_its_life_and_after(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    worker = Worker(programs, await new_endpoint(store), tmp_path)
    await has_line(store, worker, "listening")
    await run_task(store, worker, "t1", {"print": "to standard output", "error": "to standard error"})
    await has_line(store, worker, "to standard error")
    assert worker.agent.stop() == 0
    assert await store.workers.of_endpoint(worker.endpoint_id) == []
    assert await lines_of(store, worker) == ["listening", "to standard output", "to standard error"]


async def test_secrets_are_in_no_line_and_in_no_output_of_the_agent(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    worker = Worker(programs, await new_endpoint(store), tmp_path)
    await run_task(store, worker, "t1", {"print": f"Authorization: Bearer {SECRET}", "error": f"{SECRET[:9]}"})
    await submit(store, worker.endpoint_id, "t2", input=json.dumps({"print": f"bye {SECRET}", "exit": 3}).encode())
    assert worker.agent.wait() == 70
    lines = await lines_of(store, worker)
    assert "Authorization: Bearer ***" in lines
    assert "bye ***" in lines
    assert SECRET not in "\n".join(lines)
    assert SECRET not in worker.agent.output()


async def test_the_log_of_a_container_that_ended_has_all_its_lines_and_how_it_ended(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    command = "for n in $(seq 1 30); do echo line $n; done; echo 'no such model' >&2; printf unfinished; exit 5"
    worker = Worker(programs, await new_endpoint(store), tmp_path, command)
    assert worker.agent.wait() == 70
    written = [*(f"line {n}" for n in range(1, 31)), "no such model", "unfinished"]
    assert await lines_of(store, worker) == [*written, "container exited with status 5"]
    assert "container exited with status 5" in worker.agent.output()
    assert "no such model" not in worker.agent.output()


async def test_a_flood_of_lines_slows_no_task_and_does_not_fill_the_store(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    worker = Worker(programs, await new_endpoint(store), tmp_path)
    await has_line(store, worker, "listening")
    quiet = [await _seconds_of(store, worker, f"quiet{number}") for number in range(20)]
    await run_task(store, worker, "flood", {"flood": 3.5})
    await has_line(store, worker, "lines dropped")
    flooded = [await _seconds_of(store, worker, f"flooded{number}") for number in range(20)]
    assert not await lines_of(store, worker, keyword="the flood is over"), "the flood was over before the tasks"
    assert sorted(flooded)[10] < sorted(quiet)[10] * 2

    await has_line(store, worker, "the flood is over")
    first, *lines, last = await lines_of(store, worker)
    assert first == "listening"
    written = int(last.removeprefix("the flood is over "))
    assert written > 3.5 * 30_000
    dropped = _check_that_all_lines_are_accounted_for(lines, written)
    assert len(lines) < 5000 + 5 * 1000
    assert await _metric(worker, "worker_agent_log_lines_dropped_total") == dropped
    key = store.partitions.of(worker.endpoint_id).log(worker.worker_id)
    assert await store.redis.memory_usage(key) < 2 * 1024 * 1024
    if sys.platform == "linux":
        assert _bytes_on_disk(worker) < 2 * 1024 * 1024


async def _seconds_of(store: Store, worker: Worker, task_id: str) -> float:
    began = time.monotonic()
    await run_task(store, worker, task_id, {})
    return time.monotonic() - began


def _check_that_all_lines_are_accounted_for(lines: list[str], written: int) -> int:
    """Every line is there in its place, or counted there; how many were dropped."""
    expected = dropped = 0
    for line in lines:
        if line.startswith("[queue-engine: "):
            dropped += int(line.split()[1])
            expected += int(line.split()[1])
        else:
            assert line.startswith(f"flood {expected} ")
            expected += 1
    assert expected == written
    return dropped


async def _metric(worker: Worker, name: str) -> float:
    [url] = [json.loads(line)["metrics"] for line in worker.agent.output().splitlines() if '"metrics"' in line]
    async with httpx.AsyncClient() as client:
        families = text_string_to_metric_families((await client.get(url)).text)
    [value] = [sample.value for family in families for sample in family.samples if sample.name == name]
    return value


def _bytes_on_disk(worker: Worker) -> int:
    """What the file takes that the container writes to."""
    return (Path("/proc") / str(worker.container().pid) / "fd" / "1").stat().st_blocks * 512


async def test_a_container_goes_on_while_its_agent_hangs_and_no_line_is_lost(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    command = (
        f"exec {sys.executable} -c 'import time\nfor n in range(40):\n"
        f'    print("line", n, "x" * 10000, flush=True); time.sleep(0.05)\n'
        f'open("{tmp_path}/done", "w").close()\ntime.sleep(60)\''
    )
    worker = Worker(programs, await new_endpoint(store), tmp_path, command)
    await has_line(store, worker, "line 0")
    worker.agent.signal(signal.SIGSTOP)
    wait_until((tmp_path / "done").exists, message="the container waits for its agent")
    assert not await lines_of(store, worker, keyword="line 39")
    worker.agent.signal(signal.SIGCONT)
    await has_line(store, worker, "line 39")
    assert [line.split()[1] for line in await lines_of(store, worker)] == [str(number) for number in range(40)]


async def test_lines_wait_for_a_store_that_is_away(
    store: Store, programs: Programs, tmp_path: Path, valkey_server: StoreServer
) -> None:
    command = (
        f"n=0; while [ $n -lt 600 ]; do echo line $n; n=$((n+1)); sleep 0.005; done; touch {tmp_path}/done; sleep 60"
    )
    worker = Worker(programs, await new_endpoint(store), tmp_path, command)
    await has_line(store, worker, "line 0")
    valkey_server.pause()
    wait_until((tmp_path / "done").exists)
    valkey_server.resume()
    await has_line(store, worker, "line 599")
    assert await lines_of(store, worker) == [f"line {number}" for number in range(600)]


async def test_a_container_may_reopen_its_standard_output(store: Store, programs: Programs, tmp_path: Path) -> None:
    command = "for n in 1 2 3; do echo anew $n > /dev/stdout; sleep 0.5; echo line $n; sleep 0.5; done; sleep 60"
    worker = Worker(programs, await new_endpoint(store), tmp_path, command)
    await has_line(store, worker, "line 3")
    assert await lines_of(store, worker) == ["anew 1", "line 1", "anew 2", "line 2", "anew 3", "line 3"]


async def test_nothing_is_left_in_the_folder_for_temporary_files(
    store: Store, programs: Programs, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    worker = Worker(programs, await new_endpoint(store), tmp_path, "echo here; sleep 60", TMPDIR=str(temporary))
    await has_line(store, worker, "here")
    assert list(temporary.iterdir()) == []
    if sys.platform == "linux":
        target = os.readlink(f"/proc/{worker.container().pid}/fd/1")
        assert target.startswith(str(temporary))
        assert target.endswith("(deleted)")
    worker.container().kill()
    assert worker.agent.wait() == 70
