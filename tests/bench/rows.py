"""The rows of `make bench`: what each is called, how long it takes, how it is measured, and its goals."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.bench.figures import Goal, Measured
from tests.bench.measures import (
    batch,
    crowds,
    deliveries,
    end_to_end,
    forwarding,
    idle,
    large,
    latency,
    scaling,
    store_cost,
    submission,
    waits,
)
from tests.bench.peer_workers import BULLMQ, PYTHON_NAMES
from tests.bench.stage import Stage


@dataclass(frozen=True)
class Row:
    """A row of the table. `seconds` is about how long it takes on two cores."""

    name: str
    title: str
    seconds: float
    measure: Callable[[Stage], Awaitable[Measured]]
    goals: tuple[Goal, ...] = ()


MAX_COPIES = 1.25
"""A copy, and a quarter of one for buffers."""
UNAFFECTED = 1.25
"""Ratio of two 99th percentiles that counts as the same."""

NOT_DELAYED = (
    Goal("p99", "≤ 500 ms", 500, at_most=True),
    Goal("arrived", "100 %", 100),
    Goal("p99 simulated", "≤ 500 ms", 500, at_most=True),
)

ROWS = (
    Row(
        "agent", "one agent, echo container, 64 at once: claimed, forwarded, recorded, leased and fenced", 120,
        forwarding.measure,
        (
            Goal("tasks", "≥ 1.2 × BullMQ", 1.2, against=(BULLMQ.name,)),
            Goal("tasks", "≥ 5 × the best Python peer", 5, against=PYTHON_NAMES),
        ),
    ),
    Row(
        "submit", "submits through one API process, 32 kept-alive clients", 25, submission.measure,
        (
            Goal("submits", "≥ 1.0 × bare Starlette", 1.0, against=(submission.BARE,)),
            Goal("submits", "≥ 3 × FastAPI + arq", 3, against=(submission.FASTAPI,)),
        ),
    ),
    Row(
        "batch", "tasks as JSON lines in four streams, and in single requests, to one API process", 6, batch.measure,
        (
            Goal("submits", "≥ 2.5 × single submits", 2.5, against=(submission.SINGLE,)),
            Goal("submits", "≥ 8,000 /s", 8000),
        ),
    ),
    Row(
        "deliveries", "webhooks by one process to one receiver, signed, with the ledger", 45, deliveries.measure,
        (
            Goal("deliveries", "≥ 6 × arq + httpx", 6, against=(deliveries.ARQ,)),
            Goal("deliveries", "≥ 0.35 × bare aiohttp", 0.35, against=(deliveries.AIOHTTP,)),
        ),
    ),
    Row(
        "latency", "submit → container, idle worker, 50/s", 60, latency.measure,
        (Goal("p50", "≤ 3 ms", 3, at_most=True), Goal("p99", "≤ 10 ms", 10, at_most=True)),
    ),
    Row(
        "end-to-end", "submit → forwarded → recorded → webhook delivered, on two cores", 40, end_to_end.measure,
        (Goal("tasks", "≥ 3 × FastAPI + arq", 3, against=(end_to_end.FASTAPI,)),),
    ),
    Row(
        "store", "the store's cost of one task with 300 bytes of input and output", 25, store_cost.measure,
        (
            Goal("scripts", "≤ 55 µs", 55, at_most=True),
            Goal("why", "≤ 25 µs", 25, at_most=True),
            Goal("bytes queued", "≤ 720 B", 720, at_most=True),
            Goal("bytes finished", "≤ 800 B", 800, at_most=True),
        ),
    ),
    Row(
        "idle-agent", "an agent without tasks", 22, idle.measure_agent,
        (
            Goal("memory", "≤ 60 MB", 60, at_most=True),
            Goal("cpu", "≤ 0.2 % of a core", 0.2, at_most=True),
            Goal("store calls", "≤ 1 /s", 1, at_most=True),
        ),
    ),
    Row(
        "idle-up", "`queue-engine up` without requests", 25, idle.measure_up,
        (
            Goal("memory", "≤ 250 MB", 250, at_most=True),
            Goal("cpu", "≤ 2 % of a core", 2, at_most=True),
            Goal("ready", "≤ 3 s", 3, at_most=True),
        ),
    ),
    Row(
        "large", "10 MB of input and output, both limits raised to 16 MiB", 35, large.measure,
        (
            Goal("copies in the api", "≤ 1", MAX_COPIES, at_most=True),
            Goal("copies in the agent", "≤ 1", MAX_COPIES, at_most=True),
            Goal("p99", "others' p99 unaffected", UNAFFECTED, against=(large.WITHOUT,), at_most=True),
        ),
    ),
    Row(
        "beside-tarpits", "a healthy receiver at 50/s beside 10,000 deliveries to another tenant's 100 tarpits", 27,
        crowds.measure_tarpits, NOT_DELAYED,
    ),
    Row(
        "beside-slow", "the same beside 400 receivers that respond after 1.9 s", 22, crowds.measure_slow, NOT_DELAYED,
    ),
    Row(
        "beside-names", "the same beside 5,000 host names whose name server does not respond", 22,
        crowds.measure_names, NOT_DELAYED,
    ),
    Row(
        "agent-https", "one agent over HTTPS to one API process, beside an agent on the store", 30,
        forwarding.measure_https,
        (Goal("tasks", "≥ 0.5 × the agent on the store", 0.5, against=(forwarding.ON_STORE,)),),
    ),
    Row(
        "waits-300", "3,000 clients that wait for a task each, 300 ends/s: from the recorded end to the response", 20,
        waits.measure_300, (Goal("p99", "≤ 20 ms", 20, at_most=True),),
    ),
    Row(
        "waits-1000", "10,000 clients that wait for a task each, 1,000 ends/s", 35, waits.measure_1000,
        (Goal("p99", "≤ 100 ms", 100, at_most=True),),
    ),
    Row("processes", "1, 2 and 4 API processes and agents", 40, scaling.measure),
)  # fmt: skip


def chosen(only: list[str]) -> list[Row]:
    """Return the rows with these names, all without a name. Raises ValueError for a name that no row has."""
    names = [row.name for row in ROWS]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"no row {', '.join(unknown)}; rows are {', '.join(names)}")
    return [row for row in ROWS if not only or row.name in only]
