"""Client that gives orders for tasks that exist: cancel, retry by hand, delete."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.faults.checker import TERMINAL
from tests.faults.journal import Journal
from tests.faults.producer import PAUSES, TRANSIENT, TRY_SECONDS


@dataclass(frozen=True)
class Answer:
    """The response that ended an order."""

    status: int
    data: Any
    tries: int


class Client:
    """Gives orders to any of `urls` (of APIs), repeats each until a response arrives, and journals both.

    A task has one order at a time. A response that no order may have is journaled as its status.
    """

    def __init__(
        self, urls: Sequence[str], api_key: str, endpoint_id: str, journal: Journal, rng: random.Random
    ) -> None:
        self.endpoint_id = endpoint_id
        self._urls = urls
        self._journal = journal
        self._rng = rng
        self.answers: Counter[tuple[str, str]] = Counter()
        """Number of responses by order and word."""
        self._headers = {"X-Api-Key": api_key}

    async def give(self, order: str, task_id: str) -> str:
        """Give an order: `cancel`, `retry` or `delete`."""
        give = {"cancel": self.cancel, "retry": self.rerun, "delete": self.delete}[order]
        return await give(task_id)

    async def cancel(self, task_id: str) -> str:
        """CANCELLED, REQUESTED while it runs, or ENDED."""
        answered = await self._until_answered("cancel", "POST", task_id, "/cancel")
        if answered.status != 200:
            return self._note("cancel", task_id, str(answered.status))
        standing = answered.data
        answer = "CANCELLED" if standing["state"] == "cancelled" else "ENDED"
        if standing["cancelRequested"] and standing["state"] not in TERMINAL:
            answer = "REQUESTED"
        return self._note("cancel", task_id, answer)

    async def rerun(self, task_id: str) -> str:
        """Return QUEUED, or NOT_ENDED, perhaps because an earlier request whose response was lost has queued it."""
        status = (await self._until_answered("retry", "POST", task_id, "/retry")).status
        return self._note("retry", task_id, {200: "QUEUED", 409: "NOT_ENDED"}.get(status, str(status)))

    async def delete(self, task_id: str) -> str:
        """Return DELETED, by this request or an earlier one whose response was lost, or NOT_ENDED."""
        answered = await self._until_answered("delete", "DELETE", task_id, "")
        words = {200: "DELETED", 409: "NOT_ENDED"} | ({404: "DELETED"} if answered.tries > 1 else {})
        return self._note("delete", task_id, words.get(answered.status, str(answered.status)))

    def _note(self, order: str, task_id: str, answer: str) -> str:
        self._journal.write(order, task=task_id, answer=answer)
        self.answers[order, answer] += 1
        return answer

    async def _until_answered(self, order: str, method: str, task_id: str, path: str) -> Answer:
        tries = 0
        path = f"/v2/serverless/{self.endpoint_id}/tasks/{task_id}{path}"
        async with aiohttp.ClientSession(headers=self._headers) as session:
            while True:
                self._journal.write("asked", order=order, task=task_id)
                status, data = await _try(session, method, self._rng.choice(self._urls) + path)
                tries += 1
                if status and status not in TRANSIENT:
                    return Answer(status, data, tries)
                await asyncio.sleep(PAUSES.delay_after(tries, luck=self._rng.random()))


async def _try(session: aiohttp.ClientSession, method: str, url: str) -> tuple[int, Any]:
    """Return status and data; 0 and None without a complete response."""
    try:
        async with asyncio.timeout(TRY_SECONDS), session.request(method, url) as answer:
            body = await answer.json(content_type=None)
            return answer.status, body.get("data") if isinstance(body, dict) else None
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return 0, None
