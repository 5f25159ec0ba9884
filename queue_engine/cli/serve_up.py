"""The process of `queue-engine up`, which takes the place of the command line once the settings are checked.

    python -P -m queue_engine.cli.serve_up HOST PORT DATA_DIR MAX_MEMORY

The command line and the settings take 45 MB, which a process that only watches others would keep for its whole life. It
has the same process id, so that a terminal or a service sees one process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from queue_engine.processes.interpreter import Loading, python_command, python_path

_STORE_URL = "QUEUE_ENGINE_UP_REDIS_URL"
"""The option --redis-url, not shown among the processes of the machine."""

OWN_NETWORK = "QUEUE_ENGINE_UP_NETWORK"
"""The network of containers that `up` has made, and removes when it ends."""


def become_up(host: str, port: int, data_dir: Path, redis_url: str | None, max_memory: int) -> NoReturn:
    """Replace this program. Its environment and its standard files stay.

    `max_memory` is the memory limit of the embedded store in bytes; 0 means no limit.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    command = python_command(__name__, host, str(port), str(data_dir), str(max_memory))
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = {**kept, **python_path(os.environ), **({} if redis_url is None else {_STORE_URL: redis_url})}
    os.execve(command[0], command, environment)  # noqa: S606 - this interpreter, with words of ours


def main() -> None:
    """Run `up` with the words of the command line."""
    from queue_engine.processes.interrupts import exit_on_interrupt

    exit_on_interrupt()
    with Loading():
        import asyncio

        from queue_engine.cli.running import run
        from queue_engine.local.up import EXIT_LEFT, UpOptions, run_up
        from queue_engine.processes.standard_files import guarded_output

    host, port, data_dir, max_memory = sys.argv[1:]
    redis_url = os.environ.pop(_STORE_URL, None)
    network = os.environ.pop(OWN_NETWORK, None)
    with guarded_output("queue-engine"):
        options = UpOptions(
            host=host,
            port=int(port),
            data_dir=Path(data_dir),
            redis_url=redis_url,
            environment=dict(os.environ),
            max_memory=int(max_memory),
            on_terminal=sys.stdout.isatty(),
        )
        # Without uvloop, which takes 3 MB and is not faster where nearly nothing happens.
        try:
            status = run(run_up(options), on=asyncio.run)
        finally:
            is_removed = network is None or _remove(network)
        sys.exit(status if is_removed else EXIT_LEFT)


def _remove(network: str) -> bool:
    """Remove the network; return False, after a message, if it stays."""
    import asyncio

    from queue_engine.cli.docker_workers import remove_own_network  # here, because it needs most of the engine

    reason = asyncio.run(remove_own_network(network))
    if reason is not None:
        sys.stderr.write(f"queue-engine: the network {network} stays: {reason}\n")
    return reason is None


if __name__ == "__main__":
    main()
