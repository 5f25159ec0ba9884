"""A part of the fault suite that fits into the ordinary tests: processes that are killed and paused."""

from pathlib import Path

import pytest

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.engine import Engine
from tests.faults.running import rng_for, run_scenario

SEED = 20


@pytest.mark.parametrize("name", ["kill agent", "kill api", "kill delivery", "pause agent"])
async def test_nothing_is_lost(engine: Engine, tmp_path: Path, name: str) -> None:
    outcome = await run_scenario(SCENARIOS[name], engine, tmp_path / "journals", SEED)
    assert outcome.verdict.violations == (), f"journals and logs: {tmp_path}, {engine.directory}"
    assert outcome.verdict.tasks > 0


def test_choices_depend_on_the_seed_and_the_name_only() -> None:
    first, again, other = (rng_for("kill agent", seed) for seed in (1, 1, 2))
    assert [first.random() for _ in range(5)] == [again.random() for _ in range(5)]
    assert rng_for("kill agent", 1).random() not in (other.random(), rng_for("kill api", 1).random())
