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
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from deploy.demo.tour import SETTINGS, Tour, Workers
from queue_engine.cli.client import CommandError, Unreachable, opened
from queue_engine.cli.output import Screen, safe
from queue_engine.net.ports import free_port
from queue_engine.processes.bounded_log import BoundedLog
from queue_engine.processes.interpreter import python_command
from queue_engine.processes.process_groups import kill_processes_with, passed_on, processes_with
from queue_engine.processes.standard_files import guarded_output, pause_while_read

STOP_SECONDS = 120
"""Time after which the engine is killed: more than `up` takes to drain its workers and to remove their containers."""
ABOUT_TO_END_SECONDS = 25.0
"""Time for the engine to end after it was first unreachable."""
OF_PLATFORMS = (
    *("DOCKER_", "XDG_RUNTIME_DIR", "KUBECONFIG"),
    *("QUEUE_ENGINE_AGENT_", "QUEUE_ENGINE_DOCKER_", "QUEUE_ENGINE_KUBERNETES_", "QUEUE_ENGINE_CLUSTERS_"),
)
"""Beginnings of the variables that a backend for containers needs. Other settings of this shell do not matter."""


def main(
    files: Annotated[int, typer.Option(min=1, max=2000, help="How many files to submit")] = 120,
    backend: Annotated[str, typer.Option(help="Where the workers run, as `up --backend`")] = "process",
    image: Annotated[str, typer.Option(help="The workers' image, where they are containers")] = "python:3.13-slim",
    command: Annotated[str | None, typer.Option(help="The workers' command, in place of the demo's server")] = None,
) -> None:
    """Run the whole engine on this machine and check what it does."""
    signals: list[signal.Signals] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: signals.append(signal.Signals(number)))
    try:
        with tempfile.TemporaryDirectory(prefix="queue-engine-demo-") as folder:
            status = _run(Path(folder), files, Workers(backend, image, command), signals)
    except BrokenPipeError:  # as in `make demo | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    raise typer.Exit(status)


def _run(folder: Path, files: int, workers: Workers, signals: Sequence[signal.Signals]) -> int:
    """Take the tour on an engine of its own, which is ended whatever happens. `signals` are those that have come."""
    started, port, screen = time.monotonic(), free_port(), Screen(time.time)
    api_key, failures = secrets.token_urlsafe(24), list[str]()
    # Every process of the engine and of its workers inherits TMPDIR: it tells them from all others.
    environment = passed_on(os.environ) | SETTINGS | {"QUEUE_ENGINE_API_KEY": api_key, "TMPDIR": str(folder)}
    options = ["--port", str(port), "--data-dir", str(folder / "data")]
    if workers.are_containers:
        environment |= {name: value for name, value in os.environ.items() if name.startswith(OF_PLATFORMS)}
        options += ["--backend", workers.backend]
    log = BoundedLog(folder / "up.log").open()
    engine = subprocess.Popen(
        python_command("queue_engine", "up", *options),
        env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip

    def pause(seconds: float) -> None:
        if signals:
            raise KeyboardInterrupt
        if engine.poll() is not None:
            raise CommandError
        pause_while_read(seconds)

    try:
        with opened(f"http://127.0.0.1:{port}", api_key, None) as api:
            tour = Tour(api, screen, pause)
            tour.run(files, workers)
    except CommandError as error:
        failures = [*_ends_of_logs(folder), f"FAILED: {tour.step}: {_reason(error, engine)}"]
    except KeyboardInterrupt:
        failures = [f"{signals[0].name}: stopped"]
    finally:
        left = _end(engine, {"TMPDIR": str(folder)}, signals)
    if left:
        failures.append(f"FAILED: stop the engine: it left {left} processes")
    for text in failures:
        typer.echo("\n" + "\n".join(map(safe, text.splitlines())), err=True)
    if not failures:
        screen.line(f"done in {time.monotonic() - started:.0f} s: no process is left, and the data is removed")
    return 128 + signals[0] if signals else int(bool(failures))


def _reason(error: CommandError, engine: subprocess.Popen[bytes]) -> str:
    if isinstance(error, Unreachable):
        with suppress(subprocess.TimeoutExpired):
            engine.wait(ABOUT_TO_END_SECONDS)
    status = engine.poll()
    return str(error) if status is None else f"queue-engine up ended with status {status}"


def _end(engine: subprocess.Popen[bytes], mark: dict[str, str], signals: Sequence[signal.Signals]) -> int:
    """End the engine, at once after a second signal. Kill the processes that it leaves, and return their number."""
    engine.terminate()
    for _ in range(STOP_SECONDS * 10):
        with suppress(subprocess.TimeoutExpired):
            engine.wait(0.1)
            break
        if len(signals) > 1:
            engine.terminate()  # the second SIGTERM ends it at once
    else:
        engine.kill()
    left = len(processes_with(mark))
    asyncio.run(kill_processes_with(mark))
    return left


def _ends_of_logs(folder: Path) -> list[str]:
    """Return the last lines of each log; of the workers' logs only those of the one that was written last."""
    newest = sorted(folder.glob("data/workers/*.log"), key=lambda path: path.stat().st_mtime_ns)[-1:]
    logs = map(BoundedLog, [*sorted(folder.glob("data/logs/*.log")), folder / "up.log", *newest])
    return ["\n".join([f"the end of {log.path.name}:", *lines]) for log in logs if (lines := log.last_lines(8))]


if __name__ == "__main__":
    with guarded_output("demo"):
        typer.run(main)
