"""Frames and messages of agents: each is decoded as it was encoded, and all other bytes are refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from queue_engine.agent_protocol import calls
from queue_engine.agent_protocol import messages as m
from queue_engine.agent_protocol.calls import Call
from queue_engine.agent_protocol.conversions import attempts_in, encodable, end_of, head_of, outcomes_in
from queue_engine.agent_protocol.frames import MAX_BLOBS, BadFrame, framed, parts_of
from queue_engine.agent_protocol.refusals import refusal_in
from queue_engine.domain.attempts import StartedAttempt, Unreadable
from queue_engine.domain.retry import RetryOn, TaskRetryPolicy
from queue_engine.domain.tasks import (
    AttemptOutcome,
    Budget,
    ClaimedTask,
    Cost,
    Failed,
    Lease,
    Outcome,
    Succeeded,
    TaskSpec,
    TaskState,
    TryAgain,
)
from tests.examples import examples

TOKEN = "0123456789abcdef" * 2
LEASE = Lease("7", "t1", TOKEN)
ALL_CALLS = [one for one in vars(calls).values() if isinstance(one, Call)]


@given(head=st.binary(max_size=300), blobs=st.lists(st.binary(max_size=300), max_size=5))
@examples(100)
def test_a_frame_has_the_parts_that_it_was_made_of(head: bytes, blobs: list[bytes]) -> None:
    found_head, found = parts_of(b"".join(framed(head, blobs)))
    assert (bytes(found_head), [bytes(blob) for blob in found]) == (head, blobs)


@given(st.binary(max_size=200))
@examples(100)
def test_other_bytes_are_refused_with_a_rule(body: bytes) -> None:
    for frame in (body, b"qea1" + body, b"".join(framed(body))):
        for call in ALL_CALLS:
            with pytest.raises(BadFrame, match=r"\w"):
                call.request.decode(frame)


def test_every_cut_of_a_frame_is_refused() -> None:
    frame = b"".join(calls.SETTLE.request.encode(m.SettleRequest("w", (m.SucceededEnd("t", TOKEN),)), [b"[1, 2]"]))
    for end in range(len(frame)):
        with pytest.raises(BadFrame):
            calls.SETTLE.request.decode(frame[:end])


def test_blobs_are_not_copied() -> None:
    blob = bytearray(b"x" * 1000)
    parts = framed(b"{}", [blob])
    assert parts[1] is blob
    frame = bytearray(b"".join(parts))
    _, (view,) = parts_of(frame)
    assert view.obj is frame


def test_what_does_not_fit_a_frame_is_not_sent() -> None:
    with pytest.raises(BadFrame):
        framed(b"{}", [b""] * (MAX_BLOBS + 1))
    with pytest.raises(BadFrame):
        calls.LOG.request.encode(m.LogRequest("w", "1", ("\ud800",)))


def test_calls_have_paths_of_their_own() -> None:
    paths = {call.path for call in ALL_CALLS}
    assert len(paths) == len(ALL_CALLS) == 11
    assert all(path.startswith("/agent/v1/") for path in paths)


def attempt(task: ClaimedTask | Unreadable) -> StartedAttempt:
    return StartedAttempt(
        lease=LEASE,
        worker_id="w",
        attempt=3,
        queued_at_ms=1_700_000_000_000,
        started_at_ms=1_700_000_000_500,
        task=task,
        budget=Budget(2, 5, 1, 4),
        retry_policy=TaskRetryPolicy(frozenset({RetryOn.TIMEOUT, RetryOn.SERVER_ERROR}), (0.5, 7)),
        cancel_uri="/cancel",
        is_suspect=True,
        is_first=False,
    )


SPEC = TaskSpec(8000, "/run", headers={"X-A": "ä"}, traceparent="00-1-2-01")
TASKS = [
    ClaimedTask(LEASE, 1024, 3, 12.5, SPEC, memoryview(b'{"n": 1.0}')),
    Unreadable("no key", is_key_missing=True),
    Unreadable("broken", is_key_missing=False),
]


@pytest.mark.parametrize("task", TASKS, ids=["readable", "key missing", "broken"])
def test_an_attempt_arrives_as_it_was_started(task: ClaimedTask | Unreadable) -> None:
    sent = attempt(task)
    response = m.StartResponse(
        (m.StartResult("OK", head_of(sent)), m.StartResult("STALE"), m.StartResult("ERROR", error="broken")),
        tuple(sent.retry_policy.on),
        sent.retry_policy.delays_seconds,
        sent.cancel_uri,
    )
    inputs = [task.input] if isinstance(task, ClaimedTask) else []
    decoded, blobs = calls.START.response.decode(b"".join(calls.START.response.encode(response, inputs)))
    found = list(attempts_in(decoded, blobs, [TOKEN] * 4, endpoint_id="7", worker_id="w"))
    assert found == [sent, None, "broken"]


def test_an_attempt_carries_nothing_of_the_webhook() -> None:
    spec = TaskSpec(8000, "/run", webhook="https://hooks.example/x", webhook_auth_key="very secret")
    head = head_of(attempt(ClaimedTask(LEASE, 1, 1, 1.0, spec, b"1")))
    assert not any(word in repr(head) for word in ("hooks.example", "very secret"))


OUTCOMES: list[Outcome | None] = [
    Succeeded(b'{"a": 1.50}'),
    Failed("it broke: \ud83d\ude00", TaskState.TIMED_OUT),
    TryAgain("busy", 1.5, AttemptOutcome.BUSY, Cost.BUSY, "busy too long", 30.0),
    TryAgain("reset", 0.0, AttemptOutcome.CONNECTION_LOST, Cost.ATTEMPT),
    Succeeded(b"2"),
]


def test_outcomes_arrive_as_they_were_sent() -> None:
    pairs = [end_of(LEASE, outcome) for outcome in OUTCOMES if outcome is not None]
    request = m.SettleRequest("w", tuple(end for end, _ in pairs))
    frame = b"".join(calls.SETTLE.request.encode(request, [blob for _, blob in pairs if blob is not None]))
    decoded, blobs = calls.SETTLE.request.decode(frame)
    assert [(end.task, end.token) for end in decoded.ends] == [("t1", TOKEN)] * len(pairs)
    expected = [Failed("it broke: ??", TaskState.TIMED_OUT) if isinstance(one, Failed) else one for one in OUTCOMES]
    assert outcomes_in(decoded.ends, blobs) == expected


def test_text_that_utf_8_cannot_encode_is_replaced() -> None:
    assert encodable("plain") == "plain"
    assert encodable("ä \ud800") == "ä ?"


@pytest.mark.parametrize(
    "body", [b"", b"<html>401</html>", b'{"code": 40101}', b'{"error": "unauthorized"}', b"\xff", b"[" * 100_000]
)
def test_the_page_of_a_proxy_is_no_refusal(body: bytes) -> None:
    assert refusal_in(401, body) is None


@pytest.mark.parametrize(
    ("status", "code", "is_final"),
    [(401, 40101, True), (403, 40301, True), (404, 14000, True), (404, 10001, False), (503, 10002, False)],
)
def test_a_refusal_of_the_api_says_whether_the_agent_must_end(status: int, code: int, is_final: bool) -> None:
    refusal = refusal_in(status, b'{"message": "no", "code": %d, "data": null}' % code)
    assert refusal is not None
    assert (refusal.is_final, refusal.message) == (is_final, "no")


@pytest.mark.parametrize(
    ("call", "limit"),
    [
        ("claim", m.MAX_CLAIMS),
        ("start", m.MAX_TOGETHER),
        ("put-back", m.MAX_TOGETHER),
        ("renew", m.MAX_LEASES),
        ("settle", m.MAX_TOGETHER),
        ("log", m.MAX_LOG_LINES),
    ],
)
def test_the_documented_limit_of_a_call_is_that_of_its_message(call: str, limit: int) -> None:
    page = Path(__file__).parents[2] / "docs" / "internals" / "agent-protocol.md"
    (row,) = [line for line in page.read_text().splitlines() if line.startswith(f"| `{call}` |")]
    assert f"up to {limit} " in row
