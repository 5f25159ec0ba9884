"""The record of the worker and the log of its container over the API: see `worker_agent/ports.py`."""

from __future__ import annotations

from collections.abc import Sequence

from queue_engine.agent_protocol import calls, messages
from queue_engine.agent_protocol.conversions import encodable
from queue_engine.domain.endpoints import DesiredState
from queue_engine.domain.workers import Pace, WorkerStatus
from worker_agent.server.api import Api
from worker_agent.server.http import Lane


class ServerWorkerRecord:
    """The record of one worker. `run` is the number of its start, 0 when no controller started it."""

    def __init__(self, api: Api, *, worker_id: str, run: int = 0) -> None:
        self._api = api
        self._worker = messages.WorkerRequest(worker_id)
        self._run = run

    async def register(self) -> None:
        await self._api.call(calls.REGISTER, self._worker, lane=Lane.BEATS)

    async def report(
        self,
        status: WorkerStatus,
        *,
        running_tasks: int,
        address: str,
        reason: str,
        error: str,
        pace: Pace | None = None,
    ) -> DesiredState | None:
        request = messages.ReportRequest(
            worker=self._worker.worker,
            run=self._run,
            status=status,
            running_tasks=running_tasks,
            address=address,
            reason=_text(reason),
            error=_text(error),
            slots=None if pace is None else pace.slots,
            mean_run_ms=None if pace is None else pace.mean_run_ms,
        )
        response, _ = await self._api.call(calls.REPORT, request, lane=Lane.BEATS)
        return response.desired

    async def remove(self) -> None:
        await self._api.call(calls.REMOVE, self._worker, lane=Lane.BEATS)


class ServerLog:
    """The log of one worker's container. The API knows how long it is kept."""

    def __init__(self, api: Api, *, worker_id: str) -> None:
        self._api = api
        self._worker_id = worker_id

    async def append(self, batch_id: str, lines: Sequence[str]) -> None:
        request = messages.LogRequest(self._worker_id, batch_id, tuple(map(encodable, lines)))
        await self._api.call(calls.LOG, request)


def _text(text: str) -> str:
    return encodable(text[: messages.MAX_TEXT])
