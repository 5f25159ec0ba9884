"""Run the benchmarks, print a table, write it as JSON, and draw plots.

    python -m tests.bench [--only ROW]… [--scale 0.2]     all rows, or some
    python -m tests.bench growth                          whether costs depend on the history, and on idle endpoints
    python -m tests.bench check A.json B.json             what got slower from A to B

Figures of different machines, or of different runs on a busy machine, do not compare. The figures of one run do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from queue_engine.aio import end_tasks
from tests.bench import bulk_operations, growth, idle_agents, idle_endpoints, pending_retries, waiting_agents
from tests.bench.comparison import Change, compare, missing
from tests.bench.report import figures_from_json
from tests.bench.rows import chosen
from tests.bench.running import GROWTH_RESULT, RESULT, run_rows
from tests.servers import valkey_binary

STATUS_INTERRUPTED = 130
STATUS_USAGE = 2


def main() -> int:
    arguments = _parser().parse_args()
    try:
        status: int = arguments.run(arguments)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return STATUS_USAGE
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=_rows)
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="measure this row only; repeatable")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full number of requests")
    parser.add_argument("--result", type=Path, default=RESULT, help="JSON file to write")
    parser.add_argument("--server", type=Path, default=valkey_binary(), help="valkey-server or redis-server")
    commands = parser.add_subparsers(metavar="growth | check")
    costs = commands.add_parser("growth", help="measure whether costs depend on how many tasks have ended")
    costs.set_defaults(run=_growth)
    costs.add_argument("--sizes", default=growth.SIZES, type=_sizes, help="numbers of finished tasks, comma-separated")
    costs.add_argument("--only-endpoints", action="store_true", help="measure idle endpoints only")
    costs.add_argument("--only-bulk", action="store_true", help="measure bulk operations only")
    costs.add_argument("--only-retries", action="store_true", help="measure pending retries of deliveries only")
    costs.add_argument(
        "--only-agents", action="store_true", help="measure agents that wait on the store and at an API only"
    )
    costs.add_argument(
        "--idle-agents", type=int, default=idle_agents.AGENTS, help="number of agents that wait on the store"
    )
    costs.add_argument("--server", type=Path, default=valkey_binary(), help="valkey-server or redis-server")
    check = commands.add_parser("check", help="name the figures that got slower from one result to another")
    check.set_defaults(run=_check)
    check.add_argument("before", type=Path)
    check.add_argument("after", type=Path)
    return parser


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(","))


def _rows(arguments: argparse.Namespace) -> int:
    rows = chosen(arguments.only)
    with tempfile.TemporaryDirectory(prefix="queue-engine-bench-") as folder:
        work = run_rows(Path(folder), rows, scale=arguments.scale, binary=arguments.server, result=arguments.result)
        return until_interrupted(work)


def until_interrupted(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end. SIGINT and SIGTERM cancel the work, which then ends what it has started.

    The cancellation is repeated, because a library may swallow it.
    """

    async def run() -> int:
        task, interrupted = asyncio.ensure_future(work), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
        interrupt = asyncio.create_task(interrupted.wait())
        await asyncio.wait({task, interrupt}, return_when=asyncio.FIRST_COMPLETED)
        if not interrupted.is_set():
            return await task
        await end_tasks(task)
        return STATUS_INTERRUPTED

    return uvloop.run(run())


def _growth(arguments: argparse.Namespace) -> int:
    goals = []
    is_whole = not (arguments.only_endpoints or arguments.only_retries or arguments.only_agents or arguments.only_bulk)
    if is_whole:
        uvloop.run(growth.run(arguments.server, arguments.sizes, result=GROWTH_RESULT))
    if is_whole or arguments.only_bulk:
        goals += uvloop.run(bulk_operations.run(arguments.server))
    if is_whole or arguments.only_retries:
        goals += uvloop.run(pending_retries.run(arguments.server))
    if is_whole or arguments.only_endpoints:
        goals += uvloop.run(idle_endpoints.run(arguments.server))
    if is_whole or arguments.only_agents:
        goals += uvloop.run(idle_agents.run(arguments.server, agents=arguments.idle_agents))
        goals += uvloop.run(waiting_agents.run(arguments.server))
    return int(any(goal.value > goal.limit for goal in goals))


def _check(arguments: argparse.Namespace) -> int:
    """Print all changes beyond the noise; the status is 1 when something got slower or was not measured again."""
    before, after = (figures_from_json(_read(path)) for path in (arguments.before, arguments.after))
    found, left_out = compare(before, after), missing(before, after)
    for change in (Change.SLOWER, Change.FASTER):
        sys.stdout.writelines(f"{change.value:<8}{one}\n" for one in found if one.change is change)
    sys.stdout.writelines(f"missing {name}\n" for name in left_out)
    same = sum(one.change is Change.SAME for one in found)
    sys.stdout.write(f"{same} of {len(found)} figures are the same within the noise of their rounds\n")
    return int(bool(left_out) or any(one.change is Change.SLOWER for one in found))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
