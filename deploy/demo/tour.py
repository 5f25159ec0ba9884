"""The demo's story, from the files to the tables. Every step of it has a name, by which a failure is reported."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from statistics import median
from typing import Any, NamedTuple

from deploy.demo.files import PROJECT, SampleFile, collect
from deploy.demo.jobs import WORKER_PORT, Job, faults_of
from deploy.demo.receiver import ALWAYS, Inbox, Receiver, listening
from queue_engine.cli.client import ENDPOINTS, Api, CommandError
from queue_engine.cli.output import Column, Screen
from queue_engine.net.ports import LOOPBACK

WORKERS = 2
MODEL_SERVER = PROJECT / "deploy" / "examples" / "magika_server.py"
CONTAINER_WORKER = PROJECT / "deploy" / "demo" / "container_worker.py"
SETTINGS = {"QUEUE_ENGINE_WORKER_GRACE_SECONDS": "3", "QUEUE_ENGINE_DELIVERY_SCHEDULE": "0.5,1,2"}
"""Short waits between delivery attempts, so that the one that is given up delays the demo only for a moment."""
DELIVERY_ATTEMPTS = 4
STANDSTILL_SECONDS, PULL_SECONDS, POLL_SECONDS = 90.0, 900.0, 0.1
MAX_ROWS, MAX_TYPES, MAX_FAULTS = 15, 12, 5

_FILES = (
    *(Column("FILE", "name", "id"), Column("TYPE", "type"), Column("SCORE", "score", "number")),
    *(Column("QUEUED", "queuedMs", "number"), Column("RUN", "durationMs", "number")),
    *(Column("TOTAL", "totalMs", "number"), Column("DELIVERY", "deliveryStatus")),
)
_RECEIVERS = (
    *(Column("RECEIVER", "receiver", "id"), Column("RESPONSES", "responses")),
    *(Column("TASK", "status"), Column("DELIVERY", "deliveryStatus")),
)


class Workers(NamedTuple):
    """The backend of the workers, their image, and their command if it is not the demo's own."""

    backend: str
    image: str
    command: str | None

    @property
    def are_containers(self) -> bool:
        return self.backend != "process"

    def endpoint(self) -> dict[str, Any]:
        """Return the request that creates their endpoint."""
        if self.are_containers:
            image, command = self.image, json.dumps(["python3", "-c", CONTAINER_WORKER.read_text()])
        else:
            image, command = "none", f"exec {shlex.join([sys.executable, str(MODEL_SERVER)])}"
        return {
            "name": "file-types",
            "image": image,
            "serviceMode": "QUEUE",
            "workers": WORKERS,
            "resources": [{"region": "local", "gpuType": "CPU", "gpuCount": 1}],
            "containerVolumeInGb": 20,
            "initializationCommand": self.command or command,
            "environmentVars": [{"key": "THREADS", "value": "1"}],
            "expose": {"port": WORKER_PORT, "protocol": "http"},
            "executionTimeoutSeconds": 30,
        }


class Tour:
    """A run of the demo on an engine that is being started. The caller ends the engine.

    `pause` waits for some seconds, and raises what must end the tour. `receiver_host` is the address of this machine to
    which the engine sends webhooks.
    """

    def __init__(
        self, api: Api, screen: Screen, pause: Callable[[float], None], *, receiver_host: str = LOOPBACK
    ) -> None:
        self.step = ""
        """The name of the current step."""
        self._api = api
        self._screen = screen
        self._pause = pause
        self._receiver_host = receiver_host
        self._inbox = Inbox()
        self._endpoint: tuple[str, ...] = (ENDPOINTS,)

    def run(self, file_count: int, workers: Workers) -> None:
        """Do everything and show its results. Raises CommandError, and what `pause` raises."""
        with ExitStack() as until_end:
            self._begin("collect files")
            files = collect(file_count)
            self._begin("start the engine")
            self._watch("API that is ready", 1, self._is_ready)
            self._begin("create the endpoint")
            self._endpoint = (ENDPOINTS, str(self._post(workers.endpoint())["id"]))
            jobs = self._jobs(files, until_end)
            self._begin(f"wait for {WORKERS} workers that run the model")
            patience = PULL_SECONDS if workers.are_containers else STANDSTILL_SECONDS
            self._watch("workers that run", WORKERS, self._running_workers, patience)
            self._begin(f"submit {len(jobs)} tasks")
            self._submit(jobs)
            self._begin("wait for the webhooks")
            self._watch("results delivered", sum(job.delivered for job in jobs), lambda: len(self._inbox.accepted_ids))
            self._screen.line("  waiting until the delivery to the receiver that always fails is given up")
            self._watch("deliveries that have ended", len(jobs), lambda: self._ended_deliveries(jobs))
            self._begin("check every task against the API")
            self._check(jobs)
        self._report(jobs[2:], jobs[:2])

    def _begin(self, step: str) -> None:
        self.step = step
        self._screen.line(f"{step} ...")

    def _watch(self, title: str, total: int, count: Callable[[], int], patience: float = STANDSTILL_SECONDS) -> None:
        """Show how far something is until it is whole: all the time on a terminal, else a line for each quarter.

        Raises CommandError when the count stalls for `patience` seconds or a webhook was forged.
        """
        before, moved_at = 0, time.monotonic()
        with self._screen.waiting(title) as show:
            while (done := count()) < total:
                show(f"{title}: {done}/{total}")
                if not self._screen.terminal and done * 4 // total > before * 4 // total:
                    self._screen.line(f"  {title}: {done}/{total}")
                if done != before:
                    before, moved_at = done, time.monotonic()
                if self._inbox.faults:
                    raise CommandError(self._inbox.faults[0])
                if time.monotonic() - moved_at > patience:
                    raise CommandError(f"{title}: {done}/{total}, without progress for {patience:g} s")
                self._pause(POLL_SECONDS)
        self._screen.line(f"  {title}: {total}/{total}")

    def _get(self, *path: str) -> dict[str, Any]:
        """Return what the API says of the endpoint."""
        return self._api.get(*self._endpoint, *path).members()

    def _post(self, body: dict[str, Any], *path: str) -> dict[str, Any]:
        return self._api.send("POST", *self._endpoint, *path, body=json.dumps(body).encode()).members()

    # The steps

    def _is_ready(self) -> int:
        with suppress(CommandError):
            self._api.get(ENDPOINTS)
            return 1
        return 0

    def _jobs(self, files: Sequence[SampleFile], until_end: ExitStack) -> list[Job]:
        """Return the tasks, with one receiver for all files, and two that show what happens on failure."""
        secret = self._get("webhook-secret")["secret"]
        accepts, fails_twice, always_fails = (
            until_end.enter_context(
                listening(Receiver(name, secret, self._inbox, refusals=refusals), self._receiver_host)
            )
            for name, refusals in (("accepts", 0), ("fails twice", 2), ("always fails", ALWAYS))
        )
        return [
            Job("demo_fails_twice", files[0], fails_twice, attempts=3),
            Job("demo_always_fails", files[0], always_fails, attempts=DELIVERY_ATTEMPTS, delivered=False),
            *(Job(f"demo_{number:04}", file, accepts) for number, file in enumerate(files, start=1)),
        ]

    def _running_workers(self) -> int:
        endpoint = self._get()
        if endpoint["status"] == "FAILED":
            errors = [worker["error"] for worker in self._api.get(*self._endpoint, "workers").rows() if worker["error"]]
            raise CommandError("\n".join(["the endpoint is FAILED, because its workers do not run:", *errors[:1]]))
        return int(endpoint["runningWorkers"])

    def _submit(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._pause(0)
            job.submitted_at = time.monotonic()
            self._post(job.body(), "tasks")

    def _ended_deliveries(self, jobs: Sequence[Job]) -> int:
        """Count what the engine has recorded, which is a moment after the receiver knows of it."""
        statuses = [self._get("tasks", job.task_id)["deliveryStatus"] for job in jobs if not job.delivered]
        return int(self._get("tasks", "count")["delivered"]) + statuses.count("MAX_RETRIES_EXCEEDED")

    def _check(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.task = self._get("tasks", job.task_id)
            job.received = self._inbox.received.pop(job.task_id, [])
        faults = self._inbox.faults + [fault for job in jobs for fault in faults_of(job, self._endpoint[1])]
        faults += [f"a webhook for a task that was not submitted: {task_id}" for task_id in self._inbox.received]
        counts = self._get("tasks", "count")
        expected = {"processing": 0, "delivered": sum(job.delivered for job in jobs), "failed": 0, "total": len(jobs)}
        if (counted := {name: counts[name] for name in expected}) != expected:
            faults.append(f"the API counts {counted}, not {expected}")
        if faults:
            raise CommandError(f"{len(faults)} faults: {'; '.join(faults[:MAX_FAULTS])}")

    def _report(self, files: Sequence[Job], special: Sequence[Job]) -> None:
        shown, line = files[:MAX_ROWS], self._screen.line
        for title, columns, jobs in (
            (f"The first {len(shown)} of {len(files)} files, times in ms", _FILES, shown),
            ("The receivers", _RECEIVERS, (files[0], *special)),
        ):
            line("")
            line(title)
            self._screen.table(columns, [job.row() for job in jobs])
        types = Counter(job.task["output"]["type"] for job in files).most_common()
        names = ", ".join(f"{name} {count}" for name, count in types[:MAX_TYPES])
        times = sorted(job.total_ms for job in files)
        slowest = times[(len(times) * 99 - 1) // 100]
        seconds = max(job.received[0].at for job in files) - files[0].submitted_at
        line("")
        line(f"the model found {len(types)} types: {names}{', ...' if types[MAX_TYPES:] else ''}")
        line(f"from submit to webhook: median {median(times):.0f} ms, 99th percentile {slowest} ms")
        line(f"from the first submit to the last webhook: {len(files) / seconds:.1f} tasks a second")
