"""The state of an installation: its problems, and those that tenants see."""

from dataclasses import replace

import pytest

from queue_engine.domain.system import (
    BAD,
    TENANT_TEXTS,
    Certificate,
    Concern,
    Replica,
    RunningProcess,
    StoreServer,
    SystemFacts,
    for_tenants,
    warnings_of,
)

NOW = 1_764_000_000_000
DAY = 86_400_000
API = RunningProcess("api:one:1:a", 2, NOW, version="1.0")
DELIVERY = RunningProcess("delivery:one:2:b", 2, NOW, version="1.0")
CONTROLLER = RunningProcess("controller:one:3:c", 2, NOW, version="1.0", controller_id="one-1")
SERVER = StoreServer(
    "", "valkey", "8.1", 60, used_bytes=80, max_bytes=100, clients=5, max_clients=None, latency_ms=0.1,
    appends_to_file=True, write_error=None, saved_at_ms=None,
)  # fmt: skip
WELL = SystemFacts(NOW, [SERVER], [API, DELIVERY, CONTROLLER], "one-1")


def server(**changes: object) -> SystemFacts:
    return replace(WELL, servers=[replace(SERVER, **changes)])  # type: ignore[arg-type]


def processes(*found: RunningProcess) -> SystemFacts:
    return replace(WELL, processes=found)


def certified(days: float) -> SystemFacts:
    certificate = Certificate("QUEUE_ENGINE_TLS_CERT", NOW + int(days * DAY))
    return processes(
        replace(API, certificates=[certificate]), replace(API, certificates=[certificate]), DELIVERY, CONTROLLER
    )


def test_nothing_is_wrong_with_a_healthy_installation() -> None:
    assert warnings_of(WELL) == []
    assert warnings_of(server(max_bytes=0)) == []
    assert warnings_of(certified(22)) == []


@pytest.mark.parametrize(
    ("facts", "concern", "text"),
    [
        (processes(API, DELIVERY), Concern.NO_CONTROLLER, "no controller runs"),
        (replace(WELL, leader=None), Concern.NO_LEADER, "no controller leads"),
        (processes(API, CONTROLLER), Concern.NO_DELIVERY, "no delivery process runs"),
        (server(used_bytes=81), Concern.STORE_NEARLY_FULL, "the store uses 81% of its memory limit"),
        (server(used_bytes=99, address="h:1"), Concern.STORE_NEARLY_FULL, "the store h:1 uses 99%"),
        (server(write_error="a snapshot"), Concern.PERSISTENCE_FAILS, "cannot write its files: a snapshot"),
        (server(replicas=[Replica("r:1", "wait_bgsave", 0)]), Concern.REPLICA_BEHIND, "the replica r:1 is wait_bgsave"),
        (server(replicas=[Replica("r:1", "online", 31)]), Concern.REPLICA_BEHIND, "online, 31 s behind"),
        (replace(WELL, platform_problem="no route"), Concern.PLATFORM_AWAY, "does not respond: no route"),
        (
            processes(API, DELIVERY, replace(CONTROLLER, noted_at_ms=NOW - 21_000)),
            Concern.CONTROLLER_SILENT,
            "controller one 3 is silent for 21 s",
        ),
        (processes(replace(API, noted_at_ms=NOW - 21_000), DELIVERY, CONTROLLER), Concern.PROCESS_SILENT, "api one 1"),
        (processes(replace(API, version="1.1"), DELIVERY, CONTROLLER), Concern.VERSION_SKEW, "versions: 1.0, 1.1"),
        (processes(replace(API, version=None), DELIVERY, CONTROLLER), Concern.VERSION_SKEW, "1.0, an earlier one"),
        (certified(20.5), Concern.CERTIFICATE_EXPIRES, "QUEUE_ENGINE_TLS_CERT expires in 20 days"),
        (certified(-1), Concern.CERTIFICATE_EXPIRES, "QUEUE_ENGINE_TLS_CERT has expired"),
    ],
)
def test_each_problem_is_told_once(facts: SystemFacts, concern: Concern, text: str) -> None:
    (found,) = warnings_of(facts)
    assert found.concern is concern
    assert text in found.message
    assert found.is_bad == (concern in BAD)


def test_the_worst_come_first() -> None:
    facts = replace(WELL, leader=None, processes=[replace(API, version="0.9"), DELIVERY, CONTROLLER])
    assert [one.concern for one in warnings_of(facts)] == [Concern.NO_LEADER, Concern.VERSION_SKEW]


def test_tenants_are_told_no_fact_of_the_installation() -> None:
    servers = [replace(SERVER, used_bytes=99, address=address) for address in ("host-a:1", "host-b:1")]
    silent = replace(CONTROLLER, noted_at_ms=NOW - 25_000)
    skewed = replace(API, version="9.9", certificates=[Certificate("QUEUE_ENGINE_TLS_CERT", NOW)])
    facts = replace(WELL, servers=servers, processes=[skewed, DELIVERY, silent], platform_problem="10.0.0.1: no route")
    told = for_tenants(warnings_of(facts))
    assert [one.concern for one in told] == [
        Concern.STORE_NEARLY_FULL, Concern.PLATFORM_AWAY, Concern.CONTROLLER_SILENT,
    ]  # fmt: skip
    assert [one.message for one in told] == [TENANT_TEXTS[one.concern] for one in told]
    text = " ".join(one.message for one in told)
    assert not any(word in text for word in ("host", "10.0", "9.9", "99"))
