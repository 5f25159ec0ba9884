"""How the fault suite runs an engine."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.faults.container_hosting import CONTAINERS
from tests.faults.engine import ROLES, Engine
from tests.faults.running import NotHere, play, running_engine
from tests.faults.scenarios import Scenario
from tests.faults.stage import Stage
from tests.integration.parts import Program


def test_nothing_is_left_of_an_engine_whose_store_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stays_away(_: Engine) -> None:
        raise OSError("address already in use")

    monkeypatch.setattr(Engine, "heal_for_the_end", stays_away)
    programs: list[Program] = []
    with pytest.raises(OSError, match="already in use"):
        _run_an_engine(tmp_path, programs)
    assert programs
    assert not any(program.running for program in programs)


def _run_an_engine(directory: Path, programs: list[Program]) -> None:
    with running_engine("volatile", directory) as engine:
        programs += [engine.program(name) for name in ROLES]
        assert all(program.running for program in programs)


async def test_a_scenario_that_raises_has_failed_and_does_not_end_the_run() -> None:
    async def breaks(_: Stage) -> None:
        raise RuntimeError("no such step")

    stage = cast(Stage, SimpleNamespace(violations=[]))
    await play(Scenario("a scenario", breaks), stage)
    assert stage.violations == ["the scenario broke: RuntimeError no such step"]


def test_faults_of_containers_are_skipped_with_the_reason_where_no_engine_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = "no container engine: podman, runc, busybox not here"
    with pytest.raises(NotHere, match=reason), running_engine(CONTAINERS, tmp_path):
        pass
