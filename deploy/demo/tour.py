"""The demo's story, from the files to the tables. Every step of it has a name, by which a failure is reported."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from deploy.demo.client import Api, ApiUnreachable
from deploy.demo.files import PROJECT, SampleFile, collect
from deploy.demo.jobs import WORKER_PORT, Done, Ending, Job, faults_of
from deploy.demo.receiver import ALWAYS, Inbox, Receiver, listening
from deploy.demo.report import Times, show_report
from deploy.demo.screen import Screen
from deploy.demo.stack import STOP_SECONDS, Stack, StackEnded

T = TypeVar("T")

WORKERS = 2
DELIVERY_SCHEDULE = (0.5, 1.0, 2.0)
"""Seconds between delivery attempts: short, so that nobody waits for the one that is given up."""
MODEL_SERVER = PROJECT / "deploy" / "examples" / "magika_server.py"
AT_ONCE = 16
"""Requests to the API at the same time."""
SILENCE_SECONDS = 30.0
POLL_SECONDS = 0.1
FAULTS_TOLD = 5


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    files: int
    command: str | None = None
    """The workers' command, in place of the model server's."""


class StepFailed(Exception):
    """A step of the demo did not work."""

    def __init__(self, step: str, reason: str, tails: dict[str, str]) -> None:
        super().__init__(f"{step}: {reason}")
        self.tails = tails
        """The last lines of the logs that may say more, by the log's name."""


class Wrong(Exception):
    """Something is not as it must be; the message says what."""


class Tour:
    """One run of the demo on a stack that is not started yet. Who makes it ends the stack."""

    def __init__(self, options: Options, stack: Stack, screen: Screen) -> None:
        self._options = options
        self._stack = stack
        self._screen = screen
        self._inbox = Inbox()
        self._submitted_at: dict[str, float] = {}

    async def run(self) -> None:
        """Do everything and show what came of it. Raises StepFailed."""
        async with self._step("collect files", 60, ()):
            files = await asyncio.to_thread(collect, self._options.files)
        async with self._step("start the engine", 90, ("up",)):
            await self._start()
        async with Api(self._stack.base_url, self._stack.api_key) as api, AsyncExitStack() as receivers:
            async with self._step("create the endpoint", 20, ("up", "api")):
                endpoint_id = await api.create_endpoint(self._endpoint())
                jobs = await self._jobs(files, await api.webhook_secret(endpoint_id), receivers)
            async with self._step(f"wait for {WORKERS} workers that run the model", 60, ("controller", "worker")):
                await self._workers(api, endpoint_id)
            async with self._step(f"submit {len(jobs)} tasks", 60, ("api",)):
                last_submitted = await self._submit(api, endpoint_id, jobs)
            async with self._step("wait for the webhooks", 600, ("delivery", "worker")):
                await self._webhooks(api, endpoint_id, jobs)
            async with self._step("check every task against the API", 60, ("api", "delivery")):
                results = await self._results(api, endpoint_id, jobs)
        self._report(results, last_submitted)

    # The steps

    async def _start(self) -> None:
        self._stack.start()
        async with Api(self._stack.base_url, self._stack.api_key) as api:
            while not await api.is_ready():
                self._stack.check_alive()
                await asyncio.sleep(POLL_SECONDS)

    def _endpoint(self) -> dict[str, Any]:
        command = self._options.command or f"exec {shlex.join([sys.executable, str(MODEL_SERVER)])}"
        return {
            "name": "file-types",
            "image": "none",  # workers are processes here
            "serviceMode": "QUEUE",
            "workers": WORKERS,
            "resources": [{"region": "local", "gpuType": "CPU", "gpuCount": 1}],
            "containerVolumeInGb": 20,
            "initializationCommand": command,
            "environmentVars": [{"key": "THREADS", "value": "1"}],
            "expose": {"port": WORKER_PORT, "protocol": "http"},
            "executionTimeoutSeconds": 30,
        }

    async def _jobs(self, files: Sequence[SampleFile], secret: str, receivers: AsyncExitStack) -> list[Job]:
        """The tasks, with receivers that listen: one for all files, and two that show what happens on failure."""

        async def opened(name: str, refusals: int = 0) -> Receiver:
            receiver = Receiver(name, secret, self._inbox, refusals=refusals)
            return await receivers.enter_async_context(listening(receiver))

        accepts, fails_twice, always_fails = (
            await opened("accepts"),
            await opened("fails twice", 2),
            await opened("always fails", ALWAYS),
        )
        return [
            Job("demo_fails_twice", files[0], fails_twice, attempts=3),
            Job("demo_always_fails", files[0], always_fails, Ending.GIVEN_UP, attempts=len(DELIVERY_SCHEDULE) + 1),
            *(Job(f"demo_{number:04}", file, accepts) for number, file in enumerate(files, start=1)),
        ]

    async def _workers(self, api: Api, endpoint_id: str) -> None:
        with self._screen.bar("workers that run", WORKERS) as bar:
            while (running := (endpoint := await api.endpoint(endpoint_id))["runningWorkers"]) < WORKERS:
                bar.show(running)
                self._stack.check_alive()
                if endpoint["status"] == "FAILED":
                    errors = [worker["error"] for worker in await api.workers(endpoint_id) if worker["error"]]
                    raise Wrong(
                        f"the endpoint is FAILED, because its workers do not run:\n{errors[0] if errors else ''}"
                    )
                await asyncio.sleep(POLL_SECONDS)
            bar.show(running)

    async def _submit(self, api: Api, endpoint_id: str, jobs: Sequence[Job]) -> float:
        """Submit all; returns when the last one was accepted."""
        at_once = asyncio.Semaphore(AT_ONCE)
        with self._screen.bar("tasks submitted", len(jobs)) as bar:

            async def submit(job: Job) -> None:
                async with at_once:
                    self._submitted_at[job.task_id] = self._inbox.monotonic()
                    await api.submit(endpoint_id, job.body())
                accepted.append(job)
                bar.show(len(accepted))

            accepted: list[Job] = []
            await _all(submit(job) for job in jobs)
        return self._inbox.monotonic()

    async def _webhooks(self, api: Api, endpoint_id: str, jobs: Sequence[Job]) -> None:
        wanted = {job.task_id for job in jobs if job.ending is Ending.DELIVERED}
        with self._screen.bar("results delivered", len(wanted)) as bar:
            while missing := wanted - self._inbox.accepted_ids:
                bar.show(len(wanted) - len(missing))
                await self._news(missing)
            bar.show(len(wanted))
        self._screen.say("  waiting until the delivery to the receiver that always fails is given up")
        given_up = [job.task_id for job in jobs if job.ending is Ending.GIVEN_UP]
        while not await self._are_settled(api, endpoint_id, given_up, len(wanted)):
            self._stack.check_alive()
            await asyncio.sleep(POLL_SECONDS)

    async def _news(self, missing: set[str]) -> None:
        """Wait until something comes. Raises Wrong when nothing does."""
        clock, count = asyncio.get_running_loop().time, len(self._inbox.received)
        deadline = clock() + SILENCE_SECONDS
        while len(self._inbox.received) == count:
            self._stack.check_alive()
            if clock() >= deadline:
                raise Wrong(f"nothing came for {SILENCE_SECONDS:g} s; missing: {_few(sorted(missing))}")
            await self._inbox.wait_for_news(1.0)

    async def _are_settled(self, api: Api, endpoint_id: str, given_up: Sequence[str], delivered: int) -> bool:
        """Whether the engine has recorded the ends of all deliveries; a receiver knows of them a moment earlier."""
        tasks = [await api.task(endpoint_id, task_id) for task_id in given_up]
        counts = await api.counts(endpoint_id)
        return counts["delivered"] + counts["failed"] >= delivered and all(
            task["deliveryStatus"] == "MAX_RETRIES_EXCEEDED" for task in tasks
        )

    async def _results(self, api: Api, endpoint_id: str, jobs: Sequence[Job]) -> list[Done]:
        at_once = asyncio.Semaphore(AT_ONCE)
        received = self._inbox.by_task()

        async def result(job: Job) -> Done:
            async with at_once:
                task = await api.task(endpoint_id, job.task_id)
            return Done(job, task, received[job.task_id], self._submitted_at[job.task_id])

        results = await _all(result(job) for job in jobs)
        faults = [fault for done in results for fault in faults_of(done, endpoint_id)]
        faults += [
            f"a webhook for a task that nobody submitted: {task_id}" for task_id in received.keys() - self._submitted_at
        ]
        faults += _count_faults(await api.counts(endpoint_id), jobs)
        if faults:
            raise Wrong(f"{len(faults)} faults: {_few(faults)}")
        await self._inbox.wait_for_news(0)  # a forged webhook that came after the last result
        return results

    def _report(self, results: Sequence[Done], last_submitted: float) -> None:
        special, files = results[:2], results[2:]
        times = Times(
            submitted=len(results),
            first_submit=min(self._submitted_at.values()),
            last_submitted=last_submitted,
            last_webhook=max(done.received[0].at for done in files),
        )
        self._screen.say("")
        show_report(self._screen, files, special, times)

    @asynccontextmanager
    async def _step(self, name: str, seconds: float, logs: Iterable[str]) -> AsyncIterator[None]:
        """Name what the block does, and the logs that tell more when it fails or takes too long."""
        self._screen.say(f"{name} ...")
        started = self._inbox.monotonic()
        try:
            async with asyncio.timeout(seconds) as limit:
                yield
        except Exception as error:
            reason = f"not done after {seconds:g} s" if limit.expired() else str(error) or type(error).__name__
            if isinstance(error, ApiUnreachable):
                # An engine that ends in order closes its API first: the end is the reason then.
                await self._stack.ends_within(STOP_SECONDS)
            raise self._failed(name, reason, logs) from error
        self._screen.say(f"  {self._inbox.monotonic() - started:.1f} s")

    def _failed(self, name: str, reason: str, logs: Iterable[str]) -> StepFailed:
        names = list(logs)
        try:
            self._stack.check_alive()
        except StackEnded as end:
            reason, names = str(end), ["up"]
        paths = [self._stack.worker_log() if log == "worker" else self._stack.log(log) for log in names]
        return StepFailed(name, reason, {path.name: self._stack.tail(path) for path in paths if path is not None})


def _count_faults(counts: dict[str, int], jobs: Sequence[Job]) -> list[str]:
    delivered = sum(job.ending is Ending.DELIVERED for job in jobs)
    expected = {
        "processing": 0,
        "delivered": delivered,
        "success": len(jobs) - delivered,
        "failed": 0,
        "total": len(jobs),
    }
    return [
        f"the API counts {counts[name]} tasks as {name}, not {number}"
        for name, number in expected.items()
        if counts[name] != number
    ]


async def _all(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first error ends the others."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _few(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - FAULTS_TOLD} more" if len(texts) > FAULTS_TOLD else ""
    return "; ".join(texts[:FAULTS_TOLD]) + more
