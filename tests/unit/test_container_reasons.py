"""The words for what container engines describe. The descriptions are of podman 4.3.1 and of Docker 27, shortened."""

import asyncio
from typing import Any

import pytest

from queue_engine.backends.base import Phase
from queue_engine.backends.docker.explain import (
    Explanation,
    explain,
    explain_failed_pull,
    explain_start_error,
    time_ms,
)
from queue_engine.backends.docker.names import Identity, Part, identity_of
from queue_engine.backends.docker.output import has_ended
from queue_engine.backends.docker.progress import Progress
from queue_engine.backends.docker.watch import Seen, changed_by
from queue_engine.backends.docker.worker import INTERRUPTED, Worker

NOT_YET = "0001-01-01T00:00:00Z"


def described(status: str, memory: int = 0, part: Part = Part.MAIN, **state: Any) -> dict[str, Any]:
    """A description by the engine, with what matters here."""
    return {
        "Id": f"id-{part}",
        "Created": "2026-11-28T14:00:00.5Z",
        "State": {
            "Status": status, "Running": status == "running", "OOMKilled": False, "ExitCode": 0, "Error": "",
            "StartedAt": NOT_YET, "FinishedAt": NOT_YET, **state,
        },
        "Config": {"Labels": Identity("7", "7-ab", 2, part).labels("here")},
        "HostConfig": {"Memory": memory},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (described("exited", ExitCode=0), "container exited with status 0"),
        (described("exited", ExitCode=3), "container exited with status 3"),
        (described("exited", ExitCode=127), "container exited with status 127 (command not found)"),
        (described("exited", ExitCode=139), "container killed by signal 11 (SIGSEGV)"),
        (described("exited", ExitCode=137), "container killed by signal 9 (SIGKILL), perhaps out of memory"),
        (described("stopped", ExitCode=255), "container exited with status 255"),
        (described("dead", ExitCode=1), "container exited with status 1"),
        (described("exited", ExitCode=137, OOMKilled=True), "the container ran out of memory"),
        (
            described("exited", memory=3 * 1024**3, ExitCode=137, OOMKilled=True),
            "the container ran out of memory (limit 3 GB)",
        ),
        (
            described(
                "created",
                ExitCode=127,
                Error='failed to create task for container: runc create failed: exec: "serve": executable file not '
                "found in $PATH",
            ),
            "the container cannot be started, because its command is not found: failed to create task for container: "
            'runc create failed: exec: "serve": executable file not found in $PATH',
        ),
        (
            described("exited", ExitCode=128, Error='could not select device driver "nvidia"'),
            'the container cannot be started, because a device is missing: could not select device driver "nvidia"',
        ),
        (
            described("created", Error="mkdir /var/lib/x: no space left on device"),
            "the container cannot be started, because the disk is full: mkdir /var/lib/x: no space left on device",
        ),
    ],
)
def test_the_end_of_a_container_has_a_reason(description: dict[str, Any], reason: str) -> None:
    assert explain(description, Part.MAIN) == Explanation(Phase.ENDED, reason)


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (described("exited", ExitCode=2), "agent exited with status 2"),
        (described("exited", ExitCode=137), "agent killed by signal 9"),
        (described("exited", memory=1024**3, ExitCode=137, OOMKilled=True), "the agent ran out of memory"),
    ],
)
def test_the_end_of_an_agent_has_a_reason(description: dict[str, Any], reason: str) -> None:
    assert explain(description, Part.AGENT) == Explanation(Phase.ENDED, reason)


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("created", Phase.STARTING), ("initialized", Phase.STARTING), ("configured", Phase.STARTING),
        ("running", Phase.RUNNING), ("paused", Phase.RUNNING), ("removing", Phase.ENDING), ("stopping", Phase.ENDING),
    ],
)  # fmt: skip
def test_each_state_of_an_engine_is_a_phase(status: str, phase: Phase) -> None:
    assert explain(described(status), Part.MAIN).phase is phase


@pytest.mark.parametrize("description", [{}, {"State": None}, {"State": {"Status": "exited", "ExitCode": "x"}}])
def test_a_broken_description_is_no_error(description: dict[str, Any]) -> None:
    assert explain(description, Part.MAIN).phase in Phase


@pytest.mark.parametrize(
    ("message", "has_credential", "reason", "retry_helps"),
    [
        ("unauthorized: authentication required", True, "the registry refuses the credential", True),
        ("Head https://x: denied: requested access", False, "the registry refuses access without a credential", True),
        ("manifest for x:1 not found: manifest unknown", False, "the image does not exist", False),
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            False,
            "the image does not exist, or the registry refuses the credential",
            False,
        ),
        ("write /var/lib/x: no space left on device", False, "because the disk is full", True),
        ("dial tcp: lookup registry: no such host", False, "the image cannot be pulled", True),
    ],
)
def test_a_failed_pull_has_a_reason(message: str, has_credential: bool, reason: str, retry_helps: bool) -> None:
    failure = explain_failed_pull(message, has_credential=has_credential)
    assert reason in str(failure)
    assert message in str(failure)
    assert failure.retry_helps is retry_helps


def test_a_long_message_of_the_engine_is_one_short_line() -> None:
    reason = explain_start_error("a\nb " + "x" * 1000, Part.MAIN)
    assert "\n" not in reason
    assert len(reason) < 400


def test_the_progress_of_a_pull_is_the_sum_of_its_layers() -> None:
    progress = Progress()
    assert progress.text == "pulling the image"
    progress.note({"status": "Pulling from library/x", "id": "latest"})
    progress.note({"status": "Downloading", "id": "a", "progressDetail": {"current": 500_000_000, "total": 4 * 10**9}})
    progress.note({"status": "Downloading", "id": "b", "progressDetail": {"current": 600_000_000, "total": 10**9}})
    assert progress.text == "pulling 1.1 of 5.0 GB"
    progress.note({"status": "Download complete", "id": "b"})
    progress.note({"status": "Extracting", "id": "b", "progressDetail": {"current": 1, "total": 7 * 10**9}})
    progress.note({"status": "Downloading", "id": "c", "progressDetail": {"current": "x", "total": None}})
    progress.note({"stream": "Trying to pull"})
    assert progress.text == "pulling 1.5 of 5.0 GB"


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-11-28T14:00:00.123456789Z", 1_795_874_400_123),
        ("2026-11-28T15:00:00+01:00", 1_795_874_400_000),
        (NOT_YET, None),
        ("", None),
        (None, None),
    ],
)
def test_times_of_engines_are_read(text: object, milliseconds: int | None) -> None:
    assert time_ms(text) == milliseconds


def test_only_containers_of_workers_have_an_identity() -> None:
    identity = Identity("7", "7-ab", 2, Part.AGENT)
    labels = identity.labels("here")
    assert identity_of(labels) == identity
    for name in ("endpoint", "worker", "run", "part"):
        assert identity_of({**labels, f"queue-engine/{name}": "../x"}) is None
        assert identity_of({key: value for key, value in labels.items() if key != f"queue-engine/{name}"}) is None


# The observation of a worker that follows from its containers


def seen(part: Part, status: str, **state: Any) -> Seen:
    return Seen(Identity("7", "7-ab", 2, part), described(status, part=part, **state))


def worker(*parts: Seen) -> Worker:
    return Worker("7", "7-ab", 2, 1000, {one.identity.part: one for one in parts})


def phase_and_reason(one: Worker, *, is_connected: bool = True) -> tuple[Phase, str | None]:
    observed = one.observed(is_connected=is_connected)
    return observed.phase, observed.reason


def test_a_worker_runs_while_both_containers_run() -> None:
    running = worker(seen(Part.AGENT, "running"), seen(Part.MAIN, "running"))
    assert phase_and_reason(running) == (Phase.RUNNING, None)
    assert running.observed(is_connected=True).container_id == "id-main"
    assert phase_and_reason(running, is_connected=False)[0] is Phase.UNKNOWN


def test_a_container_that_ends_beside_a_living_agent_ends_the_worker() -> None:
    ended = worker(seen(Part.AGENT, "running"), seen(Part.MAIN, "exited", ExitCode=3))
    assert phase_and_reason(ended) == (Phase.ENDED, "container exited with status 3")
    assert phase_and_reason(ended, is_connected=False)[0] is Phase.ENDED


def test_the_first_end_is_the_reason() -> None:
    first, second = "2026-11-28T14:00:01Z", "2026-11-28T14:00:02Z"
    agent_first = worker(
        seen(Part.AGENT, "exited", ExitCode=2, FinishedAt=first), seen(Part.MAIN, "exited", FinishedAt=second)
    )
    assert phase_and_reason(agent_first)[1] == "agent exited with status 2"
    main_first = worker(
        seen(Part.AGENT, "exited", FinishedAt=second), seen(Part.MAIN, "exited", ExitCode=3, FinishedAt=first)
    )
    assert phase_and_reason(main_first)[1] == "container exited with status 3"


@pytest.mark.parametrize(
    "parts",
    [
        (seen(Part.AGENT, "created"),),
        (seen(Part.AGENT, "running"),),
        (seen(Part.AGENT, "running"), seen(Part.MAIN, "created")),
    ],
)
def test_a_worker_that_nobody_completes_was_interrupted(parts: tuple[Seen, ...]) -> None:
    half_made = worker(*parts)
    assert half_made.is_interrupted
    assert phase_and_reason(half_made) == (Phase.STARTING, INTERRUPTED)


async def test_a_worker_that_is_being_made_shows_its_progress() -> None:
    half_made = worker(seen(Part.AGENT, "running"))
    half_made.making = asyncio.create_task(asyncio.sleep(3600))
    half_made.progress = Explanation(Phase.STARTING, "pulling 1.1 of 5.0 GB")
    assert not half_made.is_interrupted
    assert phase_and_reason(half_made) == (Phase.STARTING, "pulling 1.1 of 5.0 GB")
    half_made.making.cancel()


def test_a_container_without_its_agent_has_ended() -> None:
    assert phase_and_reason(worker(seen(Part.MAIN, "running")))[0] is Phase.ENDED


def test_a_removed_container_is_an_end_with_a_reason() -> None:
    left = worker(seen(Part.AGENT, "running"))
    left.removed.add(Part.MAIN)
    assert phase_and_reason(left) == (Phase.ENDED, "the container was removed by somebody else")


@pytest.mark.parametrize(
    ("status", "ended"),
    [("created", False), ("configured", False), ("running", False), ("stopping", False), ("exited", True)],
)
def test_the_output_of_a_container_has_not_ended_before_the_container(status: str, ended: bool) -> None:
    assert has_ended(described(status)) is ended
    assert has_ended(None)


@pytest.mark.parametrize(
    ("event", "container_id"),
    [
        ({"Action": "start", "Actor": {"ID": "c1"}}, "c1"),
        ({"status": "died", "id": "c1"}, "c1"),
        ({"Action": "health_status: healthy", "Actor": {"ID": "c1"}}, None),
        ({"Action": "exec_create: curl -f localhost", "Actor": {"ID": "c1"}}, None),
        ({"status": "exec_died", "id": "c1"}, None),
        ({"Action": "start"}, None),
    ],
)
def test_only_events_that_may_change_a_container_are_followed_by_an_inspection(
    event: dict[str, Any], container_id: str | None
) -> None:
    assert changed_by(event) == container_id
