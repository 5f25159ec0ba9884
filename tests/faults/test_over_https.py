"""A part of the fault suite that fits into the ordinary tests: agents that use the APIs with a token."""

from pathlib import Path

import pytest

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.engine import Engine
from tests.faults.running import run_scenario

SEED = 22


@pytest.mark.parametrize("name", ["kill api over https", "token revoked"])
async def test_nothing_is_lost(engine: Engine, tmp_path: Path, name: str) -> None:
    outcome = await run_scenario(SCENARIOS[name], engine, tmp_path / "journals", SEED)
    assert outcome.verdict.violations == (), f"journals and logs: {tmp_path}, {engine.directory}"
    assert outcome.verdict.tasks > 0
