"""How long it took until work went on, from the journals. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from queue_engine.domain.tasks import SUSPECT_AFTER
from tests.faults.checker import ASKS_AGAIN, Execution, Fault, executions_of, faults_of
from tests.faults.journal import Record


@dataclass(frozen=True)
class Recoveries:
    """Seconds until work that a fault interrupted went on, sorted."""

    usual: tuple[float, ...] = ()
    """From a kill of a part of a worker until a task that it was executing begins again, anywhere. Besides, whatever a
    scenario has measured itself (`recovered`)."""
    alone: tuple[float, ...] = ()
    """The same of tasks that this made suspects: they begin when the calls beside them have ended."""


def recoveries(journal: Sequence[Record]) -> Recoveries:
    """From the journals of a run. Each interrupted execution counts once, from the first kill that may have hit it.

    What an agent had (`held`) when it was killed was hit then, though it was not executing it: when it was to go on
    after another kill, it counts from the later one; when it had never begun, until it does. A task of a key that has a
    limit, and of which others wait, has its turn among these: it counts until the key runs as many as it may again.
    """
    slots = _slots_of(journal)
    usual = [float(record["seconds"]) for record in journal if record["what"] == "recovered"]
    alone: list[float] = []
    faults = faults_of(journal)
    outages = [fault for fault in faults if not fault.hits]
    kills = [fault for fault in faults if fault.kind.startswith("kill") and fault.hits]
    held: dict[str, list[Record]] = defaultdict(list)
    for record in journal:
        if record["what"] == "held":
            held[record["task"]].append(record)
    for task_id, of_task in executions_of(journal).items():
        lost = 0
        for interrupted, again in pairwise((None, *of_task)):
            assert again is not None
            killed = interrupted and _killed(interrupted, again, kills, outages)
            since = killed or (interrupted.began if interrupted else 0.0)
            later = [record for record in held[task_id] if since < record["began"] < again.began]
            lost += (interrupted is not None and interrupted.how != "busy") + sum(one["running"] for one in later)
            hit = max([killed or 0.0, *(float(record["began"]) for record in later)])
            if hit:
                on = slots[task_id].full_after(hit) if task_id in slots else again.began
                (alone if lost >= SUSPECT_AFTER else usual).append(min(on, again.began) - hit)
    return Recoveries(tuple(sorted(usual)), tuple(sorted(alone)))


@dataclass(frozen=True)
class _Slots:
    """How many tasks of a key ran at once."""

    limit: int
    changes: Sequence[tuple[float, int]]
    """When one began (1), and when one ended or lost its worker (-1), sorted."""

    def full_after(self, since: float) -> float:
        """Return when the key first ran as many tasks as it may after that time; infinity if it never did."""
        running = 0
        for at, change in self.changes:
            running += change
            if at > since and running >= self.limit:
                return at
        return math.inf


def _slots_of(journal: Sequence[Record]) -> dict[str, _Slots]:
    """Return by task the slots of its key, for the keys that have a limit."""
    limits = {record["key"]: int(record["limit"]) for record in journal if record["what"] == "limit"}
    keys = {record["task"]: record["key"] for record in journal if record["what"] == "submit" and record.get("key")}
    kills = [fault for fault in faults_of(journal) if fault.kind.startswith("kill") and fault.hits]
    changes: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for task_id, of_task in executions_of(journal).items():
        if keys.get(task_id) in limits:
            for one in of_task:
                killed = [kill.began for kill in kills if one.worker in kill.hits and kill.began >= one.began]
                changes[keys[task_id]] += [(one.began, 1), (min([one.ended, *killed]), -1)]
    by_key = {key: _Slots(limit, sorted(changes[key])) for key, limit in limits.items()}
    return {task_id: by_key[key] for task_id, key in keys.items() if key in limits}


def _killed(interrupted: Execution, again: Execution, kills: Sequence[Fault], outages: Sequence[Fault]) -> float | None:
    """When the execution before this one was first hit; None when it was not, or has asked for the next one itself."""
    if interrupted.how in ASKS_AGAIN:
        return None
    hit = [
        fault.began
        for fault in kills
        if fault.may_interrupt(interrupted, outages) and interrupted.began <= fault.began < again.began
    ]
    return min(hit, default=None)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the sorted values that at least this share of them does not exceed; None without any."""
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else None
