"""What must hold after a run, whatever was done to the engine: a pure function over journals and the store's content.

A journal record has `what`:

| record | by | fields |
| --- | --- | --- |
| `submit`, `acknowledged`, `refused` | producer | `task`; `do` and `webhook` of a submit |
| `begin`, `end` | container | `task`, `attempt`, `execution`, `worker`; `do` of a begin, `how` of an end |
| `webhook` | receiver | `id`, `task`, `status`, `result`, `truncated`, `failed_reason`, `answered` |
| `fault` | scenario | `kind`, `began` and `ended` (monotonic), `hits`: workers whose tasks it may interrupt |
| `cancel` | scenario | `task`, `answer`: CANCELLED, REQUESTED while it runs, ENDED |
| `counts` | sampler | `began` (monotonic), the counts of the API |
| `recovered` | scenario | `seconds` |
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.journal import Record

SETTLE_SECONDS = 1.0
"""After its answer an execution may still be hit for so long, until its agent has recorded the result."""
ARRIVAL_SECONDS = 1.0
"""A request that was under way when its agent was hit may begin so much later."""

ENDS: Mapping[str, frozenset[str]] = {
    "ok": frozenset({"succeeded"}),
    "busy": frozenset({"succeeded"}),
    "reset": frozenset({"succeeded"}),
    "fail": frozenset({"failed"}),
    "huge": frozenset({"failed"}),
    "hang": frozenset({"timed_out"}),
    "drip": frozenset({"timed_out"}),
    "exit": frozenset({"failed", "dead"}),
    "crash": frozenset({"succeeded"}),
}
"""The states in which a task may end, by what its container does."""
ASKS_AGAIN = frozenset({"busy", "reset", "exit", "crash"})
"""Ends of executions after which the task is tried again by right."""
ENDS_CONTAINER = frozenset({"exit", "crash"})
"""Ends of executions that take all others in the same container with them."""
TERMINAL = frozenset({"succeeded", "failed", "timed_out", "dead", "cancelled", "expired"})


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run when it is over."""

    journal: Sequence[Record]
    tasks: Mapping[str, Mapping[str, Any]]
    """As the API shows each in detail, by its id, with `lost` from the store."""
    counts: Mapping[str, int]
    """As the API shows them."""
    leftovers: Sequence[str] = ()
    """What was found wrong inside the store when nothing was to be done any more, in sentences."""
    processes: Sequence[str] = ()
    """What was wrong with the engine's processes, in sentences."""


@dataclass(frozen=True)
class Verdict:
    """What came of the check."""

    violations: tuple[str, ...]
    tasks: int
    """Acknowledged."""
    executions: int
    lost: int
    duplicated: int
    """Executions beyond the first one and those that the container asked for."""


def check(evidence: Evidence) -> Verdict:
    """Look for everything that must not be."""
    run = _Run(evidence)
    lost = list(_lost(run))
    violations = [
        *lost,
        *_unexpected(run),
        *_wrong_ends(run),
        *_wrong_results(run),
        *_extra_executions(run),
        *_wrong_attempts(run),
        *_wrong_deliveries(run),
        *_wrong_counts(run),
        *_wrong_samples(run),
        *evidence.leftovers,
        *evidence.processes,
    ]
    return Verdict(
        violations=tuple(violations),
        tasks=len(run.acknowledged),
        executions=sum(len(executions) for executions in run.executions.values()),
        lost=len(lost),
        duplicated=sum(max(0, len(done) - 1 - _asked_again(done)) for done in run.executions.values()),
    )


@dataclass(frozen=True)
class Execution:
    """One run of a task in a container. `ended` is infinite and `how` empty when the container was killed in it."""

    task: str
    attempt: int
    execution: str
    worker: str
    began: float
    ended: float
    how: str


@dataclass(frozen=True)
class Fault:
    """Something that was done to the engine. Times are monotonic seconds."""

    kind: str
    began: float
    ended: float
    hits: tuple[str, ...]

    def may_interrupt(self, execution: Execution, outages: Sequence[Fault]) -> bool:
        """Whether it may have taken the task from its worker in this execution, before its result was recorded."""
        if execution.worker not in self.hits or execution.began > self.ended + ARRIVAL_SECONDS:
            return False
        settled = execution.ended + SETTLE_SECONDS
        for outage in outages:  # a result waits until the store is back
            if outage.began <= settled <= outage.ended:
                settled = outage.ended + SETTLE_SECONDS
        return self.began <= settled


def executions_of(journal: Iterable[Record]) -> dict[str, list[Execution]]:
    """By task, in the order in which they began."""
    ends = {record["execution"]: record for record in journal if record["what"] == "end"}
    found: dict[str, list[Execution]] = defaultdict(list)
    for record in journal:
        if record["what"] == "begin":
            end = ends.get(record["execution"], {})
            found[record["task"]].append(
                Execution(
                    record["task"], record["attempt"], record["execution"], record["worker"], record["mono"],
                    end.get("mono", float("inf")), end.get("how", ""),
                )
            )  # fmt: skip
    for executions in found.values():
        executions.sort(key=lambda one: one.began)
    return found


def faults_of(journal: Iterable[Record]) -> list[Fault]:
    """All faults, in the order of the journal; tasks that ended their container are some too."""
    found = []
    for record in journal:
        if record["what"] == "fault":
            found.append(Fault(record["kind"], record["began"], record["ended"], tuple(record["hits"])))
        elif record["what"] == "end" and record["how"] in ENDS_CONTAINER:
            found.append(Fault("poison", record["mono"], record["mono"], (record["worker"],)))
    return found


class _Run:
    """The evidence, sorted out."""

    def __init__(self, evidence: Evidence) -> None:
        journal = evidence.journal
        self.tasks = evidence.tasks
        self.counts = evidence.counts
        self.submitted = {record["task"]: record for record in journal if record["what"] == "submit"}
        self.acknowledged = {record["task"]: record for record in journal if record["what"] == "acknowledged"}
        self.refused = {record["task"] for record in journal if record["what"] == "refused"}
        self.cancelled = {record["task"]: record["answer"] for record in journal if record["what"] == "cancel"}
        self.samples = [record for record in journal if record["what"] == "counts"]
        self.executions = executions_of(journal)
        self.faults = faults_of(journal)
        self.outages = [fault for fault in self.faults if not fault.hits]
        self.webhooks: dict[str, list[Record]] = defaultdict(list)
        for record in journal:
            if record["what"] == "webhook":
                self.webhooks[record["task"]].append(record)

    def ended(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return ((task_id, task) for task_id, task in self.tasks.items() if task["state"] in TERMINAL)


def _lost(run: _Run) -> Iterator[str]:
    for task_id in run.acknowledged:
        task = run.tasks.get(task_id)
        if task is None:
            yield f"{task_id} was acknowledged and is gone"
        elif task["state"] not in TERMINAL:
            yield f"{task_id} was acknowledged and has not ended: it is {task['state']}"


def _unexpected(run: _Run) -> Iterator[str]:
    for task_id in run.tasks:
        if task_id not in run.submitted:
            yield f"{task_id} was never submitted"
        elif task_id in run.refused:
            yield f"{task_id} was refused and is there"
    for kind, names in (("executed", run.executions), ("told to the webhook", run.webhooks)):
        for task_id in names:
            if task_id not in run.submitted:
                yield f"{task_id} was {kind} and never submitted"


def _wrong_ends(run: _Run) -> Iterator[str]:
    for task_id, task in run.ended():
        do, state = run.submitted.get(task_id, {}).get("do", "ok"), task["state"]
        if state not in _ends(do, run.cancelled.get(task_id)):
            yield f"{task_id} ({do}) ended as {state}: {str(task.get('error'))[:200]}"


def _ends(do: str, cancelled: str | None) -> frozenset[str]:
    """Where such a task may end, with what was said to a client that has cancelled it."""
    if cancelled == "CANCELLED":
        return frozenset({"cancelled"})
    return ENDS[do] | {"cancelled"} if cancelled == "REQUESTED" else ENDS[do]


def _wrong_results(run: _Run) -> Iterator[str]:
    for task_id, task in run.ended():
        if task["state"] != "succeeded":
            if not task.get("error"):
                yield f"{task_id} ended as {task['state']} without a reason"
            continue
        output = task.get("output")
        if not isinstance(output, dict) or output.get("task") != task_id:
            yield f"{task_id} has an output that is not its own: {str(output)[:200]}"
            continue
        made_by = [one for one in run.executions[task_id] if one.execution == output["execution"]]
        if not made_by:
            yield f"{task_id} has the output of an execution that never was: {output['execution']}"
        elif not (output["attempt"] == made_by[0].attempt == task["attempts"]):
            yield (
                f"{task_id} ended with attempt {task['attempts']} and has the output of attempt {output['attempt']}: "
                "a fenced attempt left its trace"
            )


def _extra_executions(run: _Run) -> Iterator[str]:
    for task_id, executions in run.executions.items():
        hits = sum(fault.may_interrupt(one, run.outages) for one in executions for fault in run.faults)
        allowed = 1 + _asked_again(executions) + hits
        if len(executions) > allowed:
            yield f"{task_id} was executed {len(executions)} times; at most {allowed} are explained by what hit it"
    for task_id, task in run.ended():
        if task["state"] == "succeeded" and not run.executions[task_id]:
            yield f"{task_id} succeeded and was never executed"


def _asked_again(executions: Sequence[Execution]) -> int:
    return sum(one.how in ASKS_AGAIN for one in executions)


def _wrong_attempts(run: _Run) -> Iterator[str]:
    """Where no worker was hit, each attempt is an execution and none was lost."""
    hits = sum(bool(fault.hits) for fault in run.faults)
    for task_id, task in run.tasks.items():
        if task["lost"] > hits:
            yield f"{task_id} counts {task['lost']} lost workers, and only {hits} were hit"
        if not hits and task["attempts"] != len(run.executions[task_id]):
            yield f"{task_id} counts {task['attempts']} attempts and was executed {len(run.executions[task_id])} times"


def _wrong_deliveries(run: _Run) -> Iterator[str]:
    for task_id, task in run.ended():
        told = run.webhooks[task_id]
        if not run.submitted.get(task_id, {}).get("webhook"):
            if told:
                yield f"{task_id} has no webhook and {len(told)} were sent"
            continue
        if not any(record["answered"] == 200 for record in told):
            yield f"{task_id} has ended and its webhook was not told ({task.get('deliveryStatus')})"
        elif task.get("deliveryStatus") != "SUCCESS":
            yield f"{task_id} was delivered and says {task.get('deliveryStatus')}"
        if len({record["id"] for record in told}) > 1:
            yield f"{task_id} was delivered under several ids: {sorted({record['id'] for record in told})}"
        yield from _wrong_payloads(task_id, task, told)


def _wrong_payloads(task_id: str, task: Mapping[str, Any], told: Sequence[Record]) -> Iterator[str]:
    succeeded = task["state"] == "succeeded"
    for record in told:
        if record["status"] != ("Success" if succeeded else "Failed"):
            yield f"{task_id} ended as {task['state']} and its webhook was told {record['status']}"
        elif succeeded and not record["truncated"] and record["result"] != _identity(task["output"]):
            yield f"{task_id} has the output {_identity(task['output'])} and its webhook was told {record['result']}"
        elif not succeeded and record["failed_reason"] != task["error"]:
            yield f"{task_id} has the error {task['error']!r} and its webhook was told {record['failed_reason']!r}"


def _identity(output: Any) -> Any:
    return {name: value for name, value in output.items() if name != "filling"} if isinstance(output, dict) else output


def _wrong_counts(run: _Run) -> Iterator[str]:
    statuses = Counter(task["status"].lower() for task in run.tasks.values())
    real = {name: statuses[name] for name in ("processing", "success", "delivered", "failed")}
    counted = {name: run.counts[name] for name in real}
    if counted != real:
        yield f"the counts are {counted}, really {real}"


def _wrong_samples(run: _Run) -> Iterator[str]:
    """Submitted = ended + waiting at all times, as far as an observer can tell."""
    submits = sorted(record["mono"] for record in run.submitted.values())
    acknowledged = sorted(record["mono"] for record in run.acknowledged.values())
    ended_before = 0
    for sample in run.samples:
        least = sum(mono < sample["began"] for mono in acknowledged)
        most = sum(mono < sample["mono"] for mono in submits)
        total = sample["processing"] + sample["success"] + sample["delivered"] + sample["failed"]
        ended = total - sample["processing"]
        if not least <= total <= most:
            yield f"the counts add up to {total} when {least} to {most} tasks were in"
        if sample["processing"] != sample["queued"] + sample["running"] + sample["scheduled"]:
            yield f"the counts of waiting and running tasks do not add up: {sample}"
        if ended < ended_before:
            yield f"{ended} tasks had ended when {ended_before} had before"
        ended_before = ended
