"""The checker notices each thing that must not be, in journals made by hand."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.checker import Evidence, check
from tests.faults.journal import Record
from tests.faults.recovery import Recoveries, quantile, recoveries


class Story:
    """A run made by hand: one task a minute, each healthy unless a test says otherwise."""

    def __init__(self) -> None:
        self.journal: list[Record] = []
        self.tasks: dict[str, dict[str, Any]] = {}
        self.clock = 0.0

    def note(self, what: str, **fields: Any) -> None:
        self.clock += 0.001
        self.journal.append({"what": what, "mono": self.clock, **fields})

    def submit(self, task: str, do: str = "ok", *, key: str | None = None) -> None:
        self.note("submit", task=task, do=do, webhook=True, key=key)
        self.note("acknowledged", task=task)

    def execute(self, task: str, attempt: int = 1, *, worker: str = "w1", how: str = "ok", name: str = "") -> str:
        """Returns the name of the execution."""
        execution = name or f"{task}-{attempt}"
        facts = {"task": task, "attempt": attempt, "execution": execution, "worker": worker}
        self.note("begin", do="ok", **facts)
        self.clock += 1
        if how:
            self.note("end", how=how, **facts)
        return execution

    def tell(
        self, task: str, attempt: int, execution: str, *, message_id: str = "msg_1_1", answered: int = 200
    ) -> None:
        result = {"task": task, "attempt": attempt, "execution": execution}
        self.note(
            "webhook", id=message_id, task=task, status="Success", result=result, truncated=False, failed_reason=None,
            answered=answered,
        )  # fmt: skip

    def end(self, task: str, attempt: int, execution: str, **changes: Any) -> None:
        output = {"task": task, "attempt": attempt, "execution": execution, "filling": "x"}
        self.tasks[task] = {
            "state": "succeeded",
            "status": "DELIVERED",
            "attempts": attempt,
            "lost": 0,
            "output": output,
            "deliveryStatus": "SUCCESS",
            "error": None,
            **changes,
        }

    def healthy(self, task: str) -> None:
        self.submit(task)
        execution = self.execute(task)
        self.tell(task, 1, execution)
        self.end(task, 1, execution)
        self.clock += 60

    def fault(self, kind: str, *hits: str, began: float | None = None) -> None:
        self.note("fault", kind=kind, began=self.clock if began is None else began, ended=self.clock, hits=list(hits))

    def evidence(self) -> Evidence:
        statuses = [task["status"].lower() for task in self.tasks.values()]
        counts = {name: statuses.count(name) for name in ("processing", "success", "delivered", "failed")}
        return Evidence(self.journal, self.tasks, counts)


def violations(evidence: Evidence) -> list[str]:
    return list(check(evidence).violations)


@pytest.fixture
def story() -> Story:
    """Two healthy tasks."""
    told = Story()
    told.healthy("a")
    told.healthy("b")
    return told


def test_a_healthy_run_has_no_violation(story: Story) -> None:
    verdict = check(story.evidence())
    assert verdict.violations == ()
    assert (verdict.tasks, verdict.executions, verdict.lost, verdict.duplicated) == (2, 2, 0, 0)


def test_a_task_that_ran_again_because_its_worker_was_killed_is_no_violation(story: Story) -> None:
    story.submit("c")
    story.execute("c", 1, how="")
    story.fault("kill agent", "w1")
    execution = story.execute("c", 2, worker="w2")
    story.tell("c", 2, execution)
    story.end("c", 2, execution, lost=1)
    verdict = check(story.evidence())
    assert verdict.violations == ()
    assert verdict.duplicated == 1


def test_executions_that_the_container_asked_for_are_no_violation(story: Story) -> None:
    story.submit("c", do="busy")
    story.execute("c", 1, how="busy", name="c-refused")
    execution = story.execute("c", 1)
    story.tell("c", 1, execution)
    story.end("c", 1, execution)
    assert check(story.evidence()).violations == ()
    assert check(story.evidence()).duplicated == 0


def test_a_busy_execution_that_costs_an_attempt_is_a_violation(story: Story) -> None:
    story.submit("c", do="busy")
    story.execute("c", 1, how="busy")
    execution = story.execute("c", 2)
    story.tell("c", 2, execution)
    story.end("c", 2, execution)
    assert violations(story.evidence()) == ["c counts 2 attempts and was executed 1 times"]


def test_a_result_that_waited_for_the_store_may_still_be_hit(story: Story) -> None:
    story.submit("c")
    story.execute("c", 1)
    began = story.clock
    story.clock += 20
    story.fault("kill store", began=began)
    story.fault("kill agent", "w1")
    execution = story.execute("c", 2, worker="w2")
    story.tell("c", 2, execution)
    story.end("c", 2, execution, lost=1)
    assert violations(story.evidence()) == []


def test_an_acknowledged_task_that_does_not_exist_is_lost(story: Story) -> None:
    del story.tasks["a"]
    assert "a was acknowledged and is gone" in violations(story.evidence())
    assert check(story.evidence()).lost == 1


def test_an_acknowledged_task_that_has_not_ended_is_lost(story: Story) -> None:
    story.tasks["a"] |= {"state": "running", "status": "PROCESSING"}
    assert "a was acknowledged and has not ended: it is running" in violations(story.evidence())


def test_a_task_without_a_submission_is_noticed(story: Story) -> None:
    story.end("x", 1, "x-1")
    assert "x was never submitted" in violations(story.evidence())


def test_a_task_that_was_refused_and_is_there_is_noticed(story: Story) -> None:
    story.note("refused", task="a", status=409)
    assert "a was refused and is there" in violations(story.evidence())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "failed", "status": "FAILED", "error": "no"}, "a (ok) ended as failed: no"),
        ({"state": "failed", "status": "FAILED"}, "a ended as failed without a reason"),
        ({"output": {"task": "b", "attempt": 1, "execution": "b-1"}}, "a has an output that is not its own"),
        ({"output": {"task": "a", "attempt": 1, "execution": "z"}}, "the output of an execution that never was"),
        ({"attempts": 2}, "a ended with attempt 2 and has the output of attempt 1: a fenced attempt left its trace"),
        ({"deliveryStatus": "FAILED"}, "a was delivered and says FAILED"),
        ({"lost": 1}, "a counts 1 lost workers, and only 0 were hit"),
        ({"attempts": 2}, "a counts 2 attempts and was executed 1 times"),
        ({"status": "SUCCESS"}, "the counts are"),
    ],
)
def test_a_record_that_disagrees_with_the_journals_is_noticed(
    story: Story, changes: dict[str, Any], words: str
) -> None:
    counts = story.evidence().counts
    story.tasks["a"] |= changes
    assert any(words in one for one in violations(replace(story.evidence(), counts=counts)))


@pytest.mark.parametrize(
    ("answer", "state", "is_right"),
    [
        ("CANCELLED", "cancelled", True),
        ("CANCELLED", "succeeded", False),
        ("REQUESTED", "cancelled", True),
        ("REQUESTED", "succeeded", True),
        ("REQUESTED", "failed", False),
        ("ENDED", "succeeded", True),
        ("ENDED", "cancelled", False),
        (None, "cancelled", False),
    ],
)
def test_a_task_is_cancelled_if_and_only_if_a_client_was_promised_it(
    story: Story, answer: str | None, state: str, is_right: bool
) -> None:
    if answer is not None:
        story.note("cancel", task="a", answer=answer)
    story.tasks["a"] |= {"state": state, "error": "why"}
    ends = [one for one in violations(story.evidence()) if one.startswith("a (ok) ended as")]
    assert ends == ([] if is_right else [f"a (ok) ended as {state}: why"])


def order(story: Story, task: str, kind: str, answer: str | None, *, requests: int = 1) -> None:
    for _ in range(requests):
        story.note("asked", order=kind, task=task)
    if answer is not None:
        story.note(kind, task=task, answer=answer)


def rerun(story: Story, task: str, answer: str | None = "QUEUED", **changes: Any) -> None:
    """Ask for a second run of a task that has ended, and let it happen."""
    order(story, task, "retry", answer)
    execution = story.execute(task, 2)
    story.tell(task, 2, execution, message_id="msg_1_2_2")
    story.end(task, 2, execution, **{"runs": 2, "history": [1, 2], **changes})


@pytest.mark.parametrize("answer", ["QUEUED", "NOT_ENDED", None])
def test_a_rerun_that_was_ordered_is_no_violation(story: Story, answer: str | None) -> None:
    rerun(story, "a", answer)
    verdict = check(story.evidence())
    assert verdict.violations == ()
    assert verdict.duplicated == 0


def test_a_cancelled_task_may_succeed_after_a_rerun(story: Story) -> None:
    order(story, "a", "cancel", "CANCELLED")
    rerun(story, "a")
    assert violations(story.evidence()) == []


def test_a_task_that_is_cancelled_after_a_rerun_is_cancelled(story: Story) -> None:
    rerun(story, "a")
    order(story, "a", "cancel", "CANCELLED")
    assert any("a (ok) ended as succeeded" in one for one in violations(story.evidence()))


def _rerun_without_an_order(story: Story) -> None:
    rerun(story, "a")
    story.journal = [one for one in story.journal if one["what"] not in ("asked", "retry")]


def _rerun_and_delivered_under_the_old_id(story: Story) -> None:
    rerun(story, "a")
    story.journal = [one | {"id": "msg_1_1"} if one.get("id") == "msg_1_2_2" else one for one in story.journal]


def _rerun_after_another_result_was_delivered(story: Story) -> None:
    story.journal = [
        one | {"result": {"task": "a", "attempt": 1, "execution": "z"}} if one["what"] == "webhook" else one
        for one in story.journal
    ]
    rerun(story, "a")


def _rerun_and_executed_once_more(story: Story) -> None:
    rerun(story, "a")
    story.execute("a", 2, name="again")


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda story: order(story, "a", "retry", "QUEUED"), "a ran 1 times from the queue to an end; 2 to 2"),
        (_rerun_without_an_order, "a ran 2 times from the queue to an end; 1 to 1"),
        (lambda story: rerun(story, "a", runs=3), "a ran 3 times from the queue to an end; 2 to 2"),
        (lambda story: rerun(story, "a", history=[2]), "its history was not kept"),
        (_rerun_and_delivered_under_the_old_id, "a has ended and its webhook was not told"),
        (_rerun_after_another_result_was_delivered, "a was delivered with the result of an execution that never was"),
        (_rerun_and_executed_once_more, "a was executed 3 times; at most 2"),
        (lambda story: story.tell("a", 1, "a-1", message_id="msg_1_1_2"), "a was delivered as of run 2 and has made 1"),
        (lambda story: order(story, "a", "retry", "404"), "the order to retry a was answered 404"),
    ],
    ids=[
        "not done", "nobody asked", "too often", "history gone", "old id", "another result", "executed more",
        "id of no run", "refused",
    ],
)  # fmt: skip
def test_a_retry_by_hand_that_went_wrong_is_noticed(story: Story, happens: Callable[[Story], None], words: str) -> None:
    happens(story)
    assert any(words in one for one in violations(story.evidence()))


def test_one_id_with_two_results_is_noticed_for_a_run_before_the_last(story: Story) -> None:
    story.execute("a", 1, name="other")
    story.fault("kill agent", "w1")
    story.tell("a", 1, "other")
    rerun(story, "a")
    assert any(
        "a was delivered under the id msg_1_1 with several results" in one for one in violations(story.evidence())
    )


@pytest.mark.parametrize("answer", ["DELETED", None])
def test_a_task_that_was_deleted_is_not_lost(story: Story, answer: str | None) -> None:
    sample(story)
    order(story, "a", "delete", answer)
    del story.tasks["a"]
    sample(story, delivered=1)
    assert violations(story.evidence()) == []


@pytest.mark.parametrize(
    ("answer", "is_there", "words"),
    [
        ("DELETED", True, "a was deleted and is there"),
        ("NOT_ENDED", False, "a was acknowledged and is gone"),
        ("404", False, "the order to delete a was answered 404"),
    ],
)
def test_a_deletion_that_differs_from_its_response_is_noticed(
    story: Story, answer: str, is_there: bool, words: str
) -> None:
    order(story, "a", "delete", answer)
    if not is_there:
        del story.tasks["a"]
    assert any(words in one for one in violations(story.evidence()))


def test_a_deleted_task_whose_webhook_never_came_is_no_violation(story: Story) -> None:
    _drop_webhooks(story)
    order(story, "a", "delete", "DELETED")
    del story.tasks["a"]
    assert violations(story.evidence()) == []


def test_a_deleted_task_that_was_executed_too_often_is_noticed(story: Story) -> None:
    order(story, "a", "delete", "DELETED")
    del story.tasks["a"]
    story.execute("a", 1, name="again")
    assert any("a was executed 2 times; at most 1" in one for one in violations(story.evidence()))


def test_counts_that_still_hold_a_deleted_task_are_noticed(story: Story) -> None:
    order(story, "a", "delete", "DELETED")
    del story.tasks["a"]
    sample(story, delivered=2)
    assert any("the counts add up to 2 when 1 to 1 tasks were in" in one for one in violations(story.evidence()))


def test_ended_tasks_that_were_taken_back_long_before_explain_nothing(story: Story) -> None:
    order(story, "b", "retry", "NOT_ENDED")
    sample(story)
    sample(story)
    sample(story, delivered=1, processing=1, queued=1)
    assert any("had ended when 2 had before and at most 0" in one for one in violations(story.evidence()))


def expire(story: Story, *, ttl: float | None = 5, after_ms: int = 5000, **changes: Any) -> None:
    """A third task, which expires without having been executed."""
    story.note("submit", task="c", do="busy", webhook=False, ttl=ttl)
    story.note("acknowledged", task="c")
    times = {"createdAt": 1_000_000, "finishedAt": 1_000_000 + after_ms}
    story.end("c", 0, "", state="expired", status="FAILED", error="expired", **{**times, **changes})


def test_a_task_may_expire_when_it_has_waited_for_its_time(story: Story) -> None:
    expire(story)
    assert violations(story.evidence()) == []


def test_a_task_may_expire_while_it_waits_for_another_attempt(story: Story) -> None:
    expire(story, attempts=0)
    story.execute("c", how="busy")
    assert violations(story.evidence()) == []


def _expired_with_a_result(story: Story) -> None:
    expire(story, attempts=1)
    story.execute("c", how="ok")


def _expired_after_a_retry_by_hand(story: Story) -> None:
    expire(story, runs=2)
    order(story, "c", "retry", "QUEUED")


def _expired_while_to_be_cancelled(story: Story) -> None:
    expire(story)
    order(story, "c", "cancel", "REQUESTED")


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (lambda story: expire(story, ttl=None), "c (busy) ended as expired"),
        (lambda story: expire(story, after_ms=4999), "c expired after 4999 ms, before its 5000 ms"),
        (_expired_with_a_result, "c expired although an execution that nothing hit ended as ok"),
        (_expired_after_a_retry_by_hand, "c (busy) ended as expired"),
        (_expired_while_to_be_cancelled, "c (busy) ended as expired"),
    ],
    ids=["no TTL", "too early", "with a result", "retried by hand", "to be cancelled"],
)
def test_a_task_that_expired_and_should_not_is_noticed(
    story: Story, happens: Callable[[Story], None], words: str
) -> None:
    happens(story)
    assert any(words in one for one in violations(story.evidence()))


def _extra_execution(story: Story) -> None:
    story.execute("a", 1, name="again")


def _extra_execution_beside_a_fault_elsewhere(story: Story) -> None:
    story.fault("kill agent", "w2")
    story.execute("a", 1, name="again")


def _extra_execution_long_before_a_fault(story: Story) -> None:
    story.execute("a", 1, name="again")
    story.clock += 60
    story.fault("kill agent", "w1")


def _extra_execution_through_an_outage(story: Story) -> None:
    story.fault("kill store")
    story.execute("a", 1, name="again")


@pytest.mark.parametrize(
    "happens",
    [
        _extra_execution,
        _extra_execution_beside_a_fault_elsewhere,
        _extra_execution_long_before_a_fault,
        _extra_execution_through_an_outage,
    ],
)
def test_an_execution_that_no_fault_explains_is_noticed(story: Story, happens: Callable[[Story], None]) -> None:
    happens(story)
    assert any("a was executed 2 times; at most 1" in one for one in violations(story.evidence()))


def test_a_success_without_an_execution_is_noticed(story: Story) -> None:
    story.journal = [one for one in story.journal if not (one["what"] in ("begin", "end") and one["task"] == "a")]
    assert "a succeeded and was never executed" in violations(story.evidence())


def _drop_webhooks(story: Story) -> None:
    story.journal = [one for one in story.journal if one["what"] != "webhook" or one["task"] != "a"]


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (_drop_webhooks, "a has ended and its webhook was not told"),
        (lambda story: story.tell("a", 1, "a-1", message_id="msg_1_2"), "a was delivered under several ids"),
        (lambda story: story.tell("a", 2, "other"), "and its webhook was told {'task': 'a', 'attempt': 2"),
        (lambda story: story.tell("x", 1, "x-1"), "x was told to the webhook and never submitted"),
        (
            lambda story: story.note(
                "webhook", id="msg_1_1", task="a", status="Failed", result=None, truncated=False, failed_reason="no",
                answered=200,
            ),
            "a ended as succeeded and its webhook was told Failed",
        ),
    ],
    ids=["never told", "two ids", "another result", "unknown task", "another status"],
)  # fmt: skip
def test_a_webhook_that_is_missing_or_wrong_is_noticed(
    story: Story, happens: Callable[[Story], None], words: str
) -> None:
    happens(story)
    assert any(words in one for one in violations(story.evidence()))


def test_a_webhook_that_was_only_refused_is_not_delivered(story: Story) -> None:
    _drop_webhooks(story)
    story.tell("a", 1, "a-1", answered=503)
    assert any("its webhook was not told" in one for one in violations(story.evidence()))


def test_a_webhook_for_a_task_that_named_none_is_noticed(story: Story) -> None:
    story.journal = [one | {"webhook": False} if one["what"] == "submit" else one for one in story.journal]
    assert "a has no webhook and 1 were sent" in violations(story.evidence())


def sample(story: Story, **changes: int) -> None:
    counts = {"processing": 0, "queued": 0, "running": 0, "scheduled": 0, "success": 0, "delivered": 2, "failed": 0}
    story.clock += 1
    story.note("counts", began=story.clock, **counts | changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"delivered": 1}, "the counts add up to 1 when 2 to 2 tasks were in"),
        ({"delivered": 3}, "the counts add up to 3 when 2 to 2 tasks were in"),
        ({"delivered": 1, "processing": 1}, "do not add up"),
        ({"delivered": 1, "processing": 1, "queued": 1}, "1 tasks had ended when 2 had before"),
    ],
)
def test_counts_that_do_not_add_up_are_noticed(story: Story, changes: dict[str, int], words: str) -> None:
    sample(story)
    sample(story, **changes)
    assert any(words in one for one in violations(story.evidence()))


def test_samples_may_be_anywhere_between_what_was_acknowledged_and_what_was_submitted(story: Story) -> None:
    sample(story)
    story.note("submit", task="late", do="ok", webhook=False)
    sample(story)
    sample(story, queued=1, processing=1)
    assert [one for one in violations(story.evidence()) if "add" in one] == []


def test_what_the_store_and_the_processes_left_is_a_violation(story: Story) -> None:
    evidence = replace(story.evidence(), leftovers=["1 leases left"], processes=["api-1 ended by itself"])
    assert violations(evidence) == ["1 leases left", "api-1 ended by itself"]


def test_recovery_is_from_the_kill_to_the_next_execution(story: Story) -> None:
    story.submit("c")
    story.execute("c", 1, how="")
    story.fault("kill agent", "w1")
    killed = story.clock
    story.clock += 5
    story.execute("c", 2, worker="w2")
    found = recoveries(story.journal)
    assert found.usual == pytest.approx([story.journal[-2]["mono"] - killed], abs=0.01)
    assert found.alone == ()


def test_each_interrupted_execution_counts_once_from_the_first_kill(story: Story) -> None:
    """A second kill of the same worker, before the task begins again, would count a wait that is too short."""
    story.submit("c")
    story.execute("c", 1, how="")
    story.fault("kill agent and container", "w1")
    killed = story.clock
    story.clock += 3
    story.fault("kill agent and container", "w1")
    story.clock += 3
    story.execute("c", 2, worker="w2")
    assert recoveries(story.journal).usual == pytest.approx([story.journal[-2]["mono"] - killed], abs=0.01)


def test_a_task_that_lost_two_workers_counts_apart(story: Story) -> None:
    """It runs alone, and so waits for others. One that was busy before has lost one worker."""
    story.submit("c")
    story.execute("c", 1, how="")
    story.fault("kill agent", "w1")
    story.clock += 5
    story.execute("c", 2, worker="w2", how="")
    story.fault("kill agent", "w2")
    story.clock += 9
    story.execute("c", 3, worker="w1")
    story.submit("b", do="busy")
    story.execute("b", 1, how="busy")
    story.execute("b", 2, how="")
    story.fault("kill agent", "w1")
    story.clock += 4
    story.execute("b", 3, worker="w2")
    found = recoveries(story.journal)
    assert found.usual == pytest.approx([4, 5], abs=0.1)
    assert found.alone == pytest.approx([9], abs=0.1)


def test_what_a_killed_agent_had_counts_from_its_kill(story: Story) -> None:
    """Also what it had not begun: a new task, and one that had come back from another kill."""
    story.submit("c")
    story.execute("c", 1, how="")
    first = story.clock
    story.fault("kill agent", "w1", began=first)
    story.note("held", task="c", worker="w1", running=True, began=first)
    story.clock += 5
    second = story.clock
    story.fault("kill agent", "w2", began=second)
    for name in ("c", "n"):
        story.note("held", task=name, worker="w2", running=False, began=second)
    story.clock += 4
    story.submit("n")
    story.execute("c", 2)
    story.execute("n", 1)
    begun = {one["task"]: one["mono"] for one in story.journal if one["what"] == "begin"}
    assert recoveries(story.journal).usual == pytest.approx([begun["c"] - second, begun["n"] - second], abs=0.01)


def test_a_worker_that_is_lost_before_the_task_began_makes_a_suspect_too(story: Story) -> None:
    story.submit("c")
    story.execute("c", 1, how="")
    story.fault("kill agent", "w1")
    story.clock += 5
    story.fault("kill agent", "w2")
    story.note("held", task="c", worker="w2", running=True, began=story.clock)
    story.clock += 7
    story.execute("c", 3)
    assert recoveries(story.journal).usual == ()
    assert recoveries(story.journal).alone == pytest.approx([7], abs=0.1)


def test_a_task_of_a_key_with_a_limit_counts_until_the_key_uses_all_its_slots_again(story: Story) -> None:
    """It waits for its turn behind tasks of a higher priority, which says nothing of how soon its loss was noticed."""
    story.note("limit", key="k", limit=2)
    for task in ("a1", "a2", "a3", "lost"):
        story.submit(task, key="k")
    begins = {"lost": 0, "a1": 0.5, "a2": 3, "a3": 5}
    for task, at in begins.items():
        story.journal.append({"what": "begin", "mono": 100.0 + at, "do": "ok", "task": task, "attempt": 1,
                              "execution": task, "worker": "w1" if task == "lost" else "w2"})  # fmt: skip
    for task, at in {"a1": 3, "a2": 9, "a3": 9}.items():
        story.journal.append({"what": "end", "mono": 100.0 + at, "how": "ok", "task": task, "attempt": 1,
                              "execution": task, "worker": "w2"})  # fmt: skip
    story.clock = 101.0
    story.fault("kill agent", "w1")
    story.clock = 120.0
    story.execute("lost", 2, worker="w2")
    assert recoveries(story.journal).usual == pytest.approx([4], abs=0.1)


def test_a_task_that_was_busy_has_not_recovered_from_anything(story: Story) -> None:
    story.submit("c", do="busy")
    story.execute("c", 1, how="busy")
    story.fault("kill agent", "w1")
    story.execute("c", 2, worker="w2")
    assert recoveries(story.journal) == Recoveries()


def test_a_container_that_a_poison_task_ended_has_hit_its_other_tasks(story: Story) -> None:
    story.submit("p", do="exit")
    story.end("p", 1, "", state="failed", status="FAILED", error="no")
    story.submit("c")
    story.execute("c", 1, how="")
    story.note("end", how="exit", task="p", attempt=1, execution="p-1", worker="w1")
    execution = story.execute("c", 2)
    story.tell("c", 2, execution)
    story.end("c", 2, execution)
    assert [one for one in violations(story.evidence()) if one.startswith("c ")] == []


def test_quantiles_are_of_the_values_themselves() -> None:
    values = [float(number) for number in range(1, 101)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99), quantile([], 0.5)) == (
        50.0,
        99.0,
        7.0,
        None,
    )
