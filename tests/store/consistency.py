"""Consistency of the stored data: every task is in exactly one place, and every count is right.

The rules are those of docs/internals/data-model.md, checked by reading every key of a partition. No task may change
during the check.
"""

from collections import Counter
from dataclasses import dataclass

from queue_engine.store.constants import MAX_BELLS, TAG_BYTES, TASK_BYTES
from queue_engine.store.keys import EndpointKeys, Partition, member, task_delivery_id
from queue_engine.store.series import SERIES_BYTES
from tests.store.probe import Fields, Probe, Snapshot

WAITING_AND_RUNNING = ("queued", "running", "scheduled")
Place = tuple[str, str]
"""A stream and an entry in it."""
ENDED = {"SUCCESS": "success", "DELIVERED": "delivered", "FAILED": "failed"}
BLOCK, FAN, LEVELS = 64, 16, 6
"""As in library.lua."""


async def faults_of(probe: Probe, partition: Partition, endpoint_ids: list[str], *, has_use: bool = True) -> list[str]:
    """Return a sentence for each inconsistency in a partition with exactly these endpoints.

    `has_use` is False for data of an earlier version, which did not count bytes and deliveries, and had no bells.
    """
    return faults_in(await probe.snapshot(partition.tag), partition, endpoint_ids, has_use=has_use)


def faults_in(snapshot: Snapshot, partition: Partition, endpoint_ids: list[str], *, has_use: bool = True) -> list[str]:
    """Return the same for a snapshot, which may have other partitions too."""
    contents = _read(snapshot, partition, endpoint_ids)
    faults: list[str] = []
    for one in contents.endpoints:
        faults += _faults_of_tasks(contents, one)
        faults += _faults_of_lanes(one)
        faults += _faults_of_indexes(one)
        faults += _faults_of_blocks(one)
        faults += _faults_of_work(contents, one)
        faults += _faults_of_operations(contents, one)
        faults += _faults_of_series(contents, one)
        if has_use:
            faults += _faults_of_use(contents, one)
            faults += _faults_of_bell(one)
    return faults + _faults_of_partition(contents)


@dataclass(frozen=True)
class _EndpointContent:
    keys: EndpointKeys
    fields: Fields
    workers: Fields
    """Status by worker."""
    tasks: dict[str, Fields]
    queued: dict[Place, str]
    """Task id by its place in one of the queues."""
    pending: set[Place]
    """Entries that were read and not acknowledged."""
    laned: dict[str, str]
    """Task id by its entry in a lane."""
    taken: dict[str, Fields]
    """Entries of tasks that were taken out of lanes and not started."""
    taken_pending: set[str]
    lanes: Fields
    rings: dict[str, list[str]]
    """Keys by the digit of the level."""
    parked: set[str]
    bells: int
    created: dict[str, Fields]
    live: dict[str, float]
    finished: dict[str, dict[str, Fields]]
    counts: Fields
    given_up: dict[str, float]
    recovery: Fields
    tags: set[str]
    tagged: Fields
    operations: dict[str, float]
    series: bytes


@dataclass(frozen=True)
class _Content:
    partition: Partition
    names: set[str]
    sizes: dict[str, int]
    """Length of each string, in bytes."""
    records: dict[str, int]
    """Length of all members of each list, in bytes."""
    endpoints: list[_EndpointContent]
    leases: dict[str, float]
    due: dict[str, float]
    deadlines: dict[str, float]
    counts: Fields
    outbox: dict[str, Fields]
    outbox_pending: Fields
    outbox_due: dict[str, float]
    outbox_parked: dict[str, float]
    deliveries: dict[str, Fields]
    purges: dict[str, float]
    deletions: dict[str, float]
    checks: dict[str, float]
    waiting: set[str]
    sampled: dict[str, float]
    recoveries: set[str]
    running_operations: set[str]
    operations: dict[str, Fields]
    """Operations as `<endpoint>:<operation>`."""


def _read(snapshot: Snapshot, partition: Partition, endpoint_ids: list[str]) -> _Content:
    names = set(snapshot.contents)
    prefix, operations = partition.delivery(""), f"{partition.tag}:op:"
    return _Content(
        partition=partition,
        names=names,
        sizes={name: len(content) for name, content in snapshot.contents.items() if isinstance(content, bytes)},
        records={
            name: sum(map(len, content)) for name, content in snapshot.contents.items() if isinstance(content, list)
        },
        endpoints=[_read_endpoint(snapshot, EndpointKeys(partition, one)) for one in endpoint_ids],
        leases=snapshot.scores(partition.leases),
        due=snapshot.scores(partition.due),
        deadlines=snapshot.scores(partition.deadlines),
        counts=snapshot.hash(partition.counts),
        outbox=snapshot.stream(partition.outbox),
        outbox_pending=snapshot.pending(partition.outbox),
        outbox_due=snapshot.scores(partition.outbox_due),
        outbox_parked=snapshot.scores(partition.outbox_parked),
        deliveries={name.removeprefix(prefix): snapshot.hash(name) for name in names if name.startswith(prefix)},
        purges=snapshot.scores(partition.due_purges),
        deletions=snapshot.scores(partition.deletions),
        checks=snapshot.scores(partition.due_checks),
        waiting=snapshot.members(partition.waiting_endpoints),
        sampled=snapshot.scores(partition.sampled_endpoints),
        recoveries=snapshot.members(partition.recoveries),
        running_operations=snapshot.members(partition.running_operations),
        operations={
            name.removeprefix(operations): snapshot.hash(name) for name in names if name.startswith(operations)
        },
    )


def _read_endpoint(snapshot: Snapshot, keys: EndpointKeys) -> _EndpointContent:
    queues = (keys.queue, keys.retry_queue)
    prefix = keys.task("")
    return _EndpointContent(
        keys=keys,
        fields=snapshot.hash(keys.endpoint),
        workers=snapshot.hash(keys.workers),
        tasks={name.removeprefix(prefix): snapshot.hash(name) for name in snapshot.contents if name.startswith(prefix)},
        queued={
            (stream, entry_id): entry["t"] for stream in queues for entry_id, entry in snapshot.stream(stream).items()
        },
        pending={(stream, entry_id) for stream in queues for entry_id in snapshot.pending(stream)},
        laned=dict(one.rsplit(" ", 1) for one in snapshot.scores(keys.lane_entries)),
        taken=snapshot.stream(keys.turn),
        taken_pending=set(snapshot.pending(keys.turn)),
        lanes=snapshot.hash(keys.lanes),
        rings={
            level: [key.decode() for key in snapshot.contents.get(ring, ())]
            for level, ring in zip("012", (keys.ring_high, keys.ring_normal, keys.ring_low), strict=True)
        },
        parked=snapshot.members(keys.parked),
        bells=len(snapshot.contents.get(keys.bell, ())),
        created=snapshot.stream(keys.created),
        live=snapshot.scores(keys.live),
        finished={status: snapshot.stream(keys.finished(status)) for status in ENDED},
        counts=snapshot.hash(keys.counts),
        given_up=snapshot.scores(keys.given_up),
        recovery=snapshot.hash(keys.recovery),
        tags=set(snapshot.scores(keys.tags)),
        tagged=snapshot.hash(keys.tagged),
        operations=snapshot.scores(keys.operations),
        series=snapshot.contents.get(keys.series, b""),
    )


def _faults_of_tasks(contents: _Content, one: _EndpointContent) -> list[str]:
    faults = []
    for task_id, fields in one.tasks.items():
        places = _places(contents, one, task_id, fields)
        expected = _expected_places(contents, one, task_id, fields)
        if places != expected:
            faults.append(f"task {task_id} ({fields['state']}) is in {sorted(places)}, expected {sorted(expected)}")
        if ("busy_since" in fields) != ("busy_tries" in fields):
            faults.append(f"task {task_id} has half a busy streak")
        if fields["state"] not in WAITING_AND_RUNNING and "watchers" in fields:
            faults.append(f"task {task_id} ({fields['state']}) is still watched")
    return faults


def _places(contents: _Content, one: _EndpointContent, task_id: str, fields: Fields) -> Counter[str]:
    """Return all places at which the store lists this task."""
    name = member(one.keys.endpoint_id, task_id)
    delivery_id = task_delivery_id(one.keys.endpoint_id, task_id)
    places: Counter[str] = Counter()
    for (_, entry_id), queued in one.queued.items():
        if queued == task_id:
            places["queue" if entry_id == fields.get("entry") else "stale queue entry"] += 1
    for place, queued in one.laned.items():
        if queued == task_id:
            places["queue" if place == fields.get("entry") else "stale entry in a lane"] += 1
    # An entry of a task that no longer waits stays until its agent, or the one that takes it over, starts it.
    places["queue"] += sum(taken["t"] == task_id and taken["e"] == fields.get("entry") for taken in one.taken.values())
    places["lease"] += name in contents.leases
    places["due"] += name in contents.due
    places["deadline"] += name in contents.deadlines
    places["live"] += task_id in one.live
    for status, entries in one.finished.items():
        for entry_id, entry in entries.items():
            if entry["t"] == task_id:
                places[status if str(_number(entry_id)) == fields.get("fin") else f"stale {status}"] += 1
    delivery = contents.deliveries.get(delivery_id)
    places["delivery"] += (delivery is not None) + ("kept_delivery" in fields)
    for entry_id, entry in contents.outbox.items():
        if entry["d"] == delivery_id:
            places["to deliver" if delivery and entry_id == delivery.get("entry") else "stale outbox entry"] += 1
    places["to deliver"] += (delivery_id in contents.outbox_due) + (delivery_id in contents.outbox_parked)
    places["body"] += one.keys.body(task_id) in contents.names
    places["result"] += (one.keys.result(task_id) in contents.names) + ("result_at" in fields)
    places["token"] += "token" in fields
    places["entry's id"] += "entry" in fields
    return +places


def _expected_places(contents: _Content, one: _EndpointContent, task_id: str, fields: Fields) -> Counter[str]:
    """Return the places for a task in this state."""
    state = fields["state"]
    # The wait after a lost worker or a drain does not count against the queue TTL.
    never_begun = fields.get("started") is None
    deadline = ["deadline"] if "deadline" in fields and (state == "scheduled" or never_begun) else []
    if state == "queued":
        # A task that was promoted from the wait for another attempt keeps its deadline.
        if "deadline" in fields and member(one.keys.endpoint_id, task_id) in contents.deadlines:
            deadline = ["deadline"]
        return Counter(["queue", "entry's id", "live", "body", *deadline])
    if state == "running":
        return Counter(["lease", "live", "body", "token"])
    if state == "scheduled":
        return Counter(["due", "live", "body", *deadline])
    delivery = fields.get("delivery", "INIT")
    places = Counter([_status(state, delivery), "body", "result"])
    if "token" in fields:  # stays, so that a repeat is recognised
        places["token"] += 1
    if "webhook" in fields and delivery in ("INIT", "FAILED"):
        places += Counter(["delivery", "to deliver"])
    return places


def _status(state: str, delivery: str) -> str:
    if state != "succeeded":
        return "FAILED"
    return "DELIVERED" if delivery == "SUCCESS" else "SUCCESS"


def _faults_of_lanes(one: _EndpointContent) -> list[str]:
    """Return a sentence for each lane that would not be served, and each count of tasks in lanes that is wrong."""
    faults = []
    queued = Counter(
        fields["lane"][0] for fields in one.tasks.values() if fields["state"] == "queued" and "lane" in fields
    )
    counted = {level: int(one.counts.get(f"queued:{level}", 0)) for level in "012"}
    if counted != {level: queued[level] for level in "012"}:
        faults.append(f"endpoint {one.keys.endpoint_id} counts {counted} in lanes, really {dict(queued)}")
    running = [fields["lane"][1:] for fields in one.tasks.values() if fields["state"] == "running" and "lane" in fields]
    held = Counter(key for key in [*running, *(taken["e"].split(" ")[0][1:] for taken in one.taken.values())] if key)
    held_fields = {name[2:]: int(value) for name, value in one.lanes.items() if name.startswith("r:")}
    if held_fields != dict(held):
        faults.append(f"keys are counted as {held_fields}, really {dict(held)}")
    in_rings = [level + key for level, keys in one.rings.items() for key in keys]
    known = {name[2:] for name in one.lanes if name.startswith("s:")}
    if Counter([*in_rings, *one.parked]) != Counter(known):
        faults.append(f"the rings have {in_rings}, parked are {one.parked}, known are {known}")
    if lost := {entry.split(" ")[0] for entry in one.laned} - known:
        faults.append(f"the lanes {lost} have tasks and are never served")
    if idle := {lane for lane in one.parked if lane[1:] not in held_fields}:
        faults.append(f"the lanes {idle} are parked, and no task of their key will let them go on")
    if strangers := set(one.laned.values()) - set(one.tasks):
        faults.append(f"in lanes without a task: {strangers}")
    if set(one.taken) != one.taken_pending:
        faults.append(f"taken are {set(one.taken)}, pending are {one.taken_pending}")
    return faults


def _faults_of_indexes(one: _EndpointContent) -> list[str]:
    faults = []
    states = Counter(fields["state"] for fields in one.tasks.values())
    # Entries from before the times of creation have the time 1.
    times = {f"{fields['seq']}-{fields['created']}": f"{fields['seq']}-1" for fields in one.tasks.values()}
    sequence = {f"{fields['seq']}-1": task_id for task_id, fields in one.tasks.items()}
    created = {times.get(entry_id, entry_id): fields["t"] for entry_id, fields in one.created.items()}
    if created != sequence:
        faults.append(f"the order of creation is {created}, the tasks say {sequence}")
    faults += [
        f"{status} lists {entry}, which is no task"
        for status, entries in one.finished.items()
        for entry in entries.values()
        if one.tasks.get(entry["t"], {}).get("seq") != entry["n"]
    ]
    faults += [
        f"{task_id} is live at {place}, which is no task"
        for task_id, place in one.live.items()
        if one.tasks.get(task_id, {}).get("seq") != f"{place:.0f}"
    ]
    real = {name: states[name] for name in WAITING_AND_RUNNING} | {
        field_name: len(one.finished[status]) for status, field_name in ENDED.items()
    }
    counted = {name: int(one.counts.get(name, 0)) for name in real}
    if counted != real:
        faults.append(f"endpoint {one.keys.endpoint_id} counts {counted}, really {real}")
    given_up = {name for name, fields in one.tasks.items() if fields.get("delivery") == "MAX_RETRIES_EXCEEDED"}
    if set(one.given_up) != given_up:
        faults.append(f"the deliveries of {sorted(one.given_up)} are listed as given up, really of {sorted(given_up)}")
    strangers = set(one.queued.values()) - set(one.tasks)
    if strangers:
        faults.append(f"queued without a task: {strangers}")
    by_place = {_number(entry_id): fields["t"] for entry_id, fields in one.created.items()}
    names = {
        f"{tag} {place:0>12} {by_place.get(int(place), '?')}"
        for place, tags_of_task in one.tagged.items()
        for tag in tags_of_task.split()
    }
    if one.tags != names:
        faults.append(f"the index of tags has {sorted(one.tags)}, the tasks say {sorted(names)}")
    if strange := one.pending - set(one.queued):
        faults.append(f"read, not acknowledged and gone from the queue: {strange}")
    return faults


def _faults_of_blocks(one: _EndpointContent) -> list[str]:
    """Yield a sentence for each missing or superfluous field of the gaps in the indexes' blocks."""
    expected: dict[str, int] = {}
    for index, entries in {"all": one.created, **{ENDED[status]: one.finished[status] for status in ENDED}}.items():
        latest = int(one.counts.get(f"seq:{index}", 0))
        expected |= block_gaps(index, {_number(entry_id) for entry_id in entries}, latest)
    counted = {name: int(value) for name, value in one.counts.items() if name.count(":") == 2}
    wrong = {name for name in {*expected, *counted} if expected.get(name) != counted.get(name)}
    return [f"block {name} counts {counted.get(name)}, really {expected.get(name)}" for name in sorted(wrong)]


def block_gaps(index: str, numbers: set[int], latest: int) -> dict[str, int]:
    """Return the fields of an index with these entries: the gaps after the oldest entry by block, from the highest
    level down to blocks that have entries."""
    gaps = set(range(min(numbers, default=latest), latest + 1)) - numbers - {min(numbers, default=latest)}
    sizes = {
        level: Counter((number - 1) // (BLOCK * FAN ** (level - 1)) for number in gaps)
        for level in range(1, LEVELS + 2)
    }
    return {
        f"{index}:{level}:{block}": size
        for level in range(1, LEVELS + 1)
        for block, size in sizes[level].items()
        if sizes[level + 1][block // FAN] < BLOCK * FAN**level
    }


def _faults_of_work(contents: _Content, one: _EndpointContent) -> list[str]:
    """Return a sentence for each index of the controller's work that lacks the endpoint."""
    endpoint_id, faults = one.keys.endpoint_id, []
    if (first := _first_expiring(one)) is not None and one.fields:
        expiry = first + 1000 * int(one.fields["retention"]) + 1
        if contents.purges.get(endpoint_id, expiry + 1) > expiry:
            faults.append(f"endpoint {endpoint_id} is purged at {contents.purges.get(endpoint_id)}, not by {expiry}")
    if one.workers and endpoint_id not in contents.checks:
        faults.append(f"endpoint {endpoint_id} has workers and no planned look")
    if sum(int(one.counts.get(name, 0)) for name in ("queued", "scheduled")) and endpoint_id not in contents.waiting:
        faults.append(f"endpoint {endpoint_id} has waiting tasks, those that have some are {contents.waiting}")
    if (counted := _workers_in(one.counts)) != Counter(one.workers.values()):
        faults.append(f"endpoint {endpoint_id} counts the workers {counted}, really {one.workers}")
    if (one.recovery.get("state") == "running") != (endpoint_id in contents.recoveries):
        faults.append(f"the recovery of endpoint {endpoint_id} is {one.recovery}, running are {contents.recoveries}")
    if (one.fields.get("wanted") == "deleted") != (endpoint_id in contents.deletions):
        faults.append(f"endpoint {endpoint_id} is {one.fields.get('wanted')}, deletions are {contents.deletions}")
    return faults


def _faults_of_operations(contents: _Content, one: _EndpointContent) -> list[str]:
    """Return a sentence for each operation of an endpoint that is not counted, listed or ended as it should be."""
    keys, endpoint_id, faults = one.keys, one.keys.endpoint_id, []
    own = {
        name.partition(":")[2]: fields
        for name, fields in contents.operations.items()
        if name.startswith(f"{endpoint_id}:")
    }
    running = {
        f"{endpoint_id}:{name}:{fields['tenant']}" for name, fields in own.items() if fields["state"] == "running"
    }
    noted = {name for name in contents.running_operations if name.startswith(f"{endpoint_id}:")}
    if running != noted or len(running) != int(one.counts.get("operations", 0)):
        faults.append(f"operations {running} run, noted are {noted}, counted {one.counts.get('operations')}")
    if not set(own) <= set(one.operations):
        faults.append(f"operations {set(own) - set(one.operations)} of endpoint {endpoint_id} are not listed")
    given_bytes = sum(int(fields.get("given_bytes", 0)) for fields in own.values())
    if given_bytes != int(one.counts.get("given_bytes", 0)):
        faults.append(f"ids of tasks count {one.counts.get('given_bytes')} bytes, really {given_bytes}")
    for name, fields in own.items():
        left = {keys.todo(name), keys.given_tasks(name)} & contents.names
        if fields["state"] != "running" and left:
            faults.append(f"operation {name} has ended and left {left}")
        ended = sum(int(value) for field, value in fields.items() if field in ("done", "failed") or "skipped:" in field)
        # A given id without a task was not found.
        unknown = 0 if fields["filters"] else int(fields.get("skipped:gone", 0))
        if fields["state"] == "done" and ended - unknown != int(fields["matched"]):
            faults.append(f"operation {name} has found {fields['matched']} tasks and counts {ended}: {fields}")
    return faults


def _faults_of_series(contents: _Content, one: _EndpointContent) -> list[str]:
    """Return a sentence for a series that is not whole, and for one that no sample will go on."""
    endpoint_id, faults = one.keys.endpoint_id, []
    if len(one.series) not in (0, SERIES_BYTES):
        faults.append(f"the series of endpoint {endpoint_id} has {len(one.series)} bytes")
    if one.series and endpoint_id not in contents.sampled and endpoint_id not in contents.waiting:
        faults.append(f"endpoint {endpoint_id} has a series and is not sampled: {contents.sampled}")
    return faults


def _first_expiring(one: _EndpointContent) -> int | None:
    """Return the time from which the retention of the task counts that expires first; None if no task has ended.

    Only the oldest entries count: after a step back of the clock the entries behind one of them have earlier times and
    wait for it. It counts from the time at which the step was noticed (see overdue.lua).
    """
    times = []
    for status, entries in one.finished.items():
        if entries:
            number, time = map(int, next(iter(entries)).split("-"))
            upto, seen = map(int, one.counts.get(f"stepped:{ENDED[status]}", f"0 {time}").split())
            times.append(min(time, seen) if number <= upto else time)
    return min(times, default=None)


def _faults_of_bell(one: _EndpointContent) -> list[str]:
    """Return a sentence if no agent would be woken for tasks that wait, or if bells are not limited."""
    faults = []
    # Without tokens for a start, the agent that was asked to claim again takes the place of the bells.
    needs_bell = one.fields.get("paused") != "1" and not one.fields.get("rate_limit")
    unread = {
        *(set(one.queued) - one.pending),
        *(one.laned[entry] for entry in one.laned if entry.split(" ")[0] not in one.parked),
    }
    if unread and not one.bells and needs_bell:
        faults.append(f"no bell has rung for {unread}")
    if one.bells > MAX_BELLS:
        faults.append(f"{one.bells} bells")
    return faults


def _faults_of_use(contents: _Content, one: _EndpointContent) -> list[str]:
    """Return a sentence for each sum that an endpoint's quota is checked with and that is wrong."""
    keys, endpoint_id = one.keys, one.keys.endpoint_id
    bytes_used = sum(TASK_BYTES + contents.sizes.get(keys.body(task_id), 0) for task_id in one.live)
    bytes_used += sum(int(entry["b"]) for entries in one.finished.values() for entry in entries.values())
    by_block: Counter[str] = Counter()
    for task_id, fields in one.tasks.items():
        records = (keys.history(task_id), keys.partition.attempts_log(endpoint_id, task_id))
        size = sum(contents.records.get(name, 0) for name in records)
        by_block[f"records:{(int(fields['seq']) - 1) // BLOCK}"] += size
        bytes_used += size
    bytes_used += sum(len(name) + TAG_BYTES for name in one.tags)
    waiting = sum(name.startswith(task_delivery_id(endpoint_id, "")) for name in contents.deliveries)
    waiting += sum("kept_delivery" in fields for fields in one.tasks.values())
    real = {"bytes": bytes_used, "deliveries": waiting}
    counted = {name: int(one.counts.get(name, 0)) for name in real}
    faults = [] if counted == real else [f"endpoint {endpoint_id} uses {counted}, really {real}"]
    of_blocks = {name: int(value) for name, value in one.counts.items() if name.startswith("records:")}
    if +Counter(of_blocks) != +by_block:
        faults.append(f"the records of endpoint {endpoint_id} use {of_blocks}, really {+by_block}")
    return faults


def _workers_in(counts: Fields) -> Counter[str]:
    """Return the number of workers by status in the counts of an endpoint or a partition."""
    prefix = "workers:"
    numbers = {name.removeprefix(prefix): int(value) for name, value in counts.items() if name.startswith(prefix)}
    assert all(number >= 0 for number in numbers.values()), numbers
    return +Counter(numbers)


def _number(entry_id: str) -> int:
    """Return the number of an entry of an index."""
    return int(entry_id.partition("-")[0])


def _faults_of_partition(contents: _Content) -> list[str]:
    faults = []
    members = {
        member(one.keys.endpoint_id, task_id): fields["state"]
        for one in contents.endpoints
        for task_id, fields in one.tasks.items()
    }
    states = Counter(members.values())
    counted = {name: int(contents.counts.get(name, 0)) for name in WAITING_AND_RUNNING}
    if counted != {name: states[name] for name in WAITING_AND_RUNNING}:
        faults.append(f"the partition counts {counted}, really {dict(states)}")
    workers = Counter(status for one in contents.endpoints for status in one.workers.values())
    if _workers_in(contents.counts) != workers:
        faults.append(f"the partition counts the workers {_workers_in(contents.counts)}, really {workers}")
    for kind, names in (("leases", contents.leases), ("due", contents.due), ("deadlines", contents.deadlines)):
        if strangers := set(names) - set(members):
            faults.append(f"{kind} holds {strangers}, which are no tasks")
    if nowhere := [entry["d"] for entry in contents.outbox.values() if not entry["h"]]:
        faults.append(f"the outbox does not say where {nowhere} go")
    if strangers := {entry["d"] for entry in contents.outbox.values()} - set(contents.deliveries):
        faults.append(f"the outbox holds {strangers}, which are no deliveries")
    endpoint_ids = {one.keys.endpoint_id for one in contents.endpoints}
    if strangers := {name for name in contents.operations if name.partition(":")[0] not in endpoint_ids}:
        faults.append(f"operations of endpoints that do not exist: {strangers}")
    if strangers := set(contents.outbox_pending) - set(contents.outbox):
        faults.append(f"read, not acknowledged and gone from the outbox: {strangers}")
    faults += _faults_of_waits(contents)
    return faults + _series_without_an_endpoint(contents, endpoint_ids) + _keys_without_a_task(contents)


def _faults_of_waits(contents: _Content) -> list[str]:
    """Return a sentence for deliveries that wait and are neither stored nor kept by a task, and for the reverse."""
    faults = []
    kept = {
        task_delivery_id(one.keys.endpoint_id, task_id)
        for one in contents.endpoints
        for task_id, fields in one.tasks.items()
        if "kept_delivery" in fields
    }
    waiting = {*contents.outbox_due, *contents.outbox_parked}
    if strangers := waiting - set(contents.deliveries) - kept:
        faults.append(f"waiting in the outbox without a delivery: {strangers}")
    if strangers := kept - waiting:
        faults.append(f"kept by their tasks and not waiting in the outbox: {strangers}")
    return faults


def _series_without_an_endpoint(contents: _Content, endpoint_ids: set[str]) -> list[str]:
    series = {name.rpartition(":")[2] for name in contents.names if name.startswith(f"{contents.partition.tag}:ser:")}
    strangers = {*series, *contents.sampled} - endpoint_ids
    return [f"series of endpoints that do not exist: {strangers}"] if strangers else []


def _keys_without_a_task(contents: _Content) -> list[str]:
    left: set[str] = set()
    for one in contents.endpoints:
        endpoint_id = one.keys.endpoint_id
        belonging = {contents.partition.delivery(task_delivery_id(endpoint_id, task_id)) for task_id in one.tasks}
        prefixes = [contents.partition.delivery(task_delivery_id(endpoint_id, ""))]
        partition = contents.partition
        for key_of in (partition.body, partition.result, partition.attempts_log, partition.history):
            belonging |= {key_of(endpoint_id, task_id) for task_id in one.tasks}
            prefixes.append(key_of(endpoint_id, ""))
        left |= {name for name in contents.names if name.startswith(tuple(prefixes))} - belonging
    return [f"left without a task: {sorted(left)}"] if left else []
