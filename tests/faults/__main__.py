"""Hurt a real engine in many ways, and look for what was lost.

    python -m tests.faults [--seed N] [--only NAME… | --mutants] [--agents https] [--list]

With --agents https, agents use the APIs in place of the store, in every fault where agents can.
Without --only the checker is checked too: engines that are broken on purpose must not pass (tests/faults/mutants.py).
Exit status 0: nothing was lost; 1: something was, or is wrong in another way; its journals and logs are kept. Faults
for which this machine lacks something are skipped and named at the end; when that is all of them, the status is 1.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.mutants import MUTANTS, play_all
from tests.faults.over_https import over_https
from tests.faults.report import ended_line, summary, table
from tests.faults.running import end_like_ctrl_c, run_all
from tests.faults.scenarios import Scenario
from tests.faults.stage import Outcome


def main() -> int:
    options = _options()
    if options.list:
        _say("\n".join(f"{one.name:<32} {one.description.splitlines()[0]}" for one in SCENARIOS.values()))
        return 0
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    names = [] if options.mutants else options.only
    chosen = [one for name, one in SCENARIOS.items() if names is None or name in names]
    if options.agents == "https":
        chosen = over_https(chosen)
    end_like_ctrl_c()
    return _run(chosen, seed, mutants=options.only is None and options.agents == "store")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="of all random choices")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--only", nargs="+", metavar="NAME", choices=list(SCENARIOS), help="run only these faults")
    choice.add_argument("--mutants", action="store_true", help="check only the checker")
    parser.add_argument("--agents", choices=("store", "https"), default="store", help="how agents reach the engine")
    parser.add_argument("--list", action="store_true", help="list the faults")
    return parser.parse_args()


def _run(scenarios: Sequence[Scenario], seed: int, *, mutants: bool) -> int:
    directory = Path(tempfile.mkdtemp(prefix="queue-engine-faults-"))
    _say(f"seed {seed}; {len(scenarios)} faults; journals and logs in {directory}")
    outcomes: list[Outcome] = []
    skipped: list[str] = []

    def skip(scenario: Scenario, reason: str) -> None:
        skipped.append(scenario.name)
        _say(f"  {scenario.name}: skipped, {reason}")

    try:
        for outcome in run_all(scenarios, directory, seed, _announce, skip):
            outcomes.append(outcome)
            _say(ended_line(outcome))
        unnoticed = play_all(list(MUTANTS), directory, seed) if mutants else []
    except KeyboardInterrupt:
        _say("interrupted; everything that was started has ended")
        return 130
    if outcomes:
        _say(f"\n{table(outcomes)}\n\n{summary(outcomes, seed)}")
    if skipped:
        _say(f"skipped, so nothing is known of them: {', '.join(skipped)}")
    if unnoticed:
        _say(f"mutants that the suite did not notice: {', '.join(unnoticed)}")
    if scenarios and not outcomes:
        shutil.rmtree(directory)
        return 1
    if all(outcome.passed for outcome in outcomes) and not unnoticed:
        shutil.rmtree(directory)
        return 0
    _say(f"journals and logs are kept in {directory}; again: python -m tests.faults --seed {seed}")
    return 1


def _announce(scenario: Scenario) -> None:
    _say(f"  {scenario.name}: {scenario.description.splitlines()[0]}")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
