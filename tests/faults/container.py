"""The container: a program that journals each execution and behaves as the task's input says.

    python -m tests.faults.container --port PORT --journal FILE --worker NAME
    python -m tests.faults.container --port PORT --journal-server HOST:PORT

The second form is for a real container: it sends its journal over TCP, and its name is its own address.

The input is `{"do": …}`: `ok` after `ms`, with `bytes` of filling; `busy` (503) in the task's first execution by any
container, then as `ok`: a file beside the journal marks it, because a busy response does not raise the attempt's
number; `reset` and `crash` (the end of this process) while the attempt's number is at most `times`, then as `ok`;
`exit`, its end in every attempt; `fail` (500); `hang`; `drip`, a byte a second; `huge`, a response of 1 GB. The output
names the task, the attempt and the execution.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

from tests.faults.journal import Journal, JournalOverTcp
from tests.faults.serving import Exchange, serve

HUGE_BYTES = 1_000_000_000
CHUNK = b" " * 65536
POISON_STATUS = 3


class Container:
    """Executes tasks. `worker` names this container in the journal, over all its restarts.

    `marks` is a folder that all containers share.
    """

    def __init__(self, journal: Journal, worker: str, marks: Path) -> None:
        self._journal = journal
        self._worker = worker
        self._marks = marks

    async def handle(self, exchange: Exchange) -> None:
        headers = exchange.request.headers
        given = json.loads(exchange.request.body)
        execution = {
            "task": headers["x-task-id"],
            "attempt": int(headers["x-task-attempt"]),
            "execution": uuid.uuid4().hex,
        }
        facts = execution | {"worker": self._worker, "pid": os.getpid()}
        self._journal.write("begin", do=given["do"], ms=given.get("ms", 0), **facts)
        how = "left"
        try:
            how = await self._execute(given, execution, exchange)
        except ConnectionError:
            pass  # the agent has stopped the call, or has ended
        finally:
            self._journal.write("end", how=how, **facts)

    async def _execute(self, given: dict[str, Any], execution: dict[str, Any], exchange: Exchange) -> str:
        match self._due(given, execution):
            case "ok":
                return await self._succeed(given, execution, exchange)
            case "busy":
                await exchange.answer(503, b"busy")
            case "fail":
                await exchange.answer(500, b"broken")
            case "reset":
                exchange.reset()
            case "hang":
                await exchange.client_left()
                return "left"
            case "drip":
                return await self._drip(exchange)
            case "huge":
                return await self._send_huge(exchange)
            case _:
                self._journal.write("end", how=given["do"], worker=self._worker, pid=os.getpid(), **execution)
                os._exit(POISON_STATUS)
        return str(given["do"])

    def _due(self, given: dict[str, Any], execution: dict[str, Any]) -> str:
        if given["do"] == "busy":
            return "busy" if self._is_first(execution["task"]) else "ok"
        done = execution["attempt"]
        return str(given["do"]) if done <= given.get("times", done) else "ok"

    def _is_first(self, task: str) -> bool:
        """Return True in one execution of the task. Counted by each process, new ones would refuse it for minutes."""
        try:
            (self._marks / f"refused-{task}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def _succeed(self, given: dict[str, Any], execution: dict[str, Any], exchange: Exchange) -> str:
        leaving = asyncio.create_task(exchange.client_left())
        await asyncio.wait({leaving}, timeout=given.get("ms", 0) / 1000)
        if leaving.done():
            return "left"
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await exchange.answer(200, json.dumps(execution | {"filling": "x" * given.get("bytes", 0)}).encode())
        return "ok"

    async def _drip(self, exchange: Exchange) -> str:
        await exchange.begin(HUGE_BYTES)
        leaving = asyncio.create_task(exchange.client_left())
        while not leaving.done():
            await exchange.send(b" ")
            await asyncio.wait({leaving}, timeout=1)
        return "left"

    async def _send_huge(self, exchange: Exchange) -> str:
        await exchange.begin(HUGE_BYTES)
        for _ in range(HUGE_BYTES // len(CHUNK)):
            await exchange.send(CHUNK)
        return "huge"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    journal = parser.add_mutually_exclusive_group(required=True)
    journal.add_argument("--journal", type=Path)
    journal.add_argument("--journal-server")
    parser.add_argument("--worker")
    options = parser.parse_args()
    if options.journal_server is None:
        with Journal(options.journal) as file:
            asyncio.run(serve(options.port, Container(file, options.worker, options.journal.parent).handle))
        return
    host, _, port = options.journal_server.rpartition(":")
    with JournalOverTcp(host, int(port)) as sent, tempfile.TemporaryDirectory() as marks:
        asyncio.run(serve(options.port, Container(sent, sent.own_address, Path(marks)).handle))


if __name__ == "__main__":
    main()
