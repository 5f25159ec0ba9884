"""The table of cases at the end of the tests of clusters."""

from typing import Literal

import pytest

from tests.clusters.cases import PROPERTY, Row, platform_of, rows_of, table


def report(
    outcome: Literal["passed", "failed"], *rows: tuple[str, ...], when: Literal["call", "setup"] = "call"
) -> pytest.TestReport:
    recorded: list[tuple[str, object]] = [(PROPERTY, row) for row in rows]
    return pytest.TestReport("test_x", ("x.py", 1, "test_x"), {}, outcome, None, when, user_properties=recorded)


def test_the_platform_is_in_the_name_of_the_module() -> None:
    assert platform_of("tests.clusters.test_docker_backend") == "docker"
    assert platform_of("tests.clusters.test_kubernetes_faults") == "kubernetes"


def test_rows_are_ordered_by_platform_and_a_failure_replaces_the_recovery() -> None:
    killed = ("docker", "agent killed", "agent killed by signal 9", "a new run")
    tainted = ("kubernetes", "node tainted", "no node can take it", "runs")
    found = rows_of([report("failed", tainted), report("passed", killed), report("passed", killed, when="setup")])
    assert found == [Row(*killed), Row(*tainted[:3], "FAILED: test_x")]


def test_a_long_reason_takes_several_lines() -> None:
    lines = list(table([Row("docker", "image missing", "the image does not exist: " + "word " * 20, "FAILED")]))
    assert len(lines) == 2 + 3
    assert lines[2].startswith("docker      image missing")
    assert not lines[3].strip().startswith("docker")
