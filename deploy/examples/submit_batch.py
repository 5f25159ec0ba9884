"""Submit every line of a file as a task, and wait for all results. Standard library only.

    python3 submit_batch.py ENDPOINT_ID < inputs.jsonl > results.jsonl

Each line is the `input` of one task, as JSON. The task's id is made of the batch's name and the line's number, so a
batch that was broken off can be run again: no line is executed twice. Reads $QUEUE_ENGINE_URL and
$QUEUE_ENGINE_API_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

RETRIED = (429, 503)
MAX_WAIT_SECONDS = 30.0


class Batch:
    """Submits tasks of one endpoint. Safe to use from several threads."""

    def __init__(self, endpoint_id: str, name: str, *, port: int, path: str) -> None:
        self._tasks = f"{os.environ['QUEUE_ENGINE_URL']}/v2/serverless/{endpoint_id}/tasks"
        self._name = name
        self._port = port
        self._path = path

    def run(self, number: int, line: str) -> dict[str, Any]:
        """Submit a line, and return the task as it ended."""
        task_id = f"{self._name}_{number}"
        task = {"taskId": task_id, "workerPort": self._port, "processUri": self._path, "input": json.loads(line)}
        self._call(self._tasks, task)
        pause = 0.1
        while (found := self._call(f"{self._tasks}/{task_id}"))["status"] == "PROCESSING":
            time.sleep(pause)  # noqa: TID251 - the API has nothing to wait on
            pause = min(2 * pause, 2.0)
        return found

    def _call(self, url: str, body: object = None) -> dict[str, Any]:
        """Return the `data` of a response. A full queue, a rate limit and a store that is away are waited for."""
        request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
        request.add_header("X-Api-Key", os.environ["QUEUE_ENGINE_API_KEY"])
        request.add_header("Content-Type", "application/json")
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    data: dict[str, Any] = json.load(response)["data"]
                    return data
            except urllib.error.HTTPError as error:
                if error.code not in RETRIED:
                    sys.exit(json.load(error)["message"])
                pause = float(error.headers.get("Retry-After", "1"))
                time.sleep(min(pause, MAX_WAIT_SECONDS))  # noqa: TID251 - as long as the API asks for


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("endpoint_id")
    options.add_argument("--name", default="batch", help="begins the task ids; [A-Za-z0-9_]")
    options.add_argument("--port", type=int, default=8000, help="the port that the endpoint exposes")
    options.add_argument("--path", default="/run", help="the path of the container")
    options.add_argument("--at-once", type=int, default=20)
    given = options.parse_args()
    batch = Batch(given.endpoint_id, given.name, port=given.port, path=given.path)
    lines = [line for line in sys.stdin if line.strip()]
    with ThreadPoolExecutor(given.at_once) as pool:
        ended = list(pool.map(batch.run, range(1, len(lines) + 1), lines))
    for task in ended:
        print(json.dumps({name: task[name] for name in ("taskId", "status", "output", "error")}))
    failed = sum(task["status"] == "FAILED" for task in ended)
    print(f"{len(ended)} tasks, {failed} failed", file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
