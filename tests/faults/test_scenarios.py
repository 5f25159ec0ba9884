"""A part of the fault suite that fits into the ordinary tests.

All of it is played on one engine, because its processes take four seconds of processor time to start.
"""

from pathlib import Path

import pytest

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.engine import Engine
from tests.faults.running import rng_for, run_scenario

SEEDS = {
    # Processes that are killed and paused.
    **dict.fromkeys(("kill agent", "kill api", "kill delivery", "pause agent"), 20),
    # The store and the ways to it.
    **dict.fromkeys(
        ("kill store", "store back before agents", "agent cut for half a lease", "cancel", "retry by hand"), 21
    ),
    # Agents that use the APIs with a token.
    **dict.fromkeys(("kill api over https", "token revoked"), 22),
}


@pytest.mark.parametrize("name", SEEDS)
async def test_nothing_is_lost(engine: Engine, tmp_path: Path, name: str) -> None:
    outcome = await run_scenario(SCENARIOS[name], engine, tmp_path / "journals", SEEDS[name])
    assert outcome.verdict.violations == (), f"journals and logs: {tmp_path}, {engine.directory}"
    assert outcome.verdict.tasks > 0


def test_choices_depend_on_the_seed_and_the_name_only() -> None:
    first, again, other = (rng_for("kill agent", seed) for seed in (1, 1, 2))
    assert [first.random() for _ in range(5)] == [again.random() for _ in range(5)]
    assert rng_for("kill agent", 1).random() not in (other.random(), rng_for("kill api", 1).random())
