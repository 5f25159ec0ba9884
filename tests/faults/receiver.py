"""The webhook receiver: a program that journals each webhook and, by its seed, fails some of them at first.

python -m tests.faults.receiver --port PORT --journal FILE --seed N
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections import Counter
from pathlib import Path

from tests.faults.journal import Journal
from tests.faults.serving import Exchange, serve

FAILING_SHARE = 0.1
"""Of the webhooks, how many are refused once or twice before they are taken."""


class Receiver:
    """Answers webhooks. Whether one is refused depends on the seed and its id only, not on the order of arrival."""

    def __init__(self, journal: Journal, seed: int) -> None:
        self._journal = journal
        self._seed = seed
        self._seen: Counter[str] = Counter()

    async def handle(self, exchange: Exchange) -> None:
        request = exchange.request
        body = json.loads(request.body)
        message_id = request.headers["webhook-id"]
        status = 503 if self._seen[message_id] < refusals(self._seed, message_id) else 200
        self._seen[message_id] += 1
        self._journal.write(
            "webhook",
            id=message_id,
            task=body.get("user_task_id"),
            status=body.get("status"),
            retry_count=body.get("retry_count"),
            result=_identity(body.get("result")),
            truncated=body.get("result_truncated", False),
            failed_reason=body.get("failed_reason"),
            answered=status,
        )
        await exchange.answer(status, b"ok")


def refusals(seed: int, message_id: str) -> int:
    """How often this webhook is refused before it is taken: 0, 1 or 2."""
    digest = hashlib.blake2b(f"{seed}:{message_id}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    return 0 if share >= FAILING_SHARE else 1 + int(share < FAILING_SHARE / 2)


def _identity(result: object) -> object:
    """Who made the output, without its filling."""
    return {name: value for name, value in result.items() if name != "filling"} if isinstance(result, dict) else result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    with Journal(options.journal) as journal:
        asyncio.run(serve(options.port, Receiver(journal, options.seed).handle))


if __name__ == "__main__":
    main()
