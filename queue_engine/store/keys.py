"""All keys in the store. `docs/internals/data-model.md` describes their contents.

The tag `{pNN}` puts all keys of an endpoint, and the outbox of its results, into one cluster slot, so that one script
can write them together. Endpoints are distributed over a fixed number of partitions by a hash of their id.

Scripts name keys by the properties here. They read the ids of a task, a worker and a delivery from the ends of their
keys (`names_of`, `id_of_delivery` and `change_status` in library.lua).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple
from zlib import crc32

META = "{qe}:meta"
"""Hash: data format version, number of partitions, instance id, fingerprints of secret keys."""
FORMAT = "format"
"""Field: the lowest format number of any stored data."""
MIGRATION = "migration"
"""Field: the progress of the migration to the next format as JSON; absent or empty when no migration has begun."""
RESYNC = "resync"
"""Field: the place of the round in which the leading controller restores index entries."""
SAMPLED = "sampled"
"""Field: the time of the latest complete round of samples, in epoch seconds; see `store/series.py`."""
KEYS_INDEXED = "keys_indexed"
"""Field: present when all API keys are in the indexes of tenants and of each tenant's keys."""
NAMES_INDEXED = "names_indexed"
"""Field: 1 when all endpoints are in the indexes of names; 0 while the first round that adds them has begun."""
GIVEN_UP_BUILD = "given_up"
"""Field: the progress of the build of the index of given-up deliveries over tasks from before the index; see
`store/given_up.py`."""
ONE_TENANT = "one_tenant"
"""Field: the reason why only one tenant may have endpoints; absent while tenants are kept apart. See
`store/one_tenant.py`."""
INSTANCE = "instance"
"""Field: the random id of the installation, which its workers have as a label or a variable."""
FINGERPRINT = "secret_key"
"""Field: the fingerprint of the store's secret key. A process must have this key to use the store."""
NEXT_FINGERPRINT = "secret_key_next"
"""Field, during a rotation: the fingerprint of the new key, with which secrets are sealed now."""
ENDPOINT_IDS = "{qe}:endpoint-ids"
"""Counter that numbers the endpoints."""
CREDENTIAL_IDS = "{qe}:credential-ids"
"""Counter that numbers the registry credentials."""
PROCESSES = "{qe}:processes"
"""Sorted set: data format and name of each running process except agents, by the expiry of its note; expires."""


def process_facts(name: str) -> str:
    """String: facts of a running process, such as its version, as JSON; expires."""
    return f"{{qe}}:process:{name}"


WEBHOOK_TESTS = "{qe}:webhook-tests"
"""List: tests of webhooks that wait for a delivery process, as JSON with sealed secrets; limited, expires. See
`store/webhook_tests.py`."""


def webhook_test(test_id: str) -> str:
    """List: the messages of a delivery process about a test of a webhook; expires."""
    return f"{{qe}}:webhook-test:{test_id}"


def webhook_test_of(tenant: str) -> str:
    """String: the id of the test of a webhook that a tenant sends; absent while it sends none; expires."""
    return f"{{qe}}:webhook-test-of:{tenant}"


FIRST_TENANT = "{qe}:first-tenant"
"""The tenant that is about to create the first endpoint, while only one tenant may have endpoints; expires."""
PLATFORM_PROBLEM = "{qe}:platform-problem"
"""The reason why the platform of the workers does not respond; absent while it does; expires. See
`store/platform_note.py`."""
STANDINGS = "{qe}:standings"
"""Sorted set: delivery process with a troubled destination, by the expiry of its note; expires. See
`store/standings.py`."""
UNSEALED = "{qe}:unsealed"
"""Set: tasks whose agent asks the engine to seal their headers with a key of their endpoint; limited, expires."""
LEADER = "{qe}:leader"
"""The controller that runs the backend; expires."""


def standing_of(process: str) -> str:
    """String: a delivery process's note of the destinations with which something is wrong, as JSON; expires."""
    return f"{{qe}}:standing:{process}"


def resume_orders(process: str) -> str:
    """Sorted set: destinations whose pause the delivery process should end, as JSON, by the time of the order; limited,
    expires."""
    return f"{{qe}}:resume:{process}"


def endpoints_of(tenant: str) -> str:
    """Sorted set: the tenant's endpoints, by their id."""
    return f"{{qe}}:endpoints:{tenant}"


def endpoint_names_of(tenant: str) -> str:
    """Sorted set, all scores 0: `<name> <endpoint>` for each endpoint of the tenant."""
    return f"{{qe}}:endpoint-names:{tenant}"


def api_key(key_hash: str) -> str:
    """Hash: tenant, name, creation time and limits of an API key, by the SHA-256 of the key; expires at its end."""
    return f"{{qe}}:key:{key_hash}"


API_KEYS = "{qe}:keys"
"""Set of the hashes of all API keys."""
REVOKED_API_KEYS = "{qe}:keys:revoked"
"""Set of the hashes of limited API keys, and of ended ones that are remembered. None is stored as an unlimited key."""
CONFIGURED_API_KEYS = "{qe}:keys:configured"
"""Set of the hashes of all API keys that were the first key of a process. Their end is remembered forever."""
TENANTS = "{qe}:tenants"
"""Set of the tenants: those that were created, and those that have or had an API key."""


def tenant(name: str) -> str:
    """Hash: creation time of a tenant, and its limits that differ from the defaults."""
    return f"{{qe}}:tenant:{name}"


def api_keys_of(tenant: str) -> str:
    """Sorted set: hashes of the tenant's API keys, by creation time. Operators' keys have an empty tenant."""
    return f"{{qe}}:keys-of:{tenant}"


def ended_api_keys_of(tenant: str) -> str:
    """Sorted set: hashes of the tenant's latest ended API keys, by the time at which their end was noted; limited."""
    return f"{{qe}}:keys-ended:{tenant}"


def console_session(session_hash: str) -> str:
    """String: the hash of the API key of a session of the web console, and the session's end; expires when idle."""
    return f"{{qe}}:session:{session_hash}"


def console_sessions_of(key_hash: str) -> str:
    """Sorted set: hashes of the sessions of an API key, by their end; limited, expires."""
    return f"{{qe}}:sessions-of:{key_hash}"


def console_link(link_hash: str) -> str:
    """String: the hash of the API key of a link that begins a session, and the link's end; expires."""
    return f"{{qe}}:link:{link_hash}"


def console_links_of(key_hash: str) -> str:
    """Sorted set: hashes of the links of an API key, by their end; limited, expires."""
    return f"{{qe}}:links-of:{key_hash}"


def audit_of(tenant: str) -> str:
    """Stream: the tenant's audit log, a record for each change; limited."""
    return f"{{qe}}:audit:{tenant}"


def series_of(tenant: str) -> str:
    """String: samples of the figures of all endpoints of a tenant, in rings of records; expires. See
    `store/series.py`."""
    return f"{{qe}}:series:{tenant}"


def operations_of(tenant: str) -> str:
    """Sorted set: the tenant's operations as `<endpoint>:<operation>`, by creation time; limited, expires."""
    return f"{{qe}}:operations:{tenant}"


def credential(credential_id: int) -> str:
    """Hash: tenant, name, type and creation time of a registry credential; user name and password sealed."""
    return f"{{qe}}:credential:{credential_id}"


def credential_users(credential_id: int) -> str:
    """Sorted set: endpoints that use the credential, by the time of the note."""
    return f"{{qe}}:credential:{credential_id}:users"


def credentials_of(tenant: str) -> str:
    """Sorted set: the tenant's credentials, by their id."""
    return f"{{qe}}:credentials:{tenant}"


def member(endpoint_id: str, task_id: str) -> str:
    """Return the member for a task in a partition's sorted sets."""
    return f"{endpoint_id}:{task_id}"


def parse_member(text: str) -> tuple[str, str]:
    """Return the endpoint id and the task id in a member."""
    endpoint_id, _, task_id = text.partition(":")
    return endpoint_id, task_id


@dataclass(frozen=True)
class Partition:
    """The keys of one partition that do not belong to a single endpoint."""

    index: int

    @cached_property
    def tag(self) -> str:
        return f"{{p{self.index:02d}}}"

    @cached_property
    def endpoints(self) -> str:
        """Sorted set: endpoint id by creation time."""
        return f"{self.tag}:endpoints"

    @cached_property
    def deletions(self) -> str:
        """Sorted set: endpoint that is being deleted, by the time of the next attempt to remove it."""
        return f"{self.tag}:delete"

    @cached_property
    def due_purges(self) -> str:
        """Sorted set: endpoint by the time at which its next ended task expires, or consumers may be left to remove."""
        return f"{self.tag}:purge"

    @cached_property
    def due_checks(self) -> str:
        """Sorted set: endpoint, if it has workers or work for the controller, by the time of the next look at it."""
        return f"{self.tag}:check"

    @cached_property
    def waiting_endpoints(self) -> str:
        """Set: endpoints that may have queued or scheduled tasks."""
        return f"{self.tag}:waiting"

    @cached_property
    def sampled_endpoints(self) -> str:
        """Sorted set: endpoint whose figures are sampled, by the latest time at which it had tasks."""
        return f"{self.tag}:sampled"

    @cached_property
    def counts(self) -> str:
        """Hash: `seq` is the number of the newest task; `queued`, `running` and `scheduled` are counts of tasks, and
        `workers:<status>` of workers."""
        return f"{self.tag}:cnt"

    @cached_property
    def leases(self) -> str:
        """Sorted set: running task by the end of its lease."""
        return f"{self.tag}:lease"

    @cached_property
    def due(self) -> str:
        """Sorted set: scheduled task by the time of its next attempt."""
        return f"{self.tag}:due"

    @cached_property
    def deadlines(self) -> str:
        """Sorted set: waiting task by its deadline."""
        return f"{self.tag}:exp"

    @cached_property
    def ticks(self) -> str:
        """Hash: for each periodic check, the time of its last run and the end of its grace after a gap."""
        return f"{self.tag}:ticks"

    @cached_property
    def outbox(self) -> str:
        """Stream, group `delivery`: deliveries that are due now."""
        return f"{self.tag}:out"

    @cached_property
    def outbox_due(self) -> str:
        """Sorted set: delivery by the time of its next attempt."""
        return f"{self.tag}:out:due"

    @cached_property
    def outbox_parked(self) -> str:
        """Sorted set: deferred delivery by the time at which it goes back to the outbox."""
        return f"{self.tag}:out:parked"

    @cached_property
    def cancel_requests(self) -> str:
        """Stream: the latest requests to cancel a running task, with its worker; limited, expires."""
        return f"{self.tag}:cancels"

    def told(self, process: str) -> str:
        """Channel: messages to an API process about ends of tasks that it watches; `*` is that of all processes."""
        return f"{self.tag}:told:{process}"

    @cached_property
    def recoveries(self) -> str:
        """Set: endpoints with a recovery that runs."""
        return f"{self.tag}:recoveries"

    @cached_property
    def running_operations(self) -> str:
        """Set: operations that run, each as `<endpoint>:<operation>:<tenant>`."""
        return f"{self.tag}:operations"

    @cached_property
    def senders(self) -> str:
        """Sorted set: delivery process by the end of its lease."""
        return f"{self.tag}:senders"

    def rates(self, tenant: str) -> str:
        """Hash: buckets of the tenant's rate limit, and of those of its API keys; expires."""
        return f"{self.tag}:rates:{tenant}"

    def delivery(self, delivery_id: str) -> str:
        """Hash: a delivery, until it has ended."""
        return f"{self.tag}:w:{delivery_id}"

    def task(self, endpoint_id: str, task_id: str) -> str:
        """Hash: a task. Values have at most 64 bytes, so that the store keeps the hash compact."""
        return f"{self.tag}:t:{endpoint_id}:{task_id}"

    def body(self, endpoint_id: str, task_id: str) -> str:
        """String: the task's spec, its input as received, and its result when both are small."""
        return f"{self.tag}:b:{endpoint_id}:{task_id}"

    def result(self, endpoint_id: str, task_id: str) -> str:
        """String: the output as JSON text, or the error, unless it is in the body."""
        return f"{self.tag}:r:{endpoint_id}:{task_id}"

    def history(self, endpoint_id: str, task_id: str) -> str:
        """List: a JSON object for each attempt of the task except the latest; at most the last 50."""
        return f"{self.tag}:at:{endpoint_id}:{task_id}"

    def attempts_log(self, endpoint_id: str, task_id: str) -> str:
        """List: a JSON object for each delivery attempt of the task's result."""
        return f"{self.tag}:wl:{endpoint_id}:{task_id}"


@dataclass(frozen=True)
class EndpointKeys:
    """The keys of an endpoint."""

    partition: Partition
    endpoint_id: str

    def _key(self, kind: str) -> str:
        return f"{self.partition.tag}:{kind}:{self.endpoint_id}"

    @cached_property
    def endpoint(self) -> str:
        """Hash: the endpoint itself."""
        return self._key("e")

    @cached_property
    def queue(self) -> str:
        """Stream, group `agents`: ids of the tasks that wait for their first attempt."""
        return self._key("q")

    @cached_property
    def retry_queue(self) -> str:
        """Stream, group `agents`: ids of the tasks that were queued again; read before `queue`."""
        return self._key("q") + ":retry"

    @cached_property
    def bell(self) -> str:
        """List: rung when tasks may be claimed, so that an agent that waits for the bell claims; limited."""
        return self._key("q") + ":bell"

    @cached_property
    def lane_entries(self) -> str:
        """Sorted set, all scores 0: `<lane> <rank><number> <task id>` for each task that waits in a lane. A lane is a
        digit of a level and a fairness key; the rank is 0 for a task that came back, 1 for a new one."""
        return self._key("q") + ":lane"

    @cached_property
    def lanes(self) -> str:
        """Hash: `s:<lane>` for each lane in a ring or parked; `r:<key>`, the tasks of a fairness key that are taken out
        of its lanes or run; `n`, the latest number of an entry; `turn`, the number of places that were served."""
        return self._key("q") + ":lanes"

    @cached_property
    def ring_high(self) -> str:
        """List: the fairness keys of the level's lanes that may be served, in turn."""
        return self._key("q") + ":ring:0"

    @cached_property
    def ring_normal(self) -> str:
        """The same; an empty text is the turn of tasks that wait in no lane."""
        return self._key("q") + ":ring:1"

    @cached_property
    def ring_low(self) -> str:
        return self._key("q") + ":ring:2"

    @cached_property
    def parked(self) -> str:
        """Set: lanes that are not in a ring, because their fairness key has as many running tasks as it may."""
        return self._key("q") + ":parked"

    @cached_property
    def turn(self) -> str:
        """Stream, group `agents`: tasks that an agent has taken out of lanes and not started. `e` is the task's entry
        in its lane."""
        return self._key("q") + ":turn"

    @cached_property
    def counts(self) -> str:
        """Hash: counts of the tasks by status; for each index the latest number and the gaps in its blocks."""
        return self._key("cnt")

    @cached_property
    def series(self) -> str:
        """String: samples of the endpoint's figures, in rings of records; expires. See `store/series.py`."""
        return self._key("ser")

    @cached_property
    def created(self) -> str:
        """Index, a stream: task ids in the order of creation. An entry's number is the task's place in that order."""
        return self._key("all")

    @cached_property
    def live(self) -> str:
        """Sorted set: tasks that have not ended, by their place in the order of creation."""
        return self._key("live")

    @cached_property
    def tags(self) -> str:
        """Sorted set, all scores 0: `<tag> <place> <task id>` for each tag of a task. The place in the order of
        creation has leading zeros, so that the members of a tag are in this order."""
        return self._key("tags")

    @cached_property
    def tagged(self) -> str:
        """Hash: the tags of a task, with spaces between them, by its place in the order of creation."""
        return self._key("tagged")

    def finished(self, status: str) -> str:
        """Index, a stream: ids of ended tasks with this API status, in the order in which they reached it."""
        return self._key("fin") + f":{status}"

    @cached_property
    def finished_success(self) -> str:
        return self.finished("SUCCESS")

    @cached_property
    def finished_delivered(self) -> str:
        return self.finished("DELIVERED")

    @cached_property
    def finished_failed(self) -> str:
        return self.finished("FAILED")

    @cached_property
    def given_up(self) -> str:
        """Sorted set: ended tasks whose delivery was given up, by the time of that; expires with the last task."""
        return self._key("given")

    @cached_property
    def recovery(self) -> str:
        """Hash: the latest recovery of the endpoint's given-up deliveries; expires."""
        return self._key("rec")

    @cached_property
    def recovered(self) -> str:
        """Set: tasks whose delivery a recovery or an operation has made due; tasks whose delivery is no longer due are
        removed by the next step of either; expires."""
        return self._key("rec") + ":out"

    @cached_property
    def operations(self) -> str:
        """Sorted set: the endpoint's operations by the time of their creation; limited, expires with the last."""
        return self._key("ops")

    def operation(self, operation_id: str) -> str:
        """Hash: an operation, which changes many tasks; expires after its end."""
        return self._key("op") + f":{operation_id}"

    def todo(self, operation_id: str) -> str:
        """Sorted set: tasks that the operation changes next, by the time of their end when they were found."""
        return self._key("op-todo") + f":{operation_id}"

    def given_tasks(self, operation_id: str) -> str:
        """List: tasks of the operation that were given by their ids and that it has not come to."""
        return self._key("op-given") + f":{operation_id}"

    @cached_property
    def partition_counts(self) -> str:
        return self.partition.counts

    @cached_property
    def workers(self) -> str:
        """Hash: status by worker id."""
        return self._key("workers")

    def worker(self, worker_id: str) -> str:
        """Hash: a worker."""
        return self._key("wk") + f":{worker_id}"

    @cached_property
    def agent_tokens(self) -> str:
        """Hash: creation time, latest use and name of the tokens for agents that are started by hand, by their SHA-256.
        No script that an agent on the store calls has this key or `worker_tokens`."""
        return self._key("tokens")

    @cached_property
    def worker_tokens(self) -> str:
        """Hash: SHA-256 and creation time of the agent token of each managed worker, by worker id."""
        return self._key("worker-tokens")

    @cached_property
    def logs(self) -> str:
        """Sorted set: worker with a log, by the time of its last write."""
        return self._key("logs")

    def log(self, worker_id: str) -> str:
        """Stream: the output lines of the worker's container."""
        return self._key("log") + f":{worker_id}"

    def worker_events(self, worker_id: str) -> str:
        """List: the worker's status events that wait for delivery to the endpoint's webhook, oldest first."""
        return self._key("ev") + f":{worker_id}"

    @cached_property
    def removed_events(self) -> str:
        """Sorted set: removed worker whose status events wait for delivery, by the time of its removal."""
        return self._key("evr")

    def of_task(self, task_id: str) -> TaskKeys:
        """Return the keys of a task of the endpoint."""
        return TaskKeys(self, task_id)

    def of_worker(self, worker_id: str) -> WorkerKeys:
        """Return the keys of a worker of the endpoint."""
        return WorkerKeys(self, worker_id)

    def task(self, task_id: str) -> str:
        return self.partition.task(self.endpoint_id, task_id)

    def body(self, task_id: str) -> str:
        return self.partition.body(self.endpoint_id, task_id)

    def result(self, task_id: str) -> str:
        return self.partition.result(self.endpoint_id, task_id)

    def delivery(self, task_id: str) -> str:
        return self.partition.delivery(task_delivery_id(self.endpoint_id, task_id))

    def history(self, task_id: str) -> str:
        return self.partition.history(self.endpoint_id, task_id)


class TaskKeys(NamedTuple):
    """The keys of a task, for scripts. Scripts also use keys of its endpoint and its partition."""

    endpoint_keys: EndpointKeys
    task_id: str

    @property
    def task(self) -> str:
        return self.endpoint_keys.task(self.task_id)

    @property
    def body(self) -> str:
        return self.endpoint_keys.body(self.task_id)

    @property
    def result(self) -> str:
        return self.endpoint_keys.result(self.task_id)

    @property
    def history(self) -> str:
        return self.endpoint_keys.history(self.task_id)

    @property
    def attempts_log(self) -> str:
        return self.endpoint_keys.partition.attempts_log(self.endpoint_keys.endpoint_id, self.task_id)

    @property
    def delivery(self) -> str:
        return self.endpoint_keys.delivery(self.task_id)


class WorkerKeys(NamedTuple):
    """The keys of a worker, for scripts. Scripts also use keys of its endpoint and its partition."""

    endpoint_keys: EndpointKeys
    worker_id: str

    @property
    def worker(self) -> str:
        return self.endpoint_keys.worker(self.worker_id)

    @property
    def log(self) -> str:
        return self.endpoint_keys.log(self.worker_id)

    @property
    def events(self) -> str:
        return self.endpoint_keys.worker_events(self.worker_id)

    @property
    def delivery(self) -> str:
        endpoint_id = self.endpoint_keys.endpoint_id
        return self.endpoint_keys.partition.delivery(worker_delivery_id(endpoint_id, self.worker_id))


def worker_delivery_id(endpoint_id: str, worker_id: str) -> str:
    """Return the id of the delivery of a worker's status events. They are delivered in order, one at a time."""
    return f"s:{endpoint_id}:{worker_id}"


def task_delivery_id(endpoint_id: str, task_id: str) -> str:
    """Return the id of the delivery of a task's result. A task has at most one delivery at a time."""
    return f"t:{endpoint_id}:{task_id}"


def ids_of_delivery(delivery_id: str) -> dict[str, str]:
    """Return the ids of a delivery's `endpoint` and `task`, or `endpoint` and `worker`, by these names."""
    kind, _, rest = delivery_id.partition(":")
    endpoint_id, _, name = rest.partition(":")
    return {"endpoint": endpoint_id, "task" if kind == "t" else "worker": name}


@dataclass(frozen=True)
class Partitions:
    """The mapping of endpoints to partitions. Fixed for the life of a store."""

    count: int = 16

    def of(self, endpoint_id: str) -> EndpointKeys:
        """Return the keys of this endpoint."""
        return _keys_of(self.count, endpoint_id)

    def rates_of(self, tenant: str) -> str:
        """Return the key of the tenant's rate limits. Tenants are distributed over the partitions as endpoints are."""
        return Partition(crc32(tenant.encode()) % self.count).rates(tenant)

    def all(self) -> tuple[Partition, ...]:
        return tuple(Partition(index) for index in range(self.count))


@lru_cache(maxsize=4096)
def _keys_of(partitions: int, endpoint_id: str) -> EndpointKeys:
    """Return the keys of an endpoint. The object is cached, so that its keys are built once."""
    return EndpointKeys(Partition(crc32(endpoint_id.encode()) % partitions), endpoint_id)
