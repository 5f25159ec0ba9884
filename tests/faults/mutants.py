"""The checker is checked: engines that are broken on purpose, each with a scenario that must not pass on it.

    python -m tests.faults.mutants [--seed N] [--only NAME…]

A mutant is a copy of the packages with a guarantee taken out, put first on the path of the engine's processes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.faults.all_scenarios import SCENARIOS
from tests.faults.engine import ROOT
from tests.faults.report import ended_line
from tests.faults.running import end_like_ctrl_c, run_all
from tests.faults.scenarios import Scenario
from tests.faults.stage import Outcome

PACKAGES = ("queue_engine", "worker_agent")
REST_SECONDS = 20.0
"""A mutant may never come to rest."""


@dataclass(frozen=True)
class Mutant:
    """A guarantee taken out. `edits` are old and new text by file; each old text is there exactly once."""

    name: str
    scenario: str
    expected: str
    """A part of the sentence by which the checker must notice."""
    edits: Mapping[str, Sequence[tuple[str, str]]]
    new_files: Mapping[str, str] = field(default_factory=dict)


class Stale(Exception):
    """The code is not what the mutant was made for; the message names the file."""


_FENCE = "if state ~= 'running' or holder ~= token then"
ANNOUNCE = """\
-- Put the delivery of a task's result into the outbox.
--
-- flags: allow-oom
-- keys of a task: task
-- replies:
--   OK
local webhook, spec = unpack(redis.call('HMGET', task, 'webhook', 'spec'))
if webhook then
  begin_delivery(destination_of(webhook, spec), text(now_ms()))
  redis.call('HSET', task, 'delivery', 'INIT')
end
return { 'OK' }
"""
_FINISH_REPLY = "        return [_settled(words, reply.now_ms) for words in reply.words]\n"
_RECORD = "function record_end(ended, at, state, value, facts"
_END = "record_end(ended, now, state_after, value, facts"
_SECOND_STEP = """\
        for lease, _, _ in ends:
            await self._scripts.announce(self._keys.of_task(lease.task_id))
"""

MUTANTS = {
    mutant.name: mutant
    for mutant in (
        Mutant(
            "no fence before a result",
            scenario="late results",
            expected="a fenced attempt left its trace",
            edits={"queue_engine/store/lua/finish.lua": [(_FENCE, "if false then")]},
        ),
        Mutant(
            "take-over always from the start",
            scenario="killed before start",
            expected="never reached",
            edits={
                "queue_engine/store/queue.py": [("        self._cursors[stream] = reply.cursor\n", "")],
            },
        ),
        Mutant(
            "outbox entry in a second step",
            scenario="killed while recording",
            expected="its webhook was not told",
            edits={
                "queue_engine/store/lua/library.lua": [
                    (f"{_RECORD})", f"{_RECORD}, is_told_later)"),
                    ("if webhook then", "if webhook and not is_told_later then"),
                ],
                "queue_engine/store/lua/finish.lua": [(f"{_END})", f"{_END}, true)")],
                "queue_engine/store/queue.py": [(_FINISH_REPLY, _SECOND_STEP + _FINISH_REPLY)],
            },
            new_files={"queue_engine/store/lua/announce.lua": ANNOUNCE},
        ),
        Mutant(
            "no grace after an outage",
            scenario="store back before agents",
            expected="and only 0 were hit",
            edits={
                "queue_engine/store/lua/library.lua": [
                    ("    return true\n  end\n  local grace", "    return false\n  end\n  local grace"),
                    ("  return now < grace and grace <= now + lease\n", "  return false\n"),
                ]
            },
        ),
        Mutant(
            "leases that never run out",
            scenario="kill agent",
            expected="was acknowledged and has not ended",
            edits={"queue_engine/store/lua/reclaim.lua": [("lease_end > now then", "lease_end > 0 then")]},
        ),
        Mutant(
            "a deadline for what has begun",
            scenario="queue TTL",
            expected="expired because its worker was lost",
            edits={
                "queue_engine/store/lua/start.lua": [
                    ("if deadline then redis.call('ZREM'", "if deadline then redis.call('ZSCORE'")
                ],
                "queue_engine/store/lua/expire.lua": [
                    ("state ~= 'queued' and state ~= 'scheduled'", "not state or TERMINAL[state]")
                ],
            },
        ),
        Mutant(
            "no history after a retry by hand",
            scenario="retry by hand",
            expected="its history was not kept",
            edits={"queue_engine/store/lua/library.lua": [("if started and not noted then", "if false then")]},
        ),
        Mutant(
            "a new id for each delivery attempt",
            scenario="kill delivery",
            expected="was delivered under several ids",
            edits={
                "queue_engine/store/outbox/results.py": [
                    ("message_id=_message_id(", 'message_id=f"{reply.attempts}_" + _message_id(')
                ]
            },
        ),
        Mutant(
            "ended tasks that stay counted for their key",
            scenario="flood of one key",
            expected="keys are counted as",
            edits={
                "queue_engine/store/lua/library.lua": [
                    ("group.lanes or {}) do leave_key(lane) end", "group.lanes or {}) do uses_lanes(lane) end"),
                ],
            },
        ),
        Mutant(
            "lost attempts that stay counted for their key",
            scenario="flood of one key",
            expected="keys are counted as",
            edits={"queue_engine/store/lua/reclaim.lua": [("if lane then leave_key(lane) end\n", "")]},
        ),
        Mutant(
            "agents that claim during a pause",
            scenario="pause under load",
            expected="s after the pause",
            edits={
                "queue_engine/store/lua/claim.lua": [("if paused == '1' then return", "if false then return")],
            },
        ),
        Mutant(
            "delayed tasks that are queued before their time",
            scenario="delays",
            expected="ms before its time",
            edits={
                "queue_engine/store/lua/promote.lua": [("due_at > now then", "due_at < 0 then")],
                "queue_engine/store/lua/sweep.lua": [
                    ("lost, until_now(due),", "lost, redis.call('ZRANGE', due, 0, limit - 1),"),
                ],
            },
        ),
        Mutant(
            "no second question after a lost connection",
            scenario="waiters",
            expected="its client still waits",
            edits={
                "queue_engine/store/task_watch.py": [
                    ("        self._partitions[place].ask_all()\n", "        del place\n")
                ],
            },
        ),
    )
}  # fmt: skip


def make(mutant: Mutant, directory: Path) -> Path:
    """The mutant's code, in a directory for PYTHONPATH. Raises Stale.

    With the bytecode of what is not edited, because each of an engine's processes would compile all of it.
    """
    for package in PACKAGES:
        # The bytecode that another process is writing has a temporary name.
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name, edits in mutant.edits.items():
        file = directory / name
        text = file.read_text()
        for old, new in edits:
            if text.count(old) != 1:
                raise Stale(f"{name} has {text.count(old)} times: {old}")
            text = text.replace(old, new)
        file.write_text(text)
    for name, text in mutant.new_files.items():
        (directory / name).write_text(text)
    return directory


def play(mutant: Mutant, directory: Path, seed: int) -> Outcome:
    """Its scenario on the mutant."""
    code = make(mutant, directory / "code")
    scenario = replace(SCENARIOS[mutant.scenario], rest_seconds=REST_SECONDS)
    (outcome,) = run_all([scenario], directory, seed, lambda _: None, _not_skipped, code=code)
    return outcome


def _not_skipped(scenario: Scenario, reason: str) -> None:
    raise RuntimeError(f"{scenario.name} cannot be played here: {reason}")


def is_noticed(mutant: Mutant, outcome: Outcome) -> bool:
    """Whether the checker found what was taken out."""
    return any(mutant.expected in violation for violation in outcome.verdict.violations)


def play_all(names: Sequence[str], directory: Path, seed: int) -> list[str]:
    """Play these mutants and say what came of each; returns the names of those that passed unnoticed."""
    unnoticed = []
    for name in names:
        mutant = MUTANTS[name]
        _say(f"  mutant: {name}, in “{mutant.scenario}”")
        outcome = play(mutant, directory / name.replace(" ", "-"), seed)
        if is_noticed(mutant, outcome):
            count = len(outcome.verdict.violations)
            first = next(one for one in outcome.verdict.violations if mutant.expected in one)
            _say(f"    noticed after {outcome.seconds:.0f} s, {count} violations, for example: {first}")
        else:
            unnoticed.append(name)
            _say(f"    NOT NOTICED\n{ended_line(outcome)}")
    return unnoticed


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=list(MUTANTS), default=list(MUTANTS))
    options = parser.parse_args()
    end_like_ctrl_c()
    with tempfile.TemporaryDirectory(prefix="queue-engine-mutants-") as folder:
        return 1 if play_all(options.only, Path(folder), options.seed) else 0


if __name__ == "__main__":
    sys.exit(main())
