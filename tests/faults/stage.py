"""What a scenario works with: an engine with load on it, faults that are journaled, and the check at the end."""

from __future__ import annotations

import asyncio
import inspect
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx

from queue_engine.aio import retry_while_unavailable
from queue_engine.store.keys import parse_member
from queue_engine.store.queue import GROUP
from queue_engine.store.redis.client import unavailability
from queue_engine.store.store import Store
from tests.faults.checker import Evidence, Verdict, check
from tests.faults.engine import API_KEY, Engine, Worker
from tests.faults.journal import Journal, JournalReader, Record, read_journal
from tests.faults.orders import Client
from tests.faults.producer import TRANSIENT, Mix, Producer, TaskPlan
from tests.faults.recovery import Recoveries, recoveries
from tests.faults.rest import Rest, is_at_rest, look, patient_client
from tests.ports import free_port
from tests.waiting import wait_until, wait_until_async

T = TypeVar("T")
SAMPLE_SECONDS = 0.25
REST_SECONDS = 120.0
PAGE = 100
READ_SECONDS = 60.0
"""Time for which a read of the suite is repeated that gets no response, because it shares the machine with the load."""
LOOK_SECONDS = 900.0
"""The same for the look at the whole store at the end, which has millions of keys in one scenario."""
LONG_MS = 800
"""An execution that takes this long can be interrupted on purpose."""


class Named(Protocol):
    """A worker, by the name that its container journals."""

    @property
    def name(self) -> str: ...


@dataclass(frozen=True)
class Outcome:
    """What one scenario came to."""

    name: str
    rate: float
    verdict: Verdict
    recoveries: Recoveries
    goal_seconds: float | None
    seconds: float
    directory: Path
    notes: tuple[str, ...] = ()
    weaker: str = ""
    """Why this machine could not do all of it, in a sentence; empty when it could."""

    @property
    def passed(self) -> bool:
        return not self.verdict.violations


class Stage:
    """One scenario's view of the engine. All random choices come from `rng`."""

    def __init__(self, engine: Engine, directory: Path, rng: random.Random, *, rest_seconds: float) -> None:
        self.engine = engine
        self.directory = directory
        self.rng = rng
        self.store: Store = engine.open_store()
        self.journal = Journal(directory / "harness.jsonl")
        self._readers: dict[str, JournalReader] = {}
        self.workers: list[Worker] = []
        self.notes: list[str] = []
        self.weaker = ""
        """As of an Outcome."""
        self.rate = 0.0
        self.rest_seconds = rest_seconds
        self.violations: list[str] = []
        """What the scenario itself found wrong, in sentences."""
        self._valid_from = 0.0
        """Records from before, and tasks that were submitted before, do not count."""
        self._receiver_port = free_port()
        self.to_receiver = engine.network.link(f"delivery to receiver {directory.name}", self._receiver_port)
        self.endpoint_id = ""
        self.over_api = False
        """True if the agents use the APIs, with a token."""
        self.token: str | None = None
        """The token of agents that use the APIs."""
        self.token_id = ""
        self.mix = Mix(rng, f"t{rng.randrange(10**6)}")
        self._seed = rng.randrange(10**6)
        self._sampling: asyncio.Task[None] | None = None
        self._loads: list[asyncio.Task[None]] = []

    # Setting up

    async def prepare(self, *, workers: int, container_links: bool, over_api: bool = False, **endpoint: Any) -> None:
        """Make the endpoint, its workers and the receiver, and begin to watch the counts."""
        self._container_links = container_links
        self.over_api = over_api
        self.endpoint_id = await asyncio.to_thread(lambda: self.engine.new_endpoint(**endpoint))
        await self.renew_token()
        self.receiver = self.engine.run(
            "receiver", None, "tests.faults.receiver", "--port", str(self._receiver_port),
            "--journal", str(self.directory / "receiver.jsonl"), "--seed", str(self._seed),
        )  # fmt: skip
        for number in range(1, workers + 1):
            await self.add_worker(f"w{number}")
        await asyncio.gather(*(asyncio.to_thread(worker.wait_until_up) for worker in self.workers))
        self.producer = Producer(
            self.engine.api_urls,
            API_KEY,
            self.endpoint_id,
            f"http://127.0.0.1:{self.to_receiver.port}/hook",
            self.journal,
            self.rng,
        )
        self.client = Client(self.engine.api_urls, API_KEY, self.endpoint_id, self.journal, self.rng)
        self._sampling = asyncio.create_task(self._sample())

    async def add_worker(self, name: str) -> Worker:
        journal = self.directory / "containers.jsonl"
        linked = self._container_links
        token = self.token
        worker = await asyncio.to_thread(
            lambda: Worker(self.engine, name, self.endpoint_id, journal, container_link=linked, token=token)
        )
        self.workers.append(worker)
        return worker

    async def renew_token(self) -> None:
        """Let agents that are started from now on have a new token, if agents use the APIs."""
        if not self.over_api:
            return
        self.token, self.token_id = await asyncio.to_thread(self.engine.new_token, self.endpoint_id)
        for worker in self.workers:
            worker.use_token(self.token)

    # Load

    def load(self, plans: Iterable[TaskPlan], *, rate: float) -> asyncio.Task[None]:
        """Submit these in the background, `rate` a second."""
        self.rate = max(self.rate, rate)
        loading = asyncio.create_task(self.producer.submit_all(plans, rate=rate))
        self._loads.append(loading)
        return loading

    @asynccontextmanager
    async def steady_load(
        self, *, rate: float, ms: int = 1200, change: Callable[[TaskPlan], TaskPlan] | None = None
    ) -> AsyncIterator[None]:
        """Submit for as long as the block runs; afterwards every task is acknowledged or refused.

        `change` may make another plan of each.
        """
        ended = False

        def plans() -> Iterator[TaskPlan]:
            while not ended:
                made = self.mix.quick_and_steady(3, 2, ms=ms)
                yield from made if change is None else map(change, made)

        submitting = self.load(plans(), rate=rate)
        yield
        ended = True
        await submitting

    async def until(self, condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> None:
        """Wait for a condition, which may be async; AssertionError that says `what`.

        It does not hold while it cannot be read.
        """
        await wait_until_async(lambda: _answer_of(condition), seconds, what or "the scenario does not get on")

    async def read(self, call: Callable[[], Awaitable[T]], seconds: float = READ_SECONDS) -> T:
        """Return what a call reads from the store. Repeat it for as long as the store does not respond."""
        async with asyncio.timeout(seconds):
            return await retry_while_unavailable(call, passing=unavailability, what="the suite")

    async def hold(self, least: float, most: float | None = None) -> None:
        """Let a fault last, or the load go on, for a time chosen between the two."""
        await asyncio.sleep(least if most is None else self.rng.uniform(least, most))

    def seen(self, what: str, file: str = "containers.jsonl") -> list[Record]:
        """Records of this kind so far."""
        reader = self._readers.setdefault(file, JournalReader(self.directory / file))
        return [record for record in reader.records() if record["what"] == what]

    def interruptible(self, worker: Named) -> list[Record]:
        """Long executions in its container of which at least half is still to come."""
        ended = {record["execution"] for record in self.seen("end")}
        return [
            record
            for record in self.seen("begin")
            if record["worker"] == worker.name and record["execution"] not in ended
            if record["ms"] >= LONG_MS and self.age(record["mono"]) < record["ms"] / 2000
        ]

    async def until_busy(self, *workers: Named) -> None:
        """Return when each of them has begun something that lasts: a fault now hits it."""
        await self.until(lambda: all(self.interruptible(worker) for worker in workers), what="a worker stays idle")

    def submit_seconds(self) -> list[float]:
        """How long each submit took until it was acknowledged, repeats included."""
        began = {one["task"]: one["mono"] for one in self.seen("submit", "harness.jsonl")}
        return [one["mono"] - began[one["task"]] for one in self.seen("acknowledged", "harness.jsonl")]

    def is_acknowledged(self, task_id: str) -> bool:
        return any(one["task"] == task_id for one in self.seen("acknowledged", "harness.jsonl"))

    async def all_ended(self) -> bool:
        """Whether no task of the endpoint waits or runs."""
        counts = await self.store.tasks.counts(self.endpoint_id)
        return counts.processing == 0

    # Faults

    @contextmanager
    def fault(self, kind: str, *hits: Named) -> Iterator[float]:
        """Journal what is done in the block, and give when it began. `hits`: workers whose tasks it may interrupt."""
        began = time.monotonic()
        try:
            yield began
        finally:
            names = [worker.name for worker in hits]
            self.journal.write("fault", kind=kind, began=began, ended=time.monotonic(), hits=names)

    async def note_held(self, worker: Worker, killed: float) -> None:
        """Journal the tasks that the store takes its dead agent to have: read and not started, or running."""
        for task_id, running in sorted((await self.read(lambda: self._held(worker))).items()):
            self.journal.write("held", task=task_id, worker=worker.name, running=running, began=killed)

    async def _held(self, worker: Worker) -> dict[str, bool]:
        keys, redis, agent = self.store.partitions.of(self.endpoint_id), self.store.redis, worker.agents[-1]
        held = {}
        for stream in (keys.queue, keys.retry_queue):
            for read in await redis.xpending_range(stream, GROUP, "-", "+", 1000, consumername=agent):
                for _, fields in await redis.xrange(stream, read["message_id"], read["message_id"]):
                    held[fields[b"t"].decode()] = False
        for name in await redis.zrange(keys.partition.leases, 0, -1):
            endpoint_id, task_id = parse_member(name.decode())
            if endpoint_id == self.endpoint_id:
                state, holder = await redis.hmget(keys.task(task_id), ["state", "worker"])  # type: ignore[misc]
                if (state, holder) == (b"running", agent.encode()):
                    held[task_id] = True
        return held

    def note_wiped(self) -> None:
        """The operator has removed everything: what was before does not count any more."""
        self._valid_from = time.monotonic()

    async def renew_endpoint(self) -> None:
        """After that: a new endpoint, with new agents beside the same containers."""
        await asyncio.to_thread(self._stop_workers)
        self.endpoint_id = await asyncio.to_thread(self.engine.new_endpoint)
        await self.renew_token()
        self.producer.endpoint_id = self.client.endpoint_id = self.endpoint_id
        count, self.workers = len(self.workers), []
        for number in range(1, count + 1):
            await self.add_worker(f"n{number}")
        await asyncio.gather(*(asyncio.to_thread(worker.wait_until_up) for worker in self.workers))

    def recovered(self, seconds: float) -> None:
        """Note how long it took until work went on."""
        self.journal.write("recovered", seconds=seconds)

    async def until_all_work(self, since: float) -> float:
        """Wait until every part has done useful work since that time (monotonic); returns how long that took.

        Needs load: an API has done work when it acknowledged a task, a worker when it began one, delivery when the
        receiver got a webhook, a controller when it swept.
        """
        swept = await self.store.now_ms()

        async def all_work() -> bool:
            acknowledged = {one["api"] for one in self.seen("acknowledged", "harness.jsonl") if one["mono"] > since}
            begun = {one["worker"] for one in self.seen("begin") if one["mono"] > since}
            told = any(one["mono"] > since for one in self.seen("webhook", "receiver.jsonl"))
            ticks = self.store.partitions.of(self.endpoint_id).partition.ticks
            tick = await self.store.redis.hget(ticks, "sweep")  # type: ignore[misc]
            everybody = acknowledged == set(range(len(self.engine.api_urls))) and begun == self.names
            return everybody and told and int(tick or 0) > swept

        await self.until(all_work, 60, "a part does no work after the fault")
        seconds = time.monotonic() - since
        self.recovered(seconds)
        return seconds

    @property
    def names(self) -> set[str]:
        """Of the workers."""
        return {worker.name for worker in self.workers}

    def age(self, mono: float) -> float:
        """Seconds since then."""
        return time.monotonic() - mono

    # The end

    async def finish(self, name: str, goal_seconds: float | None, began: float) -> Outcome:
        """Heal everything, wait until nothing is to be done, and check."""
        for loading in self._loads:  # of a scenario that was given up
            loading.cancel()
        await asyncio.gather(*self._loads, return_exceptions=True)
        await self._heal()
        keys = self.store.partitions.of(self.endpoint_id)
        async with patient_client(self.engine.url_of(keys.partition.tag)) as redis:
            with suppress(AssertionError):  # the check says what has not ended
                await self.until(lambda: is_at_rest(redis, keys), self.rest_seconds)
            evidence = await self._evidence(await self.read(lambda: look(redis, keys), LOOK_SECONDS))
        journal = evidence.journal
        if expired := sum(task["state"] == "expired" for task in evidence.tasks.values()):
            self.notes.append(f"{expired} tasks expired")
        return Outcome(
            name=name,
            rate=self.rate,
            verdict=check(evidence),
            recoveries=recoveries(journal),
            goal_seconds=goal_seconds,
            seconds=time.monotonic() - began,
            directory=self.directory,
            notes=tuple(self.notes),
            weaker=self.weaker,
        )

    async def close(self) -> None:
        """End what belongs to this scenario alone."""
        if self._sampling is not None:
            self._sampling.cancel()
            await asyncio.gather(self._sampling, return_exceptions=True)
        await asyncio.to_thread(self._stop_programs)
        await self.store.close()
        self.journal.close()

    async def _heal(self) -> None:
        self.to_receiver.heal()
        await asyncio.to_thread(self.engine.heal)
        for worker in self.workers:
            await asyncio.to_thread(worker.heal)

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.stop()

    def _stop_programs(self) -> None:
        self._stop_workers()
        self.receiver.stop()

    async def _evidence(self, rest: Rest) -> Evidence:
        files = ("harness.jsonl", "containers.jsonl", "receiver.jsonl")
        everything = (one for file in files for one in read_journal(self.directory / file))
        journal = sorted((one for one in everything if one["mono"] >= self._valid_from), key=_mono)
        names = {str(record["task"]) for record in journal if record["what"] == "submit"}
        retried = {str(one["task"]) for one in journal if one["what"] == "asked" and one["order"] == "retry"}
        tasks = {
            task_id: task | {"lost": rest.lost.get(task_id, 0), "runs": rest.runs.get(task_id, 1)}
            for task_id, task in (await asyncio.to_thread(self._tasks, names, retried)).items()
        }
        counts = await asyncio.to_thread(self._counts)
        processes = [*self.violations, *(f"ended by itself: {one}" for one in self.engine.ended())]
        return Evidence(
            journal=journal,
            tasks=tasks,
            counts=counts,
            leftovers=rest.leftovers,
            processes=processes,
        )

    def _tasks(self, names: set[str], retried: set[str]) -> dict[str, dict[str, Any]]:
        """Every task in detail: those that the lists have, and those that were submitted; with attempts where asked."""
        page = 1
        base = f"{self.engine.api_urls[0]}/v2/serverless/{self.endpoint_id}/tasks"
        tasks = {}
        with httpx.Client(headers={"X-Api-Key": API_KEY}, timeout=30) as client:
            while items := _get(client, f"{base}?pageNumber={page}&pageSize={PAGE}").json()["data"]["items"]:
                names |= {item["taskId"] for item in items}
                page += 1
            for name in sorted(names):
                answer = _get(client, f"{base}/{name}")
                if answer.status_code == 200:
                    try:
                        tasks[name] = answer.json()["data"]
                    except ValueError:
                        self.violations.append(f"{name} cannot be read: {answer.text[:300]}")
                        continue
                    if name in retried:
                        attempts = _get(client, f"{base}/{name}/attempts").json()["data"]
                        tasks[name]["history"] = [one["attempt"] for one in attempts]
        return tasks

    def _counts(self) -> dict[str, int]:
        with httpx.Client(headers={"X-Api-Key": API_KEY}, timeout=30) as client:
            url = f"{self.engine.api_urls[0]}/v2/serverless/{self.endpoint_id}/tasks/count"
            counts: dict[str, int] = _get(client, url).json()["data"]
            return counts

    async def _sample(self) -> None:
        url = f"/v2/serverless/{self.endpoint_id}/tasks/count"
        number = 0
        async with httpx.AsyncClient(headers={"X-Api-Key": API_KEY}, timeout=5) as client:
            while True:
                began = time.monotonic()
                number += 1
                base = self.engine.api_urls[number % len(self.engine.api_urls)]
                with suppress(httpx.HTTPError):
                    answer = await client.get(base + url)
                    if answer.status_code == 200:
                        self.journal.write("counts", began=began, **answer.json()["data"])
                await asyncio.sleep(SAMPLE_SECONDS)


async def _answer_of(condition: Callable[[], Any]) -> Any:
    """Return the value of a condition; None if the store or an API does not respond to what it reads."""
    try:
        answer = condition()
        return await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        if unavailability(error) is None and not isinstance(error, httpx.TransportError):
            raise
        return None


def _get(client: httpx.Client, url: str) -> httpx.Response:
    """Return the response to a GET, which is repeated while there is none, or one that asks for it."""

    def response() -> httpx.Response | None:
        try:
            found = client.get(url)
        except httpx.TransportError:
            return None
        return None if found.status_code in TRANSIENT else found

    found = wait_until(response, READ_SECONDS, f"no response to {url}")
    assert found is not None
    return found


def kill(worker: Worker, *parts: str) -> None:
    """SIGKILL the `agent`, the `container`, or both of a worker."""
    for part in parts:
        program = worker.agent if part == "agent" else worker.container
        if program.running:
            program.signal(signal.SIGKILL)
    for part in parts:
        (worker.agent if part == "agent" else worker.container).wait()


Play = Callable[[Stage], Awaitable[None]]


def _mono(record: Record) -> float:
    return float(record["mono"])
