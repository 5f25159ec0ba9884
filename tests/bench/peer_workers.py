"""The peers that take jobs from a queue, each with the command that runs it (tests/bench/peers/README.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.environments import DIRECTORY, NODE, NODE_DIRECTORY, PROGRAMS, PYTHON, Environment

PEERS_PYTHON = DIRECTORY / "bin" / "python"


@dataclass(frozen=True)
class PeerWorker:
    """A peer with the program that enqueues its jobs and works on them."""

    name: str
    environment: Environment
    program: Path

    def command(
        self,
        verb: str,
        redis_url: str,
        target_url: str,
        *,
        count: int,
        warm_up: int = 0,
        size: int = 50,
        rate: float = 0,
    ) -> list[str]:
        runner = "node" if self.environment is NODE else str(PEERS_PYTHON)
        words = (verb, redis_url, target_url, count, warm_up, size, rate)
        return [runner, str(self.program), *map(str, words)]


def _python(name: str) -> PeerWorker:
    return PeerWorker(name, PYTHON, PROGRAMS / f"peer_{name}.py")


ARQ = _python("arq")
BULLMQ = PeerWorker("bullmq", NODE, NODE_DIRECTORY / "peer_bullmq.mjs")
PYTHON_WORKERS = (ARQ, _python("saq"), _python("taskiq"), _python("celery"), _python("streaq"))
WORKERS = (BULLMQ, *PYTHON_WORKERS)
PYTHON_NAMES = tuple(one.name for one in PYTHON_WORKERS)


def python_program(name: str, *words: object) -> list[str]:
    """Return the command of another program of the peers in Python."""
    return [str(PEERS_PYTHON), str(PROGRAMS / name), *map(str, words)]
