"""A part of the fault suite that fits into the ordinary tests: the store and the ways to it."""

from pathlib import Path

import pytest

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.engine import Engine
from tests.faults.running import run_scenario

SEED = 21


@pytest.mark.parametrize(
    "name", ["kill store", "store back before agents", "agent cut for half a lease", "cancel", "retry by hand"]
)
async def test_nothing_is_lost(engine: Engine, tmp_path: Path, name: str) -> None:
    outcome = await run_scenario(SCENARIOS[name], engine, tmp_path / "journals", SEED)
    assert outcome.verdict.violations == (), f"journals and logs: {tmp_path}, {engine.directory}"
    assert outcome.verdict.tasks > 0
