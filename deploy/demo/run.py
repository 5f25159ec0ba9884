"""The demo: the whole engine on this machine, two workers, and every result checked.

    .venv/bin/python deploy/demo/run.py [--files N] [--backend process|docker|…] [--image IMAGE] [--command COMMAND]

Workers are processes with a real model, or containers with a plain server. Exits with 0 when every step worked and
nothing is left behind, 1 when not, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a file: its own folder is on the path, and the project's is not.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from queue_engine.processes.interrupts import exit_on_interrupt

exit_on_interrupt()

# ruff: noqa: E402 - the imports follow the handler, because they take longer than a Ctrl-C
import asyncio
import secrets
import signal
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated

import typer

from deploy.demo.tour import SETTINGS, STANDSTILL_SECONDS, DemoFailed, Tour, Workers
from queue_engine.aio import end_tasks
from queue_engine.cli.output import safe
from queue_engine.client import AsyncClient, ClientError
from queue_engine.net.ports import free_port
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.interpreter import python_command
from queue_engine.processes.process_groups import ProcessGroup, kill_processes_with, passed_on, processes_with
from queue_engine.processes.standard_files import guarded_output

STOP_SECONDS = 120
"""Time after which the engine is killed: more than `up` takes to drain its workers and to remove their containers."""
OF_BACKENDS = (f"QUEUE_ENGINE_{name}_" for name in ("AGENT", "DOCKER", "KUBERNETES", "CLUSTERS"))
OF_PLATFORMS = ("DOCKER_", "XDG_RUNTIME_DIR", "KUBECONFIG", *OF_BACKENDS)
"""Beginnings of the variables that a backend for containers needs. Other settings of this shell do not matter."""

Signals = asyncio.Queue[signal.Signals]


def main(
    files: Annotated[int, typer.Option(min=1, max=2000, help="How many files to submit")] = 120,
    backend: Annotated[str, typer.Option(help="Where the workers run, as `up --backend`")] = "process",
    image: Annotated[str, typer.Option(help="The workers' image, where they are containers")] = "python:3.13-slim",
    command: Annotated[str | None, typer.Option(help="The workers' command, in place of the demo's server")] = None,
) -> None:
    """Run the whole engine on this machine and check what it does."""
    try:
        status = asyncio.run(_run(files, Workers(backend, image, command)))
    except BrokenPipeError:  # as in `make demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    raise typer.Exit(status)


async def _run(files: int, workers: Workers) -> int:
    """Take the tour on an engine of its own, which is ended whatever happens, and return the exit status."""
    started, signals, loop = time.monotonic(), Signals(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, signals.put_nowait, number)
    with tempfile.TemporaryDirectory(prefix="queue-engine-demo-") as folder:
        port, api_key, failures, stopped_by = free_port(), secrets.token_urlsafe(24), list[str](), None
        # Every process of the engine and of its workers inherits TMPDIR: it tells them from all others.
        mark = {"TMPDIR": folder}
        environment = passed_on(os.environ) | SETTINGS | {"QUEUE_ENGINE_API_KEY": api_key} | mark
        platform = OF_PLATFORMS if workers.are_containers else ()
        environment |= {name: value for name, value in os.environ.items() if name.startswith(platform)}
        options = ("--port", str(port), "--data-dir", f"{folder}/data", "--backend", workers.backend)
        up, log = python_command("queue_engine", "up", *options), BoundedLog(Path(folder, "up.log"))
        engine = ProcessGroup.start(up, environment=environment, log=log)
        try:
            async with AsyncClient(f"http://127.0.0.1:{port}", api_key, timeout=STANDSTILL_SECONDS) as client:
                tour = Tour(client, typer.echo)
                stopped_by = await _taken(tour.run(files, workers), engine, signals)
        except (DemoFailed, ClientError) as error:
            failures = [*_ends_of_logs(Path(folder)), f"FAILED: {tour.step}: {error}"]
        finally:
            stopped_by = await _end(engine, signals) or stopped_by
            left = len(processes_with(mark))
            await kill_processes_with(mark)
    if stopped_by is not None:
        failures = [f"{stopped_by.name}: stopped"]
    if left:
        failures.append(f"FAILED: stop the engine: it left {left} processes")
    for text in failures:
        typer.echo("\n" + "\n".join(map(safe, text.splitlines())), err=True)
    if not failures:
        typer.echo(f"done in {time.monotonic() - started:.0f} s: no process is left, and the data is removed")
    return int(bool(failures)) if stopped_by is None else 128 + stopped_by


async def _taken(tour: Coroutine[None, None, None], engine: ProcessGroup, signals: Signals) -> signal.Signals | None:
    """Take the tour until it ends, the engine ends or a signal comes, which is returned. Raises what it raises."""
    touring, ended = asyncio.create_task(tour), asyncio.create_task(engine.wait())
    stopped = asyncio.create_task(signals.get())
    try:
        await asyncio.wait((touring, ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not stopped.done() and ended.done():
            raise DemoFailed(f"queue-engine up ended with status {ended.result()}")
        return stopped.result() if stopped.done() else touring.result()
    finally:
        await end_tasks(touring, ended, stopped)


async def _end(engine: ProcessGroup, signals: Signals) -> signal.Signals | None:
    """End the engine, at once after a further signal, which is returned."""
    further = asyncio.create_task(signals.get())
    further.add_done_callback(lambda _: engine.terminate())
    engine.terminate()
    if not await engine.ended_within(STOP_SECONDS):
        engine.kill()
    await end_tasks(further)
    return None if further.cancelled() else further.result()


def _ends_of_logs(folder: Path) -> list[str]:
    """Return the last lines of each log; of the workers' logs only those of the one that was written last."""
    newest = sorted(folder.glob("data/workers/*.log"), key=lambda path: path.stat().st_mtime_ns)[-1:]
    logs = map(BoundedLog, [*sorted(folder.glob("data/logs/*.log")), folder / "up.log", *newest])
    return ["\n".join([f"the end of {log.path.name}:", *lines]) for log in logs if (lines := log.last_lines(8))]


if __name__ == "__main__":
    with guarded_output("demo"):
        typer.run(main)
