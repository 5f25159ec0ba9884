"""The metrics of all agents that this controller has started, on one page, so that a machine needs one scrape target.

Each agent serves its metrics on a Unix socket that only the controller's user can connect to. It has no TCP port,
because a webhook or a worker record could name that. Prometheus cannot scrape such a socket, and may run on another
machine. So the controller scrapes its agents when it is scraped itself, all at the same time and with a timeout, and
adds the labels `endpoint` and `worker` to their samples:

    # TYPE worker_agent_running_tasks gauge
    worker_agent_running_tasks 2.0                           (of an agent)
    worker_agent_running_tasks{endpoint="1",worker="1-a3"} 2.0   (of the page)

No data is kept between scrapes, so the series of an agent end when it ends. `worker_agent_up` is 0 for an agent that
runs and does not respond.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from queue_engine.backends.base import AgentTarget
from queue_engine.observability.scraping import fetch_page

AGENT_SECONDS = 1.0
"""Timeout for one agent."""
ALL_SECONDS = 6.0
"""Timeout for all agents together, below Prometheus's usual timeout of 10 s."""
MAX_AT_ONCE = 32
_UP = ("# HELP worker_agent_up 1 if the agent responded with its metrics, else 0", "# TYPE worker_agent_up gauge")


@dataclass
class _Family:
    header: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


class AgentMetrics:
    """Scrapes the agents that `targets` returns; none until it is set. `page` may be called from any thread."""

    def __init__(self) -> None:
        self.targets: Callable[[], Sequence[AgentTarget]] = lambda: ()
        self._pool = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="agent-metrics")
        self._one_at_a_time = threading.Lock()

    def page(self) -> bytes:
        """Return the metrics of all agents, in the Prometheus text format."""
        with self._one_at_a_time:
            asked = {self._pool.submit(fetch_page, target.address, AGENT_SECONDS): target for target in self.targets()}
            wait(asked, timeout=ALL_SECONDS)
            found: list[tuple[AgentTarget, str | None]] = []
            for request, target in asked.items():
                request.cancel()  # has an effect only if it has not begun
                in_time = request.done() and not request.cancelled()
                found.append((target, request.result() if in_time else None))
        return merged(found)


def merged(pages: Iterable[tuple[AgentTarget, str | None]]) -> bytes:
    """Merge the pages into one, with each metric family in one place. None means that the agent did not respond."""
    up = _Family(list(_UP))
    families: dict[str, _Family] = {}
    for target, text in pages:
        up.samples.append(f"worker_agent_up{{{target.labels}}} {0 if text is None else 1}")
        if text is not None:
            _add(families, text, target.labels)
    lines = [line for family in (up, *families.values()) for line in (*family.header, *family.samples)]
    return "\n".join([*lines, ""]).encode()


def _add(families: dict[str, _Family], text: str, labels: str) -> None:
    name, family, is_new = "#", _Family(), False
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            is_new = name not in families
            family = families.setdefault(name, _Family())
        if line.startswith("#"):
            if is_new:
                family.header.append(line)
        elif line.startswith(name):
            family.samples.append(_labelled(line, labels))


def _labelled(sample: str, labels: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace:
        return f"{name}{{{labels},{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{labels}}} {value}"
