"""Stands in for the agent: runs the container's command beside itself and keeps the agreement with the backend.

STUB_DRAIN says what it does when it is told to end: `quick` ends the container and itself; `container` waits until the
container ends by itself; `never` does nothing, not even when its controller has died.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile

from queue_engine.domain import agent_protocol as protocol
from queue_engine.processes.lifeline import watch_lifeline
from queue_engine.processes.process_groups import end_own_group
from worker_agent.end_report import say_end


async def main() -> int:
    drain = os.environ.get("STUB_DRAIN", "quick")
    told, orphaned = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if drain == "never" else told.set)
    if drain != "never":
        watch_lifeline(int(os.environ[protocol.LIFELINE_FD]), orphaned.set)
    output = tempfile.TemporaryFile()  # noqa: SIM115 - until this process ends
    container = await asyncio.create_subprocess_shell(
        os.environ[protocol.CONTAINER_COMMAND],
        env=json.loads(os.environ[protocol.CONTAINER_ENVIRONMENT]),
        stdout=output,
    )
    ended = asyncio.create_task(container.wait())
    waits = {ended, asyncio.create_task(told.wait()), asyncio.create_task(orphaned.wait())}
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    if told.is_set() and drain == "container":
        await ended
    if orphaned.is_set():
        end_own_group()
    if ended.done() and not told.is_set():
        output.seek(0)
        say_end(protocol.container_end(ended.result()), output.read().decode().splitlines())
        return protocol.STATUS_CONTAINER_ENDED
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
