"""Measure the cost of work, and the memory for each task, by the number of tasks that have ended or wait.

There is a store for each number of finished tasks, and one in which as many tasks wait as the largest of them has
finished. In two further stores tasks wait in lanes: as many in a single one, and MAX_LANES in a lane each. Each is
filled by the scripts of the transitions themselves, run inside the server. Then the same work is done on each of them
in turn, many times over. Measured are the processor's time that an operation takes as a whole, here in the process that
asks for it and in the server, and of that the server's own time for the commands, as INFO commandstats has it. The
figure is the lower quartile of the rounds, because other programs, which use the caches too, can only add.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from redis.asyncio import Redis

from queue_engine.crypto.sealing import Sealer
from queue_engine.domain.endpoints import EndpointConfig, Resource, ServiceMode
from queue_engine.domain.task_filters import TaskFilters
from queue_engine.domain.tasks import Lease, NewTask, Succeeded, TaskSpec, TaskStatus
from queue_engine.local.embedded import server_environment
from queue_engine.store.calls import Scripts
from queue_engine.store.codec import AgentSpecs
from queue_engine.store.queue import Entry, Started, TaskQueue
from queue_engine.store.scripts import Argument, Script, load_scripts
from queue_engine.store.store import Store
from queue_engine.store.tasks import TaskStore
from tests.servers import StoreServer

SIZES = (1_000, 100_000, 1_000_000)
ROUNDS = 41
CALLS = 100
"""Calls of one operation in a round."""
PAGES = 20
"""Pages read in a round, of each kind."""
PAGE_SIZE = 20
FLAT_PERCENT = 10
FILL_CHUNK = 100
"""Tasks that one call of the filling script makes: few, so that no call times out on a busy machine."""
WARM_UP = 100
SETTLE_SECONDS, SETTLE_PAUSE_SECONDS, SETTLED_BYTES = 30.0, 0.5, 1000
INPUT = json.dumps({"prompt": "x" * 50, "n": 1}).encode()
OUTPUT = json.dumps({"answer": "y" * 50}).encode()
WAITING = "waiting"
PROGRESS_STEP = 0.25
"""Share of the work after which progress is printed where no terminal shows a bar."""
MAX_LANES = 200_000
GAP_EVERY = 64
"""One task in this number is deleted by hand, before pages among gaps are read."""
WORKER_ID = "w1"
FILTERED_PAGE = "filtered page"
FILTERED_PAGE_SIZE = 50
OPERATIONS = (
    *("submit", "claim", "finish", "count", "first page", "middle page", "last page", "page of all", FILTERED_PAGE),
    "purge",
)
AMONG_GAPS = "page among gaps"
TOP_LEVEL = {"claim": ("evalsha", "blpop"), "count": ("hmget",)}
"""The commands that an operation sends, where these are not scripts only."""


async def run(binary: Path, sizes: Sequence[int] = SIZES, rounds: int = ROUNDS, *, result: Path | None = None) -> None:
    """Fill, measure, print the table, and write it to `result` as JSON. `binary` is the server's."""
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="queue-engine-growth-")))
        largest = max(sizes)
        lanes = min(MAX_LANES, largest)
        smallest = min(sizes)
        kinds = [
            *((size, False, 0) for size in sizes),
            *((largest, True, 0), (smallest, True, 1), (largest, True, 1), (lanes, True, lanes)),
        ]
        histories = [
            await _opened(stack, binary, folder, size, waiting=waiting, lanes=number) for size, waiting, number in kinds
        ]
        server = await histories[0].store.server()
        allocator = (await histories[0].store.redis.info("memory"))["mem_allocator"]
        if allocator == "libc":
            allocator = server_environment().get("LD_PRELOAD", "the C library's allocator (jemalloc is not installed)")
        _say(f"{server} with {allocator}, {os.cpu_count()} cores; nothing is written to disk")
        for history in histories:
            await history.fill()
        found = await _measured(histories, OPERATIONS, rounds)
        finished = [history for history in histories if not history.waiting]
        for history in finished:
            await history.make_gaps()
        found |= await _measured(finished, (AMONG_GAPS,), rounds)
        _print(histories, found)
        if result is not None:
            document = _to_json(f"{server}, {allocator}", histories, found)
            print_change(_read(result), document)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(document, indent=1) + "\n")
    _say(f"\n{rounds} rounds of {CALLS} calls, lower quartiles; {time.monotonic() - started:.0f} s in all")


@dataclass
class History:
    """A store with one endpoint and `size` tasks, which have finished or are `waiting`."""

    store: Store
    endpoint_id: str
    size: int
    waiting: bool = False
    lanes: int = 0
    """Number of lanes in which they wait; 0 for the plain queue."""
    payload: bytes = INPUT
    output: bytes = OUTPUT
    bytes_per_task: float = 0.0
    number: int = 0
    """Tasks that were submitted so far."""

    def __post_init__(self) -> None:
        self.agent = self.store.queue(endpoint_id=self.endpoint_id, worker_id=WORKER_ID, lease_ms=3_600_000)
        self._entries: list[Entry] = []
        self._started: list[Started] = []

    @property
    def label(self) -> str:
        """The number of tasks, and where they wait."""
        if self.lanes:
            return f"{self.size:,} in {self.lanes:,} lane{'s' * (self.lanes > 1)}"
        return f"{self.size:,}" + (f" {WAITING}" if self.waiting else "")

    def new_task(self, number: int) -> NewTask:
        """Return a task to submit. Those with consecutive numbers wait in different lanes."""
        key = f"key-{number % self.lanes}" if self.lanes else None
        return replace(_task(self.endpoint_id, f"task-{number:09}", self.payload), fairness_key=key)

    # Filling

    async def fill(self) -> None:
        """Submit tasks inside the server, as the scripts do; start and finish them too, unless they are to wait."""
        redis = self.store.redis
        text = _fill_script()
        script = await redis.script_load(text)
        templates = json.dumps((await _templates(self))[: 1 if self.waiting else None])
        lanes = str(max(1, self.lanes))
        await redis.evalsha(script, 0, templates, "1", str(WARM_UP), lanes)  # type: ignore[misc]
        await redis.script_flush("SYNC")
        before = await settled_memory(self.store.redis)
        await redis.script_load(text)
        for first in range(WARM_UP + 1, self.size + 1, FILL_CHUNK):
            last = min(self.size, first + FILL_CHUNK - 1)
            await redis.evalsha(script, 0, templates, str(first), str(last), lanes)  # type: ignore[misc]
            _progress(f"{self.label} tasks" if self.waiting else f"{self.label} finished tasks", last / self.size)
        await redis.script_flush("SYNC")
        self.bytes_per_task = (await settled_memory(self.store.redis) - before) / (self.size - WARM_UP)
        self.number = self.size
        counts = await self.store.tasks.counts(self.endpoint_id)
        if (counts.queued if self.waiting else counts.success) != self.size or counts.total != self.size:
            raise RuntimeError(f"the store was not filled as it should be: {counts}")

    async def add(self, first: int, last: int) -> None:
        """Submit and finish the tasks of these numbers inside the server of a running engine, in parts."""
        redis, templates = self.store.redis, json.dumps(await _templates(self))
        script = await redis.script_load(_fill_script())
        for begin in range(first, last + 1, FILL_CHUNK):
            end = min(last, begin + FILL_CHUNK - 1)
            await redis.evalsha(script, 0, templates, str(begin), str(end), "1")  # type: ignore[misc]

    def named_task(self, task_id: str) -> NewTask:
        """Return a task with an id of its own."""
        return _task(self.endpoint_id, task_id, self.payload)

    async def make_gaps(self) -> None:
        """Delete one task of GAP_EVERY, as a user may."""
        numbers = range(self.number - self.size + GAP_EVERY, self.number, GAP_EVERY)
        for first in range(0, len(numbers), FILL_CHUNK):
            chunk = numbers[first : first + FILL_CHUNK]
            await asyncio.gather(*(self.store.tasks.delete(self.endpoint_id, f"task-{one:09}") for one in chunk))
            _progress("gaps", (first + len(chunk)) / len(numbers))
        # The hash of counts has grown by this. A server puts such a hash in order bit by bit, one step with each look.
        absent = [f"absent-{number}" for number in range(FILL_CHUNK)]
        for _ in range(0, self.size // GAP_EVERY * 4, FILL_CHUNK):
            await self.store.redis.hmget(self.store.partitions.of(self.endpoint_id).counts, absent)  # type: ignore[misc]

    # The operations, CALLS of each

    async def submit(self) -> None:
        first = self.number + 1
        self.number += CALLS
        await asyncio.gather(*(self.store.tasks.enqueue(self.new_task(first + index)) for index in range(CALLS)))

    async def claim(self) -> None:
        entries = await self.agent.claim(CALLS, block_ms=1)
        started = await asyncio.gather(*(self.agent.start(entry, address="127.0.0.1:9000") for entry in entries))
        self._started = [one for one in started if one is not None]

    async def finish(self) -> None:
        await asyncio.gather(*(self.agent.settle(one.lease, Succeeded(self.output)) for one in self._started))

    async def purge(self) -> None:
        later = await self.store.now_ms() + 1000
        await self.store.sweeper.purge(self.endpoint_id, before_ms=later, limit=CALLS)

    async def count(self) -> None:
        await asyncio.gather(*(self.store.tasks.counts(self.endpoint_id) for _ in range(CALLS)))

    async def page(self, place: float, status: TaskStatus | None = TaskStatus.SUCCESS) -> None:
        """Pages near to this place, from 0, the newest end, to 1."""
        pages = self.size // PAGE_SIZE
        numbers = [min(pages, max(1, round(place * pages) + index % 5 - 2)) for index in range(PAGES)]
        page = self.store.tasks.page
        await asyncio.gather(*(page(self.endpoint_id, status, page=one, size=PAGE_SIZE) for one in numbers))

    async def filtered_page(self) -> None:
        """Pages by cursor from the middle of the tasks, filtered by time and, if they have ended, by worker."""
        filters = TaskFilters(created_after=1, worker_id=None if self.waiting else WORKER_ID)
        middle, page = self.number - self.size // 2, self.store.task_scan.page
        await asyncio.gather(
            *(page(self.endpoint_id, filters, after=middle + index, limit=FILTERED_PAGE_SIZE) for index in range(PAGES))
        )

    def operations(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """In an order in which each finds what it needs, and the number of tasks is in the end what it was."""
        status = None if self.waiting else TaskStatus.SUCCESS
        return {
            "submit": self.submit,
            "claim": self.claim,
            "finish": self.finish,
            "count": self.count,
            "first page": lambda: self.page(0.0, status),
            "middle page": lambda: self.page(0.5, status),
            "last page": lambda: self.page(1.0, status),
            "page of all": lambda: self.page(0.5, None),
            FILTERED_PAGE: self.filtered_page,
            "purge": self.purge,
            AMONG_GAPS: lambda: self.page(0.5),
        }


async def _opened(
    stack: AsyncExitStack, binary: Path, parent: Path, size: int, *, waiting: bool, lanes: int
) -> History:
    folder = parent / (f"{size}-{WAITING}-{lanes}" if waiting else str(size))
    folder.mkdir()
    server = stack.enter_context(StoreServer(binary, folder, variables=server_environment()))
    store = Store(server.url, Sealer(None))
    stack.push_async_callback(store.close)
    await store.prepare()
    config = EndpointConfig(
        "growth", "none", ServiceMode.QUEUE, (Resource("here", "CPU", 1),), 0, 20, max_queued_tasks=2 * size
    )
    return History(store, (await store.endpoints.create("default", config)).endpoint_id, size, waiting, lanes)


def _task(endpoint_id: str, task_id: str, payload: bytes = INPUT) -> NewTask:
    return NewTask(task_id, endpoint_id, "default", TaskSpec(8000, "/run", {}, None, None, None), payload, "f" * 32)


@dataclass(frozen=True)
class Cost:
    """Microseconds for one call of an operation."""

    whole: float
    """Processor time, here and in the server."""
    server: float
    """Processor time of the server, for the commands alone."""


async def _measured(
    histories: Sequence[History], operations: Sequence[str], rounds: int
) -> dict[tuple[str, str], Cost]:
    """Return the cost of one call of each operation, by operation and label of the history."""
    found: dict[tuple[str, str], list[Cost]] = {}
    for number in range(rounds + 1):
        # One store does its whole round before the next: a server's caches hold what it did itself, as in real life.
        for history in histories:
            for name in operations:
                cost = await spent(history, name)
                if number:  # the first round warms up
                    found.setdefault((name, history.label), []).append(cost)
        _progress(f"{rounds} rounds", number / rounds)
    return {
        key: Cost(_lower_quartile([one.whole for one in costs]), _lower_quartile([one.server for one in costs]))
        for key, costs in found.items()
    }


def _lower_quartile(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=4)[0]


async def spent(history: History, name: str) -> Cost:
    redis = history.store.redis
    calls = PAGES if "page" in name else CALLS
    await redis.config_resetstat()
    before = await server_seconds(redis), time.process_time()
    await history.operations()[name]()
    here = time.process_time() - before[1]
    whole = here + await server_seconds(redis) - before[0]
    stats = cast("dict[str, dict[str, Any]]", await redis.info("commandstats"))
    commands = TOP_LEVEL.get(name, ("evalsha",))
    server = sum(float(stats.get(f"cmdstat_{one}", {"usec": 0})["usec"]) for one in commands)
    return Cost(whole * 1e6 / calls, server / calls)


async def settled_memory(redis: Redis) -> int:
    """Return the server's used memory as soon as it stays the same: a table that grows exists twice for a moment."""
    used, deadline = 0, time.monotonic() + SETTLE_SECONDS
    while True:
        before, used = used, int((await redis.info("memory"))["used_memory"])
        if abs(used - before) <= SETTLED_BYTES:
            return used
        if time.monotonic() > deadline:
            raise RuntimeError(f"the server's memory goes on changing: {used} bytes, {before} before")
        await asyncio.sleep(SETTLE_PAUSE_SECONDS)


async def server_seconds(redis: Redis) -> float:
    """Return the processor time that the server has used so far."""
    used = cast("dict[str, float]", await redis.info("cpu"))
    return used["used_cpu_user"] + used["used_cpu_sys"]


def _print(histories: Sequence[History], found: Mapping[tuple[str, str], Cost]) -> None:
    labels = [history.label for history in histories]
    names = (*OPERATIONS, AMONG_GAPS)
    memory = [("bytes per task", [history.bytes_per_task for history in histories])]
    costs = {name: [found[name, label] for label in labels if (name, label) in found] for name in names}
    in_lanes = [bool(history.lanes) for history in histories]
    bases = [in_lanes.index(kind) for kind in in_lanes]
    whole = memory + [(f"{name}, µs", [one.whole for one in costs[name]]) for name in names]
    _print_table("the whole", labels, bases, whole)
    server = [(f"{name}, µs", [one.server for one in costs[name]]) for name in names]
    _print_table("the server's commands", labels, bases, server)
    compared = " and ".join(dict.fromkeys(labels[base] for base in bases))
    _say(
        f"\nratio: the other columns to {compared}; flat: at most {FLAT_PERCENT} % more. Waiting tasks take other bytes"
    )


def _print_table(
    title: str, labels: Sequence[str], bases: Sequence[int], rows: Sequence[tuple[str, list[float]]]
) -> None:
    """Print the values by label, and the ratio of each to the one at its place in `bases`, the first of its kind."""
    widths = [max(len(label), 9) + 2 for label in labels]
    heads = "".join(label.rjust(width) for label, width in zip(labels, widths, strict=True))
    _say(f"\n{title}, by tasks".ljust(36) + heads + "   ratios                    flat")
    for name, values in rows:
        ratios = [
            value / values[base]
            for place, (value, base) in enumerate(zip(values, bases, strict=False))
            if place != base
        ]
        flat = "yes" if max(ratios, default=1) <= 1 + FLAT_PERCENT / 100 else "no"
        cells = "".join(f"{value:.1f}".rjust(width) for value, width in zip(values, widths, strict=False))
        _say(
            f"{name:<35}{cells:<{sum(widths)}}   "
            + " ".join(f"{ratio:.2f}" for ratio in ratios).ljust(23)
            + f"   {flat}"
        )


def _to_json(server: str, histories: Sequence[History], found: Mapping[tuple[str, str], Cost]) -> dict[str, Any]:
    """Return the costs by operation, in the order of the sizes, and those beside waiting tasks."""
    finished, waiting = ([one for one in histories if one.waiting is kind] for kind in (False, True))
    return {
        "server": server,
        "sizes": [history.size for history in finished],
        "bytes per finished task": [history.bytes_per_task for history in finished],
        "microseconds": _costs(finished, found, (*OPERATIONS, AMONG_GAPS)),
        "waiting": {
            "sizes": [history.size for history in waiting],
            "lanes": [history.lanes for history in waiting],
            "bytes per task": [history.bytes_per_task for history in waiting],
            "microseconds": _costs(waiting, found, OPERATIONS),
        },
    }


def _costs(
    histories: Sequence[History], found: Mapping[tuple[str, str], Cost], names: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    return {
        name: {
            "whole": [found[name, one.label].whole for one in histories],
            "server": [found[name, one.label].server for one in histories],
        }
        for name in names
    }


def _read(path: Path) -> dict[str, Any] | None:
    """Return the result of an earlier run; None if there is none that can be read."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document


def print_change(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> None:
    """Print the costs with the most finished tasks beside those of the earlier run, if it has the same sizes."""
    if before is None or before.get("sizes") != after["sizes"]:
        return
    _say(f"\nthe whole with {after['sizes'][-1]:,} finished tasks, µs".ljust(46) + "      before       after     ratio")
    for name, costs in after["microseconds"].items():
        if name in before["microseconds"]:
            earlier, later = before["microseconds"][name]["whole"][-1], costs["whole"][-1]
            _say(f"{name:<45}{earlier:>12.1f}{later:>12.1f}{later / earlier:>10.2f}")


# Filling a store from the inside


class _Recorder:
    """Notes script calls in place of running them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], list[str]]] = []

    async def submit(self, script: Script, arguments: list[Argument]) -> list[Any]:
        texts = [one.decode() if isinstance(one, bytes) else str(one) for one in arguments[1:]]
        keys = int(arguments[0])
        self.calls.append((script.name, texts[:keys], texts[keys:]))
        return _REPLIES[script.name]


_REPLIES: dict[str, list[Any]] = {
    "enqueue": [b"OK"],
    "start": [b"OK", b"", b"", b"", [[b"STALE"]]],
    "finish": [b"OK", b"0", [[b"ALREADY"]]],
}


async def _templates(history: History) -> list[tuple[str, list[str], list[str]]]:
    """The calls that submit, start and finish a task, with `@id@`, `@key@`, `@entry@` and `@token@` to be filled in."""
    store, recorder = history.store, _Recorder()
    scripts = Scripts(recorder.submit)
    tasks = TaskStore(store.redis, scripts, store.partitions, store.sealer)
    claims = TaskQueue(
        scripts, scripts, store.redis, store.partitions,
        AgentSpecs(store.sealer.for_endpoint(history.endpoint_id), store.sealer),
        endpoint_id=history.endpoint_id, worker_id=WORKER_ID, lease_ms=3_600_000,
    )  # fmt: skip
    await tasks.enqueue(replace(_task(history.endpoint_id, "@id@"), fairness_key="@key@" if history.lanes else None))
    queue = store.partitions.of(history.endpoint_id).queue
    await claims.start(Entry(queue, "@entry@", "@id@", "@token@"), address="127.0.0.1:9000")
    await claims.settle(Lease(history.endpoint_id, "@id@", "@token@"), Succeeded(OUTPUT))
    return recorder.calls


def _fill_script() -> str:
    """The scripts as functions of one script. ARGV 1 templates (JSON) 2 first number 3 last number 4 number of keys."""
    parts = ["#!lua", "local scripts = {}"]
    for name in _REPLIES:
        body = load_scripts()[name].text.partition("\n")[2]
        parts.append(f"scripts['{name}'] = function(KEYS, ARGV)\n{body}\nend")
    return "\n".join([*parts, _FILL])


_FILL = """
local templates = cjson.decode(ARGV[1])
for number = tonumber(ARGV[2]), tonumber(ARGV[3]) do
  local values = { ['@id@'] = string.format('task-%09d', number), ['@token@'] = string.format('%032d', number),
    ['@key@'] = string.format('key-%d', number % tonumber(ARGV[4])) }
  for _, template in ipairs(templates) do
    local name, given = template[1], { {}, {} }
    for kind = 1, 2 do
      for index, word in ipairs(template[kind + 1]) do given[kind][index] = string.gsub(word, '@%l+@', values) end
    end
    local reply = scripts[name](given[1], given[2])
    if reply[1] ~= 'OK' then return redis.error_reply('ERR ' .. name .. ' answered ' .. reply[1]) end
    if name == 'enqueue' then values['@entry@'] = redis.call('HGET', given[1][2], 'entry') end
  end
end
return 'OK'
"""


def _progress(what: str, share: float) -> None:
    """Show a bar on a terminal, elsewhere a line for each PROGRESS_STEP."""
    if sys.stderr.isatty():
        bar = "#" * round(30 * share)
        sys.stderr.write(f"\r{what:<28} [{bar:<30}] {share:4.0%}" + ("\n" if share >= 1 else ""))
        sys.stderr.flush()
        return
    step = int(share / PROGRESS_STEP)
    if _shown.get(what) != step:
        _shown[what] = step
        sys.stderr.write(f"{what} {step * PROGRESS_STEP:4.0%}\n")
        sys.stderr.flush()


_shown: dict[str, int] = {}
"""The last step that was printed, by the name of the work."""


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
