"""How long it took until work went on, from the journals. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from tests.faults.checker import ASKS_AGAIN, executions_of, faults_of
from tests.faults.journal import Record


def recoveries(journal: Sequence[Record]) -> list[float]:
    """Seconds until work that a fault interrupted went on.

    For a killed part of a worker: from the kill until a task that it was executing begins again. Besides, whatever a
    scenario has measured itself (`recovered`).
    """
    measured = [float(record["seconds"]) for record in journal if record["what"] == "recovered"]
    faults = faults_of(journal)
    outages = [fault for fault in faults if not fault.hits]
    kills = [fault for fault in faults if fault.kind.startswith("kill") and fault.hits]
    for of_task in executions_of(journal).values():
        for interrupted, again in pairwise(of_task):
            if interrupted.how not in ASKS_AGAIN:
                measured += [
                    again.began - fault.began
                    for fault in kills
                    if fault.may_interrupt(interrupted, outages) and interrupted.began <= fault.began < again.began
                ]
    return sorted(measured)


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest of the sorted values that at least this share of them does not exceed; None without any."""
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else None
