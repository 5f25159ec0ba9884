"""`python -m tests.integration.follow_logs DIRECTORY ENDPOINT WORKER RUN`: a controller that follows one container."""

import asyncio
import os
import sys
from pathlib import Path

from queue_engine.controller.log_follower import Followed
from queue_engine.controller.log_followers import LogFollowers
from queue_engine.logs.masking import Secrets
from tests.integration.parts import open_store
from tests.recorded_output import RecordedOutput


async def follow(directory: Path, followed: Followed, secret: str) -> None:
    store = open_store(os.environ["QUEUE_ENGINE_REDIS_URL"])

    async def secrets_of(_: Followed) -> Secrets:
        return Secrets([secret])

    followers = LogFollowers(RecordedOutput(directory), store.logs, secrets_of, retention_seconds=3600)
    followers.follow({followed: True})
    await asyncio.Event().wait()


if __name__ == "__main__":
    directory, endpoint_id, worker_id, run, secret = sys.argv[1:]
    asyncio.run(follow(Path(directory), Followed(endpoint_id, worker_id, int(run)), secret))
