"""Ctrl-C during a `map` of the client ends a script with few lines, and the next start goes on."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.api_server import RunningApi
from tests.waiting import GIVE_UP_SECONDS, wait_until_async

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "client" / "map_inputs.py"
PLAIN = """
from queue_engine.client import Client
for item in Client().endpoint("echo").map(range(3), batch_id="numbers_1"):
    pass
"""


async def interrupted(api: RunningApi, *arguments: str) -> tuple[int, str]:
    """Run a script until its tasks wait, and interrupt it. Return its status and what it has printed as errors."""
    endpoint_id = await api.create_endpoint(name="echo", expose={"port": 8000, "protocol": "http"}, workers=0)
    surroundings = os.environ | {"QUEUE_ENGINE_URL": api.url, "QUEUE_ENGINE_API_KEY": api.key}
    script = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=surroundings, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )

    async def waits() -> bool:
        return api.engine.waits.in_flight > 0

    try:
        await wait_until_async(waits, message="the script does not wait for its tasks")
        script.send_signal(signal.SIGINT)
        async with asyncio.timeout(GIVE_UP_SECONDS):
            _, errors = await script.communicate()
    finally:
        if script.returncode is None:
            script.kill()
            await script.wait()
    assert (await api.store.tasks.counts(endpoint_id)).queued > 0
    assert script.returncode is not None
    return script.returncode, errors.decode()


async def test_the_example_says_that_the_next_start_goes_on(api: RunningApi) -> None:
    assert await interrupted(api, str(EXAMPLE)) == (1, "interrupted; the next start goes on from here\n")


@pytest.mark.parametrize("module", ["httpx", "httpcore", "exchange"])
async def test_a_traceback_has_no_frames_of_the_connection(api: RunningApi, module: str) -> None:
    _, errors = await interrupted(api, "-c", PLAIN)
    assert module not in errors
    assert errors.endswith("KeyboardInterrupt: submitted tasks go on; with a batch_id, the same call continues\n")
