# Made from the headers of the scripts by `make stubs`; a test compares the two.

from collections.abc import Mapping, Sequence
from typing import Literal

from queue_engine.store.keys import EndpointKeys, Partition, TaskKeys, WorkerKeys
from queue_engine.store.redis.connections import Pieces
from queue_engine.store.scripts import Submit

class AdoptDeliveriesOk:
    word: Literal["OK"]
    unsettled: int
    retry_ms: int | None
    parked_ms: int | None
    shelves: list[str]
    adopted: list[tuple[bytes, dict[bytes, bytes]]]

class AppendAuditOk:
    word: Literal["OK"]

class AppendAuditAlready:
    word: Literal["ALREADY"]

class AppendLogsOk:
    word: Literal["OK"]
    surplus: list[str]

class AppendLogsAlready:
    word: Literal["ALREADY"]

class AppendLogsMoved:
    word: Literal["MOVED"]

class AppendLogsGone:
    word: Literal["GONE"]

class AskForHeadersOk:
    word: Literal["OK"]

class CancelCancelled:
    word: Literal["CANCELLED"]

class CancelRequested:
    word: Literal["REQUESTED"]

class CancelRepeated:
    word: Literal["REPEATED"]

class CancelEnded:
    word: Literal["ENDED"]

class CancelGone:
    word: Literal["GONE"]

class CancelInOperationOk:
    word: Literal["OK"]
    result: str

class CancelInOperationStale:
    word: Literal["STALE"]

class CancelRecoveryOk:
    word: Literal["OK"]

class CancelRecoveryEnded:
    word: Literal["ENDED"]

class CheckEndpointOk:
    word: Literal["OK"]

class ClaimOk:
    word: Literal["OK"]
    retried: list[tuple[bytes, dict[bytes, bytes]]]
    new: list[tuple[bytes, dict[bytes, bytes]]]
    taken: list[tuple[bytes, dict[bytes, bytes]]]
    wait_ms: int

class CreateAgentTokenOk:
    word: Literal["OK"]
    created_ms: int

class CreateAgentTokenFull:
    word: Literal["FULL"]

class CreateAgentTokenGone:
    word: Literal["GONE"]

class CreateApiKeyOk:
    word: Literal["OK"]
    created_ms: int

class CreateApiKeyPast:
    word: Literal["PAST"]

class CreateApiKeyFull:
    word: Literal["FULL"]

class CreateApiKeyRefused:
    word: Literal["REFUSED"]

class CreateCredentialOk:
    word: Literal["OK"]
    created_ms: int

class CreateCredentialExists:
    word: Literal["EXISTS"]
    created_ms: int

class CreateCredentialFull:
    word: Literal["FULL"]

class CreateEndpointOk:
    word: Literal["OK"]

class CreateEndpointExists:
    word: Literal["EXISTS"]

class CreateOperationOk:
    word: Literal["OK"]
    surplus: list[str]

class CreateOperationAlready:
    word: Literal["ALREADY"]

class CreateOperationConflict:
    word: Literal["CONFLICT"]

class CreateOperationBusy:
    word: Literal["BUSY"]

class CreateOperationClosed:
    word: Literal["CLOSED"]

class CreateOperationGone:
    word: Literal["GONE"]

class CreateSessionOk:
    word: Literal["OK"]
    ends_ms: int

class CreateSessionFull:
    word: Literal["FULL"]

class CreateSessionGone:
    word: Literal["GONE"]

class CreateTenantOk:
    word: Literal["OK"]

class CreateTenantExists:
    word: Literal["EXISTS"]

class DeferDeliveryOk:
    word: Literal["OK"]

class DeferDeliveryGivenUp:
    word: Literal["GIVEN_UP"]

class DeferDeliveryStale:
    word: Literal["STALE"]

class DeferEventOk:
    word: Literal["OK"]

class DeferEventGivenUp:
    word: Literal["GIVEN_UP"]

class DeferEventStale:
    word: Literal["STALE"]

class DeleteCredentialOk:
    word: Literal["OK"]

class DeleteCredentialInUse:
    word: Literal["IN_USE"]

class DeleteCredentialNotFound:
    word: Literal["NOT_FOUND"]

class DeleteInOperationOk:
    word: Literal["OK"]
    result: str

class DeleteInOperationStale:
    word: Literal["STALE"]

class DeleteTaskOk:
    word: Literal["OK"]

class DeleteTaskBusy:
    word: Literal["BUSY"]

class DeleteTaskGone:
    word: Literal["GONE"]

class DropLogsOk:
    word: Literal["OK"]

class DueDeliveriesOk:
    word: Literal["OK"]
    delivery_ids: list[str]
    next_ms: int | None

class EndOperationOk:
    word: Literal["OK"]

class EndOperationBusy:
    word: Literal["BUSY"]

class EndOperationEnded:
    word: Literal["ENDED"]

class EndOperationGone:
    word: Literal["GONE"]

class EndSessionsOk:
    word: Literal["OK"]

class EndWaitingOk:
    word: Literal["OK"]

class EndWaitingGone:
    word: Literal["GONE"]

class EnqueueOk:
    word: Literal["OK"]

class EnqueueExists:
    word: Literal["EXISTS"]

class EnqueueConflict:
    word: Literal["CONFLICT"]

class EnqueueNotFound:
    word: Literal["NOT_FOUND"]

class EnqueueNotQueue:
    word: Literal["NOT_QUEUE"]

class EnqueueClosed:
    word: Literal["CLOSED"]

class EnqueueFull:
    word: Literal["FULL"]

class EnqueueInLane:
    word: Literal["IN_LANE"]

class EnqueueTooLate:
    word: Literal["TOO_LATE"]

class EnqueueLimited:
    word: Literal["LIMITED"]
    per_second: int

class EnqueueWithin:
    word: Literal["WITHIN"]
    result: str
    per_second: int
    left: int

class ExpireExpired:
    word: Literal["EXPIRED"]

class ExpireOk:
    word: Literal["OK"]

class FailuresOk:
    word: Literal["OK"]
    failures: list[list[bytes]]

class FindTimeOk:
    word: Literal["OK"]
    place: int

class FindTimeAsk:
    word: Literal["ASK"]
    low: int
    high: int
    place: int
    task_id: str

class FinishOk:
    word: Literal["OK"]
    now_ms: int
    words: list[list[str]]

class ForgetApiKeysOk:
    word: Literal["OK"]

class ForgetOperationsOk:
    word: Literal["OK"]

class FreeWebhookTestOk:
    word: Literal["OK"]

class FreeWebhookTestHeld:
    word: Literal["HELD"]

class HastenChecksOk:
    word: Literal["OK"]
    hastened: int

class HoldLeadershipOk:
    word: Literal["OK"]

class HoldLeadershipHeld:
    word: Literal["HELD"]

class IndexEndpointOk:
    word: Literal["OK"]
    tenant: str
    name: str
    restored: int
    has_logs: bool

class IndexEndpointGone:
    word: Literal["GONE"]

class IndexGivenUpOk:
    word: Literal["OK"]
    changed: int

class LeaveRecoveredOk:
    word: Literal["OK"]

class LeaveRecoveredDue:
    word: Literal["DUE"]

class LeaveWaitingOk:
    word: Literal["OK"]

class MakeQueuesOk:
    word: Literal["OK"]

class MakeQueuesGone:
    word: Literal["GONE"]

class MarkOk:
    word: Literal["OK"]

class MarkEndpointOk:
    word: Literal["OK"]

class MarkEndpointNotFound:
    word: Literal["NOT_FOUND"]

class MarkWorkerOk:
    word: Literal["OK"]

class MarkWorkerGone:
    word: Literal["GONE"]

class MatchTasksOk:
    word: Literal["OK"]
    looked: int
    matches: list[list[bytes]]

class NoteEndpointOk:
    word: Literal["OK"]

class NoteEndpointFull:
    word: Literal["FULL"]

class OpenDeliveryOk:
    word: Literal["OK"]
    attempts: int
    created_ms: int
    number: int
    executions: int
    reruns: int
    has_succeeded: bool
    finished_ms: int
    spec: bytes
    result: bytes
    is_too_large: bool
    signing_secrets: list[str]
    sends: int

class OpenDeliveryStale:
    word: Literal["STALE"]

class OpenEventOk:
    word: Literal["OK"]
    attempts: int
    created_ms: int
    event: bytes
    signing_secrets: list[str]

class OpenEventStale:
    word: Literal["STALE"]

class OverdueOk:
    word: Literal["OK"]
    entries: list[list[str]]

class PageOk:
    word: Literal["OK"]
    total: int
    task_ids: list[str]

class PlanCheckOk:
    word: Literal["OK"]

class PlanCheckChanged:
    word: Literal["CHANGED"]

class PlanDeletionsOk:
    word: Literal["OK"]

class PlanOperationOk:
    word: Literal["OK"]
    is_complete: bool

class PlanOperationStale:
    word: Literal["STALE"]

class PlanPurgeOk:
    word: Literal["OK"]

class PromoteQueued:
    word: Literal["QUEUED"]

class PromoteOk:
    word: Literal["OK"]

class PromoteDeliveryOk:
    word: Literal["OK"]

class PromoteDeliveryStale:
    word: Literal["STALE"]

class PromoteResultOk:
    word: Literal["OK"]

class PromoteResultStale:
    word: Literal["STALE"]

class PurgePurged:
    word: Literal["PURGED"]

class PurgeKept:
    word: Literal["KEPT"]

class PurgeOk:
    word: Literal["OK"]

class PutApiKeyOk:
    word: Literal["OK"]
    tenant: str
    name: str
    created_ms: int

class PutApiKeyRevoked:
    word: Literal["REVOKED"]

class PutBackOk:
    word: Literal["OK"]

class PutBackStale:
    word: Literal["STALE"]

class PutWorkerOk:
    word: Literal["OK"]

class PutWorkerExists:
    word: Literal["EXISTS"]

class PutWorkerGone:
    word: Literal["GONE"]

class ReadOk:
    word: Literal["OK"]
    fields: dict[str, str]
    spec: bytes
    error: bytes

class ReadGone:
    word: Literal["GONE"]

class ReadAttemptsOk:
    word: Literal["OK"]
    fields: dict[str, str]
    spec: bytes
    result: bytes
    records: list[bytes]

class ReadAttemptsGone:
    word: Literal["GONE"]

class ReadDetailOk:
    word: Literal["OK"]
    fields: dict[str, str]
    next_attempt_ms: int | None
    expires_ms: int | None
    kept_from_ms: int | None
    removed_ms: int | None
    input_bytes: int
    output_bytes: int | None
    latest_delivery: bytes | None
    front: bytes
    result: bytes

class ReadDetailLong:
    word: Literal["LONG"]
    fields: dict[str, str]
    next_attempt_ms: int | None
    expires_ms: int | None
    kept_from_ms: int | None
    removed_ms: int | None
    input_bytes: int
    output_bytes: int | None
    latest_delivery: bytes | None
    spec: bytes
    error: bytes

class ReadDetailGone:
    word: Literal["GONE"]

class ReadPartOk:
    word: Literal["OK"]
    part: bytes

class ReadPartGone:
    word: Literal["GONE"]

class ReadRequestOk:
    word: Literal["OK"]
    fingerprint: str
    input: bytes | None

class ReadRequestGone:
    word: Literal["GONE"]

class ReadSampleOk:
    word: Literal["OK"]
    tenant: str
    now_ms: int
    created_ms: int
    concurrency: int
    sampled: str
    oldest_ms: int | None
    figures: list[int]
    ended: list[list[str]]
    kept: list[bytes]

class ReadSampleGone:
    word: Literal["GONE"]

class ReadTimesOk:
    word: Literal["OK"]
    times: list[int]

class ReadWaitingOk:
    word: Literal["OK"]
    depth: int
    oldest_ms: int | None
    should_work: bool
    is_paused: bool
    open_lanes: int
    parked_lanes: int
    paused_ms: int | None

class ReclaimQueued:
    word: Literal["QUEUED"]
    worker_id: str
    attempts: int

class ReclaimUnstarted:
    word: Literal["UNSTARTED"]
    worker_id: str
    attempts: int

class ReclaimDead:
    word: Literal["DEAD"]
    worker_id: str
    attempts: int

class ReclaimCancelled:
    word: Literal["CANCELLED"]
    worker_id: str
    attempts: int

class ReclaimOk:
    word: Literal["OK"]

class RecountLogsOk:
    word: Literal["OK"]

class RecountLogsGone:
    word: Literal["GONE"]

class RecountLogsChanged:
    word: Literal["CHANGED"]

class RecoverDeliveryOk:
    word: Literal["OK"]

class RecoverDeliveryFull:
    word: Literal["FULL"]

class RecoverDeliverySkipped:
    word: Literal["SKIPPED"]

class RecoverDeliveryEnded:
    word: Literal["ENDED"]

class RedeliverInOperationOk:
    word: Literal["OK"]
    result: str

class RedeliverInOperationStale:
    word: Literal["STALE"]

class ReleaseOk:
    word: Literal["OK"]

class ReleaseCancelled:
    word: Literal["CANCELLED"]

class ReleaseAlready:
    word: Literal["ALREADY"]

class ReleaseFenced:
    word: Literal["FENCED"]

class ReleaseGone:
    word: Literal["GONE"]

class ReleaseCredentialOk:
    word: Literal["OK"]

class RemoveEndpointOk:
    word: Literal["OK"]
    tenant: str | None
    name: str | None

class RemoveEndpointBusy:
    word: Literal["BUSY"]

class RemoveWorkerOk:
    word: Literal["OK"]
    dropped: int

class RenewOk:
    word: Literal["OK"]
    words: list[str]

class ReportWorkerOk:
    word: Literal["OK"]
    desired: str
    has_queued: bool
    is_open: bool

class ReportWorkerGone:
    word: Literal["GONE"]

class RerunOk:
    word: Literal["OK"]

class RerunAlready:
    word: Literal["ALREADY"]

class RerunBusy:
    word: Literal["BUSY"]

class RerunClosed:
    word: Literal["CLOSED"]

class RerunFull:
    word: Literal["FULL"]

class RerunGone:
    word: Literal["GONE"]

class RerunInOperationOk:
    word: Literal["OK"]
    result: str

class RerunInOperationStale:
    word: Literal["STALE"]

class ResealFieldOk:
    word: Literal["OK"]

class ResealFieldStale:
    word: Literal["STALE"]

class ResealSpecOk:
    word: Literal["OK"]

class ResealSpecStale:
    word: Literal["STALE"]

class RetryOk:
    word: Literal["OK"]

class RetryCancelled:
    word: Literal["CANCELLED"]

class RetryFailed:
    word: Literal["FAILED"]
    created_ms: int
    started_ms: int
    now_ms: int

class RetryAlready:
    word: Literal["ALREADY"]

class RetryFenced:
    word: Literal["FENCED"]

class RetryGone:
    word: Literal["GONE"]

class RetryDeliveryOk:
    word: Literal["OK"]

class RetryDeliveryAlready:
    word: Literal["ALREADY"]

class RetryDeliveryDue:
    word: Literal["DUE"]

class RetryDeliveryDelivered:
    word: Literal["DELIVERED"]

class RetryDeliveryBusy:
    word: Literal["BUSY"]

class RetryDeliveryNoWebhook:
    word: Literal["NO_WEBHOOK"]

class RetryDeliveryGone:
    word: Literal["GONE"]

class RevokeAgentTokenOk:
    word: Literal["OK"]

class RevokeApiKeyOk:
    word: Literal["OK"]

class RotateApiKeyOk:
    word: Literal["OK"]

class RotateApiKeyRotated:
    word: Literal["ROTATED"]

class RotateApiKeyFull:
    word: Literal["FULL"]

class RotateApiKeyGone:
    word: Literal["GONE"]

class RotateApiKeyRefused:
    word: Literal["REFUSED"]

class RotateSigningSecretOk:
    word: Literal["OK"]
    replaced_until_ms: int

class RotateSigningSecretFull:
    word: Literal["FULL"]
    free_at_ms: int

class RotateSigningSecretNotFound:
    word: Literal["NOT_FOUND"]

class ScanOk:
    word: Literal["OK"]
    looked: int
    last: int
    is_end: bool
    found: list[str]

class SetDesiredStateOk:
    word: Literal["OK"]

class SetDesiredStateUnchanged:
    word: Literal["UNCHANGED"]

class SetDesiredStateConflict:
    word: Literal["CONFLICT"]

class SetDesiredStateNotFound:
    word: Literal["NOT_FOUND"]

class SetPausedOk:
    word: Literal["OK"]

class SetPausedUnchanged:
    word: Literal["UNCHANGED"]

class SetPausedConflict:
    word: Literal["CONFLICT"]

class SetPausedNotFound:
    word: Literal["NOT_FOUND"]

class SetTenantLimitsOk:
    word: Literal["OK"]

class SetTenantLimitsGone:
    word: Literal["GONE"]

class SettleDeliveryOk:
    word: Literal["OK"]
    created_ms: int
    now_ms: int
    is_recovered: bool
    operation_id: str | None

class SettleDeliveryFenced:
    word: Literal["FENCED"]

class SettleEventOk:
    word: Literal["OK"]
    created_ms: int
    now_ms: int

class SettleEventFenced:
    word: Literal["FENCED"]

class ShelveDeliveriesOk:
    word: Literal["OK"]
    shelved: int

class StartOk:
    word: Literal["OK"]
    retry_on: str
    retry_delays: str
    cancel_uri: str
    attempts: list[list[bytes]]

class StartRecoveryOk:
    word: Literal["OK"]

class StartRecoveryAlready:
    word: Literal["ALREADY"]

class StartRecoveryBusy:
    word: Literal["BUSY"]

class StartRecoveryGone:
    word: Literal["GONE"]

class StartWorkerOk:
    word: Literal["OK"]
    run: int

class StartWorkerGone:
    word: Literal["GONE"]

class StopWorkerOk:
    word: Literal["OK"]

class StopWorkerUnchanged:
    word: Literal["UNCHANGED"]

class StopWorkerConflict:
    word: Literal["CONFLICT"]

class StopWorkerByHand:
    word: Literal["BY_HAND"]

class StopWorkerNotFound:
    word: Literal["NOT_FOUND"]

class SumUsageOk:
    word: Literal["OK"]
    workers: int
    stored_bytes: int
    waiting_tasks: int
    waiting_deliveries: int

class SumWorkersOk:
    word: Literal["OK"]
    changed: int

class SumWorkersChanged:
    word: Literal["CHANGED"]

class SweepOk:
    word: Literal["OK"]
    lost: list[str]
    due: list[str]
    overdue: list[str]

class TakeChecksOk:
    word: Literal["OK"]
    held_until_ms: int
    endpoint_ids: list[str]

class TakeDeletionsOk:
    word: Literal["OK"]
    now_ms: int
    held_until_ms: int
    endpoint_ids: list[str]

class TakeDeliveriesOk:
    word: Literal["OK"]
    is_empty: bool
    taken: list[tuple[bytes, dict[bytes, bytes]]]

class TakeOverOk:
    word: Literal["OK"]
    cursor: str
    taken: list[tuple[bytes, dict[bytes, bytes]]]

class TakePurgesOk:
    word: Literal["OK"]
    now_ms: int
    held_until_ms: int
    endpoint_ids: list[str]

class TakeRecoverableOk:
    word: Literal["OK"]
    recovery_id: str
    due: list[str]
    task_ids: list[str]

class TakeRecoverableEnded:
    word: Literal["ENDED"]

class TakeSubmitOk:
    word: Literal["OK"]
    key_left: int
    tenant_left: int

class TakeSubmitKey:
    word: Literal["KEY"]

class TakeSubmitTenant:
    word: Literal["TENANT"]

class TidyConsumersOk:
    word: Literal["OK"]
    forgotten: int
    left: int

class UnstartedOk:
    word: Literal["OK"]
    entries: int

class UpdateCredentialOk:
    word: Literal["OK"]

class UpdateCredentialNotFound:
    word: Literal["NOT_FOUND"]

class UpdateEndpointOk:
    word: Literal["OK"]

class UpdateEndpointConflict:
    word: Literal["CONFLICT"]

class UpdateEndpointNotFound:
    word: Literal["NOT_FOUND"]

class UseAgentTokenOk:
    word: Literal["OK"]

class UseAgentTokenRecent:
    word: Literal["RECENT"]

class UseAgentTokenGone:
    word: Literal["GONE"]

class UseApiKeyOk:
    word: Literal["OK"]

class UseApiKeyRecent:
    word: Literal["RECENT"]

class UseApiKeyGone:
    word: Literal["GONE"]

class UseCredentialOk:
    word: Literal["OK"]

class UseCredentialNotFound:
    word: Literal["NOT_FOUND"]

class UseSessionOk:
    word: Literal["OK"]

class UseSessionGone:
    word: Literal["GONE"]

class WatchWaiting:
    word: Literal["WAITING"]

class WatchEnded:
    word: Literal["ENDED"]

class WatchGone:
    word: Literal["GONE"]

class WhyScheduled:
    word: Literal["SCHEDULED"]
    now_ms: int
    since_ms: int
    has_started: bool
    desired: str
    has_failed: bool
    wanted_workers: int
    losses: int
    due_ms: int | None
    latest: bytes | None

class WhyQueued:
    word: Literal["QUEUED"]
    now_ms: int
    since_ms: int
    has_started: bool
    desired: str
    has_failed: bool
    wanted_workers: int
    losses: int
    is_new: bool
    depth: int
    other_depth: int
    before: int | None
    ends: list[tuple[bytes, dict[bytes, bytes]]]
    is_paused: bool
    tokens: float | None
    starts_per_second: float | None
    lane: list[int]

class WhyOk:
    word: Literal["OK"]

class WriteSampleOk:
    word: Literal["OK"]

class WriteSampleAlready:
    word: Literal["ALREADY"]

class WriteSampleIdle:
    word: Literal["IDLE"]

class WriteSampleGone:
    word: Literal["GONE"]

class WriteTenantSampleOk:
    word: Literal["OK"]

class WriteTenantSampleAlready:
    word: Literal["ALREADY"]

class YieldLeadershipOk:
    word: Literal["OK"]

class YieldLeadershipHeld:
    word: Literal["HELD"]

class Scripts:
    def __init__(self, submit: Submit) -> None: ...
    async def adopt_deliveries(
        self,
        keys: Partition,
        /,
        *,
        process_id: str,
        tick_ms: int,
        lease_ms: int,
        limit: int,
    ) -> AdoptDeliveriesOk:
        """Renew the lease of this delivery process, and adopt the entries that dead processes have read and not
        settled. Find the shelves with deliveries, and the next delivery whose wait is over, for a process that has not
        put them there itself.
        """
    async def append_audit(
        self,
        *,
        audit: str,
        change_id: str,
        fields: Mapping[str, str | int],
    ) -> AppendAuditOk | AppendAuditAlready:
        """Append a change to a tenant's audit log. Allowed at maxmemory, because the change has been made. The log is
        limited.
        """
    async def append_logs(
        self,
        keys: WorkerKeys,
        /,
        *,
        worker_id: str,
        batch_id: str,
        after: str | None,
        retention_ms: int,
        lines: Sequence[str],
    ) -> AppendLogsOk | AppendLogsAlready | AppendLogsMoved | AppendLogsGone:
        """Append lines to a worker's log, and extend its retention. A call without lines only extends the retention.
        Not allowed at maxmemory, so that logs take no memory from tasks.
        """
    async def ask_for_headers(self, *, unsealed: str, name: str) -> AskForHeadersOk:
        """Ask the engine to seal the headers of a task with a key of its endpoint. A request beyond the limit is
        dropped, because the agent asks again when it claims the task again.
        """
    async def cancel(
        self,
        keys: TaskKeys,
        /,
        *,
        call_id: str,
    ) -> CancelCancelled | CancelRequested | CancelRepeated | CancelEnded | CancelGone:
        """Cancel a task. A waiting task ends at once. The agent of a running task learns of it at once by an entry in
        the partition's stream, which agents and API processes read, and with the next heartbeat at the latest.
        """
    async def cancel_in_operation(
        self,
        keys: TaskKeys,
        /,
        *,
        operation: str,
        todo: str,
        delivery_statuses: str,
        states: Sequence[str],
    ) -> CancelInOperationOk | CancelInOperationStale:
        """Cancel a task for an operation: see change_in_operation."""
    async def cancel_recovery(self, keys: EndpointKeys, /) -> CancelRecoveryOk | CancelRecoveryEnded:
        """Cancel the recovery of an endpoint, if one runs. Deliveries that it has made due are not changed."""
    async def check_endpoint(self, keys: EndpointKeys, /) -> CheckEndpointOk:
        """Let the leading controller look at an endpoint's workers in its next round."""
    async def claim(
        self,
        keys: EndpointKeys,
        /,
        *,
        worker_id: str,
        limit: int,
        is_turn_of_new: bool,
        retried_after: str | None,
        new_after: str | None,
        taken_after: str | None,
    ) -> ClaimOk:
        """Claim waiting tasks for an agent. While both plain queues have tasks, each gets half of the places, so that
        no queue waits until the other one is empty. If tasks wait in lanes, every eighth place is first offered to the
        level normal and every sixty-fourth to the level low, so that neither waits until the level above is empty; each
        other place is offered to the levels in their order. The plain queues belong to the level normal. A repeated
        call returns the same entries. Does not wait for a task: an agent without tasks waits for the bell, in the same
        write to the store (see bell.py). An agent that hears the bell may get fewer tasks than wait, or none because
        another agent was faster. So a claim that is full rings for the next agent, and one that leaves no task takes
        the bells that no agent has heard. While the queue is paused, no task is claimed. With a rate limit, each
        claimed task takes a token from the endpoint's bucket, which is in its counts. An agent that finds the bucket
        empty is asked to claim again after `wait_ms`, unless another agent was asked and the time has not come. So an
        empty bucket costs one call for each token, however many agents wait.
        """
    async def create_agent_token(
        self,
        keys: EndpointKeys,
        /,
        *,
        tenant: str,
        token_hash: str,
        name: str,
        max_tokens: int,
    ) -> CreateAgentTokenOk | CreateAgentTokenFull | CreateAgentTokenGone:
        """Store a new agent token of an endpoint."""
    async def create_api_key(
        self,
        *,
        api_key: str,
        api_keys: str,
        revoked: str,
        tenants: str,
        tenant_keys: str,
        makers: Sequence[str],
        key_hash: str,
        tenant: str,
        is_limited: bool,
        expires_ms: int | None,
        max_keys: int,
        maker_role: str,
        maker_endpoints: str,
        fields: Mapping[str, str | int],
    ) -> CreateApiKeyOk | CreateApiKeyPast | CreateApiKeyFull | CreateApiKeyRefused:
        """Store a new API key. A limited key has its tenant in the field `owner`, because processes of older versions
        do not know limits: they look for the field `tenant`, do not find it, and refuse the key. They also refuse to
        make the key valid in full, because its hash is in the set of revoked keys.
        """
    async def create_credential(
        self,
        *,
        credential: str,
        credentials: str,
        credential_id: int,
        max_credentials: int,
        fields: Mapping[str, str | int],
    ) -> CreateCredentialOk | CreateCredentialExists | CreateCredentialFull:
        """Store a new credential."""
    async def create_endpoint(
        self,
        keys: EndpointKeys,
        /,
        *,
        endpoint_id: str,
        fields: Mapping[str, str | int],
    ) -> CreateEndpointOk | CreateEndpointExists:
        """Store a new endpoint and create its queues."""
    async def create_operation(
        self,
        keys: EndpointKeys,
        /,
        *,
        operation: str,
        given_tasks: str,
        operation_id: str,
        call_id: str,
        fingerprint: str,
        action: str,
        filters: str,
        is_dry: bool,
        author_id: str,
        author_name: str,
        address: str,
        task_ids: Sequence[str],
    ) -> (
        CreateOperationOk
        | CreateOperationAlready
        | CreateOperationConflict
        | CreateOperationBusy
        | CreateOperationClosed
        | CreateOperationGone
    ):
        """Begin an operation: change many tasks of an endpoint, in the background. Not allowed at maxmemory, because it
        is new work.
        """
    async def create_session(
        self,
        *,
        api_key: str,
        record: str,
        index: str,
        displaced: Sequence[str],
        record_hash: str,
        key_hash: str,
        life_ms: int,
        idle_ms: int,
        limit: int,
        displaced_hashes: Sequence[str],
    ) -> CreateSessionOk | CreateSessionFull | CreateSessionGone:
        """Store a session of the web console, or a link that begins one. It ends after its life, and before when it is
        idle.
        """
    async def create_tenant(
        self,
        *,
        tenants: str,
        tenant: str,
        name: str,
        call_id: str,
        limits: Mapping[str, str | int],
    ) -> CreateTenantOk | CreateTenantExists:
        """Create a tenant with limits of its own, unless it exists."""
    async def defer_delivery(
        self,
        keys: TaskKeys,
        /,
        *,
        entry_id: str,
        delay_ms: int,
        max_age_ms: int,
        is_parked: bool,
        may_keep: bool,
    ) -> DeferDeliveryOk | DeferDeliveryGivenUp | DeferDeliveryStale:
        """Defer the delivery of a task's result without an attempt, because its destination is not served now. The
        task's data is kept at least until then. A delivery that is too old is given up instead.
        """
    async def defer_event(
        self,
        keys: WorkerKeys,
        /,
        *,
        entry_id: str,
        delay_ms: int,
        max_age_ms: int,
    ) -> DeferEventOk | DeferEventGivenUp | DeferEventStale:
        """Defer the delivery of a worker's status event without an attempt, because its destination is not served now.
        An event that is too old is given up instead, and the worker's next event is due.
        """
    async def delete_credential(
        self,
        *,
        credential: str,
        users: str,
        credentials: str,
        tenant: str,
        credential_id: int,
    ) -> DeleteCredentialOk | DeleteCredentialInUse | DeleteCredentialNotFound:
        """Remove a credential, unless its use was noted within USE_GRACE_MS. The caller has checked that no stored
        endpoint uses it.
        """
    async def delete_in_operation(
        self,
        keys: TaskKeys,
        /,
        *,
        operation: str,
        todo: str,
        delivery_statuses: str,
        states: Sequence[str],
    ) -> DeleteInOperationOk | DeleteInOperationStale:
        """Remove an ended task for an operation: see change_in_operation."""
    async def delete_task(self, keys: TaskKeys, /) -> DeleteTaskOk | DeleteTaskBusy | DeleteTaskGone:
        """Remove an ended task with all its data. A delivery of its result that has not ended is dropped."""
    async def drop_logs(
        self,
        keys: EndpointKeys,
        /,
        *,
        worker_logs: Sequence[str],
        worker_ids: Sequence[str],
    ) -> DropLogsOk:
        """Delete the logs of some workers."""
    async def due_deliveries(self, *, waiting: str, limit: int) -> DueDeliveriesOk:
        """Find the deliveries of a partition whose wait is over."""
    async def end_operation(
        self,
        keys: EndpointKeys,
        /,
        *,
        operation: str,
        todo: str,
        given_tasks: str,
        status: str,
        error_text: str,
    ) -> EndOperationOk | EndOperationBusy | EndOperationEnded | EndOperationGone:
        """End an operation that runs. An operation that ends as done must have no further tasks."""
    async def end_sessions(self, *, index: str, records: Sequence[str], hashes: Sequence[str]) -> EndSessionsOk:
        """End sessions of the web console."""
    async def end_waiting(self, keys: TaskKeys, /, *, error_text: str) -> EndWaitingOk | EndWaitingGone:
        """End a task of an endpoint that is being deleted: a waiting task, or one that its worker has not released."""
    async def enqueue(
        self,
        keys: TaskKeys,
        /,
        *,
        extra: Sequence[str],
        fingerprint: str,
        tenant: str,
        spec_and_input: bytes | memoryview | Pieces,
        spec_length: str,
        partition_index: int,
        options: Mapping[str, str | int],
    ) -> (
        EnqueueOk
        | EnqueueExists
        | EnqueueConflict
        | EnqueueNotFound
        | EnqueueNotQueue
        | EnqueueClosed
        | EnqueueFull
        | EnqueueInLane
        | EnqueueTooLate
        | EnqueueLimited
        | EnqueueWithin
    ):
        """Accept a task, once for each task id. Not allowed at maxmemory, so that running tasks can still end."""
    async def expire(self, keys: TaskKeys, /) -> ExpireExpired | ExpireOk:
        """End a task that has waited until its deadline. A running task is not changed."""
    async def failures(self, keys: TaskKeys, /, *, more: Sequence[str], places: Sequence[str]) -> FailuresOk:
        """Read the signatures of failed tasks' errors. A call gets few tasks, because a signature takes tens of
        microseconds.
        """
    async def find_time(
        self,
        keys: EndpointKeys,
        /,
        *,
        time_ms: int,
        low: int | None,
        high: int | None,
    ) -> FindTimeOk | FindTimeAsk:
        """Find the first task of an endpoint that was created at a time or later, by binary search. The caller helps
        with an entry from before entries had times: it reads the time from the task, and calls again with the places
        that are left.
        """
    async def finish(
        self,
        keys: TaskKeys,
        /,
        *,
        more: Sequence[str],
        ends: Sequence[bytes | memoryview | Pieces],
    ) -> FinishOk:
        """End tasks of one endpoint by their running attempts: store results, states, indexes, counts and the outbox
        entries of webhooks.
        """
    async def forget_api_keys(
        self,
        *,
        api_keys: str,
        revoked: str,
        ended: str,
        configured: str,
        tenant_keys: str,
        key_hashes: Sequence[str],
    ) -> ForgetApiKeysOk:
        """Remove API keys that have expired from the indexes."""
    async def forget_operations(
        self,
        keys: EndpointKeys,
        /,
        *,
        records: Sequence[str],
        operation_ids: Sequence[str],
    ) -> ForgetOperationsOk:
        """Remove operations that have ended."""
    async def free_webhook_test(self, *, slot: str, test_id: str) -> FreeWebhookTestOk | FreeWebhookTestHeld:
        """Free the slot of a tenant that a test of a webhook has, so that the tenant can send another test."""
    async def hasten_checks(self, keys: Partition, /, *, limit: int) -> HastenChecksOk:
        """Let the leading controller look at endpoints of a partition at once that it would look at later."""
    async def hold_leadership(
        self,
        *,
        leader: str,
        controller_id: str,
        lease_ms: int,
    ) -> HoldLeadershipOk | HoldLeadershipHeld:
        """Acquire or renew the leadership of a controller."""
    async def index_endpoint(self, keys: EndpointKeys, /) -> IndexEndpointOk | IndexEndpointGone:
        """Put an endpoint into the indexes of its partition that lack it, create its missing streams, correct its
        counts, and let the controller look at its workers, if it has or needs any. This is run for every endpoint again
        and again, so one without tasks and workers takes few commands.
        """
    async def index_given_up(self, keys: TaskKeys, /) -> IndexGivenUpOk:
        """Correct the entry of a task in the index of deliveries that were given up."""
    async def leave_recovered(self, keys: TaskKeys, /) -> LeaveRecoveredOk | LeaveRecoveredDue:
        """Remove a task from those whose delivery a recovery or an operation has made due, if the delivery is not due
        any longer.
        """
    async def leave_waiting(self, keys: EndpointKeys, /) -> LeaveWaitingOk:
        """Remove an endpoint without waiting tasks from the endpoints that may have some. Its figures are sampled from
        then on, because it has had tasks.
        """
    async def make_queues(self, keys: EndpointKeys, /) -> MakeQueuesOk | MakeQueuesGone:
        """Create the missing groups of an endpoint's queues, after the store has lost them. Does nothing without the
        endpoint, so that an agent that outlives its endpoint does not leave queues behind.
        """
    async def mark(self, *, mark: str) -> MarkOk:
        """Write a mark, so that a wait for replicas or a disk covers all earlier writes, also those of other processes.
        """
    async def mark_endpoint(self, keys: EndpointKeys, /, *, has_failed: bool) -> MarkEndpointOk | MarkEndpointNotFound:
        """Record if all workers of an endpoint crash on start."""
    async def mark_worker(
        self,
        keys: WorkerKeys,
        /,
        *,
        status: str,
        reason: str,
        error_text: str | None,
        outdated_error: str | None,
        restarts: int,
    ) -> MarkWorkerOk | MarkWorkerGone:
        """Set a worker's status, as decided by the controller."""
    async def match_tasks(
        self,
        keys: TaskKeys,
        /,
        *,
        more: Sequence[str],
        filters: str,
        limit: int,
        shows: bool,
        places: Sequence[str],
    ) -> MatchTasksOk:
        """Find the tasks that match filters among tasks of an endpoint. A filter that needs a text of the task is
        compared last. The texts that a call reads are limited, so that no call holds the server for long.
        """
    async def note_endpoint(
        self,
        *,
        tenant_endpoints: str,
        tenant_names: str,
        endpoint_id: int,
        name: str,
        limit: int,
    ) -> NoteEndpointOk | NoteEndpointFull:
        """Note in a tenant's indexes that the tenant has an endpoint, or is about to store it. Refused when the tenant
        has as many as the limit, unless the endpoint is noted already.
        """
    async def open_delivery(
        self,
        keys: TaskKeys,
        /,
        *,
        entry_id: str,
        process_id: str,
    ) -> OpenDeliveryOk | OpenDeliveryStale:
        """Read the data for a delivery attempt of a task's result, and record the process that makes the attempt."""
    async def open_event(self, keys: WorkerKeys, /, *, entry_id: str, process_id: str) -> OpenEventOk | OpenEventStale:
        """Read the next status event of a worker, and record the process that sends it."""
    async def overdue(
        self,
        keys: EndpointKeys,
        /,
        *,
        stream: str,
        status: str,
        before_ms: int,
        limit: int,
    ) -> OverdueOk:
        """Find ended tasks of a status whose retention is over, oldest first. Entries are in the order of their times,
        unless the clock was set back. Then entries with times in the future count as of now, so that they are neither
        kept longer by the step nor removed too early.
        """
    async def page(self, keys: EndpointKeys, /, *, stream: str, index: str, offset: int, limit: int) -> PageOk:
        """Read a page of an index, newest first. The search descends the levels of blocks and does not read the entries
        before the page.
        """
    async def plan_check(
        self,
        keys: EndpointKeys,
        /,
        *,
        held_until_ms: int,
        wait_ms: int | None,
    ) -> PlanCheckOk | PlanCheckChanged:
        """Set the time at which an endpoint's workers are looked at next, unless they have changed since the endpoint
        was taken.
        """
    async def plan_deletions(
        self,
        keys: Partition,
        /,
        *,
        held_until_ms: int,
        times_ms: Mapping[str, str | int],
    ) -> PlanDeletionsOk:
        """Set the times of the next attempts to delete endpoints that were taken, unless an endpoint was deleted or
        made due since.
        """
    async def plan_operation(
        self,
        *,
        operation: str,
        todo: str,
        given_tasks: str,
        step: int,
        limit: int,
        scanned: int,
        from_place: int | None,
        found: Sequence[str],
    ) -> PlanOperationOk | PlanOperationStale:
        """Note the tasks that an operation changes next, and its progress. Only the process that knows the number of
        the latest step may do it, so that no step is made twice.
        """
    async def plan_purge(self, keys: EndpointKeys, /, *, held_until_ms: int, has_consumers: bool) -> PlanPurgeOk:
        """Set the time at which an endpoint is purged next: when its next ended task expires, and soon while consumers
        are left. An earlier time that was set since the endpoint was taken stays.
        """
    async def promote(self, keys: TaskKeys, /) -> PromoteQueued | PromoteOk:
        """Queue a scheduled task whose wait is over. Before its first run it waits with the new tasks, and the time
        limit of its waiting counts from now.
        """
    async def promote_delivery(
        self,
        keys: Partition,
        /,
        *,
        delivery: str,
        waiting: str,
        delivery_id: str,
    ) -> PromoteDeliveryOk | PromoteDeliveryStale:
        """Add the delivery of a worker's status events whose wait is over to the outbox."""
    async def promote_result(self, keys: TaskKeys, /, *, waiting: str) -> PromoteResultOk | PromoteResultStale:
        """Add the delivery of a task's result whose wait is over to the outbox."""
    async def purge(
        self,
        keys: TaskKeys,
        /,
        *,
        stream: str,
        number: str,
        status: str,
        place: str,
    ) -> PurgePurged | PurgeKept | PurgeOk:
        """Remove an ended task whose retention is over. A task whose delivery has not ended is kept for another
        retention time, at the end of its stream.
        """
    async def put_api_key(
        self,
        *,
        api_key: str,
        api_keys: str,
        revoked: str,
        configured: str,
        tenants: str,
        tenant_keys: str,
        key_hash: str,
        tenant: str,
        name: str,
    ) -> PutApiKeyOk | PutApiKeyRevoked:
        """Store the first API key of a process in one step, so that every valid key can be listed and revoked. A known
        key is not changed, and a revoked key stays revoked.
        """
    async def put_back(
        self,
        keys: TaskKeys,
        /,
        *,
        stream: str,
        entry_id: str,
        is_compared: bool,
    ) -> PutBackOk | PutBackStale:
        """Put an entry back that an agent has read and cannot start: the task keeps waiting, behind no other. A task
        that was taken out of a lane gets its place in it again. With a rate limit, the token of the start is put back
        too.
        """
    async def put_worker(
        self,
        keys: WorkerKeys,
        /,
        *,
        is_managed: bool,
        revision: int,
    ) -> PutWorkerOk | PutWorkerExists | PutWorkerGone:
        """Record a worker that is about to start."""
    async def read(self, keys: TaskKeys, /) -> ReadOk | ReadGone:
        """Read a task without its input and output."""
    async def read_attempts(self, keys: TaskKeys, /) -> ReadAttemptsOk | ReadAttemptsGone:
        """Read a task and the history of its attempts in one step, so that each attempt is in exactly one of the two.
        """
    async def read_detail(
        self,
        keys: TaskKeys,
        /,
        *,
        is_whole: bool,
        max_bytes: int | None,
        head_bytes: int | None,
    ) -> ReadDetailOk | ReadDetailLong | ReadDetailGone:
        """Read a task with what only its detail has: times that sorted sets and indexes have, and lengths. A list does
        without these keys.
        """
    async def read_part(
        self,
        keys: TaskKeys,
        /,
        *,
        number: str,
        finished: str | None,
        is_output: bool,
        offset: int,
        length: int,
    ) -> ReadPartOk | ReadPartGone:
        """Read a part of the input or the output of a task, if they are still those that the caller has begun to read.
        """
    async def read_request(self, keys: TaskKeys, /, *, max_bytes: int) -> ReadRequestOk | ReadRequestGone:
        """Read the request of an accepted task, for a comparison with another request."""
    async def read_sample(
        self,
        keys: EndpointKeys,
        /,
        *,
        limit: int,
        record_bytes: int,
        offsets: Sequence[int],
    ) -> ReadSampleOk | ReadSampleGone:
        """Read what a sample of an endpoint's figures needs: its counts, the time of its oldest queued task, the newest
        tasks that ended since the sample before, and records that are kept.
        """
    async def read_times(
        self,
        keys: TaskKeys,
        /,
        *,
        more: Sequence[str],
        since_ms: int,
        places: Sequence[str],
    ) -> ReadTimesOk:
        """Read for how long tasks that have ended waited and ran."""
    async def read_waiting(self, keys: EndpointKeys, /) -> ReadWaitingOk:
        """Read how many tasks wait at an endpoint, and for how long."""
    async def reclaim(
        self,
        keys: TaskKeys,
        /,
        *,
        max_lost: int,
        lease_ms: int,
    ) -> ReclaimQueued | ReclaimUnstarted | ReclaimDead | ReclaimCancelled | ReclaimOk:
        """Reclaim a task whose lease has expired. The task is queued again, or ends when too many of its workers were
        lost or when its cancellation was requested. An attempt that waited for a slot of its agent, and whose call has
        not begun, costs nothing.
        """
    async def recount_logs(
        self,
        keys: EndpointKeys,
        /,
        *,
        worker_logs: Sequence[str],
        worker_ids: Sequence[str],
    ) -> RecountLogsOk | RecountLogsGone | RecountLogsChanged:
        """Count the bytes of an endpoint's logs again, because a log that expires is not subtracted."""
    async def recover_delivery(
        self,
        keys: TaskKeys,
        /,
        *,
        recovery_id: str,
        limit: int,
    ) -> RecoverDeliveryOk | RecoverDeliveryFull | RecoverDeliverySkipped | RecoverDeliveryEnded:
        """Send a result again whose delivery was given up, for a recovery. Not allowed at maxmemory, because it is new
        work.
        """
    async def redeliver_in_operation(
        self,
        keys: TaskKeys,
        /,
        *,
        operation: str,
        todo: str,
        operation_id: str,
        limit: int,
        delivery_statuses: str,
        states: Sequence[str],
    ) -> RedeliverInOperationOk | RedeliverInOperationStale:
        """Send the result of an ended task again for an operation: see change_in_operation. Not allowed at maxmemory,
        because it is new work.
        """
    async def release(
        self,
        keys: TaskKeys,
        /,
        *,
        token: str,
        was_called: bool,
    ) -> ReleaseOk | ReleaseCancelled | ReleaseAlready | ReleaseFenced | ReleaseGone:
        """Put a running task back into the queue at no cost to its budgets, because its agent drains or leaves the task
        to another. A task whose cancellation was requested ends instead.
        """
    async def release_credential(self, *, users: str, endpoint_id: str) -> ReleaseCredentialOk:
        """Note that an endpoint no longer uses a credential."""
    async def remove_endpoint(
        self,
        keys: EndpointKeys,
        /,
        *,
        endpoint_id: str,
    ) -> RemoveEndpointOk | RemoveEndpointBusy:
        """Remove a deleted endpoint that has no workers, tasks or deliveries any longer."""
    async def remove_worker(
        self,
        keys: WorkerKeys,
        /,
        *,
        of_engine: Sequence[str],
        worker_id: str,
        status: str,
        reason: str,
    ) -> RemoveWorkerOk:
        """Remove a worker that has ended. Its last status is an event too."""
    async def renew(
        self,
        keys: EndpointKeys,
        /,
        *,
        tasks: Sequence[str],
        lease_ms: int,
        begun: int,
        tokens: Sequence[str],
    ) -> RenewOk:
        """Renew the leases of tasks of an agent, and note which calls have begun."""
    async def report_worker(
        self,
        keys: WorkerKeys,
        /,
        *,
        reported: str,
        running_tasks: int,
        address: str,
        reason: str,
        run: int,
        error_text: str | None,
        slots: int | None,
        mean_run_ms: float | None,
        protocol: int,
    ) -> ReportWorkerOk | ReportWorkerGone:
        """Record the status that an agent reports for its worker. The bell rings again if tasks are queued, because an
        agent may have died after it heard the bell and before it claimed. An idle agent claims without the bell then,
        and looks for entries that a dead agent has claimed.
        """
    async def rerun(
        self,
        keys: TaskKeys,
        /,
        *,
        call_id: str,
    ) -> RerunOk | RerunAlready | RerunBusy | RerunClosed | RerunFull | RerunGone:
        """Queue an ended task again with fresh budgets. Its result and the delivery of the result are removed. Not
        allowed at maxmemory, because it is new work.
        """
    async def rerun_in_operation(
        self,
        keys: TaskKeys,
        /,
        *,
        operation: str,
        todo: str,
        delivery_statuses: str,
        states: Sequence[str],
    ) -> RerunInOperationOk | RerunInOperationStale:
        """Queue an ended task again for an operation: see change_in_operation. Not allowed at maxmemory, because it is
        new work.
        """
    async def reseal_field(
        self,
        *,
        record: str,
        field: str,
        before: str,
        after: str,
        has_version: bool,
    ) -> ResealFieldOk | ResealFieldStale:
        """Replace a sealed text by the same secret sealed with another key, unless the text was changed since it was
        read.
        """
    async def reseal_spec(
        self,
        keys: TaskKeys,
        /,
        *,
        before: bytes | memoryview | Pieces,
        after: bytes | memoryview | Pieces,
    ) -> ResealSpecOk | ResealSpecStale:
        """Replace a task's spec by the same spec sealed with another key. The rest of the body is not changed."""
    async def retry(
        self,
        keys: TaskKeys,
        /,
        *,
        token: str,
        delay_ms: int,
        retry_after_ms: int | None,
        outcome: str,
        why: bytes | memoryview | Pieces,
        cost: str,
        last_error: bytes | memoryview | Pieces,
    ) -> RetryOk | RetryCancelled | RetryFailed | RetryAlready | RetryFenced | RetryGone:
        """Schedule the retry of a running task. The task ends instead when its cancellation was requested, or when a
        busy streak has used up its last attempt.
        """
    async def retry_delivery(
        self,
        keys: TaskKeys,
        /,
        *,
        call_id: str,
        trigger: str,
        sends_delivered: bool,
    ) -> (
        RetryDeliveryOk
        | RetryDeliveryAlready
        | RetryDeliveryDue
        | RetryDeliveryDelivered
        | RetryDeliveryBusy
        | RetryDeliveryNoWebhook
        | RetryDeliveryGone
    ):
        """Send the result of an ended task now. Not allowed at maxmemory, because it is new work."""
    async def revoke_agent_token(self, keys: EndpointKeys, /, *, token_hash: str, worker_id: str) -> RevokeAgentTokenOk:
        """Revoke an agent token permanently. The token of a later start of the same worker stays valid."""
    async def revoke_api_key(
        self,
        *,
        api_key: str,
        api_keys: str,
        revoked: str,
        ended: str,
        configured: str,
        tenant_keys: str,
        key_hash: str,
    ) -> RevokeApiKeyOk:
        """Revoke an API key permanently."""
    async def rotate_api_key(
        self,
        *,
        api_key: str,
        new_key: str,
        api_keys: str,
        revoked: str,
        tenant_keys: str,
        makers: Sequence[str],
        key_hash: str,
        new_hash: str,
        tenant: str,
        origin: str,
        overlap_ms: int,
        max_keys: int,
        maker_role: str,
        maker_endpoints: str,
    ) -> RotateApiKeyOk | RotateApiKeyRotated | RotateApiKeyFull | RotateApiKeyGone | RotateApiKeyRefused:
        """Replace an API key by a new one with the same rights and the same end. The old key stays valid for the
        overlap, and is never made valid again. It is stored as a limited key, because it has an end now: see
        create_api_key.lua.
        """
    async def rotate_signing_secret(
        self,
        keys: EndpointKeys,
        /,
        *,
        tenant: str,
        secret: str,
        overlap_ms: int,
        max_replaced: int,
    ) -> RotateSigningSecretOk | RotateSigningSecretFull | RotateSigningSecretNotFound:
        """Give an endpoint a new signing secret. Its webhooks are signed with the replaced one too until the overlap
        ends.
        """
    async def scan(
        self,
        keys: EndpointKeys,
        /,
        *,
        source: str,
        success: bool,
        delivered: bool,
        failed: bool,
        low: int,
        high: int,
        is_oldest_first: bool,
        limit: int,
        max_sorted: int,
        prefix: str,
        tag: str,
    ) -> ScanOk:
        """Read the next tasks of an endpoint in the order of creation, from the index that has the fewest of those that
        can match.
        """
    async def set_desired_state(
        self,
        keys: EndpointKeys,
        /,
        *,
        tenant: str,
        desired: str,
        call_id: str,
        versions: Sequence[str],
    ) -> SetDesiredStateOk | SetDesiredStateUnchanged | SetDesiredStateConflict | SetDesiredStateNotFound:
        """Set the desired state of an endpoint. A deletion is final. Allowed at maxmemory, because a deletion frees
        memory.
        """
    async def set_paused(
        self,
        keys: EndpointKeys,
        /,
        *,
        tenant: str,
        is_paused: bool,
        call_id: str,
        versions: Sequence[str],
    ) -> SetPausedOk | SetPausedUnchanged | SetPausedConflict | SetPausedNotFound:
        """Pause the queue of an endpoint, or resume it. While it is paused no agent claims its tasks. Allowed at
        maxmemory, so that an operator can stop work then.
        """
    async def set_tenant_limits(
        self,
        *,
        tenants: str,
        tenant: str,
        name: str,
        limits: Mapping[str, str | int],
    ) -> SetTenantLimitsOk | SetTenantLimitsGone:
        """Set limits of a tenant. An empty value removes the tenant's own limit, so that the default applies."""
    async def settle_delivery(
        self,
        keys: TaskKeys,
        /,
        *,
        entry_id: str,
        process_id: str,
        verdict: str,
        delay_ms: int,
        reason: str,
        record: str,
        may_keep: bool,
    ) -> SettleDeliveryOk | SettleDeliveryFenced:
        """Record the result of a delivery attempt for a task's result."""
    async def settle_event(
        self,
        keys: WorkerKeys,
        /,
        *,
        entry_id: str,
        process_id: str,
        verdict: str,
        delay_ms: int,
        max_age_ms: int,
    ) -> SettleEventOk | SettleEventFenced:
        """Record the result of a delivery attempt for a worker's status event. When the event has ended, the worker's
        next event is due.
        """
    async def shelve_deliveries(
        self,
        keys: Partition,
        /,
        *,
        shelf: str,
        process_id: str,
        entry_ids: Sequence[str],
    ) -> ShelveDeliveriesOk:
        """Put deliveries that this process has read, and has no room for, onto a shelf of their tenant. A shelf is a
        consumer of the outbox's group that no process has: its entries stay in the outbox until a process with room
        takes them.
        """
    async def start(
        self,
        keys: TaskKeys,
        /,
        *,
        stream: str,
        more: Sequence[str],
        lease_ms: int,
        worker_id: str,
        is_compared: bool,
        entries: Sequence[str],
    ) -> StartOk:
        """Begin attempts of tasks of one endpoint: remove the entries from the queues, and give each task a token and a
        lease. An attempt that begins ahead of a free slot is marked until its agent reports that its call has begun
        (see renew.lua). The inputs are returned together, so no further attempt begins after MAX_STARTED_BYTES.
        """
    async def start_recovery(
        self,
        keys: EndpointKeys,
        /,
        *,
        recovery_id: str,
        since_ms: int,
        until_ms: int | None,
    ) -> StartRecoveryOk | StartRecoveryAlready | StartRecoveryBusy | StartRecoveryGone:
        """Begin a recovery: send the deliveries again that an endpoint has given up in a period. Not allowed at
        maxmemory, because it is new work.
        """
    async def start_worker(
        self,
        keys: WorkerKeys,
        /,
        *,
        worker_id: str,
        token_hash: str,
    ) -> StartWorkerOk | StartWorkerGone:
        """Record a start of a worker. Reports from agents of earlier starts, and their tokens, are refused from then
        on.
        """
    async def stop_worker(
        self,
        keys: WorkerKeys,
        /,
        *,
        tenant: str,
        reason: str,
        call_id: str,
        version: int,
        fields: Mapping[str, str | int],
    ) -> StopWorkerOk | StopWorkerUnchanged | StopWorkerConflict | StopWorkerByHand | StopWorkerNotFound:
        """Let a worker that a controller has started finish or release its tasks and end. The leading controller starts
        another one in its place, unless the endpoint should have fewer. With fields the endpoint is changed too, unless
        it was changed since it was read. Allowed at maxmemory, so that an operator can replace a worker then.
        """
    async def sum_usage(self, *, records: Sequence[str], tenant: str) -> SumUsageOk:
        """Add up what endpoints of a tenant in one partition use. Keys without an endpoint of the tenant count nothing.
        """
    async def sum_workers(
        self,
        keys: Partition,
        /,
        *,
        endpoint_counts: Sequence[str],
    ) -> SumWorkersOk | SumWorkersChanged:
        """Set the counts of a partition's workers by status to the sums over its endpoints."""
    async def sweep(self, keys: Partition, /, *, tick_ms: int, lease_ms: int, limit: int) -> SweepOk:
        """Find the due tasks of a partition: tasks with expired leases, unless there is a grace; scheduled tasks whose
        wait is over; tasks at their deadline.
        """
    async def take_checks(self, keys: Partition, /, *, hold_ms: int, limit: int) -> TakeChecksOk:
        """Take endpoints of a partition whose workers are to be looked at now. If the caller dies, they are due again
        after the hold. A change of such an endpoint makes it due at once, so that plan_check.lua notices the change.
        """
    async def take_deletions(self, keys: Partition, /, *, limit: int) -> TakeDeletionsOk:
        """Take endpoints of a partition whose deletion is to be attempted now. If the caller dies, they are due again
        after the hold.
        """
    async def take_deliveries(
        self,
        keys: Partition,
        /,
        *,
        shelf: str,
        process_id: str,
        after: str,
        limit: int,
    ) -> TakeDeliveriesOk:
        """Take deliveries from a shelf, in the order of the outbox, so that this process has them. An empty shelf is
        removed.
        """
    async def take_over(
        self,
        keys: EndpointKeys,
        /,
        *,
        stream: str,
        worker_id: str,
        idle_ms: int,
        cursor: str,
        limit: int,
    ) -> TakeOverOk:
        """Claim entries of a queue that another agent has claimed and not started, because it has died. None while the
        queue is paused. With a rate limit, each takes a token again, because its start comes later than the one that
        its first token was for.
        """
    async def take_purges(self, keys: Partition, /, *, limit: int) -> TakePurgesOk:
        """Take endpoints of a partition that may have ended tasks or consumers to remove. If the caller dies, they are
        due again after the hold. A worker that is removed during the purge makes its endpoint due earlier, so that
        plan_purge.lua notices it.
        """
    async def take_recoverable(self, keys: EndpointKeys, /, *, limit: int) -> TakeRecoverableOk | TakeRecoverableEnded:
        """Find the deliveries that a recovery sends next. The recovery ends when there is none."""
    async def take_submit(
        self,
        *,
        rates: str,
        key_id: str,
        key_limit: int,
        tenant_limit: int,
    ) -> TakeSubmitOk | TakeSubmitKey | TakeSubmitTenant:
        """Take a token for a submission from the bucket of its API key and from that of its tenant: from both or from
        none. Not allowed at maxmemory, where no submission is accepted. A call that is repeated after a lost reply may
        take a second token.
        """
    async def tidy_consumers(self, keys: EndpointKeys, /) -> TidyConsumersOk:
        """Remove consumers without entries that no longer belong to a worker from the groups of an endpoint's queues.
        If such an agent is still alive, its next read creates the consumer again.
        """
    async def unstarted(self, keys: EndpointKeys, /) -> UnstartedOk:
        """Count the entries of an endpoint's streams that agents have read and not started."""
    async def update_credential(
        self,
        *,
        credential: str,
        tenant: str,
        fields: Mapping[str, str | int],
    ) -> UpdateCredentialOk | UpdateCredentialNotFound:
        """Change some fields of a credential. Other fields are not changed."""
    async def update_endpoint(
        self,
        keys: EndpointKeys,
        /,
        *,
        tenant: str,
        version: int,
        needs_new_workers: bool,
        fields: Mapping[str, str | int],
    ) -> UpdateEndpointOk | UpdateEndpointConflict | UpdateEndpointNotFound:
        """Change an endpoint, unless it was changed since it was read."""
    async def use_agent_token(
        self,
        keys: EndpointKeys,
        /,
        *,
        token_hash: str,
    ) -> UseAgentTokenOk | UseAgentTokenRecent | UseAgentTokenGone:
        """Note that an agent token is in use, unless that was noted within USE_NOTE_MS. Does not store a token that was
        revoked again.
        """
    async def use_api_key(self, *, api_key: str) -> UseApiKeyOk | UseApiKeyRecent | UseApiKeyGone:
        """Note that an API key is in use, unless that was noted within USE_NOTE_MS. Does not create the record of a key
        that has ended.
        """
    async def use_credential(
        self,
        *,
        credential: str,
        users: str,
        tenant: str,
        endpoint_id: str,
    ) -> UseCredentialOk | UseCredentialNotFound:
        """Note that an endpoint uses a credential or is about to use it. The note expires after USE_GRACE_MS."""
    async def use_session(self, *, record: str, idle_ms: int) -> UseSessionOk | UseSessionGone:
        """Note that a session of the web console is in use: it then lives for another idle time, within its life."""
    async def watch(self, keys: TaskKeys, /, *, process: str) -> WatchWaiting | WatchEnded | WatchGone:
        """Ask for a message to a process when a task ends. The task keeps the ids of the processes that watch it, up to
        seven. Beyond that the message goes to all processes, because a value of more than 64 bytes would make the hash
        no longer compact.
        """
    async def why(self, keys: TaskKeys, /) -> WhyScheduled | WhyQueued | WhyOk:
        """Read what tells why a task waits. A short queue is counted. The place in a longer one follows from the
        entries of the task and of both ends, which are returned: from the places of their tasks in the order of
        creation, or from the place in the field `n` of an entry whose task was retried by hand or had a delay.
        """
    async def write_sample(
        self,
        keys: EndpointKeys,
        /,
        *,
        sampled: str,
        is_active: bool,
        idle_ms: int,
        size: int,
        records: Sequence[bytes | memoryview | Pieces],
    ) -> WriteSampleOk | WriteSampleAlready | WriteSampleIdle | WriteSampleGone:
        """Write a sample of an endpoint's figures into its rings, once. They are dropped when the endpoint has had no
        tasks for a long time. Not allowed at maxmemory, so that figures take no memory from tasks.
        """
    async def write_tenant_sample(
        self,
        *,
        series: str,
        idle_ms: int,
        size: int,
        records: Sequence[bytes | memoryview | Pieces],
    ) -> WriteTenantSampleOk | WriteTenantSampleAlready:
        """Write a sample of a tenant's figures into its rings, once. Not allowed at maxmemory, so that figures take no
        memory from tasks.
        """
    async def yield_leadership(self, *, leader: str, controller_id: str) -> YieldLeadershipOk | YieldLeadershipHeld:
        """Give up the leadership of a controller at once."""
