"""What must hold after a run, whatever was done to the engine: a pure function over journals and the store's content.

A client repeats each request until it is answered. For a task it gives one order after the other, one of each kind at
most; what came of a request without an answer is not known. A journal record has `what`:

| record | by | fields |
| --- | --- | --- |
| `submit`, `acknowledged`, `refused` | producer | `task`; of a submit `do`, `webhook`, `ttl` (s) and `key` |
| `limit` | scenario | `key` of which at most `limit` tasks run at once, while others always wait |
| `begin`, `end` | container | `task`, `attempt`, `execution`, `worker`; `do` of a begin, `how` of an end |
| `webhook` | receiver | `id`, `task`, `status`, `result`, `truncated`, `failed_reason`, `answered` |
| `fault` | scenario | `kind`, `began` and `ended` (monotonic), `hits`: workers whose tasks it may interrupt |
| `asked` | client | `order`: cancel, retry or delete; `task`. One for each request |
| `cancel` | client | `task`, `answer`: CANCELLED, REQUESTED while it runs, ENDED |
| `retry` | client | `task`, `answer`: QUEUED, NOT_ENDED |
| `delete` | client | `task`, `answer`: DELETED, NOT_ENDED |
| any of these | client | `answer`: an HTTP status, when it is one that no order should have |
| `waited` | client | `task`, and its `state`, `output` and `error` in the response to a wait for its end |
| `counts` | sampler | `began` (monotonic), the counts of the API |
| `held` | scenario | `task` that a killed agent had, `worker`, `running` or only read, `began` of the kill |
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
ORDERS: Mapping[str, frozenset[str]] = {
    "cancel": frozenset({"CANCELLED", "REQUESTED", "ENDED"}),
    "retry": frozenset({"QUEUED", "NOT_ENDED"}),
    "delete": frozenset({"DELETED", "NOT_ENDED"}),
}
"""What a client may want of a task that is there, and the answers to it."""
MOST_ATTEMPTS = 50
"""Longer histories lose their beginning."""
TERMINAL = frozenset({"succeeded", "failed", "timed_out", "dead", "cancelled", "expired"})


@dataclass(frozen=True)
class Evidence:
    """All that is known of a run when it is over."""

    journal: Sequence[Record]
    tasks: Mapping[str, Mapping[str, Any]]
    """As the API shows each in detail, by its id; with `lost` and `runs` from the store, and the numbers of its listed
    attempts (`history`) when somebody asked to run it again."""
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
        *_wrong_orders(run),
        *_wrong_ends(run),
        *_wrong_expiries(run),
        *_wrong_results(run),
        *_wrong_waits(run),
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
        duplicated=sum(
            max(0, len(done) - run.most_runs(task_id) - _asked_again(done)) for task_id, done in run.executions.items()
        ),
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
        self.asked: dict[str, dict[str, list[float]]] = {order: defaultdict(list) for order in ORDERS}
        for record in journal:
            if record["what"] == "asked":
                self.asked[record["order"]][record["task"]].append(record["mono"])
        self.answers = {
            order: {record["task"]: record for record in journal if record["what"] == order} for order in ORDERS
        }
        self.waited = [record for record in journal if record["what"] == "waited"]
        self.samples = [record for record in journal if record["what"] == "counts"]
        self.executions = executions_of(journal)
        self.faults = faults_of(journal)
        self.outages = [fault for fault in self.faults if not fault.hits]
        self.webhooks: dict[str, list[Record]] = defaultdict(list)
        for record in journal:
            if record["what"] == "webhook":
                self.webhooks[record["task"]].append(record)

    def cancelled(self, task_id: str) -> str | None:
        """What was said to a client that has cancelled it in the last of its runs."""
        answer = self.answers["cancel"].get(task_id)
        retried = self.asked["retry"].get(task_id)
        if answer is None or (self.runs(task_id) > 1 and retried and answer["mono"] < retried[0]):
            return None
        return str(answer["answer"])

    def deleted(self, task_id: str) -> bool:
        """Whether a client was told so."""
        return self.answers["delete"].get(task_id, {}).get("answer") == "DELETED"

    def may_be_deleted(self, task_id: str) -> bool:
        asked = task_id in self.asked["delete"] and task_id not in self.answers["delete"]
        return asked or self.deleted(task_id)

    def runs(self, task_id: str) -> int:
        """How often it went from its submit or a retry by hand to its end."""
        return int(self.tasks.get(task_id, {}).get("runs", 1))

    def most_runs(self, task_id: str) -> int:
        """The same; what may have been when the task is not there any more."""
        return self.runs(task_id) if task_id in self.tasks else 1 + len(self.asked["retry"].get(task_id, ()))

    def ended(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        return ((task_id, task) for task_id, task in self.tasks.items() if task["state"] in TERMINAL)


def _lost(run: _Run) -> Iterator[str]:
    for task_id in run.acknowledged:
        task = run.tasks.get(task_id)
        if task is None:
            if not run.may_be_deleted(task_id):
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


def _wrong_orders(run: _Run) -> Iterator[str]:
    """What a client asked for was done, and done no more often than it asked."""
    for order, answers in run.answers.items():
        for task_id, record in answers.items():
            if record["answer"] not in ORDERS[order]:
                yield f"the order to {order} {task_id} was answered {record['answer']}"
    for task_id, task in run.tasks.items():
        if run.deleted(task_id):
            yield f"{task_id} was deleted and is there"
        runs, asked = run.runs(task_id), len(run.asked["retry"].get(task_id, ()))
        least = 1 + (run.answers["retry"].get(task_id, {}).get("answer") == "QUEUED")
        if not least <= runs <= 1 + asked:
            yield f"{task_id} ran {runs} times from the queue to an end; {least} to {1 + asked} were asked for"
        history = task.get("history")
        numbers = set(range(1, task["attempts"] + 1))  # one that was released does not count, and is listed
        if history is not None and len(history) < MOST_ATTEMPTS and not numbers <= set(history):
            yield f"{task_id} made {task['attempts']} attempts and lists {history}: its history was not kept"


def _wrong_ends(run: _Run) -> Iterator[str]:
    for task_id, task in run.ended():
        submit = run.submitted.get(task_id, {})
        do, state = submit.get("do", "ok"), task["state"]
        # Who retries a task by hand wants it to run: it has no deadline any more.
        may_expire = submit.get("ttl") is not None and run.runs(task_id) == 1
        if state not in _ends(do, run.cancelled(task_id), may_expire=may_expire):
            yield f"{task_id} ({do}) ended as {state}: {str(task.get('error'))[:200]}"


def _ends(do: str, cancelled: str | None, *, may_expire: bool) -> frozenset[str]:
    """Where such a task may end, with what was said to a client that has cancelled it.

    One that is to be cancelled waits no more, so it cannot expire.
    """
    if cancelled == "CANCELLED":
        return frozenset({"cancelled"})
    if cancelled == "REQUESTED":
        return ENDS[do] | {"cancelled"}
    return ENDS[do] | {"expired"} if may_expire else ENDS[do]


def _wrong_expiries(run: _Run) -> Iterator[str]:
    """A task expires when it waits at its deadline, which counts from its submit: it was not done by then."""
    for task_id, task in run.ended():
        ttl_ms = float(run.submitted.get(task_id, {}).get("ttl") or 0) * 1000
        if task["state"] != "expired" or not ttl_ms:
            continue
        if task["finishedAt"] - task["createdAt"] < ttl_ms:
            yield f"{task_id} expired after {task['finishedAt'] - task['createdAt']} ms, before its {ttl_ms:.0f} ms"
        for one in run.executions[task_id]:
            is_hit = any(fault.may_interrupt(one, run.outages) for fault in run.faults)
            if not is_hit and one.how not in ASKS_AGAIN:
                yield f"{task_id} expired although an execution that nothing hit ended as {one.how or 'killed'}"


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


def _wrong_waits(run: _Run) -> Iterator[str]:
    """A client that waited for a task has its recorded end."""
    for record in run.waited:
        task = run.tasks.get(record["task"])
        if task is not None and any(record[name] != task.get(name) for name in ("state", "output", "error")):
            told = {name: record[name] for name in ("state", "error")} | {"output": _identity(record["output"])}
            yield f"{record['task']} ended as {task['state']} and its client got another end: {told}"


def _extra_executions(run: _Run) -> Iterator[str]:
    for task_id, executions in run.executions.items():
        hits = sum(fault.may_interrupt(one, run.outages) for one in executions for fault in run.faults)
        allowed = run.most_runs(task_id) + _asked_again(executions) + hits
        if len(executions) > allowed:
            yield f"{task_id} was executed {len(executions)} times; at most {allowed} are explained by what hit it"
    for task_id, task in run.ended():
        if task["state"] == "succeeded" and not run.executions[task_id]:
            yield f"{task_id} succeeded and was never executed"


def _asked_again(executions: Sequence[Execution]) -> int:
    return sum(one.how in ASKS_AGAIN for one in executions)


def _wrong_attempts(run: _Run) -> Iterator[str]:
    """Where no worker was hit, each attempt is an execution that was not refused with 503, and none was lost."""
    hits = sum(bool(fault.hits) for fault in run.faults)
    for task_id, task in run.tasks.items():
        if task["lost"] > hits:
            yield f"{task_id} counts {task['lost']} lost workers, and only {hits} were hit"
        begun = sum(one.how != "busy" for one in run.executions[task_id])
        if not hits and task["attempts"] != begun:
            yield f"{task_id} counts {task['attempts']} attempts and was executed {begun} times"


def _wrong_deliveries(run: _Run) -> Iterator[str]:
    for task_id, told in run.webhooks.items():
        yield from _wrong_ids(run, task_id, told)
    for task_id, task in run.ended():
        told = [record for record in run.webhooks[task_id] if _run_of(record["id"]) == run.runs(task_id)]
        if not run.submitted.get(task_id, {}).get("webhook"):
            if sent := len(run.webhooks[task_id]):
                yield f"{task_id} has no webhook and {sent} were sent"
            continue
        if not any(record["answered"] == 200 for record in told):
            yield f"{task_id} has ended and its webhook was not told ({task.get('deliveryStatus')})"
        elif task.get("deliveryStatus") != "SUCCESS":
            yield f"{task_id} was delivered and says {task.get('deliveryStatus')}"
        yield from _wrong_payloads(task_id, task, told)


def _wrong_ids(run: _Run, task_id: str, told: Sequence[Record]) -> Iterator[str]:
    """One id for each run, with one result that an execution has made; of runs before the last nothing else is kept."""
    by_run: dict[int, list[Record]] = defaultdict(list)
    for record in told:
        by_run[_run_of(record["id"])].append(record)
    all_ids = sorted({record["id"] for record in told})
    most = run.most_runs(task_id)
    if len(all_ids) > most or any(len({record["id"] for record in records}) > 1 for records in by_run.values()):
        yield f"{task_id} was delivered under several ids for one result: {all_ids}"
    for number, records in by_run.items():
        if not 1 <= number <= most:
            yield f"{task_id} was delivered as of run {number} and has made {most}"
        payloads = [(one["status"], one["result"], one["failed_reason"]) for one in records if not one["truncated"]]
        if any(payload != payloads[0] for payload in payloads):
            yield f"{task_id} was delivered under the id {records[0]['id']} with several results: {payloads}"
        for status, result, _ in payloads[:1]:
            made = {(one.execution, one.attempt) for one in run.executions[task_id]}
            if status == "Success" and (result["execution"], result["attempt"]) not in made:
                yield f"{task_id} was delivered with the result of an execution that never was: {result}"


def _run_of(message_id: str) -> int:
    """The run of which this `webhook-id` tells: `msg_<task>_<attempt>` is the first, others have `_<run>` behind."""
    parts = message_id.split("_")
    return int(parts[3]) if len(parts) > 3 else 1


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
    """Submitted = ended + waiting + deleted at all times, as far as an observer can tell."""
    submits = sorted(record["mono"] for record in run.submitted.values())
    acknowledged = sorted(record["mono"] for record in run.acknowledged.values())
    leaving, left = _deletions(run)
    ended_before, began_before = 0, 0.0
    for sample in run.samples:
        least = sum(mono < sample["began"] for mono in acknowledged) - sum(mono < sample["mono"] for mono in leaving)
        most = sum(mono < sample["mono"] for mono in submits) - sum(mono < sample["began"] for mono in left)
        total = sample["processing"] + sample["success"] + sample["delivered"] + sample["failed"]
        ended = total - sample["processing"]
        if not least <= total <= most:
            yield f"the counts add up to {total} when {least} to {most} tasks were in"
        if sample["processing"] != sample["queued"] + sample["running"] + sample["scheduled"]:
            yield f"the counts of waiting and running tasks do not add up: {sample}"
        taken_back = _taken_back(run, began_before, sample["mono"])
        if ended < ended_before - taken_back:
            yield f"{ended} tasks had ended when {ended_before} had before and at most {taken_back} were taken back"
        ended_before, began_before = ended, sample["began"]


def _deletions(run: _Run) -> tuple[list[float], list[float]]:
    """From when on each deleted task may have been gone, and from when on it was."""
    names = [task_id for task_id in run.asked["delete"] if run.may_be_deleted(task_id)]
    leaving = [run.asked["delete"][task_id][0] for task_id in names]
    return leaving, [run.answers["delete"][task_id]["mono"] for task_id in names if run.deleted(task_id)]


def _taken_back(run: _Run, since: float, until: float) -> int:
    """How many ended tasks may have been deleted or retried by hand in this time."""
    number = 0
    for order in ("retry", "delete"):
        for task_id, asked in run.asked[order].items():
            answered = run.answers[order].get(task_id, {}).get("mono", float("inf"))
            if answered >= since:
                number += sum(mono <= until for mono in asked)
    return number
