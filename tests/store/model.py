"""Model of the store's guarantees about tasks and their deliveries, in plain Python."""

from dataclasses import dataclass, field

from queue_engine.domain.deliveries import DeliverAgain, Delivered, Verdict
from queue_engine.domain.endpoints import TaskCounts
from queue_engine.domain.tasks import Cost, Outcome, Succeeded, TryAgain

MAX_LOST = 1
MAX_ATTEMPTS = 2
ENDED = ("succeeded", "failed", "dead", "cancelled", "expired")
OUTCOMES = {"succeeded": "ok", "failed": "error", "dead": "lost", "cancelled": "cancelled"}
TURNS_OF_A_RUN = 1_000_000
TURNS_OF_A_TASK = 1_000


@dataclass
class ModelDelivery:
    """A delivery. `turn` counts its entries in the outbox: an entry of an older turn is stale."""

    place: str = "ready"
    """ready, read, retry or parked."""
    turn: int = 1
    reader: str = ""
    owner: str = ""


@dataclass
class Clock:
    """Order in which tasks are queued. Those of one sweep have no certain order, so it does not advance then."""

    now: int = 0
    stands_still: bool = False

    def next(self) -> int:
        self.now += not self.stands_still
        return self.now


@dataclass
class ModelTask:
    """A task. `turn` counts its entries in the queues: an entry of an older turn is stale."""

    webhook: bool
    has_deadline: bool = False
    lane: str = ""
    """Digit of its level, and its key; empty if it waits in the plain queues."""
    clock: Clock = field(default_factory=Clock)
    state: str = "queued"
    turn: int = 1
    place: str = "new"
    """Place of a queued task: new or retry (its queue), lane, or read."""
    order: tuple[int, int] = (1, 0)
    """Its place in its lane: 0 if it came back, and the time at which it was queued."""
    has_started: bool = False
    """True if the task has had an attempt, so that it no longer waits with the new tasks."""
    attempts: int = 0
    lost: int = 0
    token: str = ""
    lost_token: str = ""
    left_token: str = ""
    """Token of the latest attempt that was retried or released."""
    lease_is_over: bool = False
    wait_is_over: bool = False
    is_listed: bool = False
    """True while the deadline counts."""
    deadline_is_over: bool = False
    cancel: bool = False
    base: int = 0
    run: int = 1
    history: list[tuple[int, str, int]] = field(default_factory=list)
    """Ended attempts that did not end the task: number, outcome, and number of tries that share the row."""
    shares_row: bool = False
    """True when further busy tries share the latest row of the history."""
    busy_tries: int = 0
    busy_streak_is_over: bool = False
    latest: str = ""
    """Outcome of the latest attempt when it is not in the history."""
    output: bytes | None = None
    delivery: ModelDelivery | None = None
    delivery_status: str = "INIT"
    delivery_attempts: int = 0

    def queue(self, place: str) -> None:
        self.order = (place == "new", self.clock.next())
        self.state, self.place, self.turn = "queued", "lane" if self.lane else place, self.turn + 1

    def put_back(self) -> None:
        """Queue a task whose entry was read: in its place in its lane, or with those that came back."""
        order = self.order
        self.queue("retry")
        self.order = order

    def start(self, token: str) -> None:
        self._note_lost()
        self.state, self.token, self.lost_token = "running", token, ""
        self.has_started = True
        self.attempts += 1
        self.lease_is_over = self.is_listed = False
        self.latest = "running"

    def beat(self, token: str) -> str:
        if self.state == "running" and self.token == token:
            self.lease_is_over = False
            return "CANCEL" if self.cancel else "OK"
        return "READOPTED" if self._readopt(token) else "FENCED"

    def settle(self, token: str, outcome: Outcome) -> str:
        if self.state != "running" or self.token != token:
            if self._is_repeat(token, outcome):
                return "ALREADY"
            if not self._readopt(token):
                return "FENCED"
        if isinstance(outcome, TryAgain):
            return self._try_again(token, outcome)
        self._end("succeeded" if isinstance(outcome, Succeeded) else "failed")
        self.output = bytes(outcome.output) if isinstance(outcome, Succeeded) else None
        return "OK"

    def _try_again(self, token: str, outcome: TryAgain) -> str:
        self.token, self.left_token = "", token
        is_spent = self._note_try(outcome)
        if self.cancel:
            self._end("cancelled")
            return "CANCELLED"
        if not is_spent:
            self.attempts -= 1
        elif outcome.cost is Cost.BUSY and self.attempts - self.base - self.lost >= MAX_ATTEMPTS:
            self._end("failed")
            return "FAILED"
        self.is_listed = self.has_deadline
        if outcome.cost is Cost.NOTHING:
            self.queue("retry")
        else:
            self.state, self.wait_is_over = "scheduled", False
        return "OK"

    def _note_try(self, outcome: TryAgain) -> bool:
        """Record the try. Return True if it costs an attempt."""
        if outcome.cost is Cost.ATTEMPT:
            self._note(outcome.attempt_outcome)
            return True
        number, _, tries = self.history[-1] if self.history else (0, "", 0)
        if self.shares_row and number == self.attempts:
            self.history[-1] = (number, outcome.attempt_outcome, tries + 1)
        else:
            self.history.append((self.attempts, outcome.attempt_outcome, 1))
        self.latest, self.shares_row = "", True
        if outcome.cost is Cost.NOTHING:
            return False
        self.busy_tries += 1
        is_over, self.busy_streak_is_over = self.busy_streak_is_over, False
        return is_over

    def _end_busy_streak(self) -> None:
        self.busy_tries, self.busy_streak_is_over = 0, False

    def release(self, token: str) -> str:
        if self.state != "running" or self.token != token:
            return "ALREADY" if self.left_token == token else "FENCED"
        self.token, self.left_token = "", token
        self._note("released")
        if self.cancel:
            self._end("cancelled")
            return "CANCELLED"
        self.attempts -= 1
        self.queue("retry")
        return "OK"

    def sweep(self) -> str:
        if self.state == "running" and self.lease_is_over:
            self.lost += 1
            self._end_busy_streak()
            if self.cancel or self.lost > MAX_LOST:
                self.token = ""
                self._note("lost")
                self._end("cancelled" if self.cancel else "dead")
                return self.state
            self.lost_token, self.token = self.token, ""
            self.latest = "lost"
            self.queue("retry")
            return "requeued"
        if self.is_listed and self.deadline_is_over:
            self._end("expired")
            return "expired"
        if self.state == "scheduled" and self.wait_is_over:
            self.is_listed = self.has_deadline
            self.queue("retry" if self.has_started else "new")
            return "promoted"
        return ""

    def ask_to_cancel(self) -> str:
        if self.state in ENDED:
            return "ENDED"
        is_first, self.cancel = not self.cancel, True
        if self.state == "running":
            return "REQUESTED" if is_first else "REPEATED"
        self._end("cancelled")
        return "CANCELLED"

    def rerun(self) -> str:
        if self.state not in ENDED:
            return "BUSY"
        if self.latest:
            self._note(self.latest)
        self.token = self.left_token = self.lost_token = ""
        self.cancel = self.has_deadline = False
        self._end_busy_streak()
        self.lost, self.base, self.output, self.delivery = 0, self.attempts, None, None
        self.delivery_status, self.delivery_attempts = "INIT", 0
        self.run += 1
        self.queue("new")
        return "OK"

    def _note(self, outcome: str) -> None:
        self.history.append((self.attempts, outcome, 1))
        self.latest, self.shares_row = "", False
        if outcome != "lost":
            self._end_busy_streak()

    def _note_lost(self) -> None:
        if self.lost_token:
            self._note("lost")

    def all_attempts(self) -> list[tuple[int, str, int]]:
        return self.history + ([(self.attempts, self.latest, 1)] if self.latest else [])

    def _is_repeat(self, token: str, outcome: Outcome) -> bool:
        if isinstance(outcome, TryAgain):
            return self.left_token == token
        return self.state in ENDED and self.token == token

    def _readopt(self, token: str) -> bool:
        if self.state != "queued" or self.lost_token != token:
            return False
        self.state, self.token, self.lost_token = "running", token, ""
        self.lost -= 1
        self.lease_is_over = False
        self.latest = "running"
        return True

    def _end(self, state: str) -> None:
        self._note_lost()
        if self.latest:
            self.latest = OUTCOMES[state]
        self.state, self.lost_token, self.is_listed = state, "", False
        self.delivery = ModelDelivery(turn=self.run * TURNS_OF_A_RUN) if self.webhook else None

    # Delivery

    def deliver(self, turn: int, process: str, verdict: Verdict) -> bool:
        """Settle the delivery. Return False when this process does not have it."""
        delivery = self.delivery
        if delivery is None or delivery.turn != turn or delivery.place != "read" or delivery.owner != process:
            return False
        self.delivery_attempts += 1
        if isinstance(verdict, DeliverAgain):
            delivery.place, delivery.owner = "retry", ""
            self.delivery_status = "FAILED"
        else:
            self.delivery = None
            self.delivery_status = "SUCCESS" if isinstance(verdict, Delivered) else "MAX_RETRIES_EXCEEDED"
        return True


@dataclass
class Model:
    """All tasks of an endpoint."""

    tasks: dict[str, ModelTask] = field(default_factory=dict)
    alive: set[str] = field(default_factory=set)
    """Delivery processes with an unexpired lease."""
    is_paused: bool = False
    clock: Clock = field(default_factory=Clock)
    submitted: int = 0
    key_limit: int = 0
    """Limit of the running tasks of a key; 0 without one."""
    taken: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Task, key and turn of each entry of a task that was taken out of a lane and not started."""
    burst: int | None = None
    """Attempts that may begin at once; None without a limit. No further ones may begin during a test."""
    bucket: int | None = None
    """Attempts that might still begin when it was last counted."""

    def submit(
        self, task_id: str, *, webhook: bool, has_deadline: bool, is_delayed: bool = False, lane: str = ""
    ) -> bool:
        if task_id in self.tasks:
            return False
        task = self.tasks[task_id] = ModelTask(
            webhook, has_deadline, lane, self.clock, is_listed=has_deadline and not is_delayed
        )
        self.submitted += 1
        task.turn = self.submitted * TURNS_OF_A_TASK
        if is_delayed:
            task.state, task.place = "scheduled", ""
        else:
            task.queue("new")
        return True

    @property
    def tokens(self) -> int:
        """Number of attempts that may begin now."""
        if self.burst is None:
            return 1_000
        return self.burst if self.bucket is None else min(self.burst, self.bucket)

    def use_tokens(self, number: int) -> None:
        if self.burst is not None:
            self.bucket = self.tokens - number

    def held(self, key: str) -> int:
        """Return the number of tasks of a key that are taken or run."""
        running = sum(task.state == "running" and task.lane[1:] == key for task in self.tasks.values())
        return running + sum(one == key for _, one, _ in self.taken.values())

    def forget_taken(self) -> None:
        """Forget the entries of tasks that no longer wait, which a script removes when it ends their wait."""
        self.taken = {
            entry: (task_id, key, turn)
            for entry, (task_id, key, turn) in self.taken.items()
            if task_id in self.tasks and (self.tasks[task_id].state, self.tasks[task_id].turn) == ("queued", turn)
        }

    def free(self, key: str) -> int:
        """Return the number of tasks of a key that may be taken."""
        return max(0, self.key_limit - self.held(key)) if self.key_limit and key else 1_000

    def waiting(self, *places: str) -> list[str]:
        """Return the queued tasks at this place."""
        return [name for name, task in self.tasks.items() if task.state == "queued" and task.place in places]

    def deliveries(self, *places: str) -> dict[str, ModelDelivery]:
        return {
            task_id: task.delivery
            for task_id, task in self.tasks.items()
            if task.delivery is not None and task.delivery.place in places
        }

    def removable(self) -> list[str]:
        return [name for name, task in self.tasks.items() if task.state in ENDED and task.delivery is None]

    def purge(self) -> int:
        gone = self.removable()
        for task_id in gone:
            del self.tasks[task_id]
        return len(gone)

    def counts(self) -> TaskCounts:
        def count(*states: str, status: bool | None = None) -> int:
            return sum(
                task.state in states and (status is None or (task.delivery_status == "SUCCESS") is status)
                for task in self.tasks.values()
            )

        return TaskCounts(
            queued=count("queued"),
            running=count("running"),
            scheduled=count("scheduled"),
            success=count("succeeded", status=False),
            delivered=count("succeeded", status=True),
            failed=count("failed", "dead", "cancelled", "expired"),
            queued_high=sum(task.state == "queued" and task.lane[:1] == "0" for task in self.tasks.values()),
            queued_low=sum(task.state == "queued" and task.lane[:1] == "2" for task in self.tasks.values()),
        )
