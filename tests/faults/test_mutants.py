"""The fault suite fails on engines that have lost a guarantee, in fact and not only in journals made by hand."""

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, Stale, is_noticed, make, play

SEEDS = (1, 2, 3)
"""Played until one shows the mutant: on a busy machine the kills of a seed may miss the moment that it needs."""
QUICK = ("no fence before a result", "take-over always from the start", "outbox entry in a second step")


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_can_be_made_of_the_code_as_it_is(name: str, tmp_path: Path) -> None:
    code = make(MUTANTS[name], tmp_path / "code")
    assert (code / "queue_engine" / "py.typed").exists()


def test_a_mutant_of_code_that_has_changed_is_refused(tmp_path: Path) -> None:
    mutant = MUTANTS[QUICK[0]]
    stale = type(mutant)("stale", "", "", {"queue_engine/cli/main.py": [("no such text", "")]})
    with pytest.raises(Stale, match=r"cli/main\.py"):
        make(stale, tmp_path / "code")


@pytest.mark.parametrize("name", QUICK)
def test_the_suite_notices(name: str, tmp_path: Path) -> None:
    outcomes = (play(MUTANTS[name], tmp_path / str(seed), seed) for seed in SEEDS)
    assert any(is_noticed(MUTANTS[name], outcome) for outcome in outcomes), f"not noticed; see {tmp_path}"
