"""The demo's story, on the Python client. Each step of it has a name, by which a failure is reported."""

from __future__ import annotations

import asyncio
import base64
import json
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

from deploy.demo.receiver import Receiver
from queue_engine.client import AsyncClient, AsyncEndpoint, MapItem, TaskInfo
from queue_engine.client.fields import CreateFields

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLES = PROJECT / "deploy" / "examples"
FOLDERS = (*(PROJECT / name for name in ("docs", "deploy", "tests", "queue_engine")), Path(json.__file__).parents[1])
"""Folders whose files are sent. The last one has Python's own library."""
NOT_OWN = {"__pycache__", "node_modules", "site-packages"}
MAX_FILE_BYTES = 64 * 1024
WORKERS, PORT, ATTEMPTS = 2, 8000, 4
SETTINGS = {"QUEUE_ENGINE_WORKER_GRACE_SECONDS": "3", "QUEUE_ENGINE_DELIVERY_SCHEDULE": "0.5,1,2"}
"""Short waits between the ATTEMPTS to deliver, so that the delivery that is given up delays the demo only a moment."""
STANDSTILL_SECONDS, PULL_SECONDS, POLL_SECONDS = 90.0, 900.0, 0.1
MAX_TYPES, MAX_FAULTS = 12, 5


class DemoFailed(Exception):
    """A step has not come to what it should. The message has the reason."""


class Workers(NamedTuple):
    """The backend of the workers, their image, and their command if it is not the demo's own."""

    backend: str
    image: str
    command: str | None

    @property
    def are_containers(self) -> bool:
        return self.backend != "process"

    def settings(self) -> CreateFields:
        """Return the settings of their endpoint. Processes have a model; containers only respond with the request."""
        model = f"exec {shlex.join([sys.executable, str(EXAMPLES / 'magika_server.py')])}"
        plain = json.dumps(["python3", "-c", (EXAMPLES / "echo_server.py").read_text()])
        return {
            "name": "file-types",
            "image": self.image if self.are_containers else "none",
            "service_mode": "QUEUE",
            "workers": WORKERS,
            "resources": [{"region": "local", "gpuType": "CPU", "gpuCount": 1}],
            "container_volume_in_gb": 20,
            "initialization_command": self.command or (plain if self.are_containers else model),
            "expose": {"port": PORT, "protocol": "http"},
            "execution_timeout_seconds": 30,
        }


class Tour:
    """A run of the demo on an engine that is being started. `say` shows a line.

    `receiver_host` is the address of this machine to which the engine sends webhooks.
    """

    def __init__(self, client: AsyncClient, say: Callable[[str], None], receiver_host: str = "127.0.0.1") -> None:
        self.step = ""
        """The name of the current step."""
        self._client = client
        self._say = say
        self._receiver_host = receiver_host

    async def run(self, file_count: int, workers: Workers) -> None:
        """Do everything and check it. Raises DemoFailed and ClientError."""
        self._begin("collect files")
        files = collect(file_count)
        self._begin("start the engine")
        await self._client.endpoints()  # repeated until the API is there
        self._begin("create the endpoint")
        created = await self._client.create_endpoint(**workers.settings())
        endpoint = self._client.endpoint(created.id)
        self._begin(f"wait for {WORKERS} workers")
        patience = PULL_SECONDS if workers.are_containers else STANDSTILL_SECONDS
        await self._watch("workers that run", WORKERS, lambda: _running(endpoint), patience)
        with ExitStack() as until_end:
            secret, host = created.webhook_secret or "", self._receiver_host
            receivers = {
                name: until_end.enter_context(Receiver(secret, refusals=refusals, host=host))
                for name, refusals in (("fails", ATTEMPTS), ("fails_twice", 2), ("file", 0))
            }
            self._begin(f"run {len(files) + 2} tasks")
            results: dict[str, list[MapItem]] = {}
            for name, one in receivers.items():
                some = files[:1] if one.refusals else files
                bar = sys.stderr.isatty() and not one.refusals
                items = endpoint.map(some, path="/identify", batch_id=name, progress=bar, **one.fields())
                results[name] = [item async for item in items]
            self._begin("wait for the webhooks")
            await self._watch("deliveries that have ended", len(files) + 2, lambda: _ended(endpoint, receivers))
        self._begin("check every task and every webhook")
        tasks = {task.task_id: task async for task in endpoint.tasks()}
        checked = [(one, item, tasks[item.task_id]) for name, one in receivers.items() for item in results[name]]
        faults = [fault for one in checked for fault in faults_of(*one)]
        if faults or len(tasks) != len(checked):
            raise DemoFailed(f"{len(tasks)} tasks, {len(faults)} faults: {'; '.join(faults[:MAX_FAULTS])}")
        for name in ("fails_twice", "fails"):
            statuses = [one.status for one in receivers[name].received[f"{name}_1"]]
            self._say(f"  a receiver that {name.replace('_', ' ')} responded {statuses}: {tasks[f'{name}_1'].status}")
        types = Counter(str(item.output.get("type", "not told")) for item in results["file"]).most_common(MAX_TYPES)
        self._say(f"  the types of the files: {', '.join(f'{name} {count}' for name, count in types)}")

    def _begin(self, step: str) -> None:
        self.step = step
        self._say(f"{step} ...")

    async def _watch(
        self, title: str, total: int, count: Callable[[], Awaitable[int]], patience: float = STANDSTILL_SECONDS
    ) -> None:
        """Show each change until all is done. Raises DemoFailed when nothing changes for `patience` seconds."""
        done = -1
        try:
            async with asyncio.timeout(patience) as limit:
                while done < total:
                    before, done = done, await count()
                    if done != before:
                        self._say(f"  {title}: {done}/{total}")
                        limit.reschedule(asyncio.get_running_loop().time() + patience)
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise DemoFailed(f"{title}: {done}/{total}, without progress for {patience:g} s") from None


def collect(count: int, folders: Sequence[Path] = FOLDERS) -> list[dict[str, str]]:
    """Return files as inputs, each of another kind than the one before as far as there are any."""
    kinds: defaultdict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.rglob("*.*")):
            is_plain = path.is_file() and not path.is_symlink() and path.name.isascii() and path.name.isprintable()
            is_own = not any(part in NOT_OWN or part.startswith(".") for part in path.relative_to(folder).parts)
            if is_plain and is_own and 0 < path.stat().st_size <= MAX_FILE_BYTES:
                kinds[path.suffix].append(path)
    in_turn = islice(filter(None, chain.from_iterable(zip_longest(*kinds.values()))), count)
    return [{"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()} for path in in_turn]


async def _running(endpoint: AsyncEndpoint) -> int:
    info = await endpoint.info()
    if info.status == "FAILED":
        errors = [worker.error for worker in await endpoint.workers() if worker.error]
        raise DemoFailed("\n".join(["the endpoint is FAILED, because its workers do not run:", *errors[:1]]))
    return info.running_workers


async def _ended(endpoint: AsyncEndpoint, receivers: Mapping[str, Receiver]) -> int:
    """Count the deliveries that have ended. A failed task counts at once, because it is a fault anyway."""
    for problem in chain.from_iterable(one.problems for one in receivers.values()):
        raise DemoFailed(problem)
    counts, last = await endpoint.count(), await endpoint.task("fails_1").info()
    return counts.delivered + counts.failed + (last.delivery_status == "MAX_RETRIES_EXCEEDED")


def faults_of(receiver: Receiver, item: MapItem, task: TaskInfo) -> list[str]:
    """Return what is wrong, a sentence each: in the result, in the API's task, and in what its receiver got."""
    received, output, ends = receiver.received[task.task_id], item.output, (task.status, task.delivery_status)
    statuses, ids = [one.status for one in received], {one.webhook_id for one in received}
    due = ([500] * receiver.refusals + [200])[:ATTEMPTS]
    event = {"status": "Success", "success": True, "endpoint_id": str(task.endpoint_id), "result": output}
    found = output.get("input", output) if isinstance(output, dict) else {}
    checks = {
        f"error: {item.error}": item.error is None,
        "its output is not that of its file": found.get("name") == item.input["name"],
        f"its end is {ends}": ends == (("DELIVERED", "SUCCESS") if 200 in due else ("SUCCESS", "MAX_RETRIES_EXCEEDED")),
        f"its receiver responded {statuses}": statuses[: len(due)] == due,  # more follow when a response is lost
        f"{task.delivery_attempts} delivery attempts are counted": task.delivery_attempts >= len(due),
        "its delivery attempts differ in their webhook-id": len(ids) == 1,
        "its webhook is not what the API says": all(event.items() <= one.event.items() for one in received),
    }
    return [f"{task.task_id}: {fault}" for fault, right in checks.items() if not right]
